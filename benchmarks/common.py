"""What every benchmark shares: options, timing, machine record, results, figures, statistics.

A benchmark is a module that is listed in ``benchmarks.__main__.BENCHMARKS`` and defines

- ``FLAGS``, a ``Flags``: the help of the shared options that it takes;
- ``add_arguments(parser)``, only if it has options of its own;
- ``main(args)``, which measures and ends with ``finish(args, content, ("", figure))``.

``args`` holds ``name`` (the command), ``quick``, ``full`` (False if the benchmark has no
``--full``), ``directory`` (a ``Path``, from ``--out`` or its default) and, where ``FLAGS`` asks
for them, ``only``, ``seeds`` and ``first_seed``. Sizes are NamedTuples built by keyword, usually
``QUICK``, ``DEFAULT`` and ``FULL`` of the module:

    sizes = QUICK if args.quick else FULL if args.full else DEFAULT

``finish`` prints every table of ``benchmarks.tables`` that reads this result. Rows and columns of
the tables stand in modules such as ``speed_tables``, which also fill the pages.
"""

import argparse
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import optax

import swjko
from benchmarks.machine import first_value, machine, versions
from benchmarks.tables import RESULTS, ROOT, TABLES, render
from swjko.checkpoints.files import write_atomically
from swjko.checkpoints.format import finite_json

# matplotlib and rich may be absent where a benchmark draws nothing, such as a borrowed GPU machine.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DEVICE_FLAG = "--xla_force_host_platform_device_count"


class Flags(NamedTuple):
    """Shared options of a benchmark; an option whose entry is empty does not exist.

    Attributes:
      quick: Help of ``--quick``, a run at reduced size that shows that the benchmark works.
      full: Help of ``--full``, a longer run than the default.
      only: Choices of ``--only``: measure one of them, print it, and write nothing.
      seeds: Help of ``--seeds N``; None if it is not given.
      first_seed: Help of ``--first-seed N``; 0 if it is not given.
    """

    quick: str = "reduced sizes, to see that it runs"
    full: str = ""
    only: Sequence[str] = ()
    seeds: str = ""
    first_seed: str = ""


def add_flags(parser: argparse.ArgumentParser, flags: Flags) -> None:
    """Add ``--out`` and the shared options that ``flags`` asks for."""
    parser.set_defaults(full=False, only=None)
    sizes = parser.add_mutually_exclusive_group()
    add = parser.add_argument
    sizes.add_argument("--quick", action="store_true", help=f"{flags.quick}; to runs/benchmarks")
    if flags.full:
        sizes.add_argument("--full", action="store_true", help=flags.full)
    if flags.only:
        add("--only", choices=list(flags.only), help="measure this part and write nothing")
    if flags.seeds:
        add("--seeds", type=int, metavar="N", help=flags.seeds)
    if flags.first_seed:
        add("--first-seed", type=int, default=0, metavar="N", help=flags.first_seed)
    add("--out", type=Path, metavar="DIR", help="of JSON and PNG (default benchmarks/results)")


# Results.


def finish(
    args: argparse.Namespace,
    content: Mapping[str, Any],
    *figures: "tuple[str, Figure]",
    name: str | None = None,
) -> None:
    """Write the result and its figures, and print the tables that read it.

    With ``--only`` the content is printed and nothing is written.

    Args:
      args: Parsed options.
      content: What goes into the JSON beside machine, versions and date.
      *figures: Pairs of suffix and figure, saved as ``NAME`` + suffix + ``.png``.
      name: Stem of the files; None means the name of the command.
    """
    if args.only is not None:
        show(args.name, content)
        return
    stem: str = name or args.name
    path = write_results(stem, content, args.directory)
    for suffix, one in figures:
        one.savefig(args.directory / f"{stem}{suffix}.png", dpi=150)
    print_tables(stem, read_results(stem, args.directory))
    print(path)


def print_tables(name: str, result: Mapping[str, Any]) -> None:
    """Print each table of the pages that is made from this result alone."""
    regions = [region for region, (needed, _) in TABLES.items() if needed == (name,)]
    if not regions:
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(width=None if sys.stdout.isatty() else 160)
    for region in regions:
        text = "\n".join(render(region, {name: result}))
        console.print(Markdown(f"**{region}**\n\n{text}"))


def show(label: str, value: Any) -> None:
    """Print a labelled value as JSON holds it, at once."""
    print(f"{label}: {finite_json(value)}", flush=True)


def write_results(name: str, content: Mapping[str, Any], directory: Path = RESULTS) -> Path:
    """Write ``NAME.json``, the content beside machine, versions and date; returns the path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    head = {"benchmark": name, "date": time.strftime("%Y-%m-%d", time.gmtime())}
    head |= {"machine": machine(), "versions": versions()}
    text = json.dumps(finite_json({**head, **content}), indent=2, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())
    return path


def read_results(name: str, directory: Path = RESULTS) -> dict[str, Any]:
    """The content of ``NAME.json``."""
    return json.loads((directory / f"{name}.json").read_text())


def optional(name: str) -> Any:
    """The module of this name; None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


