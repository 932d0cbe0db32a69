"""Distances between Gaussians, the Ornstein-Uhlenbeck flow, and exact Wasserstein JKO steps."""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from swjko.closed_form.matrices import as_square
from swjko.linalg import derivatives_of, sqrt_of_symmetric, trace_of_sqrt
from swjko.types import Scalar, validation

Vector: TypeAlias = Float[Array, " d"]
Matrix: TypeAlias = Float[Array, "d d"]

# For exponentials of matrices up to 1e12: 14 terms of the series for norms below 1/2, to 1e-17.
_TERMS = 14
_MAX_HALVINGS = 42


class Gaussian(NamedTuple):
    """The law N(mean, cov).

    Attributes:
      mean: Mean [d].
      cov: Covariance [d d].
    """

    mean: Vector
    cov: Matrix


def gaussian_w2_pow(mean0: Vector, cov0: Matrix, mean1: Vector, cov1: Matrix) -> Scalar:
    """Returns the squared Wasserstein distance W_2^2 between two Gaussians, without a root.

    |mean0 - mean1|^2 + tr(cov0 + cov1 - 2 (cov0^{1/2} cov1 cov0^{1/2})^{1/2}).

    Derivatives in a covariance need both to be definite.

    Args:
      mean0: Mean of the first Gaussian, [d].
      cov0: Covariance of the first Gaussian, [d d].
      mean1: Mean of the second Gaussian, [d].
      cov1: Covariance of the second Gaussian, [d d].

    References:
      Dowson and Landau (1982); Gelbrich (1990).
    """
    (mean0, cov0), (mean1, cov1) = _as_pair(mean0, cov0, mean1, cov1)
    root = sqrt_of_symmetric(cov0)
    cross = trace_of_sqrt(root @ cov1 @ root)
    shift = jnp.sum((mean0 - mean1) ** 2)
    square = shift + jnp.trace(cov0) + jnp.trace(cov1) - 2.0 * cross
    # Rounding of equal covariances. The derivatives, the second ones too, are those of the formula.
    return square + lax.stop_gradient(jnp.maximum(square, shift) - square)


def gaussian_sw2_pow(
    mean0: Vector, cov0: Matrix, mean1: Vector, cov1: Matrix, directions: Float[Array, "l d"]
) -> Scalar:
    """Returns SW_2^2 between two Gaussians over given directions, without a root or a factor d.

    mean_l <mean0 - mean1, theta_l>^2 + (sigma0_l - sigma1_l)^2, sigma_l^2 = theta_l^T cov theta_l.

    Args:
      mean0: Mean of the first Gaussian, [d].
      cov0: Covariance of the first Gaussian, [d d].
      mean1: Mean of the second Gaussian, [d].
      cov1: Covariance of the second Gaussian, [d d].
      directions: Unit rows [l d]. Their finite number is the only approximation.
    """
    (mean0, cov0), (mean1, cov1) = _as_pair(mean0, cov0, mean1, cov1)
    directions = validation.as_directions(directions, mean0.shape[0])
    shift = directions @ (mean0 - mean1)
    stretch = standard_deviations(cov0, directions) - standard_deviations(cov1, directions)
    return jnp.mean(shift**2 + stretch**2)


def ornstein_uhlenbeck(
    mean: Vector, cov: Matrix, precision: Matrix, center: Vector, time: float | Scalar
) -> Gaussian:
    """Returns the exact Wasserstein gradient flow of F from N(mean, cov) at one time.

    It is the law of dX = -A (X - center) dt + sqrt(2) dW with A = precision: the mean is
    center + e^{-tA} (mean - center), the covariance e^{-tA} cov e^{-tA} + A^{-1} (I - e^{-2tA}).

    Args:
      mean: Mean of the start, [d].
      cov: Covariance of the start, [d d].
      precision: Inverse covariance of the target, [d d], positive definite.
      center: Mean of the target, [d].
      time: Time t of the flow, at least 0.
    """
    mean, center = as_vectors(mean, center, "mean", "center")
    cov = as_square(cov, mean.shape[0], "cov")
    precision = as_square(precision, mean.shape[0], "precision", definite=True)
    if validation.is_concrete(time) and not np.all(np.asarray(time) >= 0):
        raise ValueError(f"time must be at least 0; got {time}.")
    decay, noise = _decay_and_noise(precision, jnp.asarray(time, precision.dtype))
    return Gaussian(center + decay @ (mean - center), decay @ cov @ decay + noise)


