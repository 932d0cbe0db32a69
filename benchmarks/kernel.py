"""Speed, memory and accuracy of the sliced-Wasserstein distance and its gradient against peers.

All methods compute value and gradient in x, in float32, along the same directions. A package that
is not installed (torch, POT, ott) is left out and named in ``missing``. Per case, in ``runs``:

- median_seconds: of interleaved calls; for torch the better of one and two threads counts.
- ratio: seconds of the peer over seconds of swjko. "no sort" projects, subtracts and projects
  back, which no implementation can undercut.
- sharded: directions on two host devices, measured in another process, so not interleaved.
- temporary_bytes: of the compiled program, per direction and per point ((n + m) / 2 of them).
- relative_error: of value and gradient against NumPy in float64; agreement: of peers with swjko.

``peaks``: peak memory of a process that computes one value and gradient of two clouds in the plane.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks import common, peers
from benchmarks.peers import FLOOR, OURS, Case

# Above the first size a round of all peers takes seconds, above the other the reference gigabytes.
_LARGE_ELEMENTS, _REFERENCE_ELEMENTS = 1_500_000, 16384 * 256


class Sizes(NamedTuple):
    """Cases, calls of each method, and the sizes of the memory measurement."""

    cases: tuple[Case, ...]
    repeats: int
    peak_points: int
    peak_directions: tuple[int, ...]


_CASES = (
    Case(1000, 1000, 2, 100),
    Case(500, 500, 64, 500),
    Case(2000, 2000, 784, 1000),
    Case(16384, 16384, 32, 256),
    Case(100_000, 100_000, 16, 64),
    Case(1000, 1500, 2, 100),
    Case(5000, 7000, 10, 200),
    Case(1000, 1000, 2, 100, weighted=True),
    Case(5000, 5000, 10, 200, weighted=True),
)
DEFAULT = Sizes(cases=_CASES, repeats=15, peak_points=1_000_000, peak_directions=(32, 256))
QUICK = Sizes(cases=_CASES[:2], repeats=3, peak_points=20_000, peak_directions=(8, 16))
FLAGS = common.Flags(quick="the two smallest cases, few repeats")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    help_text = "calls of each method; a third for large cases"
    parser.add_argument("--repeats", type=int, metavar="N", help=help_text)


def main(args: argparse.Namespace) -> None:
    sizes = QUICK if args.quick else DEFAULT
    missing = [name for name in ("torch", "ot", "ott") if common.optional(name) is None]
    if missing:
        print(f"left out, not installed: {', '.join(missing)}")
    rows = []
    for case in sizes.cases:
        rows.append(measure(case, repeats_of(case, args.repeats or sizes.repeats)))
        common.show(case.name, rows[-1]["median_seconds"])
    numbers = sizes.peak_directions if Path("/proc/self/status").exists() else ()
    peaks = [peak_memory(sizes.peak_points, number) for number in numbers]
    content = {"quick": args.quick, "missing": missing, "runs": rows, "peaks": peaks}
    common.finish(args, content, ("", _figure(rows)))


def repeats_of(case: Case, repeats: int) -> int:
    """Calls of each method: a third for large cases."""
    return max(3, repeats // 3) if case.elements > _LARGE_ELEMENTS else repeats


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """The row of one case in the JSON."""
    inputs = peers.make_inputs(case)
    functions = peers.methods(inputs)
    first = {name: common.timed(function) for name, function in functions.items()}
    own = first[OURS][1]
    medians, threads = best_threads(common.interleaved_medians(functions, repeats=repeats))
    memory: Any = peers.ours.lower(*inputs.map(jnp.asarray)).compile().memory_analysis()
    exact = peers.reference(inputs) if case.elements <= _REFERENCE_ELEMENTS else None
    others = {name: median for name, median in medians.items() if name != OURS}
    compared = [name for name in first if name not in (OURS, FLOOR)]
    sharded = sharded_in_child(case, repeats)
    sharded |= {"ratio": {name: median / sharded["sharded"] for name, median in others.items()}}
    shape = {"n": case.n, "m": case.m, "dim": case.dim}
    return {
        "case": case.name,
        "shape": shape | {"directions": case.num_directions, "weighted": case.weighted},
        "repeats": repeats,
        "median_seconds": medians,
        "torch_threads": threads,
        "first_call_seconds": {name: seconds for name, (seconds, _) in first.items()},
        "ratio": {name: median / medians[OURS] for name, median in others.items()},
        "temporary_bytes": memory.temp_size_in_bytes / case.elements,
        "relative_error": exact and peers.relative_errors(own, exact),
        "agreement": {name: peers.relative_errors(first[name][1], own) for name in compared},
        "sharded": sharded | {"interleaved_with_peers": False},
    }


def sharded_in_child(case: Case, repeats: int) -> dict[str, Any]:
    """``sharded_seconds`` on two host devices."""
    call = f"json.dumps(kernel.sharded_seconds(kernel.{case!r}, {repeats}))"
    script = f"import json; from benchmarks import kernel; print({call})"
    return json.loads(common.run_child(["-c", script], num_devices=2))


def sharded_seconds(case: Case, repeats: int) -> dict[str, Any]:
    """Interleaved median seconds with directions on one device and sharded over all devices."""
    number = jax.device_count()
    mesh = jax.make_mesh((number,), ("projection",), axis_types=(AxisType.Auto,))
    inputs = peers.make_inputs(case).map(jnp.asarray)
    replicated = NamedSharding(mesh, PartitionSpec())
    sharded = inputs.map(lambda array: jax.device_put(array, replicated))
    sharding = NamedSharding(mesh, PartitionSpec("projection"))
    sharded = sharded._replace(directions=jax.device_put(inputs.directions, sharding))
    errors = peers.relative_errors(peers.ours(*sharded), peers.ours(*inputs))
    functions = {"unsharded": lambda: peers.ours(*inputs), "sharded": lambda: peers.ours(*sharded)}
    medians = common.interleaved_medians(functions, repeats=repeats)
    speedup = medians["unsharded"] / medians["sharded"]
    difference = float(errors["gradient"])
    return {"devices": number, **medians, "speedup": speedup, "difference": difference}


_PEAK_SCRIPT = """
import time, jax, swjko
x = jax.random.normal(jax.random.key(0), ({points}, 2))
y = jax.random.normal(jax.random.key(1), ({points}, 2)) + 1.0
directions = swjko.uniform_directions(jax.random.key(2), {num_directions}, 2)
function = jax.jit(jax.value_and_grad(swjko.sliced_wasserstein_pow))
start = time.perf_counter()
value, gradient = jax.block_until_ready(function(x, y, directions))
seconds = time.perf_counter() - start
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(float(value), int(peak.split()[1]) // 1024, seconds)
"""


def peak_memory(points: int, num_directions: int) -> dict[str, Any]:
    """Value, peak resident MiB and seconds of one value and gradient in the plane, on Linux.

    The computation runs alone in a process. The seconds include compilation.
    """
    script = _PEAK_SCRIPT.format(points=points, num_directions=num_directions)
    value, peak, seconds = map(float, common.run_child(["-c", script]).split())
    row = {"points": points, "directions": num_directions}
    return row | {"value": value, "peak_mib": peak, "seconds": seconds}


def best_threads(medians: Mapping[str, float]) -> tuple[dict[str, float], dict[str, Any]]:
    """Medians with the better thread count of each torch method, and those of all counts."""
    best: dict[str, float] = {}
    threads: dict[str, Any] = {}
    for name, median in medians.items():
        plain, _, count = name.partition("@")
        best[plain] = min(median, best.get(plain, median))
        if count:
            threads.setdefault(plain, {})[count] = median
    return best, threads


def _figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Bars of seconds of the peer over seconds of swjko, per case, on a log axis."""
    names = list(dict.fromkeys(name for row in rows for name in row["ratio"] if name != FLOOR))
    figure, axes = common.new_figure(2.6 + 1.15 * len(rows), 4.6)
    axis, width = axes[0, 0], 0.8 / len(names)
    for position, name in enumerate(names):
        lefts = [index + (position - len(names) / 2) * width for index in range(len(rows))]
        ratios = [row["ratio"].get(name, np.nan) for row in rows]
        axis.bar(lefts, ratios, width, align="edge", color=f"C{position}", label=name)
    axis.axhline(1.0, color="0.4", linewidth=0.8)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:g}")
    labels = "|".join(row["case"] for row in rows)
    labels = labels.replace(" weighted", "\nweighted").replace(" to ", " to\n").split("|")
    axis.set_xticks(range(len(rows)), labels, fontsize=8)
    axis.set(xlabel="(points, dimension, directions)", ylabel="seconds of the peer over swjko")
    figure.legend(fontsize=8, ncols=4, loc="outside upper center", frameon=False)
    return figure
