"""Wasserstein distances on the line, and the sliced-Wasserstein distance, their mean.

On the line, W_p^p(u, v) = int_0^1 |F_u^{-1}(t) - F_v^{-1}(t)|^p dt, and SW_p^p(mu, nu) is its mean
over projections on the sphere (Bonneel, Rabin, Peyre, Pfister, "Sliced and Radon Wasserstein
barycenters of measures", 2015). Quantile functions of empirical measures are piecewise constant,
so the integral is a finite sum and computed exactly: sorted differences for equal sizes, a merge of
the two grids {i/n} and {j/m} for unequal ones, a merge of the cumulative weights in general. Costs
are formed from differences, so a small displacement of distant clouds keeps its digits.
"""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from swjko.distances.blocks import automatic_block_size
from swjko.distances.infinite_order import largest_displacement
from swjko.distances.kernel import ScaledPower, sliced_power
from swjko.distances.preparation import normalised_weights, prepared_inputs
from swjko.distances.rows import (
    Costs,
    as_slices,
    linear_projection,
    require_positions,
    sliced_costs,
)
from swjko.types import Projection, Scalar, as_partial, validation
from swjko.types.sharding import on_auto_axes


def wasserstein_1d_pow(
    u: Float[Array, " n"],
    v: Float[Array, " m"],
    *,
    p: float = 2.0,
    u_weights: Float[Array, " n"] | None = None,
    v_weights: Float[Array, " m"] | None = None,
) -> Scalar:
    """Returns W_p^p between two empirical measures on the line (a p-th power, no root).

    It is exact, and differentiable in u, v and the weights.

    Args:
      u: Positions [n].
      v: Positions [m].
      p: Order of the distance, at least 1.
      u_weights: Weights [n], nonnegative, with sum one; None is uniform.
      v_weights: Weights [m], nonnegative, with sum one; None is uniform.

    Example:
      ``wasserstein_1d_pow(jnp.array([0.0, 1.0]), jnp.array([2.0, 3.0]))`` is 4.
    """
    u, v = validation.as_values(u, "u"), validation.as_values(v, "v")
    u_weights = validation.as_weights(u_weights, u.shape[0], "u_weights")
    v_weights = validation.as_weights(v_weights, v.shape[0], "v_weights")
    direction = jnp.ones((1, 1), jnp.result_type(u, v))
    p = validation.as_power(p)
    inputs = u[:, None], v[:, None], direction, u_weights, v_weights
    return _power(*inputs, p=p).value


def sliced_wasserstein_pow(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    directions: Float[Array, "l ..."],
    *,
    p: float = 2.0,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
    block_size: int | None = None,
    projection: Projection | None = None,
    projection_weights: Float[Array, " l"] | None = None,
) -> Scalar:
    """Returns SW_p^p between two clouds (a p-th power, no root, no factor d).

    It is the mean over ``directions`` of W_p^p of the projections, exact for these directions.
    SW_2^2 of a translation by a is |a|^2 / d. 16-bit inputs are computed in float32. NaN or
    infinite points raise if they are concrete; inside ``jit`` the value and all gradients are NaN.

    Args:
      x: Points [n d].
      y: Points [m d]; n and m may differ.
      directions: Unit rows [l d], see ``swjko.uniform_directions``.
      p: Order of the distance, at least 1.
      x_weights: Weights [n], nonnegative, with sum one; None is uniform. Traced weights are divided
        by their sum. A point of zero weight is ignored, so padding does not change the value.
      y_weights: Weights [m], likewise.
      block_size: Directions processed at once; None keeps the temporaries within a budget.
      projection: ``(points [n d], directions [l ...]) -> positions [l n]``, row i from direction i
        alone; None is the scalar product with unit directions. Gradients flow through it. Bind
        arrays by ``jax.tree_util.Partial`` to keep them out of the compiled program.
      projection_weights: Weights [l] of the slices, nonnegative, with sum one; None is uniform.
        Traced weights are divided by their sum.

    References:
      Projections: Kolouri, Nadjahi, Simsekli, Badeau, Rohde, "Generalized sliced Wasserstein
      distances" (2019), arXiv 1902.00434.
    """
    p = validation.as_power(p)
    inputs = _checked(x, y, directions, x_weights, y_weights, projection, projection_weights)
    return _power(*inputs, p=p, block_size=block_size).value


def debiased_sliced_wasserstein_pow(
    x: Float[Array, "n d"], y: Float[Array, "n d"], directions: Float[Array, "l d"]
) -> Scalar:
    """Returns SW_2^2 between the measures of two samples, by the jackknife of equal sizes.

    SW_2^2 between n-point samples exceeds that of the measures by about a constant / n. The value
    is (n D_n - h D_h) / (n - h), with D_h the mean over the two halves of h = n // 2 points. One
    sort and one product serve all three. One point has no halves, and its distance stays.

    Args:
      x: Points [n d], in random order.
      y: Points [n d], likewise.
      directions: Unit rows [l d].

    References:
      Quenouille (1956).
    """
    inputs = _checked(x, y, directions, *4 * (None,))[:5]
    n = inputs[0].shape[0]
    if n != inputs[1].shape[0]:
        raise ValueError(
            f"`y` must have as many points as x, {n}; got {inputs[1].shape[0]}. "
            "Use sliced_wasserstein_pow for samples of different sizes."
        )
    # The halves are as many points again, so blocks are those of twice as many.
    block_size = automatic_block_size(2 * n, 2 * n, directions.shape[0], False)

    def power(x, y, directions, x_weights, y_weights):
        prepared = prepared_inputs(x, y, directions, x_weights, y_weights, block_size)
        options = {"p": 2.0, "block_size": prepared[-1], "debiased": n > 1}
        return sliced_power(*prepared[:-1], **options).value

    return on_auto_axes(power, *inputs)


