"""Speed, memory and accuracy of the sliced-Wasserstein kernel against its peers: value and gradient in x, float32, the same directions.

Per case, in ``runs`` of the JSON:

- median_seconds: of interleaved calls; torch on one and two threads (``torch_threads``), the better counting; POT NumPy: the value alone;
- first_call_seconds: compilation and one call;
- ratio: peer over swjko; "no sort" projects, subtracts and projects back, which no implementation can undercut;
- sharded: directions over two host devices, in another process, so that its ratios are not interleaved;
- temporary_bytes: of XLA's compiled program, per direction and point ((n + m) / 2 of them);
- relative_error: of value and gradient (Euclidean norm) against NumPy in float64; agreement: of the peers with swjko;
- targets: what is to be reached, and whether it is.

``peaks``: the peak memory of a process that makes one value and gradient of two clouds in the plane, for two numbers of directions.

A package that is absent (torch, POT, ott) is named in ``missing`` and left out.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import swjko
from benchmarks import common

OURS, FLOOR = "swjko", "no sort"
TORCH_THREADS = (1, 2)
# A round of all peers takes seconds from here on, and the reference gigabytes beyond the second.
_LARGE_ELEMENTS, _REFERENCE_ELEMENTS = 1_500_000, 16384 * 256
_DEVICE_FLAG = "--xla_force_host_platform_device_count"


class Case(NamedTuple):
    """Clouds of n and m points; at_least, ambition: the ratios to reach, on one device and with directions on two."""

    n: int
    m: int
    dim: int
    num_directions: int
    weighted: bool = False
    at_least: Mapping[str, float] = {}
    ambition: Mapping[str, float] = {}

    @property
    def name(self) -> str:
        sizes = f"{self.n}" if self.n == self.m else f"{self.n} to {self.m}"
        return f"({sizes}, {self.dim}, {self.num_directions})" + (
            " weighted" if self.weighted else ""
        )

    @property
    def elements(self) -> int:
        return (self.n + self.m) * self.num_directions // 2


def _equal(
    n: int, dim: int, num_directions: int, pot: float, torch_sort: float, pot_ambition: float
) -> Case:
    at_least = {"POT torch": pot, "torch.sort": torch_sort, "OTT-JAX": 6.0}
    return Case(
        n,
        n,
        dim,
        num_directions,
        False,
        at_least,
        {"POT torch": pot_ambition, "torch.sort": 3.0, "OTT-JAX": 10.0},
    )


CASES = (
    _equal(1000, 2, 100, 5.0, 1.5, 10.0),
    _equal(500, 64, 500, 5.0, 1.5, 10.0),
    _equal(2000, 784, 1000, 4.0, 1.3, 7.0),
    _equal(16384, 32, 256, 13.0, 1.7, 25.0),
    _equal(100_000, 16, 64, 15.0, 1.7, 30.0),
    Case(1000, 1500, 2, 100, False, {"OTT-JAX": 15.0}, {"OTT-JAX": 25.0}),
    Case(5000, 7000, 10, 200, False, {"OTT-JAX": 15.0}, {"OTT-JAX": 25.0}),
    Case(1000, 1000, 2, 100, True),
    Case(5000, 5000, 10, 200, True),
)
QUICK_CASES = CASES[:2]
PEAK_POINTS, PEAK_DIRECTIONS = 1_000_000, (32, 256)
QUICK_PEAK_POINTS, QUICK_PEAK_DIRECTIONS = 20_000, (8, 16)
# What holds for every case: (at least, ambition), smaller being better.
_LIMITS = {"value": (3e-7, None), "gradient": (1e-4, None), "temporary_bytes": (40.0, 32.0)}


class Inputs(NamedTuple):
    """float32: x [n d], y [m d], directions [l d]; weights [n], [m] or None."""

    x: Any
    y: Any
    directions: Any
    x_weights: Any = None
    y_weights: Any = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the two smallest cases, few repeats; written to runs/benchmarks",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        metavar="N",
        help="calls of each (default 15, or 3 with --quick); a third for large cases",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="directory for JSON and PNG (default benchmarks/results)"
    )
    parser.add_argument("--sharded-only", action="store_true", help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    cases = QUICK_CASES if args.quick else CASES
    repeats = args.repeats or (3 if args.quick else 15)
    if args.sharded_only:
        print(json.dumps([sharded_seconds(case, _repeats(case, repeats)) for case in cases]))
        return 0
    directory = Path(args.out or (Path("runs/benchmarks") if args.quick else common.RESULTS))
    missing = [name for name in ("torch", "ot", "ott") if _optional(name) is None]
    if missing:
        print(f"left out, not installed: {', '.join(missing)}")
    rows = []
    for case in cases:
        rows.append(measure(case, _repeats(case, repeats)))
        print(
            f"{case.name}: "
            + ", ".join(
                f"{name} {1e3 * value:.4g} ms" for name, value in rows[-1]["median_seconds"].items()
            ),
            flush=True,
        )
    for row, sharded in zip(rows, _sharded_in_subprocess(args.quick, repeats), strict=True):
        row["sharded"] = {
            **sharded,
            "ratio": {
                name: row["median_seconds"][name] / sharded["sharded"] for name in row["ratio"]
            },
            "interleaved_with_peers": False,
        }
    for row, case in zip(rows, cases, strict=True):
        row["targets"] = targets(case, row)
    print(table(rows))
    points, numbers = (
        (QUICK_PEAK_POINTS, QUICK_PEAK_DIRECTIONS) if args.quick else (PEAK_POINTS, PEAK_DIRECTIONS)
    )
    peaks = (
        [peak_memory(points, number) for number in numbers]
        if Path("/proc/self/status").exists()
        else []
    )
    print(common.plain(peaks))
    print(
        common.write_results(
            "kernel",
            {"quick": args.quick, "missing": missing, "runs": rows, "peaks": peaks},
            directory,
        )
    )
    _figure(rows).savefig(directory / "kernel.png", dpi=150)
    return 0


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """All that one case has to say, but for the sharded run."""
    inputs = make_inputs(case)
    functions = methods(inputs)
    first_call_seconds, results = {}, {}
    for name, function in functions.items():
        start = time.perf_counter()
        results[name] = jax.block_until_ready(function())
        first_call_seconds[name] = time.perf_counter() - start
    agreement = {
        name: relative_errors(result, results[OURS])
        for name, result in results.items()
        if name not in (OURS, FLOOR)
    }
    medians, threads = _best_threads(common.interleaved_medians(functions, repeats=repeats))
    memory: Any = _ours.lower(*_on_device(inputs)).compile().memory_analysis()
    errors = None
    if case.elements <= _REFERENCE_ELEMENTS:
        errors = relative_errors(results[OURS], reference(inputs))
    return {
        "case": case.name,
        "shape": {
            "n": case.n,
            "m": case.m,
            "dim": case.dim,
            "directions": case.num_directions,
            "weighted": case.weighted,
        },
        "repeats": repeats,
        "median_seconds": medians,
        "torch_threads": threads,
        "first_call_seconds": first_call_seconds,
        "ratio": {name: median / medians[OURS] for name, median in medians.items() if name != OURS},
        "temporary_bytes": memory.temp_size_in_bytes / case.elements,
        "relative_error": errors,
        "agreement": agreement,
    }


def make_inputs(case: Case) -> Inputs:
    """x ~ N(0, I), y ~ N(1/2, I), unit directions, and weights uniform on [1/2, 3/2] over their sum."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((case.num_directions, case.dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    x, y = rng.standard_normal((case.n, case.dim)), 0.5 + rng.standard_normal((case.m, case.dim))
    weights = (
        [rng.uniform(0.5, 1.5, count) for count in (case.n, case.m)]
        if case.weighted
        else [None, None]
    )
    weights = [None if weight is None else weight / weight.sum() for weight in weights]
    return Inputs(
        *(
            None if array is None else array.astype(np.float32)
            for array in (x, y, directions, *weights)
        )
    )


