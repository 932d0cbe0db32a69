"""The command line: ``python -m swjko``."""

import argparse
import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from swjko import distributed
from swjko.checkpoints.store import CheckpointError
from swjko.cli import many, report, sheets
from swjko.cli.options import GENERATE, PROBLEMS, Problem, UsageError, parser
from swjko.data.tables import DataError
from swjko.running.solution import FlowError

_BAD_INPUT = (UsageError, DataError, CheckpointError, distributed.DistributedError)
# The arguments of ``distributed.initialize``.
_JOINING = (
    *("coordinator", "num_processes", "process_id"),
    *("initialization_timeout", "heartbeat_timeout"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
      argv: Arguments; None takes those of the process.

    Returns:
      The exit code: 0 on success, 1 if a flow failed, 2 if the input cannot be used, 130 after
      Ctrl-C.
    """
    with warnings.catch_warnings():
        # Print warnings as one line, without their place in the code.
        warnings.showwarning = _show_warning
        return _main(argv)


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"swjko: {message}", file=sys.stderr, flush=True)


def _main(argv: Sequence[str] | None) -> int:
    try:
        options = parser().parse_args(argv)
        _require_extras()
        if options.problem == "generate":
            _generate(options)
        elif options.problem == "fokker-planck" and _asks_for_many(options):
            return _run_many(options)
        else:
            names = [options.problem] if options.problem else list(PROBLEMS)
            out = Path(options.out or "runs")
            directories = [_free_directory(out, name, options.overwrite) for name in names]
            _run_all(names, directories, options)
    except SystemExit as finished:  # --help, or SIGTERM during a run with checkpoints
        return int(finished.code or 0)
    except (*_BAD_INPUT, ImportError, OSError) as error:
        return _fail(error, 2)
    except (FlowError, jax.errors.JaxRuntimeError, MemoryError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", 130)
    return 0


def _run_all(names: list[str], directories: list[Path], options: argparse.Namespace) -> None:
    start = time.perf_counter()
    outcomes = []
    for name, directory in zip(names, directories, strict=True):
        outcome = _solve(PROBLEMS[name], options, *PROBLEMS[name].options)
        report.write(outcome, directory, overwrite=options.overwrite)
        outcomes.append(outcome)
        print(report.summary(outcome, directory), end="\n\n", flush=True)
    print(report.table(outcomes))
    if any(outcome.verdict.fit != "good" for outcome in outcomes):
        print("\nThe reasons of every fit that is not good are listed above, and in report.json.")
    print(f"\n{time.perf_counter() - start:.0f} seconds in total")


def _generate(options: argparse.Namespace) -> None:
    out = _free_sheet(Path(options.out or "samples.png"), options.overwrite)
    outcome, sheet = _solve(GENERATE, options, *GENERATE.options)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheets.save_sheet(sheet, out, overwrite=options.overwrite)
    report.write(outcome, out.parent, overwrite=options.overwrite)
    print(report.summary(outcome, out))


def _asks_for_many(options: argparse.Namespace) -> bool:
    for name in () if options.distributed else _JOINING:
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


def _run_many(options: argparse.Namespace) -> int:
    """Run many flows. All processes return the same exit code; only process 0 writes."""
    directory = _free_directory(Path(options.out or "runs"), "fokker-planck", options.overwrite)
    if options.distributed:
        try:
            given = {name: getattr(options, name) for name in _JOINING}
            distributed.initialize(
                **{name: value for name, value in given.items() if value is not None}
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
    problem = PROBLEMS["fokker-planck"]._replace(solve=many.fokker_planck)
    flows = _solve(problem, options, "dim", "checkpoint_dir", num_flows=options.flows)
    if jax.process_index() == 0:
        many.write(flows, directory, overwrite=options.overwrite)
        print(many.summary(flows))
        print(f"written to {directory}", flush=True)
    return int(np.any(flows.results))


def _solve(problem: Problem, options: argparse.Namespace, *names: str, **more: Any) -> Any:
    """Call the problem's function with its settings and with the given options of these names."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    fields = problem.defaults._fields
    settings = {name: value for name, value in given.items() if name in fields}
    return problem.solve(
        problem.defaults._replace(**settings),
        seed=options.seed,
        progress=not options.no_progress,
        **{name: value for name, value in given.items() if name in names},
        **more,
    )


def _require_extras() -> None:
    missing = [module for module in ("matplotlib", "sklearn") if not _is_installed(module)]
    if missing:
        raise UsageError(
            f"the command line needs {' and '.join(missing)}. Run: pip install 'swjko[cli]'"
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # the module is blocked, or was made by hand
        return sys.modules.get(module) is not None


def _free_directory(out: Path, name: str, overwrite: bool) -> Path:
    """Return the directory of a problem's results, checked before anything is computed."""
    directory = out / name
    if directory.is_dir() and any(directory.iterdir()) and not overwrite:
        raise UsageError(f"{directory} exists; pass --overwrite or another --out")
    _require_writable(directory, directory)
    return directory


def _free_sheet(out: Path, overwrite: bool) -> Path:
    """Return the path of the sheet, checked with that of the report beside it."""
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out must be a file that ends in .png; got {out}")
    for path in (out, out.parent / "report.json", out.parent / "draws.npz"):
        if path.is_dir():
            raise UsageError(f"{path} is a directory; pass another --out")
        if path.exists() and not overwrite:
            raise UsageError(f"{path} exists; pass --overwrite or another --out")
    _require_writable(out, out.parent)
    return out


def _require_writable(path: Path, directory: Path) -> None:
    existing = directory
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(f"{path} cannot be written: {existing} is not a writable directory")


def _fail(error: Exception | str, code: int) -> int:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # The problems of a data file have a line each.
    shown = lines if isinstance(error, DataError) else lines[:1]
    print("swjko: error:", "\n".join(shown), file=sys.stderr)
    distributed.leave(code)
    return code
