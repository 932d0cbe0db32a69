"""Where to cut two circles so that their optimal coupling is that of two lines.

Let X(t) and Y(t) be the quantile functions of two measures on a circle of length one, continued by
X(t + 1) = X(t) + 1. Then W_p^p is the minimum over a shift a of int_0^1 |X(t) - Y(t - a)|^p dt,
which is convex in a and has its kinks where the level of a point of one measure meets that of a
point of the other (Delon, Salomon, Sobolevski, "Fast transport optimization for Monge costs on the
circle", 2010, arXiv 0902.3527). Levels are integers here. Bisection finds the kink at which the
slope changes its sign in a fixed number of iterations, and both circles are cut there.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from swjko.distances.one_dimensional import integer_levels

# Of the sum of weights, for each dtype: below what its positions resolve.
_LEVEL_BITS = {"float32": 30, "float64": 50}


def optimal_cut(
    u: Float[Array, "l n"],
    v: Float[Array, "l m"],
    weights: tuple[Float[Array, "l n"], Float[Array, "l m"]] | None,
    p: float,
) -> tuple[Int[Array, " l"], Int[Array, " l"]]:
    """Returns the points of u and v at which optimal lines begin, as indices.

    Indices continue around the circle: index k + n is point k one turn later.

    Args:
      u: Positions in [0, 1], sorted.
      v: Positions in [0, 1], sorted.
      weights: Weights in the same order, with sum one; None is uniform.
      p: Order of the distance.
    """
    n, m = u.shape[-1], v.shape[-1]
    with jax.enable_x64(True):
        if weights is None:
            divisor = math.gcd(n, m)
            total, length = n * m // divisor, m // divisor
            dtype = jnp.int32 if 4 * total < 2**31 else jnp.int64
            steps = (jnp.arange(1, m + 1, dtype=dtype) * (n // divisor))[None, :]
            v_levels = jnp.broadcast_to(steps, v.shape)

            def count(level: Int[Array, "l k"]) -> Int[Array, "l k"]:
                return level // length
        else:
            bits = _LEVEL_BITS[str(u.dtype)]
            total = 2**bits
            u_levels, v_levels = (_to_total(integer_levels(one, bits), total) for one in weights)
            search = jax.vmap(functools.partial(jnp.searchsorted, side="right"))

            def count(level: Int[Array, "l k"]) -> Int[Array, "l k"]:
                return search(u_levels, level)

        shift = _shift(u, v, v_levels, count, total, p)
        turn, level, index = _reached(v_levels + shift[:, None], count, total)
        # A level of v meets one of u if fewer points of u end below the level just before it.
        meets = (level == 0) | (count(jnp.maximum(level - 1, 0)) < index)
        place = lax.broadcasted_iota(jnp.int32, v.shape, 1)
        last = jnp.max(jnp.where(meets, place, 0), axis=-1, keepdims=True)
        turn, index = (jnp.take_along_axis(one, last, axis=-1)[:, 0] for one in (turn, index))
        v_start = last[:, 0] + 1 - turn * m
        return index.astype(jnp.int32), v_start.astype(jnp.int32)


def _to_total(levels: Int[Array, "l n"], total: int) -> Int[Array, "l n"]:
    """Returns levels with the last, and those equal to it, moved to the total by rounding."""
    return jnp.where(levels == levels[:, -1:], total, levels)


def _shift(u, v, v_levels, count, total: int, p: float) -> Int[Array, " l"]:
    """Returns the smallest shift of v at which the right slope of the cost is not negative."""
    following = jnp.concatenate([v[:, 1:], v[:, :1] + 1.0], axis=-1)

    def slope(shift: Int[Array, " l"]) -> Float[Array, " l"]:
        # Mass of the point after each level goes to the point before it.
        turn, _, index = _reached(v_levels + shift[:, None], count, total)
        reached = jnp.take_along_axis(u, index, axis=-1) + turn.astype(u.dtype)
        if p == 2.0:
            change = (following - v) * ((reached - v) + (reached - following))
        else:
            change = jnp.abs(reached - v) ** p - jnp.abs(reached - following) ** p
        return jnp.sum(change, axis=-1)

    def halve(_, bracket):
        low, high = bracket
        middle = low + (high - low) // 2
        rises = slope(middle) >= 0
        return jnp.where(rises, low, middle), jnp.where(rises, middle, high)

    # Beyond one turn all mass would move the same way: the slope is negative at the lower end.
    low = jnp.full(u.shape[:1], -total - 1, v_levels.dtype)
    high = jnp.full(u.shape[:1], total, v_levels.dtype)
    return lax.fori_loop(0, (2 * total + 1).bit_length(), halve, (low, high))[1]


def _reached(levels: Int[Array, "l m"], count, total: int) -> tuple[Array, Array, Array]:
    """Returns the turn of levels, the level within it, and the point of u just above it."""
    turn = levels // total
    level = levels - turn * total
    return turn, level, count(level)