def methods(inputs: Inputs) -> dict[str, Callable[[], tuple[Any, Any]]]:
    """Name to a call that returns (value, gradient in x); the gradient of POT NumPy is None. Torch names end in @threads."""
    on_device = _on_device(inputs)
    found: dict[str, Callable[[], tuple[Any, Any]]] = {OURS: lambda: _ours(*on_device)}
    equal = len(inputs.x) == len(inputs.y) and inputs.x_weights is None
    if equal:
        found |= {"jnp.sort": lambda: _jnp_sort(*on_device), FLOOR: lambda: _no_sort(*on_device)}
    if _optional("ott") is not None:
        ott_jax = jax.jit(jax.value_and_grad(_ott_sliced_pow))
        found["OTT-JAX"] = lambda: ott_jax(*on_device)
    if _optional("ot") is not None:
        projections = np.ascontiguousarray(inputs.directions.T)
        found["POT NumPy, value"] = lambda: (_pot_pow(inputs, projections), None)
    if (torch := _optional("torch")) is not None:
        tensors = Inputs(*(None if array is None else torch.tensor(array) for array in inputs))
        tensors.x.requires_grad_()
        values: dict[str, Callable[[], Any]] = {
            "three sorts, torch": lambda: _torch_quantiles(torch, tensors)
        }
        if equal:
            values["torch.sort"] = lambda: _torch_sort(torch, tensors)
        if _optional("ot") is not None:
            columns = tensors.directions.T.contiguous()
            values["POT torch"] = lambda: _pot_pow(tensors, columns)
        for name, value in values.items():
            for threads in TORCH_THREADS:
                found[f"{name}@{threads}"] = _with_backward(torch, value, tensors.x, threads)
    return found


