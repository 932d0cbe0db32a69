"""Exact SW-JKO steps between Gaussians, of first and of second order."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from swjko.closed_form.gaussians import (
    Gaussian,
    Matrix,
    Vector,
    as_problem,
    as_vectors,
    stacked,
    standard_deviations,
)
from swjko.closed_form.matrices import as_square
from swjko.types import Scalar, validation

_NEWTON_STEPS = 60
_CONJUGATE_GRADIENT_STEPS = 400
_HALVINGS = 40


class IsotropicGaussian(NamedTuple):
    """The law N(mean, scale^2 I).

    Attributes:
      mean: Mean [d].
      scale: Standard deviation of each coordinate.
    """

    mean: Vector
    scale: Scalar


def isotropic_sw_jko_step(
    mean: Vector, scale: float | Scalar, center: Vector, step_size: float | Scalar
) -> IsotropicGaussian:
    """Returns the exact SW-JKO step from N(mean, scale^2 I) for the unit precision.

    With h = d step_size, the new mean is (mean + h center) / (1 + h) and the new scale is
    (scale + sqrt(scale^2 + 4 (1 + h) h)) / (2 (1 + h)). This is one Wasserstein JKO step of size
    h: only in this case is SW time exactly d times as fast as Wasserstein time.

    Args:
      mean: Mean of the start, [d].
      scale: Standard deviation of the start, positive.
      center: Mean of the target, [d].
      step_size: JKO time step tau, positive.
    """
    mean, center = as_vectors(mean, center, "mean", "center")
    scale = validation.as_positive(scale, "scale").astype(mean.dtype)
    step_size = validation.as_positive(step_size, "step_size").astype(mean.dtype)
    h = mean.shape[0] * step_size
    new_scale = (scale + jnp.sqrt(scale**2 + 4 * (1 + h) * h)) / (2 * (1 + h))
    return IsotropicGaussian((mean + h * center) / (1 + h), new_scale)


def gaussian_sw_jko_step(
    mean: Vector,
    cov: Matrix,
    precision: Matrix,
    center: Vector,
    step_size: float | Scalar,
    directions: Float[Array, "l d"],
) -> Gaussian:
    """Returns the exact SW-JKO step from N(mean, cov), a minimiser over all measures.

    argmin_mu SW_2^2(mu, N(mean, cov)) / (2 step_size) + F(mu) is Gaussian. With A = precision, its
    mean is (I + d step_size A)^{-1} (mean + d step_size A center). Its covariance S minimises the
    strictly convex

      mean_l (sqrt(theta_l^T S theta_l) - sqrt(theta_l^T cov theta_l))^2 / (2 step_size)
      + tr(A S) / 2 - log det(S) / 2,

    by Newton's method with matrix-free conjugate gradients, to the precision of the dtype. The
    formula of the mean assumes a second moment of the directions of I / d, which whole blocks of
    ``orthogonal_directions`` have exactly.

    Args:
      mean: Mean of the start, [d].
      cov: Covariance of the start, [d d], positive definite.
      precision: Inverse covariance of the target, [d d].
      center: Mean of the target, [d].
      step_size: JKO time step tau, positive.
      directions: Unit rows [l d] that stand for the sphere.

    References:
      Bonet, Courty, Septier, Drumetz (2022), arXiv 2110.10972, eq. (9), restricted to Gaussians.
    """
    mean, cov, precision, center, step_size = as_problem(mean, cov, precision, center, step_size)
    directions = validation.as_directions(directions, mean.shape[0])
    anchor = standard_deviations(cov, directions)
    return _anchored_step(mean, anchor, cov, precision, center, step_size, directions)


def gaussian_sw_bdf2_step(
    mean: Vector,
    cov: Matrix,
    previous_mean: Vector,
    previous_cov: Matrix,
    precision: Matrix,
    center: Vector,
    step_size: float | Scalar,
    directions: Float[Array, "l d"],
) -> Gaussian:
    """Returns the exact step of second order from N(mean, cov) and the measure before it.

    argmin_mu 3 / (4 step_size) mean_l |q_l(mu) - (4 q_l - q_l^previous) / 3|^2 + F(mu), with q_l
    the quantile function of the projection on theta_l; see ``swjko.sw_bdf2``. Means and projected
    standard deviations are extrapolated alike, so this is ``gaussian_sw_jko_step`` with another
    anchor and 2 step_size / 3 for step_size. A standard deviation extrapolated below zero is
    replaced by its absolute value, and the problem stays convex.

    Args:
      mean: Mean of the start, [d].
      cov: Covariance of the start, [d d], positive definite.
      previous_mean: Mean one step_size before the start, [d].
      previous_cov: Covariance one step_size before the start, [d d].
      precision: Inverse covariance of the target, [d d].
      center: Mean of the target, [d].
      step_size: JKO time step tau, positive.
      directions: Unit rows [l d] that stand for the sphere.

    References:
      Gallouet, Natale, Todeschi (2022), arXiv 2209.14622: extrapolation in Wasserstein space.
    """
    mean, cov, precision, center, step_size = as_problem(mean, cov, precision, center, step_size)
    mean, previous_mean = as_vectors(mean, previous_mean, "mean", "previous_mean")
    previous_cov = as_square(previous_cov, mean.shape[0], "previous_cov")
    directions = validation.as_directions(directions, mean.shape[0])
    sigma = standard_deviations(cov, directions)
    anchor = jnp.abs(4 * sigma - standard_deviations(previous_cov, directions)) / 3
    mean, step_size = (4 * mean - previous_mean) / 3, 2 * step_size / 3
    return _anchored_step(mean, anchor, cov, precision, center, step_size, directions)


def gaussian_sw_jko_flow(
    mean: Vector,
    cov: Matrix,
    precision: Matrix,
    center: Vector,
    step_size: float | Scalar,
    num_steps: int,
    directions: Float[Array, "l d"],
) -> Gaussian:
    """Returns the start and ``num_steps`` exact SW-JKO steps, stacked along a first axis.

    Args:
      mean: Mean of the start, [d].
      cov: Covariance of the start, [d d], positive definite.
      precision: Inverse covariance of the target, [d d].
      center: Mean of the target, [d].
      step_size: JKO time step tau, positive.
      num_steps: Number of steps.
      directions: Unit rows [l d] that stand for the sphere.

    Returns:
      Means [k d] and covariances [k d d], with k = num_steps + 1.
    """

    def step(law: Gaussian, _: None) -> tuple[Gaussian, Gaussian]:
        law = gaussian_sw_jko_step(*law, precision, center, step_size, directions)
        return law, law

    start = Gaussian(mean, cov)
    return stacked([start], lax.scan(step, start, length=num_steps)[1])


def gaussian_sw_bdf2_flow(
    mean: Vector,
    cov: Matrix,
    precision: Matrix,
    center: Vector,
    step_size: float | Scalar,
    num_steps: int,
    directions: Float[Array, "l d"],
) -> Gaussian:
    """Returns the start, one step of first order and num_steps - 1 of second order, stacked.

    One step of first order leaves the order of the whole at two.

    Args:
      mean: Mean of the start, [d].
      cov: Covariance of the start, [d d], positive definite.
      precision: Inverse covariance of the target, [d d].
      center: Mean of the target, [d].
      step_size: JKO time step tau, positive.
      num_steps: Number of steps.
      directions: Unit rows [l d] that stand for the sphere.

    Returns:
      Means [k d] and covariances [k d d], with k = num_steps + 1.
    """

    def step(laws: tuple[Gaussian, Gaussian], _: None):
        previous, law = laws
        new = gaussian_sw_bdf2_step(*law, *previous, precision, center, step_size, directions)
        return (law, new), new

    start = Gaussian(mean, cov)
    first = gaussian_sw_jko_step(*start, precision, center, step_size, directions)
    return stacked([start, first], lax.scan(step, (start, first), length=num_steps - 1)[1])


def _anchored_step(mean, anchor, cov, precision, center, step_size, directions) -> Gaussian:
    """Returns the step towards projections of given means and standard deviations [l]."""
    pull = mean.shape[0] * step_size * precision
    slope = jnp.eye(mean.shape[0], dtype=mean.dtype) + pull
    new_mean = jnp.linalg.solve(slope, mean + pull @ center)
    return Gaussian(new_mean, _anchored_covariance(cov, anchor, precision, step_size, directions))


@jax.custom_jvp
def _anchored_covariance(start, anchor, precision, step_size, directions) -> Array:
    """Returns the minimiser, by Newton's method from a covariance that has no influence on it."""

    def cost(s):
        sigma = standard_deviations(s, directions)
        return (
            jnp.mean((sigma - anchor) ** 2) / (2 * step_size)
            + jnp.sum(precision * s) / 2
            - jnp.linalg.slogdet(s)[1] / 2
        )

    def newton_step(carry):
        s, _, count = carry
        move, decrement = _newton_move(s, anchor, precision, step_size, directions)
        return _backtrack(cost, s, move, decrement), decrement, count + 1

    tolerance = 4 * jnp.finfo(start.dtype).eps ** 2 * start.shape[0]

    def unfinished(carry):
        _, decrement, count = carry
        return (decrement > tolerance) & (count < _NEWTON_STEPS)

    carry = (start, jnp.asarray(jnp.inf, start.dtype), 0)
    return lax.while_loop(unfinished, newton_step, carry)[0]


