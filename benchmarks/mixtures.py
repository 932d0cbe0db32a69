"""Mixtures of unit Gaussians in dimensions 2 to 12: SW-JKO from N(0, 16 I) by splines, couplings and sums of Gaussians.

The problems of Mokrov et al. (2021), arXiv 2106.00736, and in the plane of Bonet et al. (2022), arXiv 2110.10972:
4 + d / 2 Gaussians, centres uniform in [-5, 5]^d. ``rows``: for each dimension and family the SymKL (KL both ways) to the target
at the end, over the problems, and seconds with compilation, beside the published SymKL.

Mass passes slowly between separated modes, whatever carries the measure: at the same SW time all families end with the same energy. The
step size therefore grows from step to step: small at first, so that the flow fills all modes, and as large at last as if there were
no proximity, so that their weights even out. Settings were chosen on problems with seeds from 100 on.
"""

import argparse
import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import swjko
from benchmarks import common
from benchmarks.common import Solve
from swjko import flows, problems

START_SCALE = 4.0
NUM_COMPONENTS = {2: 5, 4: 6, 6: 7, 8: 8, 10: 9, 12: 10}
# SymKL: JKO-ICNN and Euler-Maruyama with 50,000 particles (Mokrov et al. 2021); log10 SymKL of SW-JKO in the plane (Bonet et al. 2022).
PUBLISHED = {
    "JKO-ICNN": dict(zip(NUM_COMPONENTS, (0.0615, 0.176, 0.301, 0.396, 0.329, 0.509), strict=True)),
    "Euler-Maruyama, 50000": dict(
        zip(NUM_COMPONENTS, (0.077, 0.440, 1.505, 3.445, 5.584, 10.24), strict=True)
    ),
    "SW-JKO, log10": {2: -0.82},
}
_SYMMETRIC_KL_SAMPLES = 10_000
_symmetric_kl = jax.jit(swjko.symmetric_kl, static_argnames=("num_samples",))


class Method(NamedTuple):
    """A family by dimension, how each step is solved, and the factor from one step size to the next; up to which dimension it is run."""

    family: Callable[[int], swjko.Family]
    settings: Solve
    growth: float
    max_dim: int = 12


class Sizes(NamedTuple):
    """Dimensions with how many problems each."""

    problems: tuple[tuple[int, int], ...]
    methods: dict[str, Method]


def _methods(coupling: Solve, spline: Solve, sums: Solve, width: int) -> dict[str, Method]:
    start: Any = {"init_scale": START_SCALE}
    return {
        "coupling": Method(
            functools.partial(flows.coupling, num_layers=12, width=width, **start), coupling, 1.5, 6
        ),
        "spline": Method(
            functools.partial(flows.spline, num_layers=4, width=width, **start), spline, 1.5, 2
        ),
        "gaussian_mixture": Method(functools.partial(swjko.gaussian_mixture, **start), sums, 1.4),
    }


METHODS = _methods(
    Solve(12, 0.2, 250, 512, 36, 5e-3, 20, 1e-4),
    Solve(12, 0.2, 250, 512, 36, 5e-3, 20, 1e-4),
    Solve(14, 0.1, 100, 512, 36, 1e-1, 20),
    32,
)
QUICK_METHODS = _methods(
    Solve(2, 0.2, 10, 64, 8, 5e-3, 2),
    Solve(2, 0.2, 10, 64, 8, 5e-3, 2),
    Solve(2, 0.1, 10, 64, 8, 1e-1, 2),
    8,
)
DEFAULT = Sizes(((2, 5), (6, 5), (12, 5)), METHODS)
FULL = Sizes(tuple((dim, 15 if dim == 2 else 5) for dim in NUM_COMPONENTS), METHODS)
QUICK = Sizes(((2, 1),), QUICK_METHODS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--quick",
        action="store_true",
        help="one small problem, to see that it runs; written to runs/benchmarks",
    )
    sizes.add_argument(
        "--full", action="store_true", help="all six dimensions, 15 problems in the plane"
    )
    parser.add_argument(
        "--only", choices=list(METHODS), help="one family, to look at; nothing is written"
    )
    parser.add_argument(
        "--first-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the first problem (default 0)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="directory for JSON and PNG (default benchmarks/results)"
    )


def main(args: argparse.Namespace) -> int:
    sizes = QUICK if args.quick else FULL if args.full else DEFAULT
    directory = Path(args.out or (Path("runs/benchmarks") if args.quick else common.RESULTS))
    rows, drawn = [], {}
    for name, method in sizes.methods.items():
        for dim, count in sizes.problems:
            if args.only in (None, name) and dim <= method.max_dim:
                found = [solve(method, dim, args.first_seed + index) for index in range(count)]
                rows.append(_row(name, method, dim, [run for run, _ in found]))
                shown = {
                    key: value for key, value in rows[-1].items() if key not in ("settings", "runs")
                }
                print(f"{name}: {common.finite_json(shown)}", flush=True)
                if dim == 2:
                    drawn[name] = found[0][1]
    if args.only is None:
        print(
            common.write_results(
                "mixtures",
                {"quick": args.quick, "full": args.full, "published": PUBLISHED, "rows": rows},
                directory,
            )
        )
        _figure(rows, drawn, args.first_seed).savefig(directory / "mixtures.png", dpi=150)
    return 0