@jax.jit
@jax.value_and_grad
def _ours(x, y, directions, x_weights, y_weights):
    return swjko.sliced_wasserstein_pow(x, y, directions, x_weights=x_weights, y_weights=y_weights)


@jax.jit
@jax.value_and_grad
def _jnp_sort(x, y, directions, x_weights, y_weights):
    del x_weights, y_weights
    return jnp.mean((jnp.sort(directions @ x.T, axis=1) - jnp.sort(directions @ y.T, axis=1)) ** 2)


@jax.jit
@jax.value_and_grad
def _no_sort(x, y, directions, x_weights, y_weights):
    del x_weights, y_weights
    return jnp.mean((directions @ x.T - directions @ y.T) ** 2)


def _ott_sliced_pow(x, y, directions, x_weights, y_weights):
    sliced = importlib.import_module("ott.tools.sliced")
    # Keywords that ``sliced_wasserstein`` does not know go to the projector; its cost is the squared distance, without a root.
    value, _ = sliced.sliced_wasserstein(
        x,
        y,
        a=x_weights,
        b=y_weights,
        proj_fn=lambda points, directions: points @ directions.T,
        directions=directions,
    )
    return value


def _pot_pow(inputs: Inputs, projections: Any) -> Any:
    ot: Any = _optional("ot")
    distance = ot.sliced_wasserstein_distance(
        inputs.x, inputs.y, inputs.x_weights, inputs.y_weights, projections=projections, p=2
    )
    return distance**2


def _torch_sort(torch: Any, inputs: Inputs) -> Any:
    u, v = inputs.directions @ inputs.x.T, inputs.directions @ inputs.y.T
    return ((torch.sort(u, dim=1).values - torch.sort(v, dim=1).values) ** 2).mean()


def _torch_quantiles(torch: Any, inputs: Inputs) -> Any:
    """int_0^1 (F_u^{-1} - F_v^{-1})^2 dt over the merged levels of both distribution functions: three sorts, two searches."""
    sides = []
    for points, weights in ((inputs.x, inputs.x_weights), (inputs.y, inputs.y_weights)):
        ordered, order = torch.sort(inputs.directions @ points.T, dim=1)
        masses = torch.full((len(points),), 1.0 / len(points)) if weights is None else weights
        sides.append((ordered, torch.cumsum(masses[order], dim=1)))
    levels = torch.sort(torch.cat([level for _, level in sides], dim=1), dim=1).values
    masses = torch.diff(levels, dim=1, prepend=torch.zeros(len(levels), 1))
    u, v = (
        ordered.gather(1, torch.searchsorted(level, levels).clamp(max=ordered.shape[1] - 1))
        for ordered, level in sides
    )
    return (masses * (u - v) ** 2).sum(dim=1).mean()


def _with_backward(
    torch: Any, value: Callable[[], Any], x: Any, threads: int
) -> Callable[[], tuple[Any, Any]]:
    def call():
        torch.set_num_threads(threads)
        result = value()
        return result.detach(), torch.autograd.grad(result, x)[0]

    return call


def reference(inputs: Inputs) -> tuple[float, np.ndarray]:
    """SW_2^2 and its gradient in x by NumPy in float64."""
    x, y, directions = (np.asarray(array, np.float64) for array in inputs[:3])
    n, m = len(x), len(y)
    if inputs.x_weights is None and n == m:
        return reference_value_and_gradient(x, y, directions)
    if inputs.x_weights is None:
        # Whole numbers of 1 / (n m): levels that coincide do so exactly.
        x_weights, y_weights = np.full(n, m), np.full(m, n)
    else:
        x_weights, y_weights = (
            np.asarray(weights, np.float64) / np.sum(weights, dtype=np.float64)
            for weights in inputs[3:]
        )
    scale = x_weights.sum()
    value, gradient = 0.0, np.zeros_like(x)
    for direction in directions:
        u, v = x @ direction, y @ direction
        u_order, v_order = np.argsort(u), np.argsort(v)
        u_levels, v_levels = np.cumsum(x_weights[u_order]), np.cumsum(y_weights[v_order])
        levels = np.sort(np.concatenate([u_levels, v_levels]))
        masses = np.diff(levels, prepend=0) / scale
        i = u_order[np.minimum(np.searchsorted(u_levels, levels), n - 1)]
        j = v_order[np.minimum(np.searchsorted(v_levels, levels), m - 1)]
        value += np.sum(masses * (u[i] - v[j]) ** 2)
        gradient += (
            np.bincount(i, 2.0 * masses * (u[i] - v[j]), minlength=n)[:, None] * direction[None, :]
        )
    return value / len(directions), gradient / len(directions)


