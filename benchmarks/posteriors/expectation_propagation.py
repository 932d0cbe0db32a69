"""Expectation propagation for logistic regression with a Gaussian prior.

Each row's likelihood sigmoid(f_i), f_i = y_i <x_i, w>, is replaced by a Gaussian function of f_i
that gives the marginal of f_i the same mass, mean and variance (Minka 2001; Rasmussen and Williams
2006, section 3.6, evidence (3.65)). The sigmoid is a mixture of probits,
sigmoid(f) = E[Phi(f / 2 K)] with K of Kolmogorov's law (Andrews and Mallows 1974), so all moments
have a closed form, however wide f_i is. If rows are separable and alpha is small, w lies in a cone,
and the evidence is too small by a tenth or two in two dimensions.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats

_MAX_ITERATIONS, _DAMPING = 60, 0.7
# Tolerance of the logarithm of the evidence.
_TOLERANCE = 1e-3
# K is between 0.2 and 4.2 except with probability 1e-12.
_NODES, _MASSES = np.polynomial.legendre.leggauss(32)
_VARIANCES = (2.0 * (2.2 + 2.0 * _NODES)) ** 2
_LOG_MASSES = np.log(2.0 * _MASSES * scipy.stats.kstwobign.pdf(np.sqrt(_VARIANCES) / 2.0))


class Approximation(NamedTuple):
    """N(mean, precision^-1) with mean [p] and precision [p p], and the log-evidence of alpha."""

    mean: np.ndarray
    precision: np.ndarray
    log_evidence: float


def approximations(signed: np.ndarray, log_alphas: Iterable[float]) -> Iterator[Approximation]:
    """Approximate the law of w ~ N(0, I / alpha) given the rows, for one alpha after another.

    Args:
      signed: Rows y_i x_i [n p].
      log_alphas: Logarithms of alpha. Each fit starts where the last one ended.
    """
    precisions, shifts = np.full(len(signed), 1e-3), np.full(len(signed), 1e-3)
    for log_alpha in log_alphas:
        last = -np.inf
        for _ in range(_MAX_ITERATIONS):
            found, mean, variance = _gaussian(signed, log_alpha, precisions, shifts)
            # The cavity is the law of f_i without its own function.
            cavity_variance = 1.0 / (1.0 / variance - precisions)
            cavity_mean = cavity_variance * (mean / variance - shifts)
            log_mass, slope, curvature = derivatives(cavity_mean, cavity_variance)
            normalisers = np.log1p(cavity_variance * precisions) - mean**2 / variance
            normalisers += cavity_mean**2 / cavity_variance
            log_evidence = found.log_evidence + np.sum(log_mass + normalisers / 2.0)
            if abs(log_evidence - last) < _TOLERANCE:
                break
            last, ratio = log_evidence, 1.0 + cavity_variance * curvature
            precisions += _DAMPING * (np.maximum(-curvature / ratio, 0.0) - precisions)
            shifts += _DAMPING * ((slope - cavity_mean * curvature) / ratio - shifts)
        yield found._replace(log_evidence=log_evidence)


def _gaussian(signed, log_alpha, precisions, shifts):
    """Law of w under the prior and all Gaussian functions; means and variances [n] of f."""
    p = signed.shape[1]
    precision = np.exp(log_alpha) * np.eye(p) + (signed.T * precisions) @ signed
    factor = np.linalg.cholesky(precision)
    rows = np.linalg.solve(factor, signed.T)
    whitened = rows @ shifts
    log_integral = (p * log_alpha + whitened @ whitened) / 2.0 - np.sum(np.log(np.diag(factor)))
    approximation = Approximation(np.linalg.solve(factor.T, whitened), precision, log_integral)
    return approximation, whitened @ rows, np.sum(rows**2, axis=0)


def derivatives(mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, ...]:
    """log E[sigmoid(f)] for f ~ N(mean, variance), and two derivatives by the mean, all [n]."""
    total = _VARIANCES + variance[:, None]
    z = mean[:, None] / np.sqrt(total)
    log_mass = np.asarray(scipy.special.logsumexp(_LOG_MASSES + scipy.special.log_ndtr(z), axis=1))
    densities = np.exp(_LOG_MASSES - z**2 / 2.0 - log_mass[:, None]) / np.sqrt(2.0 * np.pi * total)
    slope = np.sum(densities, axis=1)
    return log_mass, slope, -np.sum(densities * z / np.sqrt(total), axis=1) - slope**2
