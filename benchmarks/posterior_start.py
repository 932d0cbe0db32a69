"""Where the methods of ``benchmarks.logistic_regression`` start: coordinates in which the posterior of (w, log alpha) is near N(0, I).

For each of some alpha the Gaussian N(m, V) of w nearest in KL(. | posterior of w given alpha) solves two equations of means over it,

  X^T E[y sigmoid(-y X w)] = alpha m,    V^-1 = X^T diag(E[sigmoid'(X w)]) X + alpha I,

with x_i w one-dimensional and normal, so that its means are Gauss-Hermite sums; they are iterated from large alpha to small. Its evidence
bound in place of the evidence gives a law of log alpha. The last coordinate t is normal and log alpha its quantile of that law;
w = m + U (scales z), with U the principal axes of V at the median of alpha, and m and the deviations along these axes smooth in t.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.interpolate
import scipy.special
from jax.tree_util import Partial

from swjko import problems

_LOG_ALPHAS = np.arange(1.0, -16.1, -0.5)
_MAX_ITERATIONS, _MAX_HALVINGS = 50, 10
# Of the bound: the law of log alpha is e to it.
_TOLERANCE = 1e-3
_POINTS, _MASSES = np.polynomial.hermite_e.hermegauss(24)
_MASSES = _MASSES / _MASSES.sum()
# log alpha is extended by straight lines from here, at three in a hundred thousand, and means and scales are held.
_LAST_NODE, _NODES = 4.0, 33


class Start(NamedTuple):
    """axes [p p]; coefficients [4 g - 1 2 p + 1] of cubic pieces in t of the means along the axes, logarithms of scales, and log alpha."""

    axes: Any
    coefficients: Any

    @property
    def dim(self) -> int:
        return self.axes.shape[0] + 1


def make_start(features: np.ndarray, labels: np.ndarray) -> Start:
    """In float64, in some tenths of a second to seconds."""
    fits = [*_fits(features, labels)]
    log_alphas = _LOG_ALPHAS[::-1]
    means = np.array([fit.mean for fit in reversed(fits)])
    precisions = [fit.precision for fit in reversed(fits)]
    bounds = scipy.interpolate.CubicSpline(log_alphas, [fit.bound for fit in reversed(fits)])
    nodes = np.linspace(-_LAST_NODE, _LAST_NODE, _NODES)
    quantiles = _quantiles(bounds, log_alphas[0], log_alphas[-1], nodes)
    median = precisions[np.argmin(np.abs(log_alphas - quantiles[_NODES // 2]))]
    axes = np.linalg.eigh(median)[1]
    log_scales = [-0.5 * np.log(np.sum(axes * (precision @ axes), axis=0)) for precision in precisions]
    curves = scipy.interpolate.CubicSpline(log_alphas, np.concatenate([means @ axes, log_scales], axis=1))(quantiles)
    pieces = scipy.interpolate.CubicSpline(nodes, np.column_stack([curves, quantiles]))
    return Start(axes, pieces.c)


def parameters(start: Start, points: Any) -> np.ndarray:
    """(w, log alpha) [.. p + 1] from points [.. p + 1] in the coordinates of the start, in float64."""
    with jax.enable_x64(True):
        start = Start(*(jnp.asarray(leaf, float) for leaf in start))
        flat = jnp.asarray(points, float).reshape(-1, start.dim)
        return np.asarray(jax.vmap(lambda point: _from_start(start, point)[0])(flat)).reshape(np.shape(points))


def log_prob(start: Start, features: np.ndarray, labels: np.ndarray) -> Partial:
    """Of one point in the coordinates of the start, in the default precision, up to a constant."""
    posterior = problems.logistic_regression(jnp.asarray(features, float), jnp.asarray(labels, float))
    return Partial(_log_prob, Start(*(jnp.asarray(leaf, float) for leaf in start)), posterior)


def _log_prob(start, posterior, point):
    found, log_det = _from_start(start, point)
    return posterior(found) + log_det


def _from_start(start: Start, point: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(w, log alpha) and the logarithm of the determinant of the derivative."""
    step = 2 * _LAST_NODE / (_NODES - 1)
    held = jnp.clip(point[-1], -_LAST_NODE, _LAST_NODE)
    piece = jnp.clip(jnp.floor((held + _LAST_NODE) / step).astype(int), 0, _NODES - 2)
    c, u = start.coefficients[:, piece], held + _LAST_NODE - step * piece
    values = ((c[0] * u + c[1]) * u + c[2]) * u + c[3]
    slope = (3 * c[0, -1] * u + 2 * c[1, -1]) * u + c[2, -1]
    mean, log_scale = jnp.split(values[:-1], 2)
    w = jnp.dot(start.axes, mean + jnp.exp(log_scale) * point[:-1], precision=jax.lax.Precision.HIGHEST)
    log_alpha = values[-1] + slope * (point[-1] - held)
    return jnp.append(w, log_alpha), jnp.sum(log_scale) + jnp.log(slope)


