"""Particle methods on the same targets: energy distance against updates and against seconds.

All methods move the same points. Those that need a density get it (SVGD, KSD, both
Radon-Wasserstein flows, Langevin), the others a sample of it as large as the cloud (MMD, the sliced
flow, particle SW-JKO). ``curves`` hold the energy distance to other exact draws after each step,
and the floor, that of an independent exact sample of the same size. Seconds are those of compiled
steps. A real data set has no density, so only the latter methods run there.

``svgd``: value and seconds beside blackjax's, interleaved, with the same kernel, optimizer and
points, and the bytes of temporaries. ``scaling``: seconds of a Radon-Wasserstein move by points
and by dimension, with fitted exponents. ``tables``: held-out log-likelihood of ``slice_matching``
beside a coupling flow that is trained by maximum likelihood with early stopping, in nats for
standardised columns; seconds include compilation.
"""

import argparse
import functools
import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist

import swjko
from benchmarks import common
from swjko import flows
from swjko.data.tables import require_extra


class Sizes(NamedTuple):
    """Sizes of all parts."""

    dims: tuple[int, ...] = (10, 100)
    num: int = 400
    steps: int = 20
    moves: int = 20
    svgd_points: int = 4096
    repeats: int = 5
    scaling_points: tuple[int, ...] = (4_000, 16_000, 64_000)
    scaling_dims: tuple[int, ...] = (16, 64, 256)
    matching_steps: int = 100
    training_steps: int = 30


class Problem(NamedTuple):
    """A target with draws, and a density unless it is a data set; ``part`` of the way is stable."""

    name: str
    dim: int
    draw: Callable[[np.random.Generator, int], np.ndarray]
    log_prob: Any
    part: float


DEFAULT = Sizes()
QUICK = Sizes((3,), 40, 2, 2, 64, 2, (200, 400), (2, 4), 3, 2)
FLAGS = common.Flags()
_DIRECTIONS = 32


