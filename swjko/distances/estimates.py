"""Sliced distances with standard errors, and the direction in which two clouds differ most."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from swjko.distances.blocks import automatic_block_size
from swjko.distances.directions import uniform_directions
from swjko.distances.kernel import ScaledPower
from swjko.distances.scales import power_of_two
from swjko.distances.sliced import sliced_wasserstein_scaled_pow
from swjko.types import DirectionFn, Estimate, Key, Projection, Scalar, validation

# Replicates of dependent directions; enough for a standard error known to a fifth of itself.
_NUM_REPLICATES = 16


class MaxSliced(NamedTuple):
    """The result of ``max_sliced_wasserstein``.

    Attributes:
      value: Maximum over the sphere of W_p of the projections, a root.
      direction: Direction [d] at which it is attained.
    """

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
    projection: Projection | None = None,
) -> Estimate:
    """Estimates SW_p^p (a p-th power) and the standard error due to random directions.

    Independent directions give the error of their mean. Directions of another ``direction_fn``
    depend on each other; the error is then that of 16 independent draws of num_projections / 16
    directions.

    Args:
      key: Random key of the directions.
      x: Points [n d].
      y: Points [m d].
      num_projections: Directions in all, at least 2; a multiple of 16 for another
        ``direction_fn`` than ``uniform_directions``.
      p: Order of the distance, at least 1.
      direction_fn: ``(key, num, dim) -> [num dim]`` unit rows.
      x_weights: Weights [n] that sum to one; None is uniform.
      y_weights: Weights [m] that sum to one; None is uniform.
      control_variate: Whether to regress the cost of a direction on three quadratic forms of known
        mean over the sphere: <m_x - m_y, theta>^2, theta^T C_x theta and theta^T C_y theta. It
        needs p = 2 and independent directions; its bias O(1 / num_projections) is below the error.
      projection: Positions of the points on each slice, as for ``sliced_wasserstein_pow``;
        ``direction_fn`` draws what it takes.

    References:
      Gaussian control variates: Nguyen and Ho (2023), arXiv 2305.00402. Least squares: Leluc et
      al. (2024), arXiv 2402.01493.
    """
    x, y = validation.as_points(x, "x"), validation.as_points(y, "y")
    num_projections = validation.as_count(num_projections, "num_projections", 2)
    independent = direction_fn is uniform_directions
    if control_variate and not (independent and float(p) == 2.0 and projection is None):
        raise ValueError(
            "control_variate needs p = 2, uniform_directions and no projection; "
            f"got p = {p}, {direction_fn} and {projection}."
        )
    if control_variate and num_projections < 8:
        raise ValueError(
            f"num_projections must be at least 8 to fit a control_variate; got {num_projections}."
        )
    if not independent and num_projections % _NUM_REPLICATES:
        raise ValueError(
            f"num_projections must be a multiple of {_NUM_REPLICATES} for dependent directions; "
            f"got {num_projections}."
        )

    def power(directions: Float[Array, "l d"]) -> ScaledPower:
        return sliced_wasserstein_scaled_pow(
            *(x, y, directions),
            p=p,
            x_weights=x_weights,
            y_weights=y_weights,
            projection=projection,
        )

    p = validation.as_power(p)
    if not independent:
        keys, num = jax.random.split(key, _NUM_REPLICATES), num_projections // _NUM_REPLICATES
        powers = lax.map(lambda key: power(direction_fn(key, num, x.shape[1])), keys)
        return _estimate(powers, p)
    directions = direction_fn(key, num_projections, x.shape[1])
    weighted = x_weights is not None or y_weights is not None
    block = automatic_block_size(x.shape[0], y.shape[0], num_projections, weighted)
    powers = lax.map(lambda direction: power(direction[None]), directions, batch_size=block)
    if not control_variate:
        return _estimate(powers, p)
    controls = _centred_quadratic_forms(x, y, directions, x_weights, y_weights)
    return _estimate(powers, p, lambda costs: _intercept(costs, controls))


def _estimate(
    powers: ScaledPower, p: float, of_costs: Callable[[Array], Estimate] = Estimate.of_mean
) -> Estimate:
    """Returns the estimate from powers [l], made of powers over their largest scale."""
    scale = jnp.max(powers.scale)
    estimate = of_costs(powers.value * (powers.scale / scale) ** p)
    # In two halves: the power of the scale may leave the range before the product does.
    half = scale ** (p / 2)
    return jax.tree.map(lambda number: number * half * half, estimate)


def max_sliced_wasserstein(
    key: Key,
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    num_iterations: int,
    p: float = 2.0,
    num_starts: int = 8,
) -> MaxSliced:
    """Finds the max-sliced distance, the largest W_p of projections, and its direction.

    Gradient ascent on the sphere starts from the best of 8 num_starts random directions. A step
    that does not increase the value is rejected and halved; one that does is followed by a longer
    one. The result is a local maximum in general: more starts make the global one likelier.

    Args:
      key: Random key of the starts.
      x: Points [n d].
      y: Points [m d].
      num_iterations: Steps of the ascent from each start.
      p: Order of the distance, at least 1.
      num_starts: Number of starts.

    References:
      Deshpande et al. (2019), arXiv 1904.05877; Kolouri et al. (2019), arXiv 1902.00434.
    """
    x, y = validation.as_points(x, "x"), validation.as_points(y, "y")
    validation.require_same_dim(x, y, "x", "y")
    num_iterations = validation.as_count(num_iterations, "num_iterations")
    num_starts = validation.as_count(num_starts, "num_starts")

    p = validation.as_power(p)

    def cost(theta: Float[Array, " d"]) -> tuple[Scalar, Scalar]:
        power = sliced_wasserstein_scaled_pow(x, y, theta[None], p=p)
        # The power has the direction of the root's gradient, also at distance zero.
        return power.value, lax.stop_gradient(power.scale * power.value ** (1.0 / p))

    candidates = uniform_directions(key, 8 * num_starts, x.shape[1]).astype(x.dtype)
    roots = lax.map(lambda theta: cost(theta)[1], candidates)
    starts = candidates[lax.top_k(roots, num_starts)[1]]
    directions, values = lax.map(lambda theta: _ascend(cost, theta, num_iterations), starts)
    best = jnp.argmax(values)
    return MaxSliced(values[best], directions[best])


def _ascend(
    cost: Callable[[Array], tuple[Scalar, Scalar]], theta: Float[Array, " d"], num_iterations: int
):
    """Returns a direction of larger value than ``theta``, and its value.

    ``cost`` returns a number whose gradient shows the ascent, and the value.
    """

    def value_and_slope(theta: Float[Array, " d"]) -> tuple[Scalar, Float[Array, " d"]]:
        (_, value), slope = jax.value_and_grad(cost, has_aux=True)(theta)
        return value, slope

    def iterate(carry, _):
        at, length = carry
        theta, value, slope = at
        tangent = slope - jnp.dot(slope, theta) * theta
        norm = jnp.maximum(jnp.linalg.norm(tangent), jnp.finfo(theta.dtype).tiny)
        trial = theta + length * tangent / norm
        trial = trial / jnp.linalg.norm(trial)
        new = (trial, *value_and_slope(trial))
        rises = new[1] > value
        kept = jax.tree.map(lambda new, old: jnp.where(rises, new, old), new, at)
        return (kept, jnp.where(rises, 1.5 * length, 0.5 * length)), None

    carry = ((theta, *value_and_slope(theta)), jnp.asarray(0.5, theta.dtype))
    ((theta, value, _), _), _ = lax.scan(iterate, carry, length=num_iterations)
    return theta, value


def _centred_quadratic_forms(x, y, directions, x_weights, y_weights) -> Float[Array, "l 3"]:
    """Returns theta^T Q theta - tr(Q) / d for three Q, up to a common factor.

    They are the outer square of the difference of means, and both covariances.
    """
    x_mean, x_centred, x_mass = _moments(x, x_weights)
    y_mean, y_centred, y_mass = _moments(y, y_weights)
    shift = x_mean - y_mean
    # Without it the squares would leave the range of the points.
    scale = power_of_two(jnp.concatenate([x_centred, y_centred, shift[None, :]]))
    shift, dim = shift / scale, x.shape[1]
    forms = [(directions @ shift) ** 2 - jnp.sum(shift**2) / dim]
    for centred, mass in ((x_centred / scale, x_mass), (y_centred / scale, y_mass)):
        cov = centred.T @ (mass[:, None] * centred)
        forms.append(jnp.einsum("li,ij,lj->l", directions, cov, directions) - jnp.trace(cov) / dim)
    return jnp.stack(forms, axis=1)


def _moments(points, weights):
    if weights is None:
        mass = jnp.full(points.shape[:1], 1.0 / points.shape[0], points.dtype)
    else:
        mass = weights / jnp.sum(weights)
        # A point of zero weight counts for nothing, whatever it holds.
        points = jnp.where((mass > 0)[:, None], points, 0.0)
    mean = mass @ points
    centred = points - mean[None, :]
    return mean, centred if weights is None else jnp.where((mass > 0)[:, None], centred, 0.0), mass


def _intercept(costs: Float[Array, " l"], controls: Float[Array, "l k"]) -> Estimate:
    """Returns the least-squares prediction of the cost at the controls' mean over the sphere, 0."""
    num, fitted = controls.shape
    offset, mean = jnp.mean(controls, axis=0), jnp.mean(costs)
    centred, deviations = controls - offset[None, :], costs - mean
    # A form may be constant (equal means, one point): the pseudo-inverse gives it no weight.
    inverse = jnp.linalg.pinv(centred.T @ centred, hermitian=True)
    coefficients = inverse @ (centred.T @ deviations)
    residuals = deviations - centred @ coefficients
    variance = jnp.sum(residuals**2) / (num - 1 - fitted)
    return Estimate(
        mean - offset @ coefficients,
        jnp.sqrt(variance * (1.0 / num + offset @ inverse @ offset)),
    )
