"""The options of the command line and their checks."""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from swjko._names import __version__
from swjko.cli import settings
from swjko.cli.arguments import as_names, as_path, as_positive, as_seconds, as_whole
from swjko.cli.generate_options import add_generate
from swjko.cli.settings import MOST, Settings
from swjko.cli.terminal import UsageError, tell

_DESCRIPTION = """\
Gradient flows of probability measures in sliced-Wasserstein space (SW-JKO).

Without a subcommand, the three problems run with their defaults and end in one table. This takes
under three minutes on two cores. Each run writes report.json with a verdict (fit: good, poor
or unknown), draws.npz, parameters.npz and two figures to its own directory, runs/<problem>.
Existing results are overwritten only with --overwrite.

Compiled programs are kept for the next run in $XDG_CACHE_HOME/swjko, or ~/.cache/swjko, which can
be deleted at any time. --no-cache keeps none. JAX_COMPILATION_CACHE_DIR names another directory."""

_EPILOG = """\
examples:
  python -m swjko                                             run all three problems
  python -m swjko fokker-planck --dim 10                      flow to a random Gaussian
  python -m swjko posterior --data patients.csv --label sick  sample a posterior for your table
  python -m swjko match --data points.npy --out my-runs       flow from noise to your points
  python -m swjko generate --data photos --out samples.png    images like those in a folder"""


# How help tells defaults that depend on the data.
_DEFAULTS = {
    ("step_size", 0.0): "default 1 / dimension",
    ("samples", 0): "default 256, fewer for more than 16,000 rows",
}


class Problem(NamedTuple):
    """A subcommand: its texts, its default settings, and the options that its function takes."""

    help: str
    description: str
    defaults: Settings
    options: tuple[str, ...]


# Options that say what to read of a table.
_COLUMNS = ("columns", "drop_columns", "drop_missing")
USES_COLUMNS = {"posterior": (*_COLUMNS, "one_hot"), "match": _COLUMNS}
PROBLEMS = {
    "fokker-planck": Problem(
        "flow to a random Gaussian with a known answer",
        "Solve the Fokker-Planck equation towards a random Gaussian, F = KL(mu | target), by a "
        "coupling flow. Compare with the stationary law and with the exact SW-JKO iterates.",
        settings.FOKKER_PLANCK,
        ("dim",),
    ),
    "posterior": Problem(
        "sample the posterior of a Bayesian logistic regression",
        "Sample the posterior of a Bayesian logistic regression, F = KL(mu | posterior), on 80 % "
        "of a table. Score the averaged prediction on the rest. The model is "
        "logit P(label = +1) = intercept + <weights, row>, with columns standardised, weights "
        "N(0, 1/alpha), alpha Gamma(1, rate 100) and intercept N(0, 10^2). The label that comes "
        "last in sorted order is +1. The flow starts at the Laplace approximation. draws.npz holds "
        "draws in units of the file's columns. The default table is scikit-learn's breast cancer "
        "data.",
        settings.POSTERIOR,
        ("data", "label", "intercept", *USES_COLUMNS["posterior"]),
    ),
    "match": Problem(
        "flow from noise to a sample of points",
        "Flow from N(0, I) to a sample, F = SW_2^2(mu, sample) / 2, in scaled coordinates. Compare "
        "with held-out points of the sample. draws.npz holds draws in units of the file's columns. "
        "The default sample is scikit-learn's digits on their first two principal components.",
        settings.MATCH,
        ("data", "dim", "scale", "family", *USES_COLUMNS["match"]),
    ),
}
GENERATE = Problem(
    "generate images like those in a folder",
    "Flow from noise to images, F = SW_2^2(mu, images) / 2. Draw a sheet with samples at the left "
    "and, in the same places beside them, the images nearest to them. In latent space each row of "
    "a third block moves from one latent to another. Write report.json beside the sheet. A fifth "
    "of the images is held out for comparison. The default images are scikit-learn's digits of "
    "8 x 8 pixels.",
    settings.GENERATE,
    (
        *("data", "family", "space", "slices", "by_class", "clusters"),
        *("batch_size", "grid", "checkpoint_dir"),
    ),
)


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args=None, namespace=None):
        args = list(sys.argv[1:] if args is None else args)
        for one in args:
            flag, equals, value = one.partition("=")
            # argparse drops this value, and the option becomes an empty list.
            if flag.startswith("-") and equals and value == "--":
                self.error(f"argument {flag}: must have a value; got '--'")
        return super().parse_known_args(args, namespace)

    def print_help(self, file=None):
        # argparse ignores a pipe that is closed and a disk that is full.
        if file is None:
            tell(self.format_help(), end="")
        else:
            super().print_help(file)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parser(prog: str = "python -m swjko") -> argparse.ArgumentParser:
    """Return the parser of the command line. It raises UsageError instead of exiting."""
    top = _Parser(
        prog=prog,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"swjko {__version__}")
    text = "print the script that completes the command swjko in this shell"
    top.add_argument("--completion", choices=("bash", "zsh"), help=text)
    _add_common(top, None)
    subparsers = top.add_subparsers(
        dest="problem", metavar="PROBLEM", title="problems (python -m swjko PROBLEM --help)"
    )
    commands = {}
    for name, problem in (PROBLEMS | {"generate": GENERATE}).items():
        commands[name] = subparsers.add_parser(
            name, help=problem.help, description=problem.description
        )
        _add_common(commands[name], problem.defaults)
    kind, text = as_whole(1, MOST["dim"]), "dimension (default 2, at most 10,000)"
    commands["fokker-planck"].add_argument("--dim", type=kind, metavar="D", help=text)
    _add_tables(commands["posterior"].add_argument, commands["match"].add_argument)
    _add_many(commands["fokker-planck"])
    add_generate(commands["generate"])
    return top


