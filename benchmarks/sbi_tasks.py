"""Simulators with exact posteriors: two moons and SLCP, by NumPy in float64.

The definitions are those of Lueckmann et al. (2021), arXiv 2101.04653; the exact draws of the
posteriors are derived here. ``published`` has the mean scores of neural posterior estimation (NPE):
column C2ST_Z of ``PUBLISHED_FILE``, by number of simulations, over ten data sets.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# A file of a repository under the MIT licence.
PUBLISHED_FILE = "sbi-benchmark/results, benchmarking_sbi_023/results/re-sbibm_sbi_023.csv"


class Task(NamedTuple):
    """A simulator whose prior is uniform on a box.

    Attributes:
      dim: Number of parameters.
      half: The box is [-half, half]^dim.
      simulate: ``(rng, parameters [n dim]) -> data [n k]``.
      exact: ``(rng, data [k], num) -> parameters [num dim]``, exact draws of the posterior.
      published: Scores of NPE by number of simulations.
      seeds: Seeds of the parameters and of the data that are scored.
    """

    dim: int
    half: float
    simulate: Callable[[np.random.Generator, np.ndarray], np.ndarray]
    exact: Callable[[np.random.Generator, np.ndarray, int], np.ndarray]
    published: dict[int, float]
    seeds: tuple[int, int] = (98, 99)

    def prior(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """Parameters [num dim], uniform on the box."""
        return rng.uniform(-self.half, self.half, (num, self.dim))

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Whether each of the points [n dim] is inside the box."""
        return np.all(np.abs(points) <= self.half, axis=1)

    def observed(self, num: int) -> np.ndarray:
        """The data [num k] that are scored, drawn from the prior predictive."""
        parameters = self.prior(np.random.default_rng(self.seeds[0]), 10)
        return self.simulate(np.random.default_rng(self.seeds[1]), parameters)[:num]


def two_moons(rng: np.random.Generator, parameters: np.ndarray) -> np.ndarray:
    """Data [n 2] of parameters [n 2]: a crescent, moved by (-|t1 + t2|, t2 - t1) / sqrt(2)."""
    first, second = parameters.T
    move = np.stack([-np.abs(first + second), second - first], axis=1) / np.sqrt(2)
    return _crescent(rng, len(parameters)) + move


def _crescent(rng: np.random.Generator, num: int) -> np.ndarray:
    angle, radius = rng.uniform(-np.pi / 2, np.pi / 2, num), rng.normal(0.1, 0.01, num)
    return np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=1)


def two_moons_posterior(rng: np.random.Generator, observed: np.ndarray, num: int) -> np.ndarray:
    """Exact draws [num 2] of the parameters of two moons given data [2].

    A point p of the crescent and the data give |t1 + t2| = sqrt(2) (p1 - x1), if p1 >= x1, and
    t2 - t1 = sqrt(2) (x2 - p2). The map from parameters to p is a rotation for each sign of
    t1 + t2, so a point of the crescent with a random sign has the posterior of a flat prior, and
    rejection outside of the box gives that of ours.
    """
    kept = np.zeros((0, 2))
    while len(kept) < num:
        size, difference = (np.sqrt(2) * (_crescent(rng, 4 * num) - observed)).T * [[1], [-1]]
        total = size * rng.choice([-1.0, 1.0], 4 * num)
        points = np.stack([total - difference, total + difference], axis=1) / 2
        inside = (size >= 0) & np.all(np.abs(points) <= 1, axis=1)
        kept = np.concatenate([kept, points[inside]])
    return kept[:num]


def slcp(rng: np.random.Generator, parameters: np.ndarray) -> np.ndarray:
    """Data [n 8] of parameters [n 5]: four independent points of a normal law in the plane.

    Its mean is (t1, t2), its deviations are t3^2 and t4^2, and its correlation is tanh(t5): a
    simple likelihood and a complex posterior, with four modes.
    """
    mean, (first, second) = parameters[:, :2], (parameters[:, 2:4] ** 2).T
    correlation = np.tanh(parameters[:, 4])
    z = rng.normal(size=(len(parameters), 4, 2))
    rest = np.sqrt(1 - correlation**2)[:, None]
    x = first[:, None] * z[..., 0]
    y = second[:, None] * (correlation[:, None] * z[..., 0] + rest * z[..., 1])
    return (mean[:, None] + np.stack([x, y], axis=-1)).reshape(len(parameters), 8)


def slcp_posterior(rng: np.random.Generator, observed: np.ndarray, num: int) -> np.ndarray:
    """Exact draws [num 5] of the parameters of SLCP given data [8], by rejection.

    In terms of the covariance matrix S a flat law of (t3, t4, t5) has the density

        |S|^-1 (S_11 S_22)^(-1/4),   since dS = 16 (S_11 S_22)^(5/4) (1 - correlation^2) dt.

    Let A be the scatter matrix of the four points. With the mean integrated out and u = S_11,
    b = S_12 / u, c = S_22 - b S_12, whose volume is dS = u du db dc, the posterior is

        u^(-7/4) exp(-A_11 / 2u)  c^(-5/2) exp(-(A_11 (b - b0)^2 + a) / 2c)  (c + b^2 u)^(-1/4),

    where b0 = A_12 / A_11 and a = A_22 - A_12 b0. The last factor is c^(-1/4) times at most 1, and
    what remains are an inverse gamma law of u, one of c, and a normal law of b given c. The mean is
    normal given S. Signs of t3 and t4 are free, and draws outside of the box are rejected.
    """
    points = observed.reshape(4, 2)
    center = points.mean(axis=0)
    scatter = (points - center).T @ (points - center)
    slope = scatter[0, 1] / scatter[0, 0]
    kept, size = np.zeros((0, 5)), 4 * num
    while len(kept) < num:
        u = scatter[0, 0] / 2 / rng.gamma(0.75, size=size)
        c = (scatter[1, 1] - slope * scatter[0, 1]) / 2 / rng.gamma(1.25, size=size)
        b = slope + np.sqrt(c / scatter[0, 0]) * rng.normal(size=size)
        variance = c + b**2 * u
        accepted = rng.uniform(size=size) < (c / variance) ** 0.25
        z = rng.normal(size=(2, size)) / 2  # of the mean of four points
        mean = center[:, None] + [np.sqrt(u) * z[0], b * np.sqrt(u) * z[0] + np.sqrt(c) * z[1]]
        signs = rng.choice([-1.0, 1.0], (2, size))
        # The inverse of tanh at b sqrt(u / variance), without the difference to one.
        twist = np.arcsinh(b * np.sqrt(u / c))
        draws = np.stack([*mean, signs[0] * u**0.25, signs[1] * variance**0.25, twist], axis=1)
        kept = np.concatenate([kept, draws[accepted & np.all(np.abs(draws) <= 3, axis=1)]])
    return kept[:num]


TASKS = {
    "two_moons": Task(
        *(2, 1.0, two_moons, two_moons_posterior),
        published={1000: 0.7243, 10_000: 0.6113, 100_000: 0.5418},
    ),
    "slcp": Task(
        *(5, 3.0, slcp, slcp_posterior),
        published={1000: 0.9763, 10_000: 0.8991, 100_000: 0.8345},
    ),
}
