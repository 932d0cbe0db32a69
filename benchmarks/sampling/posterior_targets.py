"""Posteriors among the targets, as densities that keep all constants."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jax.tree_util import Partial

from benchmarks.sampling.target import Target

_LOG_2PI = math.log(2 * math.pi)
_EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
_ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools() -> Target:
    """Eight schools, non-centred."""
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


def seeds() -> Target:
    """Seeds of Crowder (1978), a binomial regression with random effects."""
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


def brownian() -> Target:
    """A Brownian motion with a gap in its observations and unknown scales."""
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


def regression(file: str, published: str, directory: Path) -> Target:
    """Bernoulli regression on standardised columns, with the prior N(0, I)."""
    table = np.loadtxt(directory / file, delimiter=",")
    features, labels = table[:, 1:], table[:, 0]
    spread = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    rows = np.c_[np.ones(len(labels)), features] * labels[:, None]
    log_prob = Partial(_regression_log_prob, jnp.asarray(rows, float), 1.0)
    return Target(log_prob, rows.shape[1], published=published)


def credit(directory: Path) -> Target:
    """Statlog German Credit, with the prior N(0, 10^2 I)."""
    log_prob = Partial(_regression_log_prob, _credit_rows(directory), 10.0)
    return Target(log_prob, 25, published="about -585 (Beyond ELBOs)")


def credit_without_prior(directory: Path) -> Target:
    """The likelihood of Statlog German Credit alone."""
    log_prob = Partial(_log_likelihood, _credit_rows(directory))
    return Target(log_prob, 25, published="ELBO -504.46 (SCLD), -504.58 (CMCD)")


def _credit_rows(directory: Path) -> jax.Array:
    table = np.loadtxt(directory / "german.data-numeric")
    # Class 2 has the sign -1.
    return _uncentred_rows(table[:, :-1], np.where(table[:, -1] == 2, -1.0, 1.0))


def cancer(directory: Path) -> Target:
    """Breast Cancer Wisconsin, with the prior N(0, 10^2 I)."""
    table = np.loadtxt(directory / "breast_cancer.data")
    rows = _uncentred_rows(table[:, 2:], np.where(table[:, 1] == 1, -1.0, 1.0))
    return Target(Partial(_regression_log_prob, rows, 10.0), 31)


def _uncentred_rows(features: np.ndarray, sign: np.ndarray) -> jax.Array:
    features = features / features.std(axis=0)
    return jnp.asarray(np.c_[np.ones(len(sign)), features] * sign[:, None], float)


def _regression_log_prob(rows, scale, w):
    prior = -0.5 * jnp.sum((w / scale) ** 2) - len(w) * (jnp.log(scale) + _LOG_2PI / 2)
    return prior + _log_likelihood(rows, w)


def _log_likelihood(rows, w):
    return jnp.sum(jax.nn.log_sigmoid(jnp.dot(rows, w)))


_CELLS, _VARIANCE, _LENGTH = 40, 1.91, 40 / 33


def pines(directory: Path) -> Target:
    """Finnish pines as a log-Gaussian Cox process, in coordinates of which the prior is N(0, I).

    These are a linear map of those of the papers, which leaves log Z and ELBO as they are.
    """
    table = np.loadtxt(directory / "pines_126.csv", delimiter=",", skiprows=1, usecols=(1, 2))
    counts, _, _ = np.histogram2d(*table.T, bins=_CELLS, range=((0.0, 1.0), (0.0, 1.0)))
    cells = np.stack(np.meshgrid(*2 * [np.arange(_CELLS)], indexing="ij"), axis=-1).reshape(-1, 2)
    distances = np.linalg.norm(cells[:, None] - cells[None], axis=-1)
    factor = np.linalg.cholesky(_VARIANCE * np.exp(-distances / _LENGTH))
    mean = math.log(len(table)) - _VARIANCE / 2
    data = jnp.asarray(counts.ravel(), float), jnp.asarray(factor, float)
    published = "ELBO 497.85 (SMC), 486.77 (SCLD); log Z 505.5 (PIS)"
    return Target(Partial(_pines_log_prob, *data, mean), _CELLS**2, published=published)


def _pines_log_prob(counts, factor, mean, z):
    prior = -0.5 * jnp.sum(z**2) - len(z) * _LOG_2PI / 2
    x = mean + jnp.dot(factor, z)
    return prior + jnp.sum(counts * x - jnp.exp(x) / len(z))
