"""``python -m swjko``: three flows from start to figures, on problems with a known answer or on data of your own; and images from noise."""

import argparse
import importlib.util
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from swjko import distributed
from swjko.checkpoints.store import CheckpointError
from swjko.cli import generate as generation
from swjko.cli import many as sweep
from swjko.cli import problems as experiments
from swjko.cli import report
from swjko.problems import DataError
from swjko.running.solution import FlowError

_DESCRIPTION = """\
Gradient flows of probability measures in sliced-Wasserstein space (SW-JKO).

Without a subcommand the three problems run in their defaults, in under three minutes on two cores, and end in one table. Each run
leaves a report.json and two figures in a directory of its own, runs/<problem>; directories that exist are never overwritten unless
--overwrite says so."""

_EPILOG = """\
examples:
  python -m swjko                                             all three, in their defaults
  python -m swjko fokker-planck --dim 10                      to a random Gaussian in dimension 10
  python -m swjko posterior --data patients.csv --label sick  Bayesian logistic regression on a table of yours
  python -m swjko match --data points.npy --out my-runs       from noise to a sample of yours
  python -m swjko generate --data photos --out samples.png    images like those in a folder of yours"""


class UsageError(Exception):
    """A command line that cannot be run, in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(f"{message} (see {self.prog} --help)")


class _Problem(NamedTuple):
    help: str
    description: str
    solve: Any
    defaults: experiments.Settings


_PROBLEMS = {
    "fokker-planck": _Problem(
        "flow to a random Gaussian, whose exact answer is known",
        "The Fokker-Planck equation to a random Gaussian, F = KL(mu | target), by a coupling flow. Compared with the stationary law and "
        "with the exact SW-JKO step, iterated as often.",
        experiments.fokker_planck,
        experiments.FOKKER_PLANCK,
    ),
    "posterior": _Problem(
        "posterior of a Bayesian logistic regression",
        "Samples the posterior of a Bayesian logistic regression, F = KL(mu | posterior), on 80 % of a table and scores the averaged "
        "prediction on the rest. The default table is scikit-learn's breast cancer data.",
        experiments.posterior,
        experiments.POSTERIOR,
    ),
    "match": _Problem(
        "flow from noise to a sample of points",
        "A flow from N(0, I) to a sample, F = SW_2^2(mu, sample) / 2, by a network without a density. Compared with points of the sample "
        "that were held out. The default sample is scikit-learn's digits on their first two principal components.",
        experiments.match,
        experiments.MATCH,
    ),
}

_GENERATE = _Problem(
    "images from noise, as a sheet of samples",
    "A flow from noise to images, F = SW_2^2(mu, images) / 2 in the space of their pixels. Draws a sheet: samples at the left, and at the "
    "right, in the same places, the images nearest to them. Leaves a report.json beside it. A fifth of the images is held out to compare "
    "with. The default images are scikit-learn's digits, of 8 x 8 pixels.",
    generation.generate,
    generation.GENERATE,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0; 1 for a flow that failed; 2 for input that cannot be used; 130 for Ctrl-C."""
    try:
        options = _parser().parse_args(argv)
        _require_extras()
        if options.problem == "generate":
            _generate(options)
        elif options.problem == "fokker-planck" and _asks_for_many(options):
            return _sweep(options)
        else:
            names = [options.problem] if options.problem else list(_PROBLEMS)
            directories = [
                _free_directory(Path(options.out or "runs"), name, options.overwrite)
                for name in names
            ]
            _run_all(names, directories, options)
    except SystemExit as finished:  # --help, or SIGTERM in a run that keeps checkpoints
        return int(finished.code or 0)
    except (
        UsageError,
        DataError,
        CheckpointError,
        distributed.DistributedError,
        ImportError,
        OSError,
    ) as error:
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
        problem = _PROBLEMS[name]
        outcome = _solve(problem, options, "dim", "data", "label")
        report.write(outcome, directory)
        outcomes.append(outcome)
        print(report.summary(outcome, directory), end="\n\n", flush=True)
    print(report.table(outcomes))
    print(f"\n{time.perf_counter() - start:.0f} seconds in all")


