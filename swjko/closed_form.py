"""Exact distances, flows and JKO steps between Gaussians: the oracles against which everything else is tested.

Throughout, V(x) = (x - center)^T precision (x - center) / 2 and F(mu) = int V dmu + int log rho drho, so F is the Kullback-Leibler
divergence to N(center, precision^{-1}) up to a constant. Covariances are [d d], symmetric positive definite. All functions compute in the
dtype of their arguments; pass float64 for oracles to 1e-12.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from swjko import validation
from swjko.types import Scalar

_NEWTON_STEPS = 60
_CONJUGATE_GRADIENT_STEPS = 400
_HALVINGS = 40


class Gaussian(NamedTuple):
    """N(mean, cov). mean: [d]; cov: [d d]."""

    mean: Float[Array, " d"]
    cov: Float[Array, "d d"]


class IsotropicGaussian(NamedTuple):
    """N(mean, scale^2 I). mean: [d]; scale: standard deviation."""

    mean: Float[Array, " d"]
    scale: Scalar


def gaussian_w2_pow(mean0: Array, cov0: Array, mean1: Array, cov1: Array) -> Scalar:
    """W_2^2 between Gaussians: |mean0 - mean1|^2 + tr(cov0 + cov1 - 2 (cov0^{1/2} cov1 cov0^{1/2})^{1/2}).

    Shapes [d], [d d], [d], [d d]. Squared distance, no root. Source: Dowson and Landau (1982), Gelbrich (1990).
    """
    (mean0, cov0), (mean1, cov1) = _as_pair(mean0, cov0, mean1, cov1)
    root = _matrix_sqrt(cov0)
    cross = jnp.sum(jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(root @ cov1 @ root), 0.0)))
    return jnp.sum((mean0 - mean1) ** 2) + jnp.trace(cov0) + jnp.trace(cov1) - 2.0 * cross


def gaussian_sw2_pow(
    mean0: Array, cov0: Array, mean1: Array, cov1: Array, directions: Float[Array, "l d"]
) -> Scalar:
    """SW_2^2 between Gaussians over given directions: mean_l <mean0 - mean1, theta_l>^2 + (sigma0_l - sigma1_l)^2, sigma_l^2 = theta_l^T
    cov theta_l.

    Squared distance, no root and no factor d; the only approximation is the finite set of directions.

    Args: mean0, mean1 [d]; cov0, cov1 [d d]; directions [l d], unit rows. Raises ValueError or TypeError on shapes and dtypes that do
    not fit.
    """
    (mean0, cov0), (mean1, cov1) = _as_pair(mean0, cov0, mean1, cov1)
    directions = validation.as_directions(directions, mean0.shape[0])
    shift = directions @ (mean0 - mean1)
    stretch = _standard_deviations(cov0, directions) - _standard_deviations(cov1, directions)
    return jnp.mean(shift**2 + stretch**2)


def gaussian_sw_jko_step(
    mean: Float[Array, " d"],
    cov: Float[Array, "d d"],
    precision: Float[Array, "d d"],
    center: Float[Array, " d"],
    step_size: float | Scalar,
    directions: Float[Array, "l d"],
) -> Gaussian:
    """The exact SW-JKO step from N(mean, cov), a minimiser over all measures: argmin_mu SW_2^2(mu, N(mean, cov)) / (2 step_size) + F(mu).

    It is Gaussian, with mean (I + d step_size A)^{-1} (mean + d step_size A center) and the covariance S that minimises the strictly convex

      mean_l (sqrt(theta_l^T S theta_l) - sqrt(theta_l^T cov theta_l))^2 / (2 step_size) + tr(A S) / 2 - log det(S) / 2,

    found by Newton's method with matrix-free conjugate gradients to the precision of the dtype. The directions stand for the average over
    the sphere in the covariance alone; with ``orthogonal_directions`` in whole blocks their second moment is exactly I / d, which the
    formula for the mean assumes. Derived from Bonet, Courty, Septier, Drumetz (2022), arXiv 2110.10972, eq. (9), restricted to Gaussians.

    Args: mean, center [d]; cov, precision [d d]; step_size > 0 (tau); directions [l d]. Returns ``Gaussian(mean, cov)``. Raises
    ValueError or TypeError on shapes, dtypes and signs that do not fit, and on a cov that is not positive definite.
    """
    mean, center = _as_vectors(mean, center, "mean", "center")
    dim = mean.shape[0]
    cov, precision = (
        validation.as_square(cov, dim, "cov", definite=True),
        validation.as_square(precision, dim, "precision"),
    )
    step_size = validation.as_positive(step_size, "step_size").astype(cov.dtype)
    directions = validation.as_directions(directions, dim)
    return _anchored_step(
        mean, _standard_deviations(cov, directions), cov, precision, center, step_size, directions
    )


def gaussian_sw_bdf2_step(
    mean: Float[Array, " d"],
    cov: Float[Array, "d d"],
    previous_mean: Float[Array, " d"],
    previous_cov: Float[Array, "d d"],
    precision: Float[Array, "d d"],
    center: Float[Array, " d"],
    step_size: float | Scalar,
    directions: Float[Array, "l d"],
) -> Gaussian:
    """The exact step of second order from N(mean, cov), with N(previous_mean, previous_cov) the measure one step_size before it.

    argmin_mu 3 / (4 step_size) mean_l |q_l(mu) - (4 q_l - q_l^previous) / 3|^2 + F(mu), q_l the quantile function of the projection on
    theta_l: see ``swjko.sw_bdf2``. Means and projected standard deviations are extrapolated alike, so it is ``gaussian_sw_jko_step`` with
    another anchor and 2 step_size / 3 for step_size. A standard deviation extrapolated below zero is that of a falling line; sorted, it
    is its absolute value, and the problem stays convex.

    Args and errors as of ``gaussian_sw_jko_step``, which makes the first step. Source of the extrapolation, in Wasserstein space:
    Gallouet, Natale, Todeschi (2022), arXiv 2209.14622.
    """
    mean, center = _as_vectors(mean, center, "mean", "center")
    mean, previous_mean = _as_vectors(mean, previous_mean, "mean", "previous_mean")
    dim = mean.shape[0]
    cov, precision = (
        validation.as_square(cov, dim, "cov", definite=True),
        validation.as_square(precision, dim, "precision"),
    )
    previous_cov = validation.as_square(previous_cov, dim, "previous_cov")
    step_size = validation.as_positive(step_size, "step_size").astype(cov.dtype)
    directions = validation.as_directions(directions, dim)
    anchor = (
        jnp.abs(
            4 * _standard_deviations(cov, directions)
            - _standard_deviations(previous_cov, directions)
        )
        / 3
    )
    return _anchored_step(
        (4 * mean - previous_mean) / 3,
        anchor,
        cov,
        precision,
        center,
        2 * step_size / 3,
        directions,
    )


def gaussian_sw_jko_flow(
    mean: Float[Array, " d"],
    cov: Float[Array, "d d"],
    precision: Float[Array, "d d"],
    center: Float[Array, " d"],
    step_size: float | Scalar,
    num_steps: int,
    directions: Float[Array, "l d"],
) -> Gaussian:
    """``num_steps`` exact SW-JKO steps from N(mean, cov): means [k d] and covariances [k d d], the start first, k = num_steps + 1.

    Arguments and errors as ``gaussian_sw_jko_step``.
    """
    return _iterates(
        lambda law: gaussian_sw_jko_step(
            law.mean, law.cov, precision, center, step_size, directions
        ),
        Gaussian(mean, cov),
        num_steps,
    )


def gaussian_sw_bdf2_flow(
    mean: Float[Array, " d"],
    cov: Float[Array, "d d"],
    precision: Float[Array, "d d"],
    center: Float[Array, " d"],
    step_size: float | Scalar,
    num_steps: int,
    directions: Float[Array, "l d"],
) -> Gaussian:
    """An ordinary step and num_steps - 1 of second order, from N(mean, cov): means [k d], covariances [k d d], k = num_steps + 1.

    Arguments and errors as ``gaussian_sw_jko_step``. One step of first order leaves the order of the whole at two.
    """
    start = Gaussian(mean, cov)
    first = gaussian_sw_jko_step(mean, cov, precision, center, step_size, directions)

    def step(
        laws: tuple[Gaussian, Gaussian], _: None
    ) -> tuple[tuple[Gaussian, Gaussian], Gaussian]:
        previous, law = laws
        new = gaussian_sw_bdf2_step(*law, *previous, precision, center, step_size, directions)
        return (law, new), new

    _, rest = lax.scan(step, (start, first), length=num_steps - 1)
    return jax.tree.map(
        lambda first, second, rest: jnp.concatenate([first[None], second[None], rest]),
        start,
        first,
        rest,
    )


def gaussian_jko_step(
    mean: Float[Array, " d"],
    cov: Float[Array, "d d"],
    precision: Float[Array, "d d"],
    center: Float[Array, " d"],
    step_size: float | Scalar,
) -> Gaussian:
    """The exact Wasserstein JKO step from N(mean, cov), a minimiser over all measures: argmin_mu W_2^2(mu, N(mean, cov)) / (2 step_size)
    + F(mu).

    It is Gaussian, with mean (I + tau A)^{-1} (mean + tau A center) and a covariance S' for which M = I + tau (A - S'^{-1}), the optimal
    map back from it, has M S' M = cov. With cov = L L^T and M = L N L^T that reads N + tau N^2 = L^{-1} (I + tau A) L^{-T}, a scalar
    equation in each eigenvalue, and S' = L^{-T} N^{-2} L^{-1}: precision and cov need not commute. Derived from Jordan, Kinderlehrer,
    Otto (1998), doi 10.1137/S0036141096303359.

    Args: mean, center [d]; cov, precision [d d]; step_size > 0 (tau). Returns ``Gaussian(mean, cov)``. Raises ValueError or TypeError
    on shapes, dtypes and signs that do not fit, and on a cov that is not positive definite.
    """
    mean, center = _as_vectors(mean, center, "mean", "center")
    dim = mean.shape[0]
    cov, precision = (
        validation.as_square(cov, dim, "cov", definite=True),
        validation.as_square(precision, dim, "precision"),
    )
    step_size = validation.as_positive(step_size, "step_size").astype(cov.dtype)
    pull = step_size * precision
    slope = jnp.eye(dim, dtype=cov.dtype) + pull
    inverse = jax.scipy.linalg.solve_triangular(
        jnp.linalg.cholesky(cov), jnp.eye(dim, dtype=cov.dtype), lower=True
    )
    values, basis = jnp.linalg.eigh(inverse @ slope @ inverse.T)
    # The positive root of N + tau N^2 = value, as its inverse and without a difference of near numbers.
    factor = inverse.T @ (
        basis * ((1.0 + jnp.sqrt(1.0 + 4.0 * step_size * values)) / (2.0 * values))[None, :]
    )
    return Gaussian(jnp.linalg.solve(slope, mean + pull @ center), factor @ factor.T)


def gaussian_jko_flow(
    mean: Float[Array, " d"],
    cov: Float[Array, "d d"],
    precision: Float[Array, "d d"],
    center: Float[Array, " d"],
    step_size: float | Scalar,
    num_steps: int,
) -> Gaussian:
    """``num_steps`` exact Wasserstein JKO steps from N(mean, cov): means [k d] and covariances [k d d], the start first, k = num_steps + 1.

    Arguments and errors as ``gaussian_jko_step``. As step_size falls they come to ``ornstein_uhlenbeck``, at first order.
    """
    return _iterates(
        lambda law: gaussian_jko_step(law.mean, law.cov, precision, center, step_size),
        Gaussian(mean, cov),
        num_steps,
    )


def isotropic_sw_jko_step(
    mean: Float[Array, " d"],
    scale: float | Scalar,
    center: Float[Array, " d"],
    step_size: float | Scalar,
) -> IsotropicGaussian:
    """The exact SW-JKO step from N(mean, scale^2 I) for the unit precision, in closed form.

    With h = d step_size: mean' = (mean + h center) / (1 + h), scale' = (scale + sqrt(scale^2 + 4 (1 + h) h)) / (2 (1 + h)).
    This is one Wasserstein JKO step of size h: only here is SW time exactly d times as fast as Wasserstein time.

    Args: mean, center [d]; scale a standard deviation; step_size > 0. Returns ``IsotropicGaussian(mean, scale)``. Raises ValueError or
    TypeError on shapes, dtypes and signs that do not fit.
    """
    mean, center = _as_vectors(mean, center, "mean", "center")
    scale = validation.as_positive(scale, "scale").astype(mean.dtype)
    h = mean.shape[0] * validation.as_positive(step_size, "step_size").astype(mean.dtype)
    new_scale = (scale + jnp.sqrt(scale**2 + 4 * (1 + h) * h)) / (2 * (1 + h))
    return IsotropicGaussian((mean + h * center) / (1 + h), new_scale)


def ornstein_uhlenbeck(
    mean: Array, cov: Array, precision: Array, center: Array, time: float | Scalar
) -> Gaussian:
    """The law at ``time`` of dX = -A (X - center) dt + sqrt(2) dW from N(mean, cov): the exact Wasserstein gradient flow of F.

    mean' = center + e^{-tA} (mean - center); cov' = e^{-tA} cov e^{-tA} + A^{-1} (I - e^{-2tA}).

    Args: mean, center [d]; cov and A = precision [d d]; time >= 0. Returns ``Gaussian(mean, cov)``. Raises ValueError or TypeError on
    shapes and dtypes that do not fit, a negative time, and a precision that is not positive definite.
    """
    mean, center = _as_vectors(mean, center, "mean", "center")
    cov, precision = (
        validation.as_square(cov, mean.shape[0], "cov"),
        validation.as_square(precision, mean.shape[0], "precision", definite=True),
    )
    if validation.is_concrete(time) and not jnp.all(jnp.asarray(time) >= 0):
        raise ValueError(f"time must not be negative; received {time}.")
    rates, basis = jnp.linalg.eigh(precision)
    decay = (basis * jnp.exp(-time * rates)[None, :]) @ basis.T
    noise = (basis * (-jnp.expm1(-2 * time * rates) / rates)[None, :]) @ basis.T
    return Gaussian(center + decay @ (mean - center), decay @ cov @ decay + noise)


def _iterates(step: Callable[[Gaussian], Gaussian], start: Gaussian, num_steps: int) -> Gaussian:
    """The start and what ``num_steps`` steps make of it, stacked."""

    def body(law: Gaussian, _: None) -> tuple[Gaussian, Gaussian]:
        law = step(law)
        return law, law

    _, laws = lax.scan(body, start, length=num_steps)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, laws)


def _anchored_step(mean, anchor, cov, precision, center, step_size, directions) -> Gaussian:
    """argmin over Gaussians of the distance to (mean, standard deviations ``anchor`` [l]) / (2 step_size) plus F, starting from ``cov``."""
    dim = mean.shape[0]
    pull = dim * step_size * precision
    new_mean = jnp.linalg.solve(jnp.eye(dim, dtype=mean.dtype) + pull, mean + pull @ center)
    return Gaussian(new_mean, _anchored_covariance(anchor, cov, precision, step_size, directions))


def _anchored_covariance(anchor, cov, precision, step_size, directions) -> Array:
    dim = cov.shape[0]

    def cost(s):
        sigma = _standard_deviations(s, directions)
        return (
            jnp.mean((sigma - anchor) ** 2) / (2 * step_size)
            + jnp.sum(precision * s) / 2
            - jnp.linalg.slogdet(s)[1] / 2
        )

    def newton_step(carry):
        s, _, count = carry
        factor = jnp.linalg.cholesky(s)
        rotated = directions @ factor
        sigma = jnp.linalg.norm(rotated, axis=1)
        # In coordinates where S = I the Hessian is W/2 plus a positive average of (u^T W u) u u^T: well conditioned for any S.
        gradient = (
            jnp.einsum("l,li,lj->ij", 1.0 - anchor / sigma, rotated, rotated)
            / (2 * step_size * directions.shape[0])
            + factor.T @ precision @ factor / 2
            - jnp.eye(dim, dtype=s.dtype) / 2
        )
        curvature = anchor / (4 * step_size * sigma**3 * directions.shape[0])

        def hessian(w):
            return (
                w / 2
                + (
                    rotated * (curvature * jnp.einsum("li,ij,lj->l", rotated, w, rotated))[:, None]
                ).T
                @ rotated
            )

        direction, _ = jax.scipy.sparse.linalg.cg(
            hessian, -gradient, tol=1e-8, maxiter=_CONJUGATE_GRADIENT_STEPS
        )
        decrement = -jnp.sum(gradient * direction)
        move = factor @ direction @ factor.T
        return _backtrack(cost, s, (move + move.T) / 2, decrement), decrement, count + 1

    tolerance = 4 * jnp.finfo(cov.dtype).eps ** 2 * dim

    def unfinished(carry):
        _, decrement, count = carry
        return (decrement > tolerance) & (count < _NEWTON_STEPS)

    infinite = jnp.asarray(jnp.inf, cov.dtype)
    new_cov, _, _ = lax.while_loop(unfinished, newton_step, (cov, infinite, 0))
    return new_cov


def _as_vectors(
    first: Array, second: Array, first_name: str, second_name: str
) -> tuple[Array, Array]:
    first, second = (
        validation.as_values(first, first_name),
        validation.as_values(second, second_name),
    )
    if first.shape != second.shape:
        raise ValueError(
            f"{first_name} and {second_name} must have the same shape; received {first.shape} and {second.shape}."
        )
    return first, second


def _as_pair(mean0: Array, cov0: Array, mean1: Array, cov1: Array) -> tuple[Gaussian, Gaussian]:
    mean0, mean1 = _as_vectors(mean0, mean1, "mean0", "mean1")
    dim = mean0.shape[0]
    return Gaussian(mean0, validation.as_square(cov0, dim, "cov0")), Gaussian(
        mean1, validation.as_square(cov1, dim, "cov1")
    )


def _standard_deviations(cov: Array, directions: Array) -> Array:
    return jnp.sqrt(jnp.maximum(jnp.einsum("li,ij,lj->l", directions, cov, directions), 0.0))


def _matrix_sqrt(matrix: Array) -> Array:
    values, basis = jnp.linalg.eigh(matrix)
    return (basis * jnp.sqrt(jnp.maximum(values, 0.0))[None, :]) @ basis.T


def _backtrack(cost, s: Array, move: Array, decrement: Scalar) -> Array:
    """s + t move with the largest t = 2^-k that stays positive definite and decreases the cost as a Newton step should."""
    start = cost(s)
    # Near the minimum the decrease drowns in rounding; a full step is then safe by quadratic convergence.
    slack = 8 * jnp.finfo(s.dtype).eps * (1 + jnp.abs(start))

    def too_long(carry):
        t, halvings = carry
        trial = s + t * move
        positive = jnp.all(jnp.isfinite(jnp.linalg.cholesky(trial)))
        return ~(positive & (cost(trial) <= start - 0.1 * t * decrement + slack)) & (
            halvings < _HALVINGS
        )

    t, _ = lax.while_loop(
        too_long, lambda carry: (carry[0] / 2, carry[1] + 1), (jnp.ones((), s.dtype), 0)
    )
    return s + t * move
