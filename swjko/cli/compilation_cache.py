"""The directory in which compiled programs are kept for the next run of the command line."""

import hashlib
import os
import platform
import sys
import tempfile
from pathlib import Path

_DIRECTORY = "JAX_COMPILATION_CACHE_DIR"
# Loading a program from the disk takes about as long as compiling one of this many seconds.
_LEAST_SECONDS = ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def use_compilation_cache() -> Path | None:
    """Let JAX keep compiled programs in the user's cache directory; call it before importing JAX.

    Nothing happens if JAX is imported already, since the process is then someone else's, if the
    environment variable JAX_COMPILATION_CACHE_DIR is set, or if the directory cannot be written.

    Returns:
      The directory that JAX will use; None if it will use none.
    """
    if _DIRECTORY in os.environ or jax_is_imported():
        chosen = os.environ.get(_DIRECTORY)
        return Path(chosen) if chosen else None
    directory = _own_directory()
    if directory is None:
        return None
    os.environ[_DIRECTORY] = str(directory)
    os.environ.setdefault(*_LEAST_SECONDS)
    return directory


def jax_is_imported() -> bool:
    """Return whether JAX is imported, so that it reads its environment no more."""
    return "jax" in sys.modules


def _own_directory() -> Path | None:
    """Return a directory that can be written, or None."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME", ""))
        if not root.is_absolute():
            root = Path.home() / ".cache"
        # Home directories are shared by machines whose processors differ.
        directory = root / "swjko" / _processor()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"0")
            probe.flush()
    except (OSError, RuntimeError):  # without a home directory Path.home() is a RuntimeError
        return None
    return directory


def _processor() -> str:
    """Return a short hash of what programs for this processor may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        features = next(line for line in lines if line.lower().startswith(("flags", "features")))
    except (OSError, StopIteration):
        features = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:12]