def _generate(options: argparse.Namespace) -> None:
    out = _free_sheet(Path(options.out or "samples.png"), options.overwrite)
    outcome, sheet = _solve(
        _GENERATE, options, "data", "data_dir", "family", "batch_size", "grid", "checkpoint_dir"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    generation.save_sheet(sheet, out)
    report.write(outcome, out.parent)
    print(report.summary(outcome, out))


def _asks_for_many(options: argparse.Namespace) -> bool:
    if options.distributed or options.flows:
        if options.seed + (options.flows or 1) > 2**32:
            raise UsageError(
                f"--seed {options.seed} and the {options.flows} after it go beyond {2**32 - 1}, the largest seed"
            )
        for name in () if options.distributed else ("coordinator", "num_processes", "process_id"):
            if getattr(options, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} goes with --distributed")
        return True
    if options.checkpoint_dir is not None:
        raise UsageError("--checkpoint-dir goes with --flows N")
    return False


def _sweep(options: argparse.Namespace) -> int:
    """Many flows, on the devices of many processes if asked for; all of them return the same code, and process 0 alone writes."""
    directory = _free_directory(Path(options.out or "runs"), "fokker-planck", options.overwrite)
    if options.distributed:
        try:
            distributed.initialize(
                options.coordinator,
                options.num_processes,
                options.process_id,
                initialization_timeout=options.initialization_timeout,
                heartbeat_timeout=options.heartbeat_timeout,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
    names = ("dim", "checkpoint_dir")
    found = _solve(
        _PROBLEMS["fokker-planck"]._replace(solve=sweep.fokker_planck),
        options,
        *names,
        num_flows=options.flows,
    )
    if jax.process_index() == 0:
        sweep.write(found, directory)
        print(sweep.summary(found))
        print(f"written to {directory}", flush=True)
    return 0 if not np.any(found.results) else 1


def _solve(problem: _Problem, options: argparse.Namespace, *names: str, **more: Any) -> Any:
    """What the problem's function returns, of the settings and of the options of these names that were given."""
    given = {
        field: getattr(options, field)
        for field in problem.defaults._fields
        if getattr(options, field, None) is not None
    }
    extra = {
        name: getattr(options, name) for name in names if getattr(options, name, None) is not None
    }
    return problem.solve(
        problem.defaults._replace(**given),
        seed=options.seed,
        progress=not options.no_progress,
        **extra,
        **more,
    )


def _parser() -> argparse.ArgumentParser:
    formatting = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="python -m swjko", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=formatting
    )
    _add_common(parser, None)
    subparsers = parser.add_subparsers(
        dest="problem", metavar="PROBLEM", title="problems (python -m swjko PROBLEM --help)"
    )
    commands = {}
    for name, problem in (_PROBLEMS | {"generate": _GENERATE}).items():
        commands[name] = subparsers.add_parser(
            name, help=problem.help, description=problem.description
        )
        _add_common(commands[name], problem.defaults)
    commands["fokker-planck"].add_argument(
        "--dim", type=_count, metavar="D", help="dimension (default 2)"
    )
    commands["posterior"].add_argument(
        "--data", metavar="FILE.csv", help="a table with a header, of numbers beside the labels"
    )
    commands["posterior"].add_argument(
        "--label", metavar="COLUMN", help="its column of labels, of two classes"
    )
    commands["match"].add_argument(
        "--data", metavar="FILE", help="points, one in each row of a .npy array or a .csv table"
    )
    commands["match"].add_argument(
        "--dim",
        type=_count,
        metavar="D",
        help="principal components to keep (default 2 of the digits, all of --data)",
    )
    _add_sweep(commands["fokker-planck"])
    _add_generate(commands["generate"])
    return parser


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "many flows",
        "N flows of as many problems, of the seeds from --seed on, in one ensemble over all devices. With --distributed, started alike in "
        "every process, over the devices of all of them: what is not given comes from the job, of Slurm, Open MPI or Kubernetes.",
    )
    group.add_argument(
        "--flows",
        type=_count,
        metavar="N",
        help="how many (default with --distributed: one for each device)",
    )
    group.add_argument(
        "--distributed",
        action="store_true",
        help="join the other processes of this run; process 0 writes the report",
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="of process 0, a free port there that all reach"
    )
    group.add_argument("--num-processes", type=_count, metavar="N", help="how many there are")
    group.add_argument("--process-id", type=_index, metavar="I", help="which this one is, from 0")
    group.add_argument(
        "--initialization-timeout",
        type=_positive,
        default=60.0,
        metavar="S",
        help="seconds in which all must come (60)",
    )
    group.add_argument(
        "--heartbeat-timeout",
        type=_positive,
        default=20.0,
        metavar="S",
        help="seconds after which a silent one is dead (20)",
    )
    group.add_argument(
        "--checkpoint-dir",
        metavar="DIR",
        help="keep checkpoints here, and go on from those that are here; seen by all",
    )


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="digits (default), mnist, fashion or cifar10; or a folder of pictures, an IDX file, a .npy or .npz array [n h w] or [n h w c]",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="directory of the files of mnist, fashion and cifar10 (default $SWJKO_DATA)",
    )
    parser.add_argument(
        "--family",
        choices=generation.FAMILIES,
        help="coupling flow with a density (default), or convolutional generator",
    )
    parser.add_argument(
        "--batch-size",
        type=_count,
        metavar="N",
        help="images for each update (default 2000, or all of fewer)",
    )
    parser.add_argument(
        "--grid", type=_side, metavar="N", help="N x N samples on the sheet (default 10)"
    )
    parser.add_argument(
        "--checkpoint-dir",
        metavar="DIR",
        help="keep checkpoints here, and go on from those that are here",
    )