def sliced_wasserstein(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    directions: Float[Array, "l ..."],
    *,
    p: float = 2.0,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
    block_size: int | None = None,
    projection: Projection | None = None,
    projection_weights: Float[Array, " l"] | None = None,
) -> Scalar:
    """Returns SW_p, the p-th root of ``sliced_wasserstein_pow``: a distance.

    It is representable whenever the clouds are, since differences are scaled before the power.
    For p = infinity it is the largest displacement of any mass along any direction.
    Its gradient is infinite at distance zero; optimise the power instead.

    Args:
      x: Points [n d].
      y: Points [m d]; n and m may differ.
      directions: Unit rows [l d].
      p: Order of the distance, at least 1; may be infinity.
      x_weights: Weights [n] with sum one; None is uniform.
      y_weights: Weights [m] with sum one; None is uniform.
      block_size: Directions processed at once, as for ``sliced_wasserstein_pow``.
      projection: Positions of the points on each slice, as for ``sliced_wasserstein_pow``.
      projection_weights: Weights [l] of the slices, as for ``sliced_wasserstein_pow``.
    """
    p = validation.as_power(p, infinite=True)
    inputs = _checked(x, y, directions, x_weights, y_weights, projection, projection_weights)
    x, y, directions, x_weights, y_weights, *_ = inputs
    if math.isinf(p):
        if projection is not None or projection_weights is not None:
            raise ValueError(
                "p must be finite with projection or projection_weights; got inf. "
                "Take the largest distance over single slices."
            )
        return largest_displacement(
            *prepared_inputs(x, y, directions, x_weights, y_weights, block_size)
        )
    value, scale = _power(*inputs, p=p, block_size=block_size, scaled=True)
    return scale * value ** (1.0 / p)


def sliced_wasserstein_scaled_pow(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    directions: Float[Array, "l ..."],
    *,
    p: float = 2.0,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
    projection: Projection | None = None,
) -> ScaledPower:
    """Returns SW_p^p as value * scale^p, where the power itself may not be representable.

    Args:
      x: Points [n d].
      y: Points [m d]; n and m may differ.
      directions: Unit rows [l d].
      p: Order of the distance, at least 1.
      x_weights: Weights [n] with sum one; None is uniform.
      y_weights: Weights [m] with sum one; None is uniform.
      projection: Positions of the points on each slice, as for ``sliced_wasserstein_pow``.
    """
    p = validation.as_power(p)
    inputs = _checked(x, y, directions, x_weights, y_weights, projection, None)
    return _power(*inputs, p=p, scaled=True)


def slice_costs(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    directions: Float[Array, "l ..."],
    x_weights: Float[Array, " n"] | None,
    y_weights: Float[Array, " m"] | None,
    projection: Projection | None,
    *,
    p: float,
    block_size: int | None = None,
) -> Costs:
    """Returns W_p^p of each slice, differentiable in all arrays.

    Args:
      x: Points [n d].
      y: Points [m d].
      directions: Unit rows [l d], or what ``projection`` takes.
      x_weights: Weights [n] with sum one; None is uniform.
      y_weights: Weights [m] with sum one; None is uniform.
      projection: Positions of the points on each slice; None is the scalar product.
      p: Order of the distance.
      block_size: Directions processed at once.
    """
    inputs = _checked(x, y, directions, x_weights, y_weights, projection, None)
    x, y, directions, x_weights, y_weights, *_ = inputs
    prepared = prepared_inputs(
        *(x, y, directions, x_weights, y_weights, block_size), centre=projection is None
    )
    project = linear_projection if projection is None else as_partial(projection)
    return sliced_costs(project, *prepared[:-1], p=p, block_size=prepared[-1])


def _checked(
    x, y, directions, x_weights, y_weights, projection, projection_weights
) -> tuple[Any, ...]:
    x, y = validation.as_points(x, "x"), validation.as_points(y, "y")
    validation.require_same_dim(x, y, "x", "y")
    if projection is None:
        directions = validation.as_directions(directions, x.shape[1])
    else:
        directions = as_slices(directions)
        require_positions(projection, x, y, directions)
    x_weights = validation.as_weights(x_weights, x.shape[0], "x_weights")
    y_weights = validation.as_weights(y_weights, y.shape[0], "y_weights")
    projection_weights = validation.as_weights(
        projection_weights, directions.shape[0], "projection_weights", of="slice"
    )
    return x, y, directions, x_weights, y_weights, projection, projection_weights


def _power(
    x,
    y,
    directions,
    x_weights,
    y_weights,
    projection=None,
    projection_weights=None,
    *,
    p: float,
    block_size: int | None = None,
    scaled: bool = False,
) -> ScaledPower:
    if projection is None and projection_weights is None:

        def power(x, y, directions, x_weights, y_weights):
            prepared = prepared_inputs(x, y, directions, x_weights, y_weights, block_size)
            return sliced_power(*prepared[:-1], p=p, block_size=prepared[-1], scaled=scaled)

        return on_auto_axes(power, x, y, directions, x_weights, y_weights)
    costs, scale = slice_costs(
        *(x, y, directions, x_weights, y_weights, projection), p=p, block_size=block_size
    )
    weights = normalised_weights(projection_weights, costs.shape[0], costs.dtype)
    value = jnp.sum(weights * costs)
    if scaled:
        return ScaledPower(value, scale)
    # In two halves: the power of the scale may leave the range before the product does.
    half = scale ** (p / 2)
    return ScaledPower(value * half * half, jnp.ones_like(scale))