def relative_errors(result: tuple[Any, Any], exact: tuple[Any, Any]) -> dict[str, Any]:
    """Of the value, and of the gradient in the Euclidean norm; None for a gradient that was not made."""
    value, gradient = result
    exact_value, exact_gradient = float(exact[0]), np.asarray(exact[1], np.float64)
    error = (
        None
        if gradient is None
        else np.linalg.norm(np.asarray(gradient, np.float64) - exact_gradient)
        / np.linalg.norm(exact_gradient)
    )
    return {"value": abs(float(value) - exact_value) / exact_value, "gradient": error}


def sharded_seconds(case: Case, repeats: int) -> dict[str, Any]:
    """Median seconds with directions on one device and, laid out over all of them, points replicated; interleaved with each other."""
    mesh = jax.make_mesh((jax.device_count(),), ("projection",), axis_types=(AxisType.Auto,))
    inputs = _on_device(make_inputs(case))
    replicated = NamedSharding(mesh, PartitionSpec())
    laid_out = Inputs(
        *(None if array is None else jax.device_put(array, replicated) for array in inputs)
    )
    laid_out = laid_out._replace(
        directions=jax.device_put(
            inputs.directions, NamedSharding(mesh, PartitionSpec("projection"))
        )
    )
    errors = relative_errors(_ours(*laid_out), _ours(*inputs))
    medians = common.interleaved_medians(
        {"unsharded": lambda: _ours(*inputs), "sharded": lambda: _ours(*laid_out)}, repeats=repeats
    )
    return {
        "devices": jax.device_count(),
        **medians,
        "speedup": medians["unsharded"] / medians["sharded"],
        "difference": errors["gradient"],
    }


