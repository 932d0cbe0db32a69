"""Eight samples of points, as people have them, and fresh points of the same laws."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class UserSample(NamedTuple):
    """A law, ``(rng, n) -> points [n d]``, and the number of points that the user has."""

    draw: Callable[[np.random.Generator, int], np.ndarray]
    count: int


def _mixed_scales(rng, n):
    modes = rng.choice([-2.0, 2.0], n) + rng.normal(0, 0.3, n)
    return np.stack([rng.normal(50_000, 10_000, n), modes], 1)


def _counts(rng, n):
    rate = np.exp(rng.normal(1.0, 0.4, n))
    return np.stack([rng.poisson(rate), rng.poisson(2 * rate), rng.binomial(10, 0.3, n)], 1) * 1.0


def _skewed(rng, n):
    z = rng.normal(size=(n, 2)) @ [[1.0, 0.6], [0.0, 0.8]]
    return np.exp([3.0, 0.0] + z * [0.8, 0.6])


def _two_modes(rng, n):
    sign = rng.choice([-1.0, 1.0], (n, 1), p=[0.3, 0.7])
    return sign * [3.0, 1.0, 0.0] + rng.normal(size=(n, 3)) * [0.5, 0.7, 1.0]


def _ring(rng, n):
    angle, radius = rng.uniform(0, 2 * np.pi, n), 1 + 0.05 * rng.normal(size=n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _correlated(rng, n):
    factors = rng.normal(size=(n, 3))
    loads = np.random.default_rng(20).normal(size=(3, 20))
    return factors @ loads + 0.5 * rng.normal(size=(n, 20))


def _gaussian(rng, n):
    return rng.normal(size=(n, 2)) @ [[2.0, 1.0], [0.0, 1.0]] + [10.0, -5.0]


SAMPLES = {
    "mixed scales": UserSample(_mixed_scales, 1000),
    "integer counts": UserSample(_counts, 1500),
    "skewed": UserSample(_skewed, 1000),
    "two modes": UserSample(_two_modes, 1000),
    "ring": UserSample(_ring, 1000),
    "20 correlated columns": UserSample(_correlated, 2000),
    "50 rows": UserSample(_gaussian, 50),
    "100,000 rows": UserSample(_two_modes, 100_000),
}
