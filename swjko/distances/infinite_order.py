"""The sliced distance of infinite order: the largest displacement of any mass along a direction."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from swjko.distances.one_dimensional import merge_weights, shared_levels
from swjko.distances.sorting import sort_rows_with_permutation
from swjko.types import Scalar


def largest_displacement(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    directions: Float[Array, "l d"],
    x_weights: Float[Array, " n"] | None,
    y_weights: Float[Array, " m"] | None,
    block_size: int,
) -> Scalar:
    """Returns the maximum over directions of W_infinity of the projections.

    It is |<x_i - y_j, theta>| of one pair of points and one direction, and so are its derivatives.
    Those in the weights are zero.

    Args:
      x: Points [n d].
      y: Points [m d].
      directions: Unit rows [l d].
      x_weights: Weights [n] with sum one; None if both clouds have uniform weights.
      y_weights: Weights [m], likewise.
      block_size: Directions processed at once.
    """
    fixed_x, fixed_y = lax.stop_gradient(x), lax.stop_gradient(y)

    def farthest_pair(theta: Float[Array, " d"]) -> tuple[Scalar, Int[Array, ""], Int[Array, ""]]:
        u, v = (
            jnp.matmul(points, theta, precision=lax.Precision.HIGHEST)
            for points in (fixed_x, fixed_y)
        )
        (u,), (u_order,) = sort_rows_with_permutation(u[None])
        (v,), (v_order,) = sort_rows_with_permutation(v[None])
        if x_weights is None or y_weights is None:
            i, j, coupled = _uniform_pairs(x.shape[0], y.shape[0])
        else:
            i, j, coupled = _weighted_pairs(x_weights[u_order], y_weights[v_order])
        length = jnp.where(coupled, jnp.abs(u[i] - v[j]), 0.0)
        place = jnp.argmax(length)
        return length[place], u_order[i[place]], v_order[j[place]]

    lengths, i, j = lax.map(
        farthest_pair, lax.stop_gradient(directions), batch_size=min(block_size, len(directions))
    )
    best = jnp.argmax(lengths)
    value = jnp.abs(jnp.sum((x[i[best]] - y[j[best]]) * directions[best]))
    # A zero whose derivative is NaN if the value is not finite: all gradients are then unknown.
    unknown = 0.0 * jnp.where(jnp.isfinite(lax.stop_gradient(value)), 0.0, jnp.inf)
    return value + unknown * (jnp.sum(x - fixed_x) + jnp.sum(y - fixed_y))


def _uniform_pairs(n: int, m: int) -> tuple[Array, Array, Array]:
    if n == m:
        return jnp.arange(n), jnp.arange(n), jnp.ones((n,), bool)
    partner, overlap = shared_levels(n, m, jnp.float32)
    i = lax.broadcasted_iota(jnp.int32, partner.shape, 0)
    return i.ravel(), partner.ravel(), (overlap > 0).ravel()


def _weighted_pairs(
    u_weights: Float[Array, " n"], v_weights: Float[Array, " m"]
) -> tuple[Array, Array, Array]:
    i, j, mass, _ = merge_weights(u_weights[None], v_weights[None])
    # Sums of rounded weights differ where those of exact ones would agree.
    both = jnp.concatenate([u_weights, v_weights])
    smallest = jnp.min(jnp.where(both > 0, both, 1.0))
    tolerance = jnp.minimum(smallest / 4, 2 * jnp.finfo(both.dtype).eps)
    return i[0], j[0], ~(mass[0] <= tolerance)
