"""What a command line asks for, checked as far as possible before JAX is imported."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from swjko.cli.options import PROBLEMS, USES_COLUMNS
from swjko.cli.paths import free_directory, free_sheet, require_writable
from swjko.cli.terminal import UsageError
from swjko.data.errors import DataError
from swjko.data.images import load_images
from swjko.data.tables import load_named_points, load_table

# The arguments of ``distributed.initialize``.
JOINING = (
    *("coordinator", "num_processes", "process_id"),
    *("initialization_timeout", "heartbeat_timeout"),
)


class Job(NamedTuple):
    """A command line that can be run.

    Attributes:
      options: The parsed options.
      names: The problems.
      paths: For each problem its directory; the sheet for ``generate``.
      many: Whether an ensemble of flows is asked for.
      loaded: The data of the file that the options name; None if they name none.
    """

    options: argparse.Namespace
    names: list[str]
    paths: list[Path]
    many: bool
    loaded: Any


def prepare(options: argparse.Namespace) -> Job:
    """Check paths and read the data file of a command line.

    Args:
      options: The parsed options.

    Raises:
      UsageError: If the options do not fit together, or a path cannot be written.
      DataError: If the data file cannot be used.
    """
    many = options.problem == "fokker-planck" and _asks_for_many(options)
    names = [options.problem] if options.problem else list(PROBLEMS)
    if options.problem == "generate":
        paths = [free_sheet(Path(options.out or "samples.png"), options.overwrite)]
    else:
        out = Path(options.out or "runs")
        paths = [free_directory(out, name, options.overwrite) for name in names]
    if getattr(options, "checkpoint_dir", None) is not None:
        require_writable(Path(options.checkpoint_dir))
    return Job(options, names, paths, many, _read(options))


def _asks_for_many(options: argparse.Namespace) -> bool:
    for name in () if options.distributed else JOINING:
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} needs --distributed")
    if not options.distributed and not options.flows:
        if options.checkpoint_dir is not None:
            raise UsageError("--checkpoint-dir needs --flows N")
        return False
    if options.seed + (options.flows or 1) > 2**32:
        raise UsageError(
            f"the seeds of {options.flows} flows must be at most {2**32 - 1}; "
            f"got --seed {options.seed}"
        )
    return True


def _read(options: argparse.Namespace) -> Any:
    """Return what the data file holds; None if none is named."""
    if options.problem == "generate":
        return load_images(options.data or "digits", options.data_dir)
    if options.problem not in USES_COLUMNS:
        return None
    given = {name: getattr(options, name, None) for name in USES_COLUMNS[options.problem]}
    columns = {name: value for name, value in given.items() if value is not None}
    if options.problem == "posterior" and (options.data is None) != (options.label is None):
        raise DataError("--data FILE.csv and --label COLUMN must be given together.")
    if options.data is None:
        if columns:
            flags = (f"--{name.replace('_', '-')}" for name in columns)
            raise DataError(f"{', '.join(flags)} need --data FILE.")
        return None
    if options.problem == "posterior":
        return load_table(options.data, options.label, **columns)
    return load_named_points(options.data, **columns)
