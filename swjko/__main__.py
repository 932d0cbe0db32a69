"""``python -m swjko``: three flows from start to figures, on problems with a known answer or on data of your own."""

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

from swjko import experiments, report
from swjko.driver import FlowError
from swjko.problems import DataError

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
  python -m swjko match --data points.npy --out my-runs       from noise to a sample of yours"""


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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0; 1 for a flow that failed; 2 for input that cannot be used; 130 for Ctrl-C."""
    try:
        options = _parser().parse_args(argv)
        names = [options.problem] if options.problem else list(_PROBLEMS)
        _require_extras()
        directories = [_free_directory(Path(options.out), name, options.overwrite) for name in names]
        _run_all(names, directories, options)
    except SystemExit as finished:  # --help
        return int(finished.code or 0)
    except (UsageError, DataError, ImportError, OSError) as error:
        return _fail(error, 2)
    except (FlowError, jax.errors.JaxRuntimeError, MemoryError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 0


def _run_all(names: list[str], directories: list[Path], options: argparse.Namespace) -> None:
    start = time.perf_counter()
    outcomes = []
    for name, directory in zip(names, directories, strict=True):
        problem = _PROBLEMS[name]
        given = {field: getattr(options, field) for field in problem.defaults._fields if getattr(options, field, None) is not None}
        extra = {field: getattr(options, field) for field in ("dim", "data", "label") if getattr(options, field, None) is not None}
        outcome = problem.solve(problem.defaults._replace(**given), seed=options.seed, progress=not options.no_progress, **extra)
        report.write(outcome, directory)
        outcomes.append(outcome)
        print(report.summary(outcome, directory), end="\n\n", flush=True)
    print(report.table(outcomes))
    print(f"\n{time.perf_counter() - start:.0f} seconds in all")


def _parser() -> argparse.ArgumentParser:
    formatting = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="python -m swjko", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=formatting)
    _add_common(parser, None)
    subparsers = parser.add_subparsers(dest="problem", metavar="PROBLEM", title="problems (python -m swjko PROBLEM --help)")
    commands = {}
    for name, problem in _PROBLEMS.items():
        commands[name] = subparsers.add_parser(name, help=problem.help, description=problem.description)
        _add_common(commands[name], problem.defaults)
    commands["fokker-planck"].add_argument("--dim", type=_count, metavar="D", help="dimension (default 2)")
    commands["posterior"].add_argument("--data", metavar="FILE.csv", help="a table with a header, of numbers beside the labels")
    commands["posterior"].add_argument("--label", metavar="COLUMN", help="its column of labels, of two classes")
    commands["match"].add_argument("--data", metavar="FILE", help="points, one in each row of a .npy array or a .csv table")
    commands["match"].add_argument(
        "--dim", type=_count, metavar="D", help="principal components to keep (default 2 of the digits, all of --data)"
    )
    return parser


def _add_common(parser: argparse.ArgumentParser, defaults: experiments.Settings | None) -> None:
    """Options may stand before the subcommand or after it: those after it have no default, which would undo one given before."""

    def add(flag: str, default: Any, text: str, **kind: Any) -> None:
        top = defaults is None
        parser.add_argument(flag, default=default if top else argparse.SUPPRESS, help=text, **kind)

    def number(field: str, text: str) -> str:
        return f"{text} ({'each problem has a default' if defaults is None else f'default {getattr(defaults, field)}'})"

    add("--seed", 0, "seed of the problem, the split of the data and the flow (default 0)", type=_seed, metavar="N")
    add("--steps", None, number("steps", "JKO steps"), type=_count, metavar="N")
    add("--step-size", None, number("step_size", "SW time of one JKO step"), type=_positive, metavar="T")
    add("--inner-steps", None, number("inner_steps", "optimiser updates in each JKO step"), type=_count, metavar="N")
    add("--samples", None, number("samples", "points drawn for each update"), type=_count, metavar="N")
    add("--projections", None, number("projections", "directions drawn for each update"), type=_count, metavar="N")
    add("--out", "runs", "directory for the results (default runs)", metavar="DIR")
    add("--overwrite", False, "replace results that exist", action="store_true")
    add("--no-progress", False, "show no progress bar", action="store_true")


def _count(text: str) -> int:
    return _whole(text, 1, 10**9)


def _seed(text: str) -> int:
    return _whole(text, 0, 2**32 - 1)


def _whole(text: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}; received {text!r}")
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
        raise UsageError(f"the command line needs {' and '.join(missing)}; get them with: pip install 'swjko[cli]'")


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
    existing = directory
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(f"{directory} cannot be written: {existing} is not a writable directory")
    return directory


def _fail(error: Exception | str, code: int) -> int:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    print(f"swjko: error: {lines[0]}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