def _add_common(parser: argparse.ArgumentParser, defaults: experiments.Settings | None) -> None:
    """Options may stand before the subcommand or after it: those after it have no default, which would undo one given before."""

    def add(flag: str, default: Any, text: str, **kind: Any) -> None:
        top = defaults is None
        parser.add_argument(flag, default=default if top else argparse.SUPPRESS, help=text, **kind)

    def number(field: str, text: str) -> str:
        return f"{text} ({'each problem has a default' if defaults is None else f'default {getattr(defaults, field)}'})"

    add(
        "--seed",
        0,
        "seed of the problem, the split of the data and the flow (default 0)",
        type=_seed,
        metavar="N",
    )
    add("--steps", None, number("steps", "JKO steps"), type=_count, metavar="N")
    add(
        "--step-size",
        None,
        number("step_size", "SW time of one JKO step"),
        type=_positive,
        metavar="T",
    )
    add(
        "--inner-steps",
        None,
        number("inner_steps", "optimiser updates in each JKO step"),
        type=_count,
        metavar="N",
    )
    add(
        "--samples",
        None,
        number("samples", "points drawn for each update"),
        type=_count,
        metavar="N",
    )
    add(
        "--projections",
        None,
        number("projections", "directions drawn for each update"),
        type=_count,
        metavar="N",
    )
    if defaults is generation.GENERATE:
        add("--out", None, "the sheet, a PNG file (default samples.png)", metavar="FILE.png")
    else:
        add("--out", None, "directory for the results (default runs)", metavar="DIR")
    add("--overwrite", False, "replace results that exist", action="store_true")
    add("--no-progress", False, "show no progress bar", action="store_true")


def _count(text: str) -> int:
    return _whole(text, 1, 10**9)


def _side(text: str) -> int:
    return _whole(text, 1, 100)


def _index(text: str) -> int:
    return _whole(text, 0, 10**9)


def _seed(text: str) -> int:
    return _whole(text, 0, 2**32 - 1)


def _whole(text: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from {low} to {high}; received {text!r}"
        )
    return value


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # Beyond float32 it would become zero or infinity on the way in.
    if not float(np.finfo(np.float32).tiny) <= value <= float(np.finfo(np.float32).max):
        raise argparse.ArgumentTypeError(f"must be a positive number; received {text!r}")
    return value


def _require_extras() -> None:
    missing = [module for module in ("matplotlib", "sklearn") if not _is_installed(module)]
    if missing:
        raise UsageError(
            f"the command line needs {' and '.join(missing)}; get them with: pip install 'swjko[cli]'"
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # a module that was blocked or made by hand
        return sys.modules.get(module) is not None


def _free_directory(out: Path, name: str, overwrite: bool) -> Path:
    """Where the problem's results go, refused before anything is computed when they could not or should not be written."""
    directory = out / name
    if directory.is_dir() and any(directory.iterdir()) and not overwrite:
        raise UsageError(f"{directory} exists; pass --overwrite, or another --out")
    _require_writable(directory, directory)
    return directory


def _free_sheet(out: Path, overwrite: bool) -> Path:
    """Where the sheet goes, refused as ``_free_directory`` does; the report goes beside it."""
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out} must be a file that ends in .png")
    for path in (out, out.parent / "report.json"):
        if path.is_dir():
            raise UsageError(f"{path} is a directory; pass another --out")
        if path.exists() and not overwrite:
            raise UsageError(f"{path} exists; pass --overwrite, or another --out")
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
    print(f"swjko: error: {lines[0]}", file=sys.stderr)
    distributed.leave(code)
    return code
