"""The targets, with exact log Z and exact draws where they exist.

Sources of the definitions: Hertrich and Gruhlke (2024), arXiv 2407.20444, and WFR-JKO, arXiv
2610.10278, for 8 modes, 8 peaky, GMM-d and mustache; "Beyond ELBOs", arXiv 2406.07423, for MoG-40,
many-well, funnel, Seeds, Credit and Brownian; Denoising diffusion samplers, arXiv 2302.13834, for
Ionosphere and Sonar. Credit here is with its prior N(0, 10^2 I).
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jax.tree_util import Partial

_LOG_2PI = math.log(2 * math.pi)


class Target(NamedTuple):
    """A law on R^dim, up to its normalisation.

    Attributes:
      log_prob: Log-density of one point [d].
      dim: Dimension.
      log_evidence: log Z; None if it is not known in closed form.
      draw: ``(rng, n) -> points [n d]``, exact; None if there are none.
      centers: Centres [k d] of the modes; None if they are not counted.
      start_scale: Deviation s of the start N(0, s^2 I) of all methods.
      published: ELBO, log Z or energy distance from papers, with its source.
    """

    log_prob: Partial
    dim: int
    log_evidence: float | None = None
    draw: Callable[[np.random.Generator, int], np.ndarray] | None = None
    centers: np.ndarray | None = None
    start_scale: float = 1.0
    published: str = ""


def names(directory: Path | None) -> list[str]:
    """Names of the targets that can be made, those of files only if the directory is given."""
    return [name for name, (needs, _) in _MAKERS.items() if directory is not None or not needs]


def make(name: str, directory: Path | None) -> Target:
    """Returns the target of a name."""
    needs, maker = _MAKERS[name]
    return maker(directory) if needs else maker()


def in_units_of_the_start(target: Target) -> Target:
    """Returns the law of x / s, where N(0, s^2 I) is the start; log Z is the same."""
    scale, draw, centers = target.start_scale, target.draw, target.centers
    return target._replace(
        log_prob=Partial(_scaled_log_prob, target.log_prob, scale),
        draw=None if draw is None else lambda rng, n: draw(rng, n) / scale,
        centers=None if centers is None else centers / scale,
    )


def _scaled_log_prob(log_prob, scale, z):
    return log_prob(scale * z) + len(z) * jnp.log(scale)


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


def _mog40() -> Target:
    centers = 40 * jax.random.uniform(jax.random.PRNGKey(0), (40, 2), minval=-1, maxval=1)
    return _mixture(centers, 1.0, 25.0, "log Z error 0.0027 (FAB)")


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


_EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
_ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def _eight_schools() -> Target:
    data = jnp.asarray(_EFFECTS, float), jnp.asarray(_ERRORS, float)
    return Target(Partial(_eight_schools_log_prob, *data), 10, -31.31135)


def _eight_schools_log_prob(effects, errors, x):
    mean, log_tau, standard = x[0], x[1], x[2:]
    tau = jnp.exp(log_tau)
    prior = -0.5 * (mean / 5) ** 2 - math.log(5.0) - _LOG_2PI / 2
    # Half-Cauchy(5) of tau, with the Jacobian of log tau.
    prior += math.log(2 / (5 * math.pi)) - jnp.log1p((tau / 5) ** 2) + log_tau
    prior -= 0.5 * jnp.sum(standard**2) + 4 * _LOG_2PI
    residual = (effects - mean - tau * standard) / errors
    return prior - jnp.sum(0.5 * residual**2 + jnp.log(errors)) - 4 * _LOG_2PI


_SEEDS = (
    "10/39 23/62 23/81 26/51 17/39 5/6 53/74 55/72 32/51 46/79 10/13 8/16 10/30 8/28 23/45 0/4 "
    "3/12 22/41 15/30 32/51 3/7"
)


def _seeds() -> Target:
    counts = np.array([[int(part) for part in pair.split("/")] for pair in _SEEDS.split()], float)
    x1, x2 = (np.arange(21) >= 11).astype(float), np.ones(21)
    x2[:5] = x2[11:16] = 0.0
    columns = np.stack([np.ones(21), x1, x2, x1 * x2], axis=1)
    data = (jnp.asarray(part, float) for part in (*counts.T, columns))
    published = "ELBO -73.45 (SCLD, CMCD)"
    return Target(Partial(_seeds_log_prob, *data), 26, published=published)


def _seeds_log_prob(successes, trials, columns, x):
    log_tau, fixed, random = x[0], x[1:5], x[5:]
    tau = jnp.exp(log_tau)
    shape = 0.01
    value = shape * math.log(shape) - math.lgamma(shape) + shape * log_tau - shape * tau
    value -= 0.5 * jnp.sum((fixed / 10) ** 2) + 4 * (math.log(10.0) + _LOG_2PI / 2)
    value += jnp.sum(0.5 * (log_tau - _LOG_2PI) - 0.5 * tau * random**2)
    logits = jnp.dot(columns, fixed) + random
    choose = gammaln(trials + 1) - gammaln(successes + 1) - gammaln(trials - successes + 1)
    log_likelihood = successes * logits - trials * jax.nn.softplus(logits)
    return value + jnp.sum(choose + log_likelihood)


_OBSERVED = (
    (0.21592641, 0.118771404, -0.07945447, 0.037677474, -0.27885845),
    (-0.1484156, -0.3250906, -0.22957903, -0.44110894, -0.09830782),
    (-0.8786016, -0.83736074, -0.7384849, -0.8939254, -0.7774566),
    (-0.70238715, -0.87771565, -0.51853573, -0.6948214, -0.6202789),
)


def _brownian() -> Target:
    seen = np.r_[np.arange(10), np.arange(20, 30)]
    data = jnp.asarray(np.concatenate(_OBSERVED), float), jnp.asarray(seen)
    return Target(Partial(_brownian_log_prob, *data), 32, published="ELBO 1.06 (CMCD)")


def _brownian_log_prob(observed, seen, x):
    scales, path = jax.nn.softplus(x[:2]), x[2:]
    # LogNormal(0, 2) of both scales, with the Jacobian of softplus.
    log_scales = jnp.log(scales)
    value = jnp.sum(-0.5 * (log_scales / 2) ** 2 - log_scales - math.log(2.0) - _LOG_2PI / 2)
    value += jnp.sum(jax.nn.log_sigmoid(x[:2]))
    steps = jnp.diff(path, prepend=jnp.zeros(1)) / scales[0]
    value -= jnp.sum(0.5 * steps**2) + 30 * (log_scales[0] + _LOG_2PI / 2)
    errors = (observed - path[seen]) / scales[1]
    return value - jnp.sum(0.5 * errors**2) - 20 * (log_scales[1] + _LOG_2PI / 2)


def _regression(file: str, published: str, directory: Path) -> Target:
    table = np.loadtxt(directory / file, delimiter=",")
    features, labels = table[:, 1:], table[:, 0]
    spread = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    rows = np.c_[np.ones(len(labels)), features] * labels[:, None]
    log_prob = Partial(_regression_log_prob, jnp.asarray(rows, float), 1.0)
    return Target(log_prob, rows.shape[1], published=published)


def _credit(directory: Path) -> Target:
    table = np.loadtxt(directory / "german.data-numeric")
    features = table[:, :-1] / table[:, :-1].std(axis=0)
    # Class 2 has the sign -1.
    sign = np.where(table[:, -1] == 2, -1.0, 1.0)
    rows = np.c_[np.ones(len(sign)), features] * sign[:, None]
    log_prob = Partial(_regression_log_prob, jnp.asarray(rows, float), 10.0)
    return Target(log_prob, rows.shape[1], published="about -585 (Beyond ELBOs)")


def _regression_log_prob(rows, scale, w):
    prior = -0.5 * jnp.sum((w / scale) ** 2) - len(w) * (math.log(scale) + _LOG_2PI / 2)
    return prior + jnp.sum(jax.nn.log_sigmoid(jnp.dot(rows, w)))


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
    "MoG-40": (False, _mog40),
    "funnel": (False, _funnel),
    "many-well 8": (False, functools.partial(_many_well, 4, "")),
    "many-well 32": (False, functools.partial(_many_well, 16, "log Z error 0.032 (FAB)")),
    "eight schools": (False, _eight_schools),
    "Seeds": (False, _seeds),
    "Brownian": (False, _brownian),
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
    "Credit": (True, _credit),
    "Ionosphere": (
        True,
        functools.partial(_regression, "ionosphere.csv", "ELBO -111.9 (LDVI); log Z -111.6 (DDS)"),
    ),
    "Sonar": (
        True,
        functools.partial(_regression, "sonar.csv", "ELBO -108.18 (SCLD), -108.83 (CMCD)"),
    ),
}
