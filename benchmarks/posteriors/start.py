"""Coordinates in which the posterior of (w, log alpha) is near N(0, I); all methods start there.

For a grid of alpha, from large to small, expectation propagation gives a Gaussian N(m, V) of w
given alpha and the evidence of alpha. The evidences give a law of log alpha. The last coordinate t
is normal, and log alpha is the quantile of that law at t. The others are z with
sqrt(alpha) w = m + U (scales z): U holds the principal axes of V at the median of alpha; m and the
deviations along these axes, in units of 1 / sqrt(alpha), are smooth in t. If the rows are
separable, these units make both constant as alpha tends to 0: w is then a normal law restricted to
the cone of the w that separate the rows. (Variational Gaussians must keep off its walls, and their
bounds on the evidence are too low by nats there.)
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.interpolate
import scipy.special
from jax.tree_util import Partial

from benchmarks.posteriors import expectation_propagation
from swjko import problems

_LOG_ALPHAS = np.arange(1.0, -20.1, -0.5)
# Values of log alpha whose log-density is this far below the largest are negligible.
_NEGLIGIBLE = 30.0
# Beyond these nodes, three in a hundred thousand, log alpha is linear in t, and means and scales
# are constant.
_LAST_NODE, _NODES = 4.0, 33


class Start(NamedTuple):
    """Axes [p p], and coefficients [4 nodes - 1 2 p + 1] of cubic pieces in t.

    The pieces are those of the means along the axes, of the log-scales, and of log alpha.
    """

    axes: Any
    coefficients: Any

    @property
    def dim(self) -> int:
        """Number of parameters, log alpha included."""
        return self.axes.shape[0] + 1


def make_start(features: np.ndarray, labels: np.ndarray) -> Start:
    """Fit the coordinates in float64; takes some tenths of a second."""
    fits = [*_fits(features * labels[:, None])][::-1]
    log_alphas = np.array([fit.log_alpha for fit in fits])
    log_density = scipy.interpolate.CubicSpline(log_alphas, [fit.log_density for fit in fits])
    nodes = np.linspace(-_LAST_NODE, _LAST_NODE, _NODES)
    quantiles = _quantiles(log_density, log_alphas[0], log_alphas[-1], nodes)
    median = fits[np.argmin(np.abs(log_alphas - quantiles[_NODES // 2]))]
    axes = np.linalg.eigh(median.precision)[1]
    means = [np.exp(fit.log_alpha / 2) * (fit.mean @ axes) for fit in fits]
    variances = [np.sum(axes * (fit.precision @ axes), axis=0) for fit in fits]
    log_scales = (log_alphas[:, None] - np.log(variances)) / 2
    values = np.concatenate([np.array(means), log_scales], axis=1)
    curves = scipy.interpolate.CubicSpline(log_alphas, values)(quantiles)
    pieces = scipy.interpolate.CubicSpline(nodes, np.column_stack([curves, quantiles]))
    return Start(axes, pieces.c)


def parameters(start: Start, points: Any) -> np.ndarray:
    """(w, log alpha) [.. p + 1] in float64 from points [.. p + 1] in the new coordinates."""
    with jax.enable_x64(True):
        start = Start(*(jnp.asarray(leaf, float) for leaf in start))
        flat = jnp.asarray(points, float).reshape(-1, start.dim)
        found = jax.vmap(lambda point: to_parameters(start, point)[0])(flat)
        return np.asarray(found).reshape(np.shape(points))


def log_prob(start: Start, features: np.ndarray, labels: np.ndarray) -> Partial:
    """Log-density of a point in the new coordinates, up to a constant, in default precision."""
    data = jnp.asarray(features, float), jnp.asarray(labels, float)
    start = Start(*(jnp.asarray(leaf, float) for leaf in start))
    return Partial(_log_prob, start, problems.logistic_regression(*data))


def _log_prob(start, posterior, point):
    found, log_det = to_parameters(start, point)
    return posterior(found) + log_det


def to_parameters(start: Start, point: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(w, log alpha) of one point, and the log-determinant of the derivative."""
    step = 2 * _LAST_NODE / (_NODES - 1)
    held = jnp.clip(point[-1], -_LAST_NODE, _LAST_NODE)
    piece = jnp.clip(jnp.floor((held + _LAST_NODE) / step).astype(int), 0, _NODES - 2)
    c, u = start.coefficients[:, piece], held + _LAST_NODE - step * piece
    values = ((c[0] * u + c[1]) * u + c[2]) * u + c[3]
    slope = (3 * c[0, -1] * u + 2 * c[1, -1]) * u + c[2, -1]
    log_alpha = values[-1] + slope * (point[-1] - held)
    mean, log_scale = jnp.split(values[:-1], 2)
    along_axes = mean + jnp.exp(log_scale) * point[:-1]
    whole = jnp.dot(start.axes, along_axes, precision=jax.lax.Precision.HIGHEST)
    log_det = jnp.sum(log_scale) - len(whole) * log_alpha / 2 + jnp.log(slope)
    return jnp.append(jnp.exp(-log_alpha / 2) * whole, log_alpha), log_det


class _Fit(NamedTuple):
    log_alpha: float
    mean: np.ndarray
    precision: np.ndarray
    log_density: float


def _fits(signed: np.ndarray) -> Iterator[_Fit]:
    """Fits from large alpha to small, while log alpha is not negligible."""
    largest = -np.inf
    found = expectation_propagation.approximations(signed, _LOG_ALPHAS)
    for log_alpha, (mean, precision, log_evidence) in zip(_LOG_ALPHAS, found, strict=True):
        log_density = log_evidence + log_alpha - 100 * np.exp(log_alpha)
        yield _Fit(log_alpha, mean, precision, log_density)
        largest = max(largest, log_density)
        if log_density < largest - _NEGLIGIBLE:
            return


def _quantiles(log_density: Any, low: float, high: float, nodes: np.ndarray) -> np.ndarray:
    """Quantiles at the probabilities of N(0, 1) at the nodes, each from its nearer end."""
    fine = np.linspace(low, high, 4001)
    density = np.exp(log_density(fine) - log_density(fine).max())
    below = np.cumsum(density) - density / 2
    above = np.cumsum(density[::-1])[::-1] - density / 2
    left, right = (scipy.special.ndtri(part / density.sum()) for part in (below, above))
    return np.interp(nodes, np.where(below < above, left, -right), fine)