def _sharded_in_subprocess(quick: bool, repeats: int) -> list[dict[str, Any]]:
    """The number of host devices is fixed before JAX starts, so a process of its own takes the flag."""
    kept = [
        flag
        for flag in os.environ.get("XLA_FLAGS", "").split()
        if not flag.startswith(_DEVICE_FLAG)
    ]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join([*kept, f"{_DEVICE_FLAG}=2"]),
    }
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "kernel",
        "--sharded-only",
        "--repeats",
        str(repeats),
        *(["--quick"] if quick else []),
    ]
    done = subprocess.run(
        command,
        env=environment,
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


_PEAK_SCRIPT = """
import time, jax, swjko
x = jax.random.normal(jax.random.key(0), ({points}, 2))
y = jax.random.normal(jax.random.key(1), ({points}, 2)) + 1.0
directions = swjko.uniform_directions(jax.random.key(2), {num_directions}, 2)
start = time.perf_counter()
value, gradient = jax.block_until_ready(jax.jit(jax.value_and_grad(swjko.sliced_wasserstein_pow))(x, y, directions))
seconds = time.perf_counter() - start
# Here, so that it is no part of the seconds.
from benchmarks.common import peak_mib
print(float(value), peak_mib(), seconds)
"""


def peak_memory(points: int, num_directions: int) -> dict[str, Any]:
    """Value, peak resident MiB and seconds (compilation included) of one value and gradient, d = 2, alone in a process. Linux only."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {
        "JAX_PLATFORMS": "cpu"
    }
    command = [
        sys.executable,
        "-c",
        _PEAK_SCRIPT.format(points=points, num_directions=num_directions),
    ]
    done = subprocess.run(
        command,
        env=environment,
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    value, peak, seconds = map(float, done.stdout.split())
    return {
        "points": points,
        "directions": num_directions,
        "value": value,
        "peak_mib": peak,
        "seconds": seconds,
    }


def targets(case: Case, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each: measure, value, at_least (or at_most), met; for ratios also the one with directions on two devices and its ambition."""
    found: list[dict[str, Any]] = []
    for name, value in row["ratio"].items():
        bound = case.at_least.get(name)
        met = None if bound is None else value >= bound
        entry = {"measure": name, "value": value, "at_least": bound, "met": met}
        if "sharded" in row:
            entry |= {"sharded": row["sharded"]["ratio"][name], "ambition": case.ambition.get(name)}
        found.append(entry)
    measured = {"temporary_bytes": row["temporary_bytes"], **(row["relative_error"] or {})}
    for name, value in measured.items():
        at_most, ambition = _LIMITS[name]
        found.append(
            {
                "measure": name,
                "value": value,
                "at_most": at_most,
                "met": value <= at_most,
                "ambition": ambition,
            }
        )
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Ratios peer / swjko (and errors, bytes per element) beside what is to be reached."""
    lines = [
        f"{'case':28} {'measure':20} {'value':>10} {'bound':>10} {'met':>4} {'2 devices':>10} {'ambition':>9}"
    ]
    for row in rows:
        for entry in row["targets"]:
            bound = (
                f">= {entry['at_least']:g}"
                if entry.get("at_least")
                else f"<= {entry['at_most']:g}"
                if "at_most" in entry
                else "-"
            )
            met = {None: "-", True: "yes", False: "NO"}[entry["met"]]
            sharded = f"{entry['sharded']:.3g}" if "sharded" in entry else "-"
            ambition = f"{entry['ambition']:g}" if entry.get("ambition") else "-"
            lines.append(
                f"{row['case']:28} {entry['measure']:20} {entry['value']:>10.3g} {bound:>10} {met:>4} {sharded:>10} {ambition:>9}"
            )
        ours = f"swjko {1e3 * row['median_seconds'][OURS]:.4g} ms, first call {row['first_call_seconds'][OURS]:.3g} s"
        sharded = row["sharded"]
        lines.append(
            f"{row['case']:28} {ours}; on two devices {1e3 * sharded['sharded']:.4g} ms, {sharded['speedup']:.3g} times faster"
        )
    return "\n".join(
        [
            *lines,
            "2 devices: directions sharded over two host devices, in another process, not interleaved with the peers",
        ]
    )


def _figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Bars of peer / swjko per case on a log axis, and a tick where the ratio is to be."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    names = list(dict.fromkeys(name for row in rows for name in row["ratio"] if name != FLOOR))
    figure = Figure(figsize=(2.6 + 1.15 * len(rows), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    width = 0.8 / len(names)
    for index, row in enumerate(rows):
        bounds = {entry["measure"]: entry.get("at_least") for entry in row["targets"]}
        for position, name in enumerate(names):
            if name not in row["ratio"]:
                continue
            left = index + (position - len(names) / 2) * width
            axis.bar(left, row["ratio"][name], width, align="edge", color=f"C{position}")
            if bounds.get(name):
                axis.hlines(bounds[name], left, left + width, color="black", linewidth=2)
    for position, name in enumerate(names):
        axis.bar([0], [0], color=f"C{position}", label=name)
    axis.plot([], [], color="black", linewidth=2, label="at least")
    axis.axhline(1.0, color="0.4", linewidth=0.8)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_xticks(
        range(len(rows)),
        [row["case"].replace(" weighted", "\nweighted").replace(" to ", " to\n") for row in rows],
        fontsize=8,
    )
    axis.set(
        xlabel="(points, dimension, directions)", ylabel="seconds of the peer / seconds of swjko"
    )
    figure.legend(fontsize=8, ncols=4, loc="outside upper center", frameon=False)
    return figure


def _best_threads(
    medians: Mapping[str, float],
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Medians with the better thread count of each torch method under its plain name, and those of all counts."""
    best: dict[str, float] = {}
    threads: dict[str, dict[str, float]] = {}
    for name, median in medians.items():
        plain, _, count = name.partition("@")
        best[plain] = min(median, best.get(plain, median))
        if count:
            threads.setdefault(plain, {})[count] = median
    return best, threads


def _repeats(case: Case, repeats: int) -> int:
    return max(3, repeats // 3) if case.elements > _LARGE_ELEMENTS else repeats


def _on_device(inputs: Inputs) -> Inputs:
    return Inputs(*(None if array is None else jnp.asarray(array) for array in inputs))


def _optional(name: str) -> Any:
    """The module, or None when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def reference_value_and_gradient(
    x: np.ndarray, y: np.ndarray, directions: np.ndarray
) -> tuple[float, np.ndarray]:
    """SW_2^2 between clouds of one size and its gradient in x, by NumPy: sort, subtract, put back."""
    u, v = x @ directions.T, y @ directions.T
    order = np.argsort(u, axis=0)
    residual = np.empty_like(u)
    np.put_along_axis(
        residual, order, np.take_along_axis(u, order, axis=0) - np.sort(v, axis=0), axis=0
    )
    return float(np.mean(residual**2)), 2.0 / residual.size * residual @ directions
