"""Where the methods of ``benchmarks.logistic_regression`` start: coordinates in which the posterior of (w, log alpha) is near N(0, I).

For each of some alpha, from large to small, expectation propagation gives a Gaussian N(m, V) of w given alpha and the evidence of alpha,
and the evidences a law of log alpha. The last coordinate t is normal and log alpha its quantile of that law; sqrt(alpha) w = m + U (scales
z), with U the principal axes of V at the median of alpha, and m and the deviations along these axes, in units of 1 / sqrt(alpha), smooth
in t. Where the rows are separable, these units make them constant as alpha tends to 0: w is then a normal law cut off by the cone of the w
that separate the rows. (Variational Gaussians must keep off its walls, and their evidence bounds are too low by nats there.)
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.interpolate
import scipy.special
from jax.tree_util import Partial

from benchmarks import expectation_propagation
from swjko import problems

_LOG_ALPHAS = np.arange(1.0, -20.1, -0.5)
# Below the largest density of log alpha by e to this, nothing is left of it.
_NEGLIGIBLE = 30.0
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
    """In float64, in some tenths of a second."""
    fits = [*_fits(features * labels[:, None])][::-1]
    log_alphas = np.array([fit.log_alpha for fit in fits])
    log_density = scipy.interpolate.CubicSpline(log_alphas, [fit.density for fit in fits])
    nodes = np.linspace(-_LAST_NODE, _LAST_NODE, _NODES)
    quantiles = _quantiles(log_density, log_alphas[0], log_alphas[-1], nodes)
    median = fits[np.argmin(np.abs(log_alphas - quantiles[_NODES // 2]))]
    axes = np.linalg.eigh(median.precision)[1]
    means = np.array([np.exp(fit.log_alpha / 2) * (fit.mean @ axes) for fit in fits])
    log_scales = np.array(
        [
            (fit.log_alpha - np.log(np.sum(axes * (fit.precision @ axes), axis=0))) / 2
            for fit in fits
        ]
    )
    curves = scipy.interpolate.CubicSpline(log_alphas, np.concatenate([means, log_scales], axis=1))(
        quantiles
    )
    pieces = scipy.interpolate.CubicSpline(nodes, np.column_stack([curves, quantiles]))
    return Start(axes, pieces.c)


def parameters(start: Start, points: Any) -> np.ndarray:
    """(w, log alpha) [.. p + 1] from points [.. p + 1] in the coordinates of the start, in float64."""
    with jax.enable_x64(True):
        start = Start(*(jnp.asarray(leaf, float) for leaf in start))
        flat = jnp.asarray(points, float).reshape(-1, start.dim)
        return np.asarray(jax.vmap(lambda point: _from_start(start, point)[0])(flat)).reshape(
            np.shape(points)
        )


def log_prob(start: Start, features: np.ndarray, labels: np.ndarray) -> Partial:
    """Of one point in the coordinates of the start, in the default precision, up to a constant."""
    posterior = problems.logistic_regression(
        jnp.asarray(features, float), jnp.asarray(labels, float)
    )
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
    log_alpha = values[-1] + slope * (point[-1] - held)
    mean, log_scale = jnp.split(values[:-1], 2)
    whole = jnp.dot(
        start.axes, mean + jnp.exp(log_scale) * point[:-1], precision=jax.lax.Precision.HIGHEST
    )
    log_det = jnp.sum(log_scale) - len(whole) * log_alpha / 2 + jnp.log(slope)
    return jnp.append(jnp.exp(-log_alpha / 2) * whole, log_alpha), log_det


class _Fit(NamedTuple):
    """density: of log alpha, its logarithm."""

    log_alpha: float
    mean: np.ndarray
    precision: np.ndarray
    density: float


def _fits(signed: np.ndarray) -> Iterator[_Fit]:
    """From large alpha to small, while the densities are not negligible."""
    largest = -np.inf
    for log_alpha, found in zip(
        _LOG_ALPHAS, expectation_propagation.approximations(signed, _LOG_ALPHAS), strict=True
    ):
        density = found.log_evidence + log_alpha - 100 * np.exp(log_alpha)
        yield _Fit(log_alpha, found.mean, found.precision, density)
        largest = max(largest, density)
        if density < largest - _NEGLIGIBLE:
            return


def _quantiles(log_density: Any, low: float, high: float, nodes: np.ndarray) -> np.ndarray:
    """At the probabilities of N(0, 1) at the nodes, each from its nearer end."""
    fine = np.linspace(low, high, 4001)
    density = np.exp(log_density(fine) - log_density(fine).max())
    below = np.cumsum(density) - density / 2
    above = np.cumsum(density[::-1])[::-1] - density / 2
    normal = np.where(
        below < above,
        scipy.special.ndtri(below / density.sum()),
        -scipy.special.ndtri(above / density.sum()),
    )
    return np.interp(nodes, normal, fine)
