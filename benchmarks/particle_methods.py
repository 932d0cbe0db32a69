"""Targets and methods of the particle benchmark, and the sizes of all its parts."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

import swjko
from swjko.data.tables import require_extra

DIRECTIONS = 32


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
    large_points: int = 100_000


class Problem(NamedTuple):
    """A target with draws, and a density unless it is a data set; ``part`` of the way is stable."""

    name: str
    dim: int
    draw: Callable[[np.random.Generator, int], np.ndarray]
    log_prob: Any
    part: float


def flow(points: Any, sizes: Sizes, rate: float = 0.0, **options: Any) -> Any:
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
        DIRECTIONS,
        regularized=regularized,
        direction_fn=swjko.orthogonal_directions,
    )
    # The same part of the way on each line, on lines that are orthogonal.
    part = 0.25 if regularized else problem.part
    step_size = part * min(problem.dim, DIRECTIONS)
    return flow(points, sizes, drift=drift, step_size=step_size)


def _svgd(problem: Problem, points: Any, sample: Any, sizes: Sizes) -> Any:
    del sample
    return flow(points, sizes, 0.05, drift=swjko.svgd(problem.log_prob))


def _ksd(problem: Problem, points: Any, sample: Any, sizes: Sizes) -> Any:
    del sample
    return flow(points, sizes, 0.05, functional=swjko.ksd_to_target(problem.log_prob))


def _mmd(problem: Problem, points: Any, sample: Any, sizes: Sizes) -> Any:
    return flow(
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
    part = 0.5 * min(problem.dim, DIRECTIONS)
    return swjko.sliced_flow(
        points,
        sample,
        step_size=part * sizes.moves,
        num_inner_steps=sizes.moves,
        num_projections=DIRECTIONS,
        direction_fn=swjko.orthogonal_directions,
    )


def _sw_jko(problem: Problem, points: Any, sample: Any, sizes: Sizes) -> Any:
    del problem
    return swjko.sw_jko(
        swjko.particles(points),
        swjko.sw_to_target(sample, DIRECTIONS),
        optax.adam(0.05),
        step_size=10.0,
        num_inner_steps=sizes.moves,
        num_samples=sizes.num,
        num_projections=DIRECTIONS,
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
OF_SAMPLES = ("MMD", "sliced flow", "particle SW-JKO")


def banana() -> Problem:
    def draw(rng: np.random.Generator, num: int) -> np.ndarray:
        x = rng.normal(size=(num, 2))
        return np.stack([x[:, 0], x[:, 0] ** 2 - 1 + 0.5 * x[:, 1]], axis=1)

    return Problem("banana", 2, draw, Partial(_banana_log_prob), 0.03)


def _banana_log_prob(x):
    return -0.5 * (x[0] ** 2 + 4 * (x[1] - x[0] ** 2 + 1) ** 2)


def gaussian(dim: int) -> Problem:
    """Independent coordinates of mean 1 with deviations from 1/2 to 2."""
    scales = np.geomspace(0.5, 2.0, dim)

    def draw(rng: np.random.Generator, num: int) -> np.ndarray:
        return 1.0 + scales * rng.normal(size=(num, dim))

    log_prob = Partial(_gaussian_log_prob, jnp.asarray(scales, float))
    return Problem(f"Gaussian, d = {dim}", dim, draw, log_prob, 0.25)


def _gaussian_log_prob(scales, x):
    return -0.5 * jnp.sum(((x - 1) / scales) ** 2)


def digits() -> Problem:
    """The 8 x 8 digits of scikit-learn, divided by one scale; draws are different rows."""
    pixels = require_extra("sklearn.datasets").load_digits().data
    pixels = (pixels - pixels.mean(0)) / pixels.std()

    def draw(rng: np.random.Generator, num: int) -> np.ndarray:
        return pixels[rng.permutation(len(pixels))[:num]]

    return Problem("digits", pixels.shape[1], draw, None, 0.0)