def gaussian_jko_step(
    mean: Vector, cov: Matrix, precision: Matrix, center: Vector, step_size: float | Scalar
) -> Gaussian:
    """Returns the exact Wasserstein JKO step from N(mean, cov), a minimiser over all measures.

    argmin_mu W_2^2(mu, N(mean, cov)) / (2 tau) + F(mu) is Gaussian, tau = step_size. With
    A = precision, its mean is (I + tau A)^{-1} (mean + tau A center). Its covariance S satisfies
    M S M = cov, where M = I + tau (A - S^{-1}) is the optimal map back. With cov = L L^T and
    M = L N L^T, this reads N + tau N^2 = L^{-1} (I + tau A) L^{-T}: a scalar equation for each
    eigenvalue, and S = L^{-T} N^{-2} L^{-1}. The precision and cov need not commute.

    Args:
      mean: Mean of the start, [d].
      cov: Covariance of the start, [d d], positive definite.
      precision: Inverse covariance of the target, [d d].
      center: Mean of the target, [d].
      step_size: JKO time step tau, positive.

    References:
      Jordan, Kinderlehrer, Otto (1998), doi 10.1137/S0036141096303359.
    """
    mean, cov, precision, center, step_size = as_problem(mean, cov, precision, center, step_size)
    identity = jnp.eye(mean.shape[0], dtype=cov.dtype)
    pull = step_size * precision
    slope = identity + pull
    factor = jnp.linalg.cholesky(cov)
    inverse = jax.scipy.linalg.solve_triangular(factor, identity, lower=True)
    new_cov = _square_from_factor(inverse, inverse @ slope @ inverse.T, step_size)
    return Gaussian(jnp.linalg.solve(slope, mean + pull @ center), new_cov)


def gaussian_jko_flow(
    mean: Vector,
    cov: Matrix,
    precision: Matrix,
    center: Vector,
    step_size: float | Scalar,
    num_steps: int,
) -> Gaussian:
    """Returns the start and ``num_steps`` exact Wasserstein JKO steps, stacked.

    As step_size decreases, they converge to ``ornstein_uhlenbeck`` at first order.

    Args:
      mean: Mean of the start, [d].
      cov: Covariance of the start, [d d], positive definite.
      precision: Inverse covariance of the target, [d d].
      center: Mean of the target, [d].
      step_size: JKO time step tau, positive.
      num_steps: Number of steps.

    Returns:
      Means [k d] and covariances [k d d], with k = num_steps + 1.
    """

    def step(law: Gaussian, _: None) -> tuple[Gaussian, Gaussian]:
        law = gaussian_jko_step(*law, precision, center, step_size)
        return law, law

    start = Gaussian(mean, cov)
    return stacked([start], lax.scan(step, start, length=num_steps)[1])


def as_problem(mean, cov, precision, center, step_size) -> tuple[Array, ...]:
    mean, center = as_vectors(mean, center, "mean", "center")
    cov = as_square(cov, mean.shape[0], "cov", definite=True)
    precision = as_square(precision, mean.shape[0], "precision")
    step_size = validation.as_positive(step_size, "step_size").astype(cov.dtype)
    return mean, cov, precision, center, step_size