# Timing and memory.


def interleaved_medians(
    functions: Mapping[str, Callable[[], Any]], *, repeats: int
) -> dict[str, float]:
    """Median wall seconds of each function, called in turns after one warm-up call.

    A change in the load of the machine meets all functions alike. If a call takes less than 0.1 s,
    the second call of its turn is timed: by then the threads that another library left spinning
    sleep, and the function's own threads are awake. Results of JAX are waited for.
    """
    for function in functions.values():
        timed(function)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            first = timed(function)[0]
            seconds[name].append(timed(function)[0] if first < 0.1 else first)
    return {name: statistics.median(values) for name, values in seconds.items()}


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds of one call, and its result."""
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start, result


def peak_mib() -> int | None:
    """Peak resident MiB of this process; None without /proc.

    ``getrusage`` would not do: its peak is inherited from the parent process.
    """
    found = first_value("/proc/self/status", "VmHWM")
    return int(found.split()[0]) // 1024 if found else None


def run_child(arguments: Sequence[str], *, num_devices: int | None = None) -> str:
    """The last line that a Python process prints, run on the CPU from the repository root.

    Args:
      arguments: Arguments of the interpreter, such as ``["-m", "benchmarks", "kernel"]``.
      num_devices: Number of host devices, which is fixed before JAX starts; None clears XLA_FLAGS.
    """
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    flags = environment.pop("XLA_FLAGS", "").split()
    if num_devices is not None:
        kept = [flag for flag in flags if not flag.startswith(_DEVICE_FLAG)]
        environment["XLA_FLAGS"] = " ".join([*kept, f"{_DEVICE_FLAG}={num_devices}"])
    command = [sys.executable, *arguments]
    options = {"stdout": subprocess.PIPE, "text": True, "check": True}
    return subprocess.run(command, env=environment, cwd=ROOT, **options).stdout.splitlines()[-1]


# Statistics and figures.


def mean_and_error(values: Iterable[float]) -> dict[str, float | None]:
    """Mean and its standard error; the error of a single value is None."""
    draws = np.asarray(list(values), np.float64)
    error = float(draws.std(ddof=1) / math.sqrt(len(draws))) if len(draws) > 1 else None
    return {"mean": float(draws.mean()), "standard_error": error}


def mean_and_deviation(values: Iterable[float]) -> dict[str, float]:
    """Mean and standard deviation of the values themselves, with a divisor n."""
    found = np.asarray(list(values), np.float64)
    return {"mean": float(found.mean()), "deviation": float(found.std())}


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> "tuple[Figure, np.ndarray]":
    """A figure of a size in inches, and its axes [rows columns]; see ``Figure.subplots``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def log2_axis(axis: "Axes", **labels: Any) -> None:
    """Show powers of two along x, and a grid; ``labels`` go to ``Axes.set``."""
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(True, which="major", alpha=0.3)
    axis.set(**labels)


# Settings of one SW-JKO run.


class Solve(NamedTuple):
    """Settings of one SW-JKO run with Adam.

    In each step the rate of Adam rises to ``learning_rate`` over ``num_warmup_steps`` updates and
    falls to zero by a cosine. With its usual epsilon Adam moves every parameter by the rate,
    however small the gradient, so a restart disturbs a converged flow. With ``epsilon`` at the
    size of the remaining gradients the updates shrink with them.
    """

    num_steps: int
    step_size: float
    num_inner_steps: int
    num_samples: int
    num_projections: int
    learning_rate: float
    num_warmup_steps: int = 0
    epsilon: float = 1e-8

    def scheme(self, family: swjko.Family, functional: swjko.Functional, **options: Any) -> Any:
        """The SW-JKO scheme of these settings; ``options`` go to ``swjko.sw_jko``."""
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, self.num_warmup_steps, self.num_inner_steps
        )
        return swjko.sw_jko(
            family,
            functional,
            optax.adam(schedule, eps=self.epsilon),
            step_size=self.step_size,
            num_inner_steps=self.num_inner_steps,
            num_samples=self.num_samples,
            num_projections=self.num_projections,
            **options,
        )


def gaussian_symmetric_kl(mean0: Any, cov0: Any, mean1: Any, cov1: Any) -> float:
    """Sum of both KL divergences between two Gaussians.

    [tr(P0 S1) + tr(P1 S0) + (m0 - m1)^T (P0 + P1) (m0 - m1)] / 2 - d, with P = S^{-1}.
    """
    precision0, precision1 = np.linalg.inv(cov0), np.linalg.inv(cov1)
    shift = np.asarray(mean0) - np.asarray(mean1)
    quadratic = shift @ (precision0 + precision1) @ shift
    traces = np.trace(precision0 @ cov1) + np.trace(precision1 @ cov0)
    return float(traces + quadratic) / 2 - len(shift)
