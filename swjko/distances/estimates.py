"""Sliced distances estimated with error bars, and the direction in which two clouds differ most."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from swjko import validation
from swjko.distances.directions import uniform_directions
from swjko.distances.sliced import automatic_block_size, sliced_wasserstein_pow
from swjko.types import DirectionFn, Estimate, Key, Scalar

# Replicates of dependent directions; enough for a standard error known to a fifth of itself.
_NUM_REPLICATES = 16


class MaxSliced(NamedTuple):
    """value: max over the sphere of W_p of the projections, a distance; direction: [d], where it is attained."""

    value: Scalar
    direction: Float[Array, " d"]


def sliced_wasserstein_estimate(
    key: Key,
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    num_projections: int,
    *,
    p: float = 2.0,
    direction_fn: DirectionFn = uniform_directions,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
    control_variate: bool = False,
) -> Estimate:
    """SW_p^p of two clouds over random directions (a p-th power), and the standard error that is due to the directions.

    Independent directions give the error of their mean. With another ``direction_fn`` the directions depend on each other, and the error
    is that of 16 independent draws of num_projections / 16 directions.

    Args:
      x, y, x_weights, y_weights, p: points [n d] and [m d] and the rest, as of ``sliced_wasserstein_pow``.
      num_projections: directions in all; at least 2, and a multiple of 16 when ``direction_fn`` is not ``uniform_directions``.
      direction_fn: ``(key, num, dim) -> [num dim]`` unit rows.
      control_variate: for p = 2 with independent directions, regress the cost of a direction on three quadratic forms whose mean over the
        sphere is known: <m_x - m_y, theta>^2, theta^T C_x theta and theta^T C_y theta. Of bias O(1 / num_projections), below the
        error. Source: the Gaussian control variates of Nguyen and Ho (2023), arXiv 2305.00402, fitted by least squares as in Leluc et
        al. (2024), arXiv 2402.01493.

    Returns ``Estimate(value, standard_error)``. Raises as ``sliced_wasserstein_pow``, and ValueError on counts or options that do not fit.
    """
    x, y = validation.as_points(x, "x"), validation.as_points(y, "y")
    num_projections = validation.as_count(num_projections, "num_projections", 2)
    independent = direction_fn is uniform_directions
    if control_variate and not (independent and float(p) == 2.0):
        raise ValueError(
            f"control_variate needs p = 2 and uniform_directions; received p = {p} and {direction_fn}."
        )
    if control_variate and num_projections < 8:
        raise ValueError(
            f"num_projections must be at least 8 to fit a control_variate; received {num_projections}."
        )
    if not independent and num_projections % _NUM_REPLICATES:
        raise ValueError(
            f"num_projections must be a multiple of {_NUM_REPLICATES} for dependent directions; received {num_projections}."
        )

    def cost(directions: Float[Array, "l d"]) -> Scalar:
        return sliced_wasserstein_pow(
            x, y, directions, p=p, x_weights=x_weights, y_weights=y_weights
        )

    if not independent:
        keys = jax.random.split(key, _NUM_REPLICATES)
        costs = lax.map(
            lambda key: cost(direction_fn(key, num_projections // _NUM_REPLICATES, x.shape[1])),
            keys,
        )
        return Estimate.of_mean(costs)
    directions = direction_fn(key, num_projections, x.shape[1])
    block = automatic_block_size(
        x.shape[0], y.shape[0], num_projections, x_weights is not None or y_weights is not None
    )
    costs = lax.map(lambda direction: cost(direction[None]), directions, batch_size=block)
    if not control_variate:
        return Estimate.of_mean(costs)
    return _intercept(costs, _centred_quadratic_forms(x, y, directions, x_weights, y_weights))


def max_sliced_wasserstein(
    key: Key,
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    num_iterations: int,
    p: float = 2.0,
    num_starts: int = 8,
) -> MaxSliced:
    """max over unit theta of W_p of the projections on theta, and where: the max-sliced distance (a root, as a distance).

    Gradient ascent on the sphere from the best of 8 num_starts random directions; a step that does not rise is taken back and halved, one
    that does is lengthened, so the value never falls. A local maximum in general: more starts make the global one likelier.
    Source: Deshpande et al. (2019), arXiv 1904.05877; Kolouri et al. (2019), arXiv 1902.00434.

    Args: key; x [n d], y [m d]; num_iterations of ascent, for each of num_starts starts; p >= 1. Errors as ``sliced_wasserstein_pow``.
    """
    x, y = validation.as_points(x, "x"), validation.as_points(y, "y")
    validation.require_same_dim(x, y, "x", "y")
    num_iterations = validation.as_count(num_iterations, "num_iterations")
    num_starts = validation.as_count(num_starts, "num_starts")
    cost_and_slope = jax.value_and_grad(
        lambda theta: sliced_wasserstein_pow(x, y, theta[None], p=p)
    )
    candidates = uniform_directions(key, 8 * num_starts, x.shape[1]).astype(x.dtype)
    costs = lax.map(lambda theta: sliced_wasserstein_pow(x, y, theta[None], p=p), candidates)
    starts = candidates[lax.top_k(costs, num_starts)[1]]

    def ascend(theta):
        def iterate(carry, _):
            theta, value, slope, length = carry
            tangent = slope - jnp.dot(slope, theta) * theta
            trial = theta + length * tangent / jnp.maximum(
                jnp.linalg.norm(tangent), jnp.finfo(x.dtype).tiny
            )
            trial = trial / jnp.linalg.norm(trial)
            trial_value, trial_slope = cost_and_slope(trial)
            rises = trial_value > value
            kept = jax.tree.map(
                lambda new, old: jnp.where(rises, new, old),
                (trial, trial_value, trial_slope),
                (theta, value, slope),
            )
            return (*kept, jnp.where(rises, 1.5 * length, 0.5 * length)), None

        value, slope = cost_and_slope(theta)
        (theta, value, _, _), _ = lax.scan(
            iterate, (theta, value, slope, jnp.asarray(0.5, x.dtype)), length=num_iterations
        )
        return theta, value

    directions, values = lax.map(ascend, starts)
    best = jnp.argmax(values)
    return MaxSliced(values[best] ** (1.0 / float(p)), directions[best])


def _centred_quadratic_forms(x, y, directions, x_weights, y_weights) -> Float[Array, "l 3"]:
    """theta^T Q theta - tr(Q) / d for Q = outer square of the difference of means, and both covariances."""
    x_mean, x_centred, x_mass = _moments(x, x_weights)
    y_mean, y_centred, y_mass = _moments(y, y_weights)
    shift = x_mean - y_mean
    dim = x.shape[1]
    forms = [(directions @ shift) ** 2 - jnp.sum(shift**2) / dim]
    for centred, mass in ((x_centred, x_mass), (y_centred, y_mass)):
        cov = centred.T @ (mass[:, None] * centred)
        forms.append(jnp.einsum("li,ij,lj->l", directions, cov, directions) - jnp.trace(cov) / dim)
    return jnp.stack(forms, axis=1)


def _moments(points, weights):
    mass = (
        jnp.full(points.shape[:1], 1.0 / points.shape[0], points.dtype)
        if weights is None
        else weights / jnp.sum(weights)
    )
    mean = mass @ points
    return mean, points - mean[None, :], mass


def _intercept(costs: Float[Array, " l"], controls: Float[Array, "l k"]) -> Estimate:
    """The least-squares prediction of the cost where the controls are at their mean over the sphere, zero, and its standard error."""
    num, fitted = controls.shape
    mean = jnp.mean(controls, axis=0)
    centred = controls - mean[None, :]
    # Clouds may leave a form constant (equal means, one point): the pseudo-inverse gives it no weight.
    inverse = jnp.linalg.pinv(centred.T @ centred, hermitian=True)
    coefficients = inverse @ (centred.T @ (costs - jnp.mean(costs)))
    residuals = costs - jnp.mean(costs) - centred @ coefficients
    variance = jnp.sum(residuals**2) / (num - 1 - fitted)
    return Estimate(
        jnp.mean(costs) - mean @ coefficients,
        jnp.sqrt(variance * (1.0 / num + mean @ inverse @ mean)),
    )
