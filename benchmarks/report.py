"""What all benchmarks share: the machine and versions they ran on, interleaved timings, and results written as JSON."""

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

RESULTS = Path(__file__).parent / "results"
_SHORT_SECONDS = 0.1

_PACKAGES = (
    "swjko",
    "jax",
    "jaxlib",
    "numpy",
    "scipy",
    "optax",
    "flax",
    "distrax",
    "POT",
    "ott-jax",
    "torch",
    "scikit-learn",
    "blackjax",
)


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, accelerators, and the load at the time: a busy machine spoils timings."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "devices": [device.device_kind for device in jax.devices()],
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str]:
    """Of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_results(
    name: str, payload: Mapping[str, Any], directory: str | Path | None = None
) -> Path:
    """Writes ``<directory>/<name>.json`` with the payload beside machine, versions and date; returns the path.

    directory: None means ``benchmarks/results``. Arrays become lists; a NaN or an infinity becomes null, which JSON can hold.
    """
    directory = RESULTS if directory is None else Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    date = time.strftime("%Y-%m-%d", time.gmtime())
    content = {
        "benchmark": name,
        "date": date,
        "machine": machine(),
        "versions": versions(),
        **payload,
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(plain(content), indent=2, allow_nan=False) + "\n")
    temporary.replace(path)
    return path


def plain(value: Any) -> Any:
    """The value as JSON holds it."""
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value


def interleaved_medians(
    functions: Mapping[str, Callable[[], Any]], *, repeats: int
) -> dict[str, float]:
    """Median wall seconds of each function, called in turns so that a change in the machine's load meets all alike; one warm-up each.

    A call that takes less than ``_SHORT_SECONDS`` is timed the second time it is made in its turn: by the first one, the threads that
    another library left spinning are asleep and the function's own are awake. A result of JAX is waited for.
    """

    def timed(function: Callable[[], Any]) -> float:
        start = time.perf_counter()
        jax.block_until_ready(function())
        return time.perf_counter() - start

    for function in functions.values():
        timed(function)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            first = timed(function)
            seconds[name].append(timed(function) if first < _SHORT_SECONDS else first)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_mib() -> int | None:
    """Peak resident MiB of this process; None where there is no /proc. Not getrusage: its peak is inherited from the parent process."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), None)


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def _memory_gib() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