def main(args: argparse.Namespace) -> None:
    sizes = QUICK if args.quick else DEFAULT
    curves = []
    for problem in [_banana(), *map(_gaussian, sizes.dims), _digits()]:
        for name, make in METHODS.items():
            if problem.log_prob is not None or name in _OF_SAMPLES:
                curves.append(curve(problem, name, make, sizes))
                common.show(f"{problem.name}, {name}", curves[-1]["distance"][-1])
    rows: dict[str, Any] = {
        "svgd": beside_blackjax(sizes),
        "scaling": [scaling(sizes, over) for over in ("n", "d")],
        "tables": [held_out(name, sizes) for name in ("breast cancer", "digits")],
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


def _flow(points: Any, sizes: Sizes, rate: float = 0.0, **options: Any) -> Any:
    """A flow by Adam with a rate; by explicit steps if it is zero."""
    step_size = options.pop("step_size", 1.0)
    optimizer = optax.adam(rate) if rate else None
    return swjko.particle_flow(
        points,
        optimizer=optimizer,
        step_size=step_size * sizes.moves,
        num_inner_steps=sizes.moves,
        **options,
    )


def _radon(regularized: bool, problem: Problem, points: Any, sample: Any, sizes: Sizes) -> Any:
    del sample
    drift = swjko.radon_wasserstein(
        problem.log_prob,
        _DIRECTIONS,
        regularized=regularized,
        direction_fn=swjko.orthogonal_directions,
    )
    # The same part of the way on each line, on lines that are orthogonal.
    part = 0.25 if regularized else problem.part
    step_size = part * min(problem.dim, _DIRECTIONS)
    return _flow(points, sizes, drift=drift, step_size=step_size)


def _svgd(problem: Problem, points: Any, sample: Any, sizes: Sizes) -> Any:
    del sample
    return _flow(points, sizes, 0.05, drift=swjko.svgd(problem.log_prob))


def _ksd(problem: Problem, points: Any, sample: Any, sizes: Sizes) -> Any:
    del sample
    return _flow(points, sizes, 0.05, functional=swjko.ksd_to_target(problem.log_prob))


def _mmd(problem: Problem, points: Any, sample: Any, sizes: Sizes) -> Any:
    return _flow(
        points,
        sizes,
        0.05,
        drift=swjko.mmd_drift(sample, bandwidth=math.sqrt(problem.dim), noise=0.1),
    )


def _langevin(problem: Problem, points: Any, sample: Any, sizes: Sizes) -> Any:
    del sample
    options = {"step_size": 0.02 * sizes.moves, "num_inner_steps": sizes.moves}
    return swjko.langevin(points, problem.log_prob, **options)


def _sliced_flow(problem: Problem, points: Any, sample: Any, sizes: Sizes) -> Any:
    part = 0.5 * min(problem.dim, _DIRECTIONS)
    return swjko.sliced_flow(
        points,
        sample,
        step_size=part * sizes.moves,
        num_inner_steps=sizes.moves,
        num_projections=_DIRECTIONS,
        direction_fn=swjko.orthogonal_directions,
    )


def _sw_jko(problem: Problem, points: Any, sample: Any, sizes: Sizes) -> Any:
    del problem
    return swjko.sw_jko(
        swjko.particles(points),
        swjko.sw_to_target(sample, _DIRECTIONS),
        optax.adam(0.05),
        step_size=10.0,
        num_inner_steps=sizes.moves,
        num_samples=sizes.num,
        num_projections=_DIRECTIONS,
    )


METHODS: dict[str, Callable[..., Any]] = {
    "SVGD": _svgd,
    "KSD": _ksd,
    "KDRW": functools.partial(_radon, False),
    "RRW": functools.partial(_radon, True),
    "Langevin": _langevin,
    "MMD": _mmd,
    "sliced flow": _sliced_flow,
    "particle SW-JKO": _sw_jko,
}
_OF_SAMPLES = ("MMD", "sliced flow", "particle SW-JKO")


def _banana() -> Problem:
    def draw(rng: np.random.Generator, num: int) -> np.ndarray:
        x = rng.normal(size=(num, 2))
        return np.stack([x[:, 0], x[:, 0] ** 2 - 1 + 0.5 * x[:, 1]], axis=1)

    return Problem("banana", 2, draw, Partial(_banana_log_prob), 0.03)


def _banana_log_prob(x):
    return -0.5 * (x[0] ** 2 + 4 * (x[1] - x[0] ** 2 + 1) ** 2)


def _gaussian(dim: int) -> Problem:
    """Independent coordinates of mean 1 with deviations from 1/2 to 2."""
    scales = np.geomspace(0.5, 2.0, dim)

    def draw(rng: np.random.Generator, num: int) -> np.ndarray:
        return 1.0 + scales * rng.normal(size=(num, dim))

    log_prob = Partial(_gaussian_log_prob, jnp.asarray(scales, float))
    return Problem(f"Gaussian, d = {dim}", dim, draw, log_prob, 0.25)


def _gaussian_log_prob(scales, x):
    return -0.5 * jnp.sum(((x - 1) / scales) ** 2)


def _digits() -> Problem:
    """The 8 x 8 digits of scikit-learn, divided by one scale; draws are different rows."""
    pixels = require_extra("sklearn.datasets").load_digits().data
    pixels = (pixels - pixels.mean(0)) / pixels.std()

    def draw(rng: np.random.Generator, num: int) -> np.ndarray:
        return pixels[rng.permutation(len(pixels))[:num]]

    return Problem("digits", pixels.shape[1], draw, None, 0.0)


def beside_blackjax(sizes: Sizes) -> dict[str, Any]:
    """One update of SVGD beside blackjax's: seconds, bytes, and the largest difference."""
    svgd: Any = importlib.import_module("blackjax.vi.svgd")
    num, dim, width = sizes.svgd_points, 10, 2.0
    optimizer, log_prob = optax.sgd(0.1), _gaussian(dim).log_prob
    points = jax.random.normal(jax.random.key(0), (num, dim))
    drift = swjko.svgd(log_prob, bandwidth=width)
    scheme = _flow(points, sizes._replace(moves=1), drift=drift, step_size=0.1)
    kernel = svgd.build_kernel(optimizer)
    theirs = svgd.init(points, {"length_scale": 2 * width**2}, optimizer)

    def other(state):
        return kernel(state, jax.grad(log_prob), svgd.rbf_kernel)

    key = jax.random.key(0)
    arguments: Any = {"swjko": (key, scheme.init(key)), "blackjax": (theirs,)}
    functions = {"swjko": lambda key, state: scheme.step(key, state)[0], "blackjax": other}
    compiled = {
        name: jax.jit(function).lower(*arguments[name]).compile()
        for name, function in functions.items()
    }
    calls = {
        name: functools.partial(function, *arguments[name]) for name, function in compiled.items()
    }
    difference = jnp.max(jnp.abs(calls["swjko"]().params - calls["blackjax"]().particles))
    seconds = common.interleaved_medians(calls, repeats=sizes.repeats)
    memory: Any = {name: one.memory_analysis() for name, one in compiled.items()}
    return {
        "n": num,
        "dim": dim,
        "median_seconds": seconds,
        "ratio": seconds["blackjax"] / seconds["swjko"],
        "largest_difference": float(difference),
        "temporary_mib": {name: one.temp_size_in_bytes / 2**20 for name, one in memory.items()},
    }


def scaling(sizes: Sizes, over: str) -> dict[str, Any]:
    """Seconds of a Radon-Wasserstein move by n or by d, and the fitted exponent."""
    values = sizes.scaling_points if over == "n" else sizes.scaling_dims
    calls = {}
    for value in values:
        n, dim = (value, 16) if over == "n" else (sizes.scaling_points[1], value)
        drift = swjko.radon_wasserstein(_gaussian(dim).log_prob, _DIRECTIONS)
        cloud = swjko.Cloud(jax.random.normal(jax.random.key(0), (n, dim)))
        calls[str(value)] = functools.partial(jax.jit(drift), jax.random.key(1), cloud)
    seconds = common.interleaved_medians(calls, repeats=sizes.repeats)
    slope = np.polyfit(np.log(values), np.log(list(seconds.values())), 1)[0]
    fixed = f"n = {sizes.scaling_points[1]:,}" if over == "d" else "d = 16"
    return {"over": over, "fixed": fixed, "seconds": seconds, "exponent": float(slope)}


def held_out(name: str, sizes: Sizes) -> dict[str, Any]:
    """Held-out log-likelihood of slice matching and of a coupling flow on one table."""
    train, valid, test = (jnp.asarray(part, jnp.float32) for part in _table(name))
    matched = jax.jit(
        functools.partial(swjko.slice_matching, num_steps=sizes.matching_steps, step_size=0.1)
    )
    seconds, law = common.timed(lambda: matched(jax.random.key(0), train, held_out=valid))
    training, trained = common.timed(lambda: _trained(train, valid, sizes))
    found = {
        "slice matching": {"seconds": seconds, "held_out": float(jnp.mean(law.log_prob(test)))},
        "coupling flow": {
            "seconds": training,
            "held_out": float(jnp.mean(trained.log_prob(test))),
        },
    }
    means = jnp.mean(train, axis=0), jnp.cov(train.T) + 1e-4 * jnp.eye(train.shape[1])
    gauss = float(jnp.mean(jax.scipy.stats.multivariate_normal.logpdf(test, *means)))
    shape = {"data": name, "n": len(train), "dim": train.shape[1]}
    return {**shape, "methods": found, "gaussian": gauss, "seconds_ratio": training / seconds}


def _trained(train: Any, valid: Any, sizes: Sizes) -> swjko.FlowDistribution:
    family = flows.coupling(train.shape[1], num_layers=6, width=64, mixing="lu")
    likelihood_loss: Any = swjko.forward_kl(train, batch_size=128)
    scheme = swjko.direct_minimization(
        family,
        likelihood_loss,
        optax.adam(1e-3),
        num_inner_steps=50,
        num_samples=2,
    )
    key = jax.random.key(0)
    state, step = scheme.init(key), jax.jit(scheme.step)
    likelihood = jax.jit(lambda params: jnp.mean(family.log_prob(params, valid)))
    best, params, since = -math.inf, state.params, 0
    for index in range(sizes.training_steps):
        state, _ = step(jax.random.fold_in(key, index), state)
        found, since = float(likelihood(state.params)), since + 1
        if found > best:
            best, params, since = found, state.params, 0
        if since > 5:
            break
    return swjko.FlowDistribution(family, params)


def _table(name: str) -> list[np.ndarray]:
    """Standardised parts for training, stopping and the test; pixels are smeared."""
    rng, sets = np.random.default_rng(0), require_extra("sklearn.datasets")
    rows = sets.load_digits().data if name == "digits" else sets.load_breast_cancer().data
    rows = rows + rng.random(rows.shape) if name == "digits" else rows
    rows = rows[rng.permutation(len(rows))]
    parts = np.split(rows, [int(0.7 * len(rows)), int(0.85 * len(rows))])
    return [(part - parts[0].mean(0)) / parts[0].std(0) for part in parts]


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
        axes[index, 0].set_ylabel("energy distance")
    axes[-1, 0].set_xlabel("updates")
    axes[-1, 1].set_xlabel("seconds")
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    return figure