class _Fit(NamedTuple):
    mean: np.ndarray
    precision: np.ndarray
    bound: float


def _fits(features: np.ndarray, labels: np.ndarray) -> Iterator[_Fit]:
    """Newton's method for the mean and the equation for the precision in turns, each step halved until the bound rises."""
    signed = features * labels[:, None]
    p = features.shape[1]
    mean, precision = np.zeros(p), signed.T @ signed / 4 + np.exp(_LOG_ALPHAS[0]) * np.eye(p)
    for log_alpha in _LOG_ALPHAS:
        alpha = np.exp(log_alpha)
        bound, correct = _bound(signed, alpha, mean, precision)
        for _ in range(_MAX_ITERATIONS):
            before = bound
            step = np.linalg.solve(precision, signed.T @ ((1 - correct) @ _MASSES) - alpha * mean)
            mean, _, bound, correct = _climb(signed, alpha, (mean, precision), (mean + step, precision), bound, correct)
            curvature = (signed * ((correct * (1 - correct)) @ _MASSES)[:, None]).T @ signed + alpha * np.eye(p)
            _, precision, bound, correct = _climb(signed, alpha, (mean, precision), (mean, curvature), bound, correct)
            if bound - before < _TOLERANCE:
                break
        yield _Fit(mean, precision, bound + p * log_alpha / 2 + log_alpha - 100 * alpha)


def _bound(signed, alpha, mean, precision):
    """E[log-likelihood] - alpha E|w|^2 / 2 + log det(V) / 2, and the probabilities of the labels at the Gauss points of each row."""
    factor = np.linalg.inv(np.linalg.cholesky(precision)).T
    margins = (signed @ mean)[:, None] + np.linalg.norm(signed @ factor, axis=1)[:, None] * _POINTS
    likelihood = -np.sum(np.logaddexp(0.0, -margins) @ _MASSES)
    return likelihood - alpha * (mean @ mean + np.sum(factor**2)) / 2 + np.sum(np.log(np.diag(factor))), scipy.special.expit(margins)


def _climb(signed, alpha, old, new, bound, correct):
    for _ in range(_MAX_HALVINGS):
        new_bound, new_correct = _bound(signed, alpha, *new)
        if new_bound >= bound:
            return *new, new_bound, new_correct
        new = tuple((before + after) / 2 for before, after in zip(old, new, strict=True))
    return *old, bound, correct


def _quantiles(log_density: Any, low: float, high: float, nodes: np.ndarray) -> np.ndarray:
    """At the probabilities of N(0, 1) at the nodes, each from its nearer end."""
    fine = np.linspace(low, high, 4001)
    density = np.exp(log_density(fine) - log_density(fine).max())
    below = np.cumsum(density) - density / 2
    above = np.cumsum(density[::-1])[::-1] - density / 2
    normal = np.where(below < above, scipy.special.ndtri(below / density.sum()), -scipy.special.ndtri(above / density.sum()))
    return np.interp(nodes, normal, fine)