def as_vectors(first: Array, second: Array, first_name: str, second_name: str):
    first = validation.as_values(first, first_name)
    second = validation.as_values(second, second_name)
    if first.shape != second.shape:
        raise ValueError(
            f"{first_name} and {second_name} must have the same shape; "
            f"got {first.shape} and {second.shape}."
        )
    return first, second


def _as_pair(mean0: Vector, cov0: Matrix, mean1: Vector, cov1: Matrix) -> tuple[Gaussian, Gaussian]:
    mean0, mean1 = as_vectors(mean0, mean1, "mean0", "mean1")
    cov0 = as_square(cov0, mean0.shape[0], "cov0")
    return Gaussian(mean0, cov0), Gaussian(mean1, as_square(cov1, mean0.shape[0], "cov1"))


def stacked(starts: list[Gaussian], rest: Gaussian) -> Gaussian:
    """Returns single laws followed by stacked ones, along a first axis."""
    first = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), first, rest)


def standard_deviations(cov: Matrix, directions: Array) -> Array:
    return jnp.sqrt(jnp.maximum(jnp.einsum("li,ij,lj->l", directions, cov, directions), 0.0))


def _smooth_decay_and_noise(precision: Matrix, time: Scalar) -> tuple[Matrix, Matrix]:
    exponent = -time * precision
    # Row [X, Y; 0, 0] of an exponential holds int_0^1 e^{sX} Y ds, which is A^{-1} (I - e^{-2tA}).
    identity = jnp.eye(precision.shape[0], dtype=precision.dtype)
    double = jnp.concatenate([2 * exponent, 2 * time * identity], axis=1)
    whole = _exponential(jnp.concatenate([double, jnp.zeros_like(double)]))
    return _exponential(exponent), whole[: len(identity), len(identity) :]


@derivatives_of(_smooth_decay_and_noise)
def _decay_and_noise(precision: Matrix, time: Scalar) -> tuple[Matrix, Matrix]:
    """Returns e^{-tA} and A^{-1} (I - e^{-2tA}) for A = precision."""
    rates, basis = jnp.linalg.eigh(precision)
    decay = (basis * jnp.exp(-time * rates)[None, :]) @ basis.T
    return decay, (basis * (-jnp.expm1(-2 * time * rates) / rates)[None, :]) @ basis.T


def _exponential(matrix: Array) -> Array:
    """Returns e^matrix, by a Taylor series of a small part of it that is squared again and again.

    That of JAX has branches, whose derivatives take many seconds to compile.
    """
    _, exponent = jnp.frexp(lax.stop_gradient(jnp.max(jnp.sum(jnp.abs(matrix), axis=1))))
    halvings = jnp.maximum(exponent + 1, 0)
    small = jnp.ldexp(jnp.ones_like(matrix), -halvings) * matrix
    one = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    series = lax.fori_loop(0, _TERMS, lambda k, sum: one + small @ sum / (_TERMS - k), one)

    def square(k, power):
        return jnp.where(k < halvings, power @ power, power)

    return lax.fori_loop(0, _MAX_HALVINGS, square, series)


def _smooth_square(inverse: Matrix, matrix: Matrix, step_size: Scalar) -> Matrix:
    identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    root = sqrt_of_symmetric(identity + 4.0 * step_size * matrix)
    factor = jnp.linalg.solve(2.0 * matrix, identity + root) @ inverse
    return factor.T @ factor


@derivatives_of(_smooth_square)
def _square_from_factor(inverse: Matrix, matrix: Matrix, step_size: Scalar) -> Matrix:
    """Returns inverse^T N^{-2} inverse with N + tau N^2 = matrix."""
    values, basis = jnp.linalg.eigh(matrix)
    # The inverse of the positive root of N + tau N^2 = value, without cancellation.
    roots = (1.0 + jnp.sqrt(1.0 + 4.0 * step_size * values)) / (2.0 * values)
    factor = inverse.T @ (basis * roots[None, :])
    return factor @ factor.T
