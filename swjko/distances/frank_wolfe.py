"""Unbalanced transport by the Frank-Wolfe method on translation-invariant potentials.

For measures a on u and b on v, of any masses, the cost of a plan is that of its marginals,

    inf_{a', b'} W_p^p(a', b') + rho_1 KL(a' | a) + rho_2 KL(b' | b),

with KL(a' | a) = sum a' log(a' / a) - a' + a. In the dual, potentials f and g give the marginals
a' = a exp(-f / rho_1) and b' = b exp(-g / rho_2), once the constant added to f and taken from g
makes their masses equal. Potentials of balanced transport between these marginals are the
direction of the Frank-Wolfe method (Sejourne, Vialard, Peyre 2022, arXiv 2201.00730). An exact line
search takes the place of their steps 2 / (k + 2), with which ten iterations are far from enough.
With it alone the directions go to and fro between few potentials. So a part of the last end is kept
in each new one, such that the direction is conjugate to the last for the second derivative
(Mitradjieva, Lindberg 2013, "The stiff is moving: conjugate direction Frank-Wolfe methods").
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from swjko.distances.one_dimensional import (
    LEVEL_BITS,
    Rows,
    couple_weighted,
    integer_levels,
    power,
)

_LINE_SEARCH_STEPS = 6
# Iterations until half of the last end may be kept; more of it is worse at the start.
_HALF_KEPT = 5.0
# Below it 1 - (1 + t) exp(-t) loses more digits than its series to fourth order.
_SERIES_LIMIT = 0.05

_Pair = tuple[Array, Array]


class Marginals(NamedTuple):
    """The dual value and the marginals that belong to it; leading axes are problems.

    Attributes:
      value: The dual value [...], a lower bound of the cost that rises with each iteration.
      u_weights: Weights [... n] with sum one; times ``mass`` the marginal.
      v_weights: Weights [... m], likewise.
      mass: Mass [...] that is transported.
      divergences: KL divergences [... 2] of both marginals, the derivative of the value in rho.
      u_slope: Derivative of the value in the weights of u [... n].
      v_slope: Derivative of the value in the weights of v [... m].
    """

    value: Array
    u_weights: Array
    v_weights: Array
    mass: Array
    divergences: Array
    u_slope: Array
    v_slope: Array


def optimal_marginals(
    potentials: Callable[[Array, Array], tuple[Array, Array]],
    u_weights: Float[Array, "... n"],
    v_weights: Float[Array, "... m"],
    rho: Float[Array, "2"],
    num_iterations: int,
    relaxation: float = 1.0,
) -> Marginals:
    """Returns the marginals after a fixed number of iterations.

    Args:
      potentials: Potentials (f, g) of balanced transport between weights [... n] and [... m] with
        sum one.
      u_weights: Nonnegative weights [... n] of any positive sum.
      v_weights: Nonnegative weights [... m], likewise.
      rho: Prices (rho_1, rho_2), one of which may be infinite.
      num_iterations: Number of iterations.
      relaxation: Factor, below 2, of the best lengths of directions that keep nothing of the last
        end. Above 1 it is better where the potentials vary smoothly with the weights.
    """
    measures = u_weights, v_weights
    logarithms = tuple(jnp.log(weights) for weights in measures)
    inverse = 1.0 / rho

    def exponents(potentials):
        return [log - f * r for log, f, r in zip(logarithms, potentials, inverse, strict=True)]

    def iterate(carry, index):
        found, last = carry
        parts = exponents(found)
        marginals = jax.nn.softmax(parts[0]), jax.nn.softmax(parts[1])
        new = potentials(*marginals)
        part = _kept(marginals, _minus(last, found), _minus(new, found), inverse)
        part = jnp.minimum(part, index / (index + _HALF_KEPT))
        end = tuple(part * f + (1 - part) * g for f, g in zip(last, new, strict=True))
        moves = _minus(end, found)
        length = _line_search(exponents, found, moves, inverse)
        factor = jnp.where(part > 0, 1.0, relaxation)
        length = jnp.minimum(factor * length, (1 + length) / 2)
        found = tuple(f + length * move for f, move in zip(found, moves, strict=True))
        return (found, end), None

    start = jnp.zeros_like(u_weights), jnp.zeros_like(v_weights)
    indices = jnp.arange(num_iterations).astype(u_weights.dtype)
    ((f, g), _), _ = lax.scan(iterate, (start, start), indices)
    totals = [jax.nn.logsumexp(part, axis=-1, keepdims=True) for part in exponents((f, g))]
    shift = (totals[0] - totals[1]) / jnp.sum(inverse)
    found = f + shift, g - shift
    divergences = jnp.stack(
        [
            jnp.sum(jnp.where(a > 0, a * _divergence(f * r), 0.0), axis=-1)
            for a, f, r in zip(measures, found, inverse, strict=True)
        ],
        axis=-1,
    )
    slopes = [
        jnp.where(r > 0, -jnp.expm1(-f * r) / jnp.where(r > 0, r, 1.0), f)
        for f, r in zip(found, inverse, strict=True)
    ]
    parts = [jnp.where(a > 0, a * slope, 0.0) for a, slope in zip(measures, slopes, strict=True)]
    value = jnp.sum(parts[0], axis=-1) + jnp.sum(parts[1], axis=-1)
    mass = jnp.exp(totals[0] - shift * inverse[0])[..., 0]
    marginals = [jax.nn.softmax(part) for part in exponents(found)]
    return Marginals(value, marginals[0], marginals[1], mass, divergences, slopes[0], slopes[1])


def _minus(x: _Pair, y: _Pair) -> _Pair:
    return x[0] - y[0], x[1] - y[1]


def _kept(marginals: _Pair, before: _Pair, ahead: _Pair, inverse: Array) -> Float[Array, "... 1"]:
    """Returns the part of the last end that makes the direction conjugate to the last one.

    Args:
      marginals: Marginals, with which the second derivative is a sum of covariances over rho.
      before: Moves to the last end.
      ahead: Moves to the new one.
      inverse: 1 / rho.
    """

    def product(x: _Pair, y: _Pair) -> Array:
        parts = []
        for weights, one, other in zip(marginals, x, y, strict=True):
            mean = jnp.sum(weights * one, axis=-1, keepdims=True)
            parts.append(jnp.sum(weights * (one - mean) * other, axis=-1, keepdims=True))
        return inverse[0] * parts[0] + inverse[1] * parts[1]

    above = product(before, ahead)
    below = above - product(before, before)
    part = above / jnp.where(below != 0, below, 1.0)
    # Without such a part, or at the start, the method takes the new end alone.
    return jnp.where((part > 0) & (part <= 1), part, 0.0)


def _line_search(exponents, found, moves, inverse) -> Float[Array, "... 1"]:
    """Returns the best length in [0, 1] by Newton's method, safeguarded by bisection.

    The dual value decreases with r_2 log sum a exp(-f r_1) + r_1 log sum b exp(-g r_2), with
    r = 1 / rho. This is convex, and its derivatives are means and variances of the moves under the
    marginals.
    """

    def evaluate(length):
        """Slope at a length, and where Newton's method goes from there."""
        at = [f + length * move for f, move in zip(found, moves, strict=True)]
        slope = curvature = jnp.zeros_like(length)
        for marginal, move, r in zip(exponents(at), moves, inverse, strict=True):
            marginal = jax.nn.softmax(marginal)
            mean = jnp.sum(marginal * move, axis=-1, keepdims=True)
            slope += mean
            curvature += r * jnp.sum(marginal * (move - mean) ** 2, axis=-1, keepdims=True)
        return slope, length + slope / jnp.maximum(curvature, jnp.finfo(curvature.dtype).tiny)

    def narrow(bracket, _):
        low, high, from_low, length = bracket
        slope, newton = evaluate(length)
        low, high = jnp.where(slope >= 0, length, low), jnp.where(slope >= 0, high, length)
        from_low = jnp.where(slope >= 0, newton, from_low)
        length = (low + high) / 2
        for step in (from_low, newton):
            # A step to an end is inside: the method has converged there.
            length = jnp.where((step >= low) & (step <= high), step, length)
        return (low, high, from_low, length), None

    # At the optimum the best length is zero, which halving alone does not reach.
    zero = jnp.zeros_like(found[0][..., :1])
    slope, newton = evaluate(zero)
    longest = jnp.where(slope > 0, jnp.ones_like(zero), zero)
    bracket = zero, longest, newton, longest
    (*_, length), _ = lax.scan(narrow, bracket, length=_LINE_SEARCH_STEPS)
    return length


