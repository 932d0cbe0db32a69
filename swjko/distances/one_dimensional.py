"""Optimal transport on the line between sorted rows: costs, slopes and potentials.

Every array has a leading axis of independent problems, one for each direction in
``swjko.distances.sliced``. The cost |x - y|^p is convex, so the monotone coupling is optimal, and
everything here is a walk along two sorted rows.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from swjko.distances.scales import scale_of_powers, sum_of_rows
from swjko.distances.sorting import sort_rows_of_integers
from swjko.linalg import nan_where
from swjko.types import Leaf

LEVEL_BITS = 62


class Rows(NamedTuple):
    """Costs of rows, with derivatives and potentials where they are needed.

    Attributes:
      cost: W_p^p of each row [l].
      u: Derivative of the cost in the sorted positions [l n].
      v: Derivative of the cost in the sorted positions [l m].
      u_potential: Kantorovich potentials at the points of u [l n].
      v_potential: Kantorovich potentials at the points of v [l m].
      scale: What differences were divided by before the power [], None if by nothing. The cost and
        the potentials are those of the divided positions, and so are the derivatives at them.
    """

    cost: Float[Array, " l"]
    u: Leaf = None
    v: Leaf = None
    u_potential: Leaf = None
    v_potential: Leaf = None
    scale: Leaf = None


def couple_uniform(u, v, p, need_u: bool, need_v: bool, *, scaled: bool = False) -> Rows:
    """Returns the costs of sorted rows of uniform weights, [l n] and [l m]."""
    n, m = u.shape[-1], v.shape[-1]
    if n == m:
        cost, slope, scale = of_differences(u - v, p, n, scaled=scaled)
        return Rows(cost, slope if need_u else None, -slope if need_v else None, scale=scale)
    if not need_v:
        cost, u_slope, scale = _couple_to_pieces(u, v, p, need_u, scaled)
        return Rows(cost, u_slope, scale=scale)
    cost, v_slope, scale = _couple_to_pieces(v, u, p, True, scaled)
    u_slope = _couple_to_pieces(u, v, p, True, scaled)[1] if need_u else None
    return Rows(cost, u_slope, v_slope, scale=scale)


def of_differences(
    difference: Float[Array, "l n"], p: float, count: int, *, scaled: bool = False
) -> tuple[Float[Array, " l"], Float[Array, "l n"], Leaf]:
    """Returns costs, slopes and their scale from the differences of ``count`` coupled points."""
    difference, scale = _divided(difference, p, scaled)
    return jnp.sum(power(difference, p), axis=-1) / count, _slope(difference, p) / count, scale


def _couple_to_pieces(u, v, p, need_slope: bool, scaled: bool):
    """Returns costs, slopes and their scale for uniform weights and n != m."""
    partner, mass = shared_levels(u.shape[-1], v.shape[-1], u.dtype)
    difference = jnp.where(mass[None] > 0, u[:, :, None] - v[:, partner], 0.0)
    difference, scale = _divided(difference, p, scaled)
    cost = jnp.sum(mass[None] * power(difference, p), axis=(-2, -1))
    slope = jnp.sum(mass[None] * _slope(difference, p), axis=-1) if need_slope else None
    return cost, slope, scale


def _divided(difference: Array, p: float, scaled: bool) -> tuple[Array, Leaf]:
    """Returns differences divided by a scale at which their powers are representable."""
    if not scaled:
        return difference, None
    scale = scale_of_powers(difference, p)
    return difference / scale, scale


def shared_levels(
    n: int, m: int, dtype: DTypeLike
) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
    """Returns the points of v that share levels with each of u, and the masses, some zero.

    Point i of u covers the levels [i/n, (i+1)/n], which it shares with at most ceil(m/n) + 1
    consecutive points of v. The overlaps are exact integers over the common denominator n m. They
    depend on the sizes alone and are computed once for all rows.
    """
    with jax.enable_x64(True):
        i = lax.broadcasted_iota(jnp.int64, (n, _num_pieces(n, m)), 0)
        j = i * m // n + lax.broadcasted_iota(jnp.int64, i.shape, 1)
        overlap = jnp.minimum((i + 1) * m, (j + 1) * n) - jnp.maximum(i * m, j * n)
        mass = jnp.maximum(overlap, 0).astype(jnp.float64) / (n * m)
        return jnp.minimum(j, m - 1).astype(jnp.int32), mass.astype(dtype)


def _num_pieces(n: int, m: int) -> int:
    """Returns the largest number of points of v that share levels with one point of u.

    With g = gcd(n, m), offsets of levels are multiples of g.
    """
    g = math.gcd(n, m)
    n, m = n // g, m // g
    return (m + n - 2) // n + 1


def couple_weighted(u, v, u_weights, v_weights, p, *, scaled: bool = False) -> Rows:
    """Returns the quantile coupling on the merged cumulative weights, and potentials along it.

    The levels of both sides are sorted together, and piece k couples the points i and j whose
    levels have not been passed before it. When the path steps from i to i + 1 at j, complementary
    slackness moves the potential of u by c(i+1, j) - c(i, j); likewise for v.
    """
    n, m = u.shape[-1], v.shape[-1]
    i, j, mass, from_u = merge_weights(u_weights, v_weights)
    # A padded point may be infinite; it has no mass and must not enter the sums as 0 * inf.
    difference = jnp.where(
        mass > 0, jnp.take_along_axis(u, i, -1) - jnp.take_along_axis(v, j, -1), 0.0
    )
    difference, scale = _divided(difference, p, scaled)
    cost, slope = sum_of_rows(mass * power(difference, p)), mass * _slope(difference, p)
    fill_u, fill_v = _filled(u, u_weights), _filled(v, v_weights)
    u_potential, v_potential = _staircase_potentials(fill_u, fill_v, i, j, from_u, p, scale)
    u_potential += _potentials_of_padding(u, fill_u, v, i, j, from_u, p, scale)
    v_potential += _potentials_of_padding(v, fill_v, u, j, i, ~from_u, p, scale)
    return Rows(
        cost,
        _sum_by_index(slope, i, n),
        -_sum_by_index(slope, j, m),
        _centred(u_potential, u_weights),
        _centred(v_potential, v_weights),
        scale,
    )


def merge_weights(
    u_weights: Float[Array, "l n"], v_weights: Float[Array, "l m"]
) -> tuple[Array, Array, Array, Array]:
    """Returns the n + m pieces of the quantile coupling of each row, whose weights have sum one.

    Returns:
      Ranks i in u, ranks j in v, masses, and whether the piece ends a point of u; [l n+m] each.
    """
    n, m = u_weights.shape[-1], v_weights.shape[-1]
    mass, source = _masses(u_weights, v_weights)
    from_u = source < n
    passed_u = jnp.cumsum(from_u, axis=-1, dtype=jnp.int32) - from_u.astype(jnp.int32)
    passed_v = lax.broadcasted_iota(jnp.int32, source.shape, source.ndim - 1) - passed_u
    return jnp.minimum(passed_u, n - 1), jnp.minimum(passed_v, m - 1), mass, from_u


@jax.custom_jvp
def _masses(u_weights: Float[Array, "l n"], v_weights: Float[Array, "l m"]) -> tuple[Array, Array]:
    """Returns masses between successive levels, and the sources of the levels; [l n+m] each.

    Levels are integers, whose sums are exact: those of float32 lose a digit for each tenfold
    number of points. A key holds a level above its source, so that a single integer is sorted.
    """
    n, m = u_weights.shape[-1], v_weights.shape[-1]
    source_bits = (n + m - 1).bit_length()
    dtype = jnp.result_type(u_weights, v_weights)
    # Float64 would show the bits that a key spends on the source.
    packed = dtype != jnp.float64
    bits = LEVEL_BITS - source_bits * packed
    with jax.enable_x64(True):
        sides = [integer_levels(weights, bits) for weights in (u_weights, v_weights)]
        levels = jnp.concatenate(sides, axis=-1)
        source = lax.broadcasted_iota(jnp.int64, levels.shape, levels.ndim - 1)
        if packed:
            keys = sort_rows_of_integers((levels << source_bits) | source)
            levels, source = keys >> source_bits, keys & ((1 << source_bits) - 1)
        else:
            levels, source = lax.sort((levels, source), num_keys=1, is_stable=True)
        steps = jnp.diff(levels, axis=-1, prepend=jnp.zeros_like(levels[:, :1]))
        mass = (steps.astype(jnp.float64) * 2.0**-bits).astype(dtype)
        source = source.astype(jnp.int32)
    total = jnp.sum(u_weights, axis=-1) + jnp.sum(v_weights, axis=-1)
    return nan_where(~jnp.isfinite(total)[:, None], mass), source


@_masses.defjvp
def _masses_jvp(primals, tangents):
    mass, source = _masses(*primals)
    levels = jnp.concatenate(
        [
            jax.jvp(_cumulative, (weights,), (tangent,))[1]
            for weights, tangent in zip(primals, tangents, strict=True)
        ],
        axis=-1,
    )
    levels = jnp.take_along_axis(levels, source, axis=-1)
    tangent = jnp.diff(levels, axis=-1, prepend=jnp.zeros_like(levels[:, :1]))
    no_tangent = jnp.zeros(source.shape, dtype=jax.dtypes.float0)
    return (mass, source), (tangent, no_tangent)


def integer_levels(weights: Float[Array, "l n"], bits: int) -> Int[Array, "l n"]:
    """Returns cumulative weights as integers whose last is 2^bits."""
    # Weights have the sum one up to rounding, so that sums of these stay below 2^63.
    levels = jnp.cumsum((weights.astype(jnp.float64) * 2.0**61).astype(jnp.int64), axis=-1)
    levels = levels.astype(jnp.float64)
    return (levels / levels[:, -1:] * 2.0**bits).astype(jnp.int64)


def _staircase_potentials(
    u, v, i: Int[Array, "l k"], j: Int[Array, "l k"], from_u, p, scale: Leaf
) -> tuple[Array, Array]:
    n, m = u.shape[-1], v.shape[-1]
    take = functools.partial(jnp.take_along_axis, axis=-1)

    def cost(i, j):
        difference = take(u, i) - take(v, j)
        return power(difference if scale is None else difference / scale, p)

    here = cost(i, j)
    beyond_u, beyond_v = cost(jnp.minimum(i + 1, n - 1), j), cost(i, jnp.minimum(j + 1, m - 1))
    step_u = jnp.where(from_u, beyond_u - here, 0.0)
    step_v = jnp.where(from_u, 0.0, beyond_v - here)
    step_u = _sum_by_index(step_u, jnp.minimum(i + 1, n), n + 1)[:, :n]
    step_v = _sum_by_index(step_v, jnp.minimum(j + 1, m), m + 1)[:, :m]
    return jnp.cumsum(step_u, axis=-1), jnp.cumsum(step_v, axis=-1)


def _filled(positions: Float[Array, "l n"], weights: Float[Array, "l n"]) -> Float[Array, "l n"]:
    """Returns positions with those of zero weight moved to a neighbour that has weight.

    The path of potentials then does not pass through a far point, which would take its digits.
    """
    count = positions.shape[-1]
    index = lax.broadcasted_iota(jnp.int32, weights.shape, weights.ndim - 1)
    weighted = weights > 0
    before = lax.cummax(jnp.where(weighted, index, -1), axis=weights.ndim - 1)
    first = jnp.min(jnp.where(weighted, index, count - 1), axis=-1, keepdims=True)
    return jnp.take_along_axis(positions, jnp.where(before < 0, first, before), axis=-1)


def _potentials_of_padding(
    u, fill_u, v, i: Int[Array, "l k"], j: Int[Array, "l k"], ends_u, p, scale: Leaf
) -> Float[Array, "l n"]:
    """Returns what a point of zero weight has beyond its neighbour's potential, a finite number."""
    n = u.shape[-1]
    inverse = 1.0 if scale is None else 1.0 / scale
    reached = jnp.minimum(i + 1, n - 1)
    partner = jnp.take_along_axis(v, j, axis=-1)

    def beyond(u, fill, v):
        difference = power((u - v) * inverse, p) - power((fill - v) * inverse, p)
        limit = jnp.finfo(u.dtype).max / 2**20
        return jnp.clip(jnp.nan_to_num(jnp.where(u == fill, 0.0, difference)), -limit, limit)

    take = functools.partial(jnp.take_along_axis, indices=reached, axis=-1)
    steps = jnp.where(ends_u, beyond(take(u), take(fill_u), partner), 0.0)
    potentials = _sum_by_index(steps, jnp.minimum(i + 1, n), n + 1)[:, :n]
    return potentials.at[:, 0].add(beyond(u[:, 0], fill_u[:, 0], v[:, 0]))


