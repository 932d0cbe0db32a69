"""Whether what a run keeps fits in the memory of the machine, before anything is computed."""

import contextlib
import os
from pathlib import Path

import jax

from swjko.cli.settings import Settings
from swjko.cli.terminal import UsageError
from swjko.families.base import Family

# The history on the device and on the host, with the start, and on the device once more.
_COPIES = 4
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def physical_memory() -> int | None:
    """Return the bytes of memory of this machine, or of its container; None if unknown."""
    found = []
    with contextlib.suppress(AttributeError, OSError, ValueError):  # not on every platform
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in _LIMITS:
        try:
            found.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # absent, or "max"
            continue
    return min(found, default=None)


def require_memory_for_matrices(dim: int, steps: int) -> None:
    """Raise UsageError unless a [dim dim] matrix for each step fits in memory.

    Args:
      dim: Dimension of the exact iterates.
      steps: Number of JKO steps.
    """
    _require(steps + 1, 8 * dim * dim, "a covariance in float64", "--steps or --dim")


def require_memory(family: Family, settings: Settings) -> None:
    """Raise UsageError unless the parameters of all steps, and the clouds, fit in memory.

    Args:
      family: Family of the flow.
      settings: Numbers of the run.
    """
    shapes = jax.eval_shape(family.init, jax.eval_shape(lambda: jax.random.key(0)))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    _require(settings.steps, _COPIES * size, "copies of the parameters", "--steps")
    # The points, their projections on one direction at least, and the gradients of both.
    points = 4 * 4 * (family.dim + 1)
    _require(settings.samples, points, "coordinates and gradients", "--samples")
    _require(settings.projections, 4 * family.dim, "coordinates", "--projections")


def _require(count: int, size: int, what: str, flags: str) -> None:
    available = physical_memory()
    if available is not None and count * size > available:
        flag = flags.split()[0]
        raise UsageError(
            f"{flag} must be at most {available // size} on this machine, whose memory is "
            f"{available / 2**30:.3g} GiB: each takes {size:,} bytes for {what}; got {count}. "
            f"Reduce {flags}."
        )
