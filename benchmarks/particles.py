"""Particle methods on the same targets: energy distance against updates and against seconds.

All methods move the same points. Those that need a density get it (SVGD, KSD, both
Radon-Wasserstein flows, Langevin), the others a sample of it as large as the cloud (MMD, the sliced
flow, particle SW-JKO). ``curves`` hold the energy distance to other exact draws after each step,
and the floor, that of an independent exact sample of the same size. Seconds are those of compiled
steps. A real data set has no density, so only the latter methods run there.

``svgd``: value and seconds beside blackjax's, interleaved, with the same kernel, optimizer and
points, and the bytes of temporaries. ``scaling``: seconds of a Radon-Wasserstein move by points
and by dimension, with fitted exponents. ``large``: peak memory of a process and seconds with
compilation of one move of 100,000 particles, beside the bytes of the matrix of all pairs.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from scipy.spatial.distance import cdist

import swjko
from benchmarks import common
from benchmarks.particle_costs import beside_blackjax, large, scaling
from benchmarks.particle_methods import (
    METHODS,
    OF_SAMPLES,
    Problem,
    Sizes,
    banana,
    digits,
    gaussian,
)

DEFAULT = Sizes()
QUICK = Sizes((3,), 40, 2, 2, 64, 2, (200, 400), (2, 4), 500)
FLAGS = common.Flags()


def main(args: argparse.Namespace) -> None:
    sizes = QUICK if args.quick else DEFAULT
    curves = []
    for problem in [banana(), *map(gaussian, sizes.dims), digits()]:
        for name, make in METHODS.items():
            if problem.log_prob is not None or name in OF_SAMPLES:
                curves.append(curve(problem, name, make, sizes))
                common.show(f"{problem.name}, {name}", curves[-1]["distance"][-1])
    rows: dict[str, Any] = {
        "svgd": beside_blackjax(sizes),
        "scaling": [scaling(sizes, over) for over in ("n", "d")],
        "large": large(sizes),
    }
    common.show("others", rows)
    content = {"quick": args.quick, "settings": sizes, "curves": curves, **rows}
    common.finish(args, content, ("", _figure(curves)))


def curve(problem: Problem, name: str, make: Callable[..., Any], sizes: Sizes) -> dict[str, Any]:
    """Energy distance to exact draws by update and by second, for one method."""
    rng = np.random.default_rng(0)
    sample, exact, independent = (problem.draw(rng, sizes.num) for _ in range(3))
    points = jnp.asarray(rng.normal(size=(sizes.num, problem.dim)), float)
    scheme = make(problem, points, jnp.asarray(sample, float), sizes)
    state = scheme.init(jax.random.key(0))
    step = jax.jit(lambda key, scheme, state: scheme.step(key, state))
    compile_seconds, compiled = common.timed(
        lambda: step.lower(jax.random.key(0), scheme, state).compile()
    )
    seconds, distances = [0.0], [energy_distance(state.params, exact)]
    for index in range(sizes.steps):
        key = jax.random.fold_in(jax.random.key(1), index)
        spent, (state, _) = common.timed(functools.partial(compiled, key, scheme, state))
        seconds.append(seconds[-1] + spent)
        distances.append(energy_distance(state.params, exact))
    return {
        "problem": problem.name,
        "dim": problem.dim,
        "method": name,
        "updates": [sizes.moves * index for index in range(sizes.steps + 1)],
        "seconds": seconds,
        "distance": distances,
        "floor": energy_distance(independent, exact),
        "compile_seconds": compile_seconds,
        "result": swjko.Result(int(state.result)).name,
        "last": distances[-1],
        "run_seconds": seconds[-1],
        "start": distances[0],
    }


def energy_distance(x: Any, y: Any) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| over all pairs."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return float(2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean())


def _figure(curves: list[dict[str, Any]]) -> Figure:
    """Energy distance by update and by second, a row for each target."""
    names = list(dict.fromkeys(row["problem"] for row in curves))
    figure, axes = common.new_figure(9.0, 2.6 * len(names), len(names), 2, sharey="row")
    for index, name in enumerate(names):
        for axis, by in zip(axes[index], ("updates", "seconds"), strict=True):
            rows = [row for row in curves if row["problem"] == name]
            for row in rows:
                color = f"C{list(METHODS).index(row['method'])}"
                label = row["method"] if index == 0 and by == "updates" else None
                axis.plot(row[by][1:], row["distance"][1:], color=color, label=label)
            label = "independent sample" if index == 0 and by == "updates" else None
            axis.axhline(rows[0]["floor"], color="0.4", linestyle="--", label=label)
            axis.set(yscale="log", title=name)
            axis.set_xscale("log" if by == "seconds" else "linear")
            axis.grid(True, alpha=0.3)
        # More ticks between powers of ten would overlap.
        axes[index, 1].xaxis.set_minor_locator(LogLocator(subs=(3.0,)))
        axes[index, 1].xaxis.set_major_formatter("{x:g}")
        axes[index, 1].xaxis.set_minor_formatter("{x:g}")
        axes[index, 0].set_ylabel("energy distance")
    axes[-1, 0].set_xlabel("updates")
    axes[-1, 1].set_xlabel("seconds")
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    return figure
