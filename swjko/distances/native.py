"""The sorts of the optional package swjko-native: whether they are installed and wanted."""

import functools
import importlib
import warnings
from contextlib import AbstractContextManager
from typing import Any

import jax

# The version of the names, arguments and results that this package calls.
_INTERFACE = 1

_wanted: Any = jax.make_user_context(default_value=True)


def native_kernels(use: bool) -> AbstractContextManager[Any]:
    """Returns a context in which sorts on a CPU use swjko-native, or do not.

    They use it by default where it is installed, with the same results up to rounding. Functions
    that were compiled in another context are compiled again. Without it, programs exported by
    ``jax.export`` run where swjko-native is not installed.

    Example:
      >>> with swjko.native_kernels(False):
      ...     exported = jax.export.export(jax.jit(swjko.sliced_wasserstein))(x, y, directions)

    Args:
      use: Whether to use it. True has no effect where it is not installed.
    """
    if not isinstance(use, bool):
        raise TypeError(f"use must be True or False; got {use!r}.")
    return _wanted(use)


@functools.cache
def _installed() -> Any:
    """Returns the module swjko_native, or None; asked once in a process."""
    try:
        module = importlib.import_module("swjko_native")
    except ModuleNotFoundError:
        return None
    except (ImportError, OSError, AttributeError) as error:
        _warn(f"swjko-native cannot be loaded ({error})")
        return None
    if module.INTERFACE != _INTERFACE:
        _warn(f"swjko-native has interface {module.INTERFACE}; this swjko knows {_INTERFACE}")
        return None
    return module


def _warn(reason: str) -> None:
    warnings.warn(
        f"{reason}; sorts run in JAX. Install the swjko-native of this version, or remove it.",
        RuntimeWarning,
        stacklevel=2,
    )


def native_sorts() -> Any:
    """Returns the module swjko_native, or None where it is not installed or switched off."""
    return _installed() if _wanted.value else None