@_anchored_covariance.defjvp
def _anchored_covariance_jvp(primals, tangents):
    s = _anchored_covariance(*primals)
    # By the implicit function theorem: the derivative of one more move, from s held constant.
    move = functools.partial(_newton_move, s, tolerance=8 * float(jnp.finfo(s.dtype).eps))
    return s, jax.jvp(move, primals[1:], tangents[1:])[1][0]


def _newton_move(s, anchor, precision, step_size, directions, tolerance=1e-8):
    """Returns a symmetric Newton move from the covariance ``s``, and its decrement."""
    factor = jnp.linalg.cholesky(s)
    rotated = directions @ factor
    sigma = jnp.linalg.norm(rotated, axis=1)
    # In coordinates where S = I the Hessian is W/2 plus a positive average of
    # (u^T W u) u u^T, so it is well conditioned for any S.
    gradient = (
        jnp.einsum("l,li,lj->ij", 1.0 - anchor / sigma, rotated, rotated)
        / (2 * step_size * directions.shape[0])
        + factor.T @ precision @ factor / 2
        - jnp.eye(s.shape[0], dtype=s.dtype) / 2
    )
    curvature = anchor / (4 * step_size * sigma**3 * directions.shape[0])

    def hessian(w):
        forms = curvature * jnp.einsum("li,ij,lj->l", rotated, w, rotated)
        return w / 2 + (rotated * forms[:, None]).T @ rotated

    direction, _ = jax.scipy.sparse.linalg.cg(
        hessian, -gradient, tol=tolerance, maxiter=_CONJUGATE_GRADIENT_STEPS
    )
    move = factor @ direction @ factor.T
    return (move + move.T) / 2, -jnp.sum(gradient * direction)


def _backtrack(cost, s: Array, move: Array, decrement: Scalar) -> Array:
    """Returns s + t move for the largest t = 2^-k that decreases the cost as Newton's step should.

    The result stays positive definite.
    """
    start = cost(s)
    # Near the minimum rounding hides the decrease. Convergence is quadratic: a full step is safe.
    slack = 8 * jnp.finfo(s.dtype).eps * (1 + jnp.abs(start))

    def too_long(carry):
        t, halvings = carry
        trial = s + t * move
        positive = jnp.all(jnp.isfinite(jnp.linalg.cholesky(trial)))
        falls = cost(trial) <= start - 0.1 * t * decrement + slack
        return ~(positive & falls) & (halvings < _HALVINGS)

    carry = (jnp.ones((), s.dtype), 0)
    t, _ = lax.while_loop(too_long, lambda carry: (carry[0] / 2, carry[1] + 1), carry)
    return s + t * move