def solve(method: Method, dim: int, seed: int) -> tuple[dict[str, Any], np.ndarray]:
    """One run, and points of the final measure."""
    target = problems.random_mixture(seed, dim, num=NUM_COMPONENTS[dim])
    settings, family = method.settings, method.family(dim)
    scheme = settings.scheme(
        family, swjko.kl_divergence(target.log_prob), direction_fn=swjko.recommended_directions
    )
    step_sizes = settings.step_size * method.growth ** jnp.arange(settings.num_steps)
    init_key, run_key, energy_key, draw_key = jax.random.split(jax.random.key(seed), 4)
    state = jax.jit(type(scheme).init)(scheme, init_key)
    start = time.perf_counter()
    run = _run.lower(run_key, scheme, state, step_sizes).compile()
    compile_seconds = time.perf_counter() - start
    start = time.perf_counter()
    state, _ = jax.block_until_ready(run(run_key, scheme, state, step_sizes))
    run_seconds = time.perf_counter() - start
    value = _symmetric_kl(
        energy_key,
        family,
        state.params,
        target.log_prob,
        target.sample,
        num_samples=_SYMMETRIC_KL_SAMPLES,
    )
    found: dict[str, Any] = {
        "seed": seed,
        "symmetric_kl": value,
        "result": swjko.Result(int(state.result)).name,
        "time": state.time,
    }
    found |= {"compile_seconds": compile_seconds, "run_seconds": run_seconds}
    return found, np.asarray(swjko.sample(family, state.params, draw_key, 2000).points)


@jax.jit
def _run(key, scheme, state, step_sizes):
    def step(state, step_size):
        return dataclasses.replace(scheme, step_size=step_size).step(
            jax.random.fold_in(key, state.step), state
        )

    return jax.lax.scan(step, state, step_sizes)


def _row(name: str, method: Method, dim: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    values = np.array([float(run["symmetric_kl"].value) for run in runs])
    seconds = [run["run_seconds"] + run["compile_seconds"] for run in runs]
    row: dict[str, Any] = {
        "family": name,
        "dim": dim,
        "settings": method.settings,
        "growth": method.growth,
    }
    row |= {"mean": values.mean(), "worst": values.max()}
    row["standard_error"] = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None
    row["mean_log10"] = np.mean(np.log10(np.maximum(values, np.finfo(np.float32).tiny)))
    return row | {
        "published_jko_icnn": PUBLISHED["JKO-ICNN"][dim],
        "mean_seconds": np.mean(seconds),
        "runs": runs,
    }


def _figure(rows: list[dict[str, Any]], drawn: dict[str, np.ndarray], seed: int) -> Any:
    """SymKL against dimension beside the published values, and the final points of the first problem in the plane."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 1 + len(drawn), width_ratios=[1.5] + [1.0] * len(drawn))
    for index, name in enumerate(dict.fromkeys(row["family"] for row in rows)):
        own = [row for row in rows if row["family"] == name]
        axes[0].plot(
            [row["dim"] for row in own],
            [row["mean"] for row in own],
            "o-",
            color=f"C{index}",
            label=name,
        )
        for row in own:
            values = [max(float(run["symmetric_kl"].value), 1e-4) for run in row["runs"]]
            axes[0].plot(
                [row["dim"]] * len(values), values, ".", color=f"C{index}", alpha=0.4, markersize=4
            )
    for index, name in enumerate(("JKO-ICNN", "Euler-Maruyama, 50000"), start=3):
        axes[0].plot(
            *zip(*PUBLISHED[name].items(), strict=True),
            "s--",
            color=f"C{index}",
            markersize=3,
            label=f"{name} (published)",
        )
    axes[0].set(
        xlabel="dimension",
        ylabel="KL both ways, nats",
        yscale="log",
        ylim=(1e-5, 20),
        xticks=list(NUM_COMPONENTS),
    )
    axes[0].grid(True, which="major", alpha=0.3)
    axes[0].legend(fontsize=7, loc="lower right")
    centers = np.asarray(problems.random_mixture(seed, 2, num=NUM_COMPONENTS[2]).log_prob.args[0])
    for axis, (name, points) in zip(axes[1:], drawn.items(), strict=True):
        axis.plot(*points.T, ".", markersize=1.2, color="C0")
        axis.plot(*centers.T, "+", color="C1", label="centres")
        axis.set(
            xlabel="first coordinate",
            ylabel="second coordinate",
            xlim=(-9, 9),
            ylim=(-9, 9),
            aspect="equal",
        )
        axis.set_title(f"{name}, final points", fontsize=9)
        axis.legend(fontsize=7)
    return figure
