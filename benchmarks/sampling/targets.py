"""The targets, with exact log Z and exact draws where they exist.

Sources of the definitions: Hertrich and Gruhlke (2024), arXiv 2407.20444, and WFR-JKO, arXiv
2610.10278, for 8 modes, 8 peaky, GMM-d and mustache; "Beyond ELBOs", arXiv 2406.07423, for MoG-40,
many-well, funnel, Seeds, Credit and Brownian; Denoising diffusion samplers, arXiv 2302.13834, for
Ionosphere and Sonar. Credit is with its prior N(0, 10^2 I), which papers leave out: see the target
without it. LGCP is that of the same paper.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from benchmarks.sampling import posterior_targets
from benchmarks.sampling.target import Target

_LOG_2PI = math.log(2 * math.pi)
# In 1600 dimensions: it is left out without --full, unless it is named.
LARGE = "LGCP"


def names(directory: Path | None) -> list[str]:
    """Names of the targets that can be made, those of files only if the directory is given."""
    return [name for name, (needs, _) in _MAKERS.items() if directory is not None or not needs]


def make(name: str, directory: Path | None) -> Target:
    """Returns the target of a name."""
    needs, maker = _MAKERS[name]
    return maker(directory) if needs else maker()


def _mixture(centers: Any, variance: float, start_scale: float, published: str = "") -> Target:
    centers = np.asarray(centers, np.float64)
    count, dim = centers.shape

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        chosen = centers[rng.integers(0, count, n)]
        return chosen + math.sqrt(variance) * rng.normal(size=(n, dim))

    log_prob = Partial(_mixture_log_prob, jnp.asarray(centers, float), variance)
    return Target(log_prob, dim, 0.0, draw, centers, start_scale, published)


def _mixture_log_prob(centers, variance, x):
    count, dim = centers.shape
    squares = jnp.sum((x[None, :] - centers) ** 2, axis=1)
    normal = dim / 2 * (jnp.log(variance) + _LOG_2PI)
    return jax.nn.logsumexp(-squares / (2 * variance)) - math.log(count) - normal


def _eight(variance: float, published: str) -> Target:
    angle = 2 * np.pi * np.arange(8) / 8
    centers = np.stack([np.cos(angle) - 1, np.sin(angle)], axis=1)
    return _mixture(centers, variance, 1.5, published)


def _gmm(dim: int, published: str, directory: Path) -> Target:
    means = np.load(directory / "hertrich_mixture_means.npz")[f"means_{dim}_1"]
    return _mixture(means, 0.01, 1.0, published)


def _mog40(dim: int, published: str) -> Target:
    centers = 40 * jax.random.uniform(jax.random.PRNGKey(0), (40, dim), minval=-1, maxval=1)
    return _mixture(centers, 1.0, 25.0, published)


def _mustache() -> Target:
    cov = np.array([[1.0, 0.9], [0.9, 1.0]])
    precision, log_det = np.linalg.inv(cov), math.log(np.linalg.det(cov))

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        z = rng.multivariate_normal(np.zeros(2), cov, n)
        return np.stack([z[:, 0], z[:, 1] + (z[:, 0] ** 2 - 1) ** 2], axis=1)

    log_prob = Partial(_mustache_log_prob, jnp.asarray(precision, float), log_det)
    published = "energy distance 1.2e-2 (WFR-JKO), 2.9e-3 (neural JKO IC)"
    return Target(log_prob, 2, 0.0, draw, None, 2.0, published)


def _mustache_log_prob(precision, log_det, x):
    z = jnp.stack([x[0], x[1] - (x[0] ** 2 - 1) ** 2])
    return -0.5 * (jnp.vdot(z, jnp.dot(precision, z)) + log_det) - _LOG_2PI


def _many_well(pairs: int, published: str) -> Target:
    level = np.linspace(-4.0, 4.0, 20_001)
    passed = np.cumsum(np.exp(-(level**4) + 6 * level**2 + level / 2))
    log_evidence = pairs * (math.log(11784.50927) + _LOG_2PI / 2)

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        points = rng.normal(size=(n, 2 * pairs))
        points[:, 0::2] = np.interp(rng.random((n, pairs)), passed / passed[-1], level)
        return points

    return Target(Partial(_many_well_log_prob), 2 * pairs, log_evidence, draw, None, 2.0, published)


def _many_well_log_prob(x):
    a, b = x[0::2], x[1::2]
    return jnp.sum(-(a**4) + 6 * a**2 + a / 2 - b**2 / 2)


def _funnel() -> Target:
    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        neck = 3 * rng.normal(size=(n, 1))
        return np.concatenate([neck, np.exp(neck / 2) * rng.normal(size=(n, 9))], axis=1)

    published = "log Z error 0.0022 (FAB); ELBO -0.011 (SCLD)"
    return Target(Partial(_funnel_log_prob), 10, 0.0, draw, None, 1.0, published)


def _funnel_log_prob(x):
    neck = -(x[0] ** 2) / 18 - math.log(3.0) - _LOG_2PI / 2
    return neck - 0.5 * jnp.sum(x[1:] ** 2) * jnp.exp(-x[0]) - 4.5 * (x[0] + _LOG_2PI)


# Whether the target needs the directory of data, and its maker.
_MAKERS: dict[str, tuple[bool, Callable[..., Target]]] = {
    "8 modes": (
        False,
        functools.partial(_eight, 0.01, "energy distance 1.6e-5 (WFR-JKO), 1.2e-5 (neural JKO IC)"),
    ),
    "8 peaky": (
        False,
        functools.partial(
            _eight, 0.005, "energy distance 3.1e-5 (WFR-JKO), 3.4e-5 (neural JKO IC)"
        ),
    ),
    "mustache": (False, _mustache),
    "MoG-40": (False, functools.partial(_mog40, 2, "log Z error 0.0027 (FAB)")),
    "MoG-40, d = 50": (False, functools.partial(_mog40, 50, "ELBO -21.94 (CMCD), -35.45 (DBS)")),
    "funnel": (False, _funnel),
    "many-well 8": (False, functools.partial(_many_well, 4, "")),
    "many-well 32": (False, functools.partial(_many_well, 16, "log Z error 0.032 (FAB)")),
    "eight schools": (False, posterior_targets.eight_schools),
    "Seeds": (False, posterior_targets.seeds),
    "Brownian": (False, posterior_targets.brownian),
    "GMM-10": (
        True,
        functools.partial(_gmm, 10, "energy distance 3.2e-5 (WFR-JKO), 5.3e-5 (neural JKO IC)"),
    ),
    "GMM-20": (
        True,
        functools.partial(_gmm, 20, "energy distance 1.0e-4 (WFR-JKO), 1.1e-4 (neural JKO IC)"),
    ),
    "GMM-50": (
        True,
        functools.partial(_gmm, 50, "energy distance 4.1e-4 (WFR-JKO), 1.0e-4 (neural JKO IC)"),
    ),
    "GMM-100": (
        True,
        functools.partial(_gmm, 100, "energy distance 1.7e-2 (WFR-JKO), 6.0e-4 (neural JKO IC)"),
    ),
    "Credit": (True, posterior_targets.credit),
    "Credit, no prior": (True, posterior_targets.credit_without_prior),
    "Cancer": (True, posterior_targets.cancer),
    "Ionosphere": (
        True,
        functools.partial(
            posterior_targets.regression, "ionosphere.csv", "ELBO -111.9 (LDVI); log Z -111.6 (DDS)"
        ),
    ),
    "Sonar": (
        True,
        functools.partial(
            posterior_targets.regression, "sonar.csv", "ELBO -108.18 (SCLD), -108.83 (CMCD)"
        ),
    ),
    LARGE: (True, posterior_targets.pines),
}