def _add_tables(posterior: Callable[..., Any], match: Callable[..., Any]) -> None:
    add = posterior
    add(
        "--data",
        type=as_path,
        metavar="FILE.csv",
        help="table with a header; numbers besides the labels",
    )
    add("--label", metavar="COLUMN", help="column of the labels, which have two classes")
    _add_columns(add)
    text = "columns of categories: k - 1 indicators each"
    add("--one-hot", type=as_names, metavar="A,B", help=text)
    text = "leave out the intercept, as in the published experiments"
    add("--no-intercept", action="store_false", dest="intercept", help=text)
    add = match
    add(
        "--data",
        type=as_path,
        metavar="FILE",
        help="points, one in each row of a .npy array or a .csv table",
    )
    text = "number of principal components (default 2 for the digits, all for --data)"
    add("--dim", type=as_whole(1, MOST["dim"]), metavar="D", help=text)
    _add_columns(add)
    text = "divide each column by its deviation (default), whiten, or divide all by one number"
    add("--scale", choices=settings.MATCH_SCALES, help=text)
    text = "network without a density (default), or coupling flow, whose draws have log-densities"
    add("--family", choices=settings.MATCH_FAMILIES, help=text)


def _add_columns(add: Callable[..., Any]) -> None:
    add("--columns", type=as_names, metavar="A,B", help="columns of --data to use (default all)")
    add("--drop-columns", type=as_names, metavar="A,B", help="columns of --data to leave out")
    text = "leave out rows of --data with a missing value"
    add("--drop-missing", action="store_const", const=True, help=text)


def _add_many(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "many flows",
        "Solve N problems with the seeds from --seed on, as one ensemble on all devices. With "
        "--distributed, start the same command in every process; the flows use the devices of all "
        "processes. Missing options are read from the job's environment (Slurm, Open MPI or "
        "Kubernetes).",
    )
    add = group.add_argument
    text = "number of flows, at most 100,000 (default with --distributed: one for each device)"
    add("--flows", type=as_whole(1, MOST["flows"]), metavar="N", help=text)
    text = "join the other processes of this run; process 0 writes the report"
    add("--distributed", action="store_true", help=text)
    text = "address of process 0, with a port that all processes can reach"
    add("--coordinator", metavar="HOST:PORT", help=text)
    text, whole = "number of processes", as_whole(1, MOST["flows"])
    add("--num-processes", type=whole, metavar="N", help=text)
    text, whole = "index of this process, from 0", as_whole(0, MOST["flows"] - 1)
    add("--process-id", type=whole, metavar="I", help=text)
    seconds: dict[str, Any] = {"type": as_seconds, "metavar": "S"}
    text = "seconds to wait for all processes to join (default 60)"
    add("--initialization-timeout", help=text, **seconds)
    text = "seconds of silence after which a process counts as failed (default 20)"
    add("--heartbeat-timeout", help=text, **seconds)
    text = "save checkpoints here, and resume from them; all processes must see this directory"
    add("--checkpoint-dir", type=as_path, metavar="DIR", help=text)


def _add_common_option(
    parser: argparse.ArgumentParser, after: bool, flag: str, default: Any, text: str, **kind: Any
) -> None:
    default = argparse.SUPPRESS if after else default
    parser.add_argument(flag, default=default, help=text, **kind)


def _add_common(parser: argparse.ArgumentParser, defaults: Settings | None) -> None:
    """Add options that are valid before and after the subcommand.

    After it they have no default, which would replace a value given before it.
    """

    add = functools.partial(_add_common_option, parser, defaults is not None)
    text = "seed of the problem, the split of the data and the flow (default 0)"
    add("--seed", None, text, type=as_whole(0, 2**32 - 1), metavar="N")
    for field, text in (
        ("steps", "number of JKO steps"),
        ("step_size", "SW time of one JKO step"),
        ("inner_steps", "optimiser updates in each JKO step"),
        ("samples", "points drawn for each update"),
        ("projections", "directions drawn for each update"),
    ):
        kind = as_whole(1, MOST[field]) if field in MOST else as_positive
        default = "each problem has a default"
        if defaults:
            value = getattr(defaults, field)
            default = _DEFAULTS.get((field, value), f"default {value}")
            if defaults is settings.GENERATE and not value:
                codes, others = (
                    settings.GENERATE_NUMBERS[name][field] for name in ("mlp", "coupling")
                )
                default = f"default {codes:g} for a perceptron of codes, {others:g} otherwise"
        metavar = "N"
        if field in MOST:
            default = f"{default}, at most {MOST[field]:,}"
        else:
            metavar = "T"
        flag = f"--{field.replace('_', '-')}"
        add(flag, None, f"{text} ({default})", type=kind, metavar=metavar)
    if defaults is settings.GENERATE:
        text = "the sheet, a PNG file (default samples.png)"
        add("--out", None, text, type=as_path, metavar="FILE.png")
    else:
        text = "directory for the results (default runs)"
        add("--out", None, text, type=as_path, metavar="DIR")
    text = "take the problem and options that are not given from the report.json of another run"
    add("--config", None, text, type=as_path, metavar="REPORT")
    add("--overwrite", False, "replace existing results", action="store_true")
    add("--no-progress", False, "show no progress bar", action="store_true")
    text = "do not keep compiled programs in the user's cache directory for the next run"
    add("--no-cache", False, text, action="store_true")