def _divergence(t: Array) -> Array:
    """Returns 1 - (1 + t) exp(-t), the KL divergence of exp(-t) from 1."""
    series = t * t * (1 / 2 - t * (1 / 3 - t * (1 / 8 - t / 30)))
    small = jnp.abs(t) < _SERIES_LIMIT
    return jnp.where(small, series, -jnp.expm1(-t) - t * jnp.exp(-t))


def couple_unbalanced(
    u, v, u_weights, v_weights, p: float, rho: Float[Array, "2"], num_iterations: int
) -> tuple[Rows, Float[Array, "l 2"]]:
    """Returns the coupling of optimal marginals of sorted rows, and its derivative in rho."""

    def potentials(u_weights, v_weights):
        return potentials_of_rows(u, v, u_weights, v_weights, p)

    found = optimal_marginals(potentials, u_weights, v_weights, rho, num_iterations)
    rows = couple_weighted(u, v, found.u_weights, found.v_weights, p)
    mass = found.mass[:, None]
    rows = Rows(found.value, mass * rows.u, mass * rows.v, found.u_slope, found.v_slope)
    return rows, found.divergences


def potentials_of_rows(u, v, u_weights, v_weights, p: float) -> tuple[Array, Array]:
    """Returns potentials [l n] and [l m] of sorted rows whose weights have sum one.

    The monotone plan leaves point i of u at the point of v whose levels hold the level of i. There
    the potential of u moves by c(i+1, j) - c(i, j); likewise for v. Sums of these are taken in
    float64 from a pair in the middle, so that a far outlier does not take the digits of the rest.
    """
    dtype = u.dtype
    with jax.enable_x64(True):
        levels = [integer_levels(weights, LEVEL_BITS) for weights in (u_weights, v_weights)]
        # At equal levels the path leaves u first.
        j = _count_below(levels[1], levels[0], "left")
        i = _count_below(levels[0], levels[1], "right")
        middle = jnp.sum(levels[0] <= 1 << (LEVEL_BITS - 1), axis=-1, keepdims=True)
        middle = jnp.minimum(middle, u.shape[-1] - 1)
        # The path arrives at the middle where it has left the point before.
        partner = jnp.take_along_axis(j, jnp.maximum(middle - 1, 0), axis=-1)
        partner = jnp.where(middle > 0, partner, 0)
        of_u, of_v = _sums_of_steps(u, v, j, p), _sums_of_steps(v, u, i, p)
        pair = [jnp.take_along_axis(u, middle, axis=-1), jnp.take_along_axis(v, partner, axis=-1)]
        of_u -= jnp.take_along_axis(of_u, middle, axis=-1)
        step = power(pair[0] - pair[1], p).astype(of_v.dtype)
        of_v += step - jnp.take_along_axis(of_v, partner, axis=-1)
        return of_u.astype(dtype), of_v.astype(dtype)


def _count_below(levels: Int[Array, "l n"], at: Int[Array, "l m"], side: str) -> Int[Array, "l m"]:
    found = jax.vmap(lambda row, values: jnp.searchsorted(row, values, side=side))(levels, at)
    return jnp.minimum(found, levels.shape[-1] - 1)


def _sums_of_steps(u: Float[Array, "l n"], v: Float[Array, "l m"], j, p: float) -> Array:
    here = jnp.take_along_axis(v, j[:, :-1], axis=-1)
    steps = power(u[:, 1:] - here, p) - power(u[:, :-1] - here, p)
    return jnp.cumsum(jnp.pad(steps.astype(jnp.float64), ((0, 0), (1, 0))), axis=-1)
