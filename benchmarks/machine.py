"""The machine and the package versions of a measurement."""

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax

_PACKAGES = (
    *("swjko", "swjko-native", "jax", "jaxlib", "numpy", "scipy", "optax", "flax", "distrax"),
    *("POT", "ott-jax", "torch", "scikit-learn", "blackjax"),
)


def machine() -> dict[str, Any]:
    """Processor, usable cores, memory, accelerators, and load: a busy machine spoils timings."""
    has_sysconf = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    bytes_ = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if has_sysconf else None
    has_affinity = hasattr(os, "sched_getaffinity")
    return {
        "cpu": first_value("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "memory_gib": bytes_ and round(bytes_ / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "devices": [device.device_kind for device in jax.devices()],
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that matter here."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def first_value(path: str, label: str) -> str | None:
    """The value of the first ``label: value`` line of a file; None if there is none."""
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(label)), None)
