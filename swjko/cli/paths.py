"""Checks of the paths that a run writes to, before anything is computed."""

import os
import tempfile
from pathlib import Path

from swjko.cli.terminal import UsageError

# Files of a run, in one directory.
_REPORTS = ("report.json", "draws.npz", "parameters.npz", "marginals.csv")
_FIGURES = ("clouds.png", "energy.png")


def free_directory(out: Path, name: str, overwrite: bool) -> Path:
    """Return the directory of a problem's results.

    Args:
      out: Directory of all results.
      name: Name of the problem.
      overwrite: Whether existing results may be replaced.

    Raises:
      UsageError: If results exist, or if the directory cannot be written.
    """
    directory = out / name
    require_writable(directory)
    if directory.is_dir() and any(directory.iterdir()) and not overwrite:
        raise UsageError(f"{directory} exists; pass --overwrite or another --out")
    for file in (*_REPORTS, *_FIGURES):
        _require_no_directory(directory / file)
    return directory


def free_sheet(out: Path, overwrite: bool) -> Path:
    """Return the path of the sheet, checked with those of the files beside it.

    Args:
      out: Path of the sheet.
      overwrite: Whether existing files may be replaced.

    Raises:
      UsageError: If a file exists or cannot be written.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out must be a file that ends in .png; got {out}")
    require_writable(out.parent)
    for path in (out, out.parent / "report.json", out.parent / "draws.npz"):
        _require_no_directory(path)
        if os.path.lexists(path) and not overwrite:
            raise UsageError(f"{path} exists; pass --overwrite or another --out")
    return out


def require_writable(directory: Path) -> None:
    """Raise UsageError unless files can be written to a directory, which need not exist yet."""
    existing = directory
    # A link to nothing, or to itself, is in the way as a file is.
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    problem = "not a writable directory"
    try:
        if existing.is_dir():
            # Permissions do not tell: the file system may be read-only, or full.
            with tempfile.TemporaryFile(dir=existing):
                return
    except OSError as error:
        problem = f"{problem} ({error.strerror or error})"
    raise UsageError(f"{directory} cannot be written: {existing} is {problem}")


def _require_no_directory(path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a directory; pass another --out")