def _centred(potential: Float[Array, "l n"], weights: Float[Array, "l n"]) -> Float[Array, "l n"]:
    """Returns potentials of mean zero under the weights.

    Potentials are defined up to a constant; these are the derivative of the normalised problem.
    """
    weighted = jnp.where(weights > 0, potential * weights, 0.0)
    return potential - jnp.sum(weighted, axis=-1, keepdims=True)


def _cumulative(weights: Float[Array, "l n"]) -> Float[Array, "l n"]:
    levels = jnp.cumsum(weights, axis=-1)
    return levels / levels[:, -1:]


def _sum_by_index(
    values: Float[Array, "l k"], index: Int[Array, "l k"], size: int
) -> Float[Array, "l n"]:
    def add(row, index):
        zeros = jnp.zeros((size,), row.dtype)
        return zeros.at[index].add(row, indices_are_sorted=True, mode="promise_in_bounds")

    return jax.vmap(add)(values, index)


def power(difference: Array, p: float) -> Array:
    return difference * difference if p == 2.0 else jnp.abs(difference) ** p


def _slope(difference: Array, p: float) -> Array:
    """Returns the derivative of |x|^p, which is zero at zero."""
    if p == 2.0:
        return 2.0 * difference
    if p == 1.0:
        return jnp.sign(difference)
    magnitude = jnp.where(difference == 0, 1.0, jnp.abs(difference))
    return jnp.where(difference == 0, 0.0, p * jnp.sign(difference) * magnitude ** (p - 1.0))
