"""Wasserstein distances on the line and their average over directions, the sliced-Wasserstein distance.

On the line, W_p^p(u, v) = int_0^1 |F_u^{-1}(t) - F_v^{-1}(t)|^p dt, and SW_p^p(mu, nu) is its mean over projections on the sphere
(Bonneel, Rabin, Peyre, Pfister, "Sliced and Radon Wasserstein barycenters of measures", 2015). For empirical measures the quantile
functions are piecewise constant and the integral is a finite sum, computed exactly: sorted differences for equal sizes, a merge of
the two grids {i/n} and {j/m} for unequal ones, a merge of the cumulative weights in general. Costs are formed from differences, so
that a small displacement of distant clouds keeps its digits.

The gradient is that of the optimal coupling held fixed (the envelope theorem), made in the forward pass from the same sorted rows: the
backward pass is a product with a scalar. Weights get the Kantorovich potentials of the 1-D problems.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from swjko import validation
from swjko.distances import one_dimensional as line
from swjko.distances.sorting import sort_rows, sort_rows_with_permutation, unsort_rows
from swjko.types import Scalar

# What the temporaries of one block of directions may take. With weights the time is spent in passes over memory, and smaller blocks cost
# nothing.
BLOCK_BUDGET_BYTES = 2**28
WEIGHTED_BLOCK_BUDGET_BYTES = 2**26
# Measured on compiled programs with all gradients wanted: sort keys, permutation, sorted values, residuals, copies for each projected
# point; with weights the merged levels, the ranks on both sides and the potentials as well.
_BYTES_PER_PROJECTION = 32
_BYTES_PER_WEIGHTED_PROJECTION = 116


def wasserstein_1d_pow(
    u: Float[Array, " n"],
    v: Float[Array, " m"],
    *,
    p: float = 2.0,
    u_weights: Float[Array, " n"] | None = None,
    v_weights: Float[Array, " m"] | None = None,
) -> Scalar:
    """W_p^p between two empirical measures on the line, exactly (a p-th power, no root).

    Args:
      u: [n] positions; v: [m] positions.
      p: order, at least 1.
      u_weights, v_weights: [n], [m], nonnegative and summing to one; None is uniform.

    Raises ValueError or TypeError on wrong shapes, dtypes, weights or p. Differentiable in u, v and the weights.

    Example: ``wasserstein_1d_pow(jnp.array([0.0, 1.0]), jnp.array([2.0, 3.0]))`` is 4.
    """
    u, v = validation.as_values(u, "u"), validation.as_values(v, "v")
    u_weights = validation.as_weights(u_weights, u.shape[0], "u_weights")
    v_weights = validation.as_weights(v_weights, v.shape[0], "v_weights")
    direction = jnp.ones((1, 1), jnp.result_type(u, v))
    return _sliced_pow_of_arrays(u[:, None], v[:, None], direction, u_weights, v_weights, p, None)


def sliced_wasserstein_pow(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    directions: Float[Array, "l d"],
    *,
    p: float = 2.0,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
    block_size: int | None = None,
) -> Scalar:
    """SW_p^p between two clouds: the mean over ``directions`` of W_p^p of the projections (a p-th power, no root, no factor d).

    Args:
      x: [n d] points; y: [m d] points, n and m may differ.
      directions: [l d] unit rows, see ``swjko.uniform_directions``.
      p: order, at least 1.
      x_weights, y_weights: [n], [m], nonnegative and summing to one; None is uniform. Traced weights are divided by their sum; a zero
        weight makes its point absent, so clouds padded by zero weights give the unpadded value.
      block_size: directions worked on at once; None keeps a block within ``BLOCK_BUDGET_BYTES``, or the smaller
        ``WEIGHTED_BLOCK_BUDGET_BYTES`` with weights.

    Conventions: SW_2^2 of a translation by a is |a|^2 / d. 16-bit inputs are computed in float32. With NaN or infinite points (which can
    only be met inside ``jit``; concrete ones raise) the value and all gradients are NaN.

    Raises ValueError or TypeError on ranks, dimensions, lengths, dtypes, weights, p or block_size that do not fit.
    """
    x, y = validation.as_points(x, "x"), validation.as_points(y, "y")
    validation.require_same_dim(x, y, "x", "y")
    directions = validation.as_directions(directions, x.shape[1])
    x_weights = validation.as_weights(x_weights, x.shape[0], "x_weights")
    y_weights = validation.as_weights(y_weights, y.shape[0], "y_weights")
    return _sliced_pow_of_arrays(x, y, directions, x_weights, y_weights, p, block_size)


def sliced_wasserstein(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    directions: Float[Array, "l d"],
    *,
    p: float = 2.0,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
    block_size: int | None = None,
) -> Scalar:
    """SW_p, the p-th root of ``sliced_wasserstein_pow``: a distance. Arguments and errors as of ``sliced_wasserstein_pow``.

    Its gradient is infinite where the distance is zero; optimise the power instead.
    """
    value = sliced_wasserstein_pow(
        x, y, directions, p=p, x_weights=x_weights, y_weights=y_weights, block_size=block_size
    )
    return value ** (1.0 / float(p))


def sliced_wasserstein_bytes(
    n: int, m: int, num_projections: int, *, weighted: bool = False, block_size: int | None = None
) -> int:
    """Bytes of temporaries that ``sliced_wasserstein_pow`` with all its gradients needs in float32, before anything is compiled.

    Beside them stand inputs, outputs and their gradients. An upper bound on a CPU, within a factor of about two; the value alone or the
    gradient of one side take less.

    Args:
      n, m: points of the two clouds.
      num_projections: directions in all.
      weighted: whether either cloud has weights.
      block_size: directions worked on at once; None is the automatic choice.

    Raises ValueError or TypeError on counts below 1.
    """
    n, m = validation.as_count(n, "n"), validation.as_count(m, "m")
    num_projections = validation.as_count(num_projections, "num_projections")
    if block_size is None:
        block_size = automatic_block_size(n, m, num_projections, weighted)
    block_size = min(validation.as_count(block_size, "block_size"), num_projections)
    # A last block of another size is a program of its own, whose buffers lie beside those of the loop.
    rows = block_size + (num_projections % block_size if num_projections > block_size else 0)
    return rows * (n + m) * (_BYTES_PER_WEIGHTED_PROJECTION if weighted else _BYTES_PER_PROJECTION)


def automatic_block_size(n: int, m: int, num_projections: int, weighted: bool) -> int:
    """Directions per block that keep the temporaries within the budget, in blocks as equal as can be; at least one."""
    per_row = (n + m) * (_BYTES_PER_WEIGHTED_PROJECTION if weighted else _BYTES_PER_PROJECTION)
    largest = max(1, (WEIGHTED_BLOCK_BUDGET_BYTES if weighted else BLOCK_BUDGET_BYTES) // per_row)
    return math.ceil(num_projections / math.ceil(num_projections / largest))


def _sliced_pow_of_arrays(x, y, directions, x_weights, y_weights, p, block_size) -> Scalar:
    p = validation.as_power(p)
    dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    x, y, directions = x.astype(dtype), y.astype(dtype), directions.astype(dtype)
    if x_weights is not None or y_weights is not None:
        x_weights = _normalised(x_weights, x.shape[0], dtype)
        y_weights = _normalised(y_weights, y.shape[0], dtype)
    if block_size is None:
        block_size = automatic_block_size(
            x.shape[0], y.shape[0], directions.shape[0], x_weights is not None
        )
    block_size = min(validation.as_count(block_size, "block_size"), directions.shape[0])
    x, y = _without_wild_padding(x, x_weights), _without_wild_padding(y, y_weights)
    # A common shift changes nothing but the rounding: projections of centred clouds keep the digits that a large offset would take.
    center = lax.stop_gradient(
        jnp.mean(y, axis=0) if y_weights is None else jnp.sum(y_weights[:, None] * y, axis=0)
    )
    return _sliced_pow(
        p, block_size, x - center[None, :], y - center[None, :], directions, x_weights, y_weights
    )


def _without_wild_padding(points: Array, weights: Array | None) -> Array:
    """A point of zero weight may hold anything; NaN or infinity would reach sums as 0 * nan."""
    return (
        points
        if weights is None
        else jnp.where((weights > 0)[:, None] | jnp.isfinite(points), points, 0.0)
    )


def _normalised(weights: Array | None, count: int, dtype: Any) -> Array:
    if weights is None:
        return jnp.full((count,), 1.0 / count, dtype)
    weights = weights.astype(dtype)
    return weights / jnp.sum(weights)


class _Wanted(NamedTuple):
    """Which inputs need a gradient; the permutations of the others are never made."""

    x: bool = False
    y: bool = False
    directions: bool = False
    x_weights: bool = False
    y_weights: bool = False


class _Gradients(NamedTuple):
    """One array for each wanted input, None for the others."""

    x: Any = None
    y: Any = None
    directions: Any = None
    x_weights: Any = None
    y_weights: Any = None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sliced_pow(p, block_size, x, y, directions, x_weights, y_weights):
    value, _ = _over_blocks(p, block_size, x, y, directions, x_weights, y_weights, _Wanted())
    return value


def _sliced_pow_forward(p, block_size, *inputs):
    values = [None if entry is None else entry.value for entry in inputs]
    wanted = _Wanted(*(entry is not None and entry.perturbed for entry in inputs))
    value, gradients = _over_blocks(p, block_size, *values, wanted=wanted)
    # Sorting moves a NaN to an end of its row and shifts the others' ranks, so their gradients would be finite and wrong.
    unknown = ~jnp.isfinite(value)
    return value, jax.tree.map(lambda gradient: jnp.where(unknown, jnp.nan, gradient), gradients)


def _sliced_pow_backward(p, block_size, gradients, cotangent):
    del p, block_size
    if isinstance(cotangent, SymbolicZero):
        return tuple(None for _ in gradients)
    return tuple(None if gradient is None else cotangent * gradient for gradient in gradients)


_sliced_pow.defvjp(_sliced_pow_forward, _sliced_pow_backward, symbolic_zeros=True)


def _over_blocks(
    p, block_size, x, y, directions, x_weights, y_weights, wanted: _Wanted
) -> tuple[Scalar, _Gradients]:
    """The mean over directions, ``block_size`` of them at a time; only the gradient of a direction stays apart for each."""
    total = directions.shape[0]
    one_block = functools.partial(_block_sum, p, x, y, x_weights, y_weights, wanted)
    num_blocks, remainder = divmod(total, block_size)
    if num_blocks == 1 and remainder == 0:
        value, gradients = one_block(directions)
    else:
        head, tail = (directions[: num_blocks * block_size], directions[num_blocks * block_size :])

        def add(carry, block):
            value, gradients = one_block(block)
            per_direction = gradients.directions
            return jax.tree.map(
                jnp.add, carry, (value, gradients._replace(directions=None))
            ), per_direction

        # Without a tail, a block of zeros gives the carry its shapes and adds nothing.
        first_value, first_gradients = (
            one_block(tail)
            if remainder
            else jax.tree.map(
                lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
                jax.eval_shape(one_block, directions[:block_size]),
            )
        )
        start = (first_value, first_gradients._replace(directions=None))
        # A block takes every so many directions, not neighbours, so that directions shared among devices stay so in each block.
        (value, gradients), stacked = lax.scan(
            add, start, head.reshape(block_size, num_blocks, -1).swapaxes(0, 1)
        )
        if wanted.directions:
            parts = [stacked.swapaxes(0, 1).reshape(head.shape)] + (
                [first_gradients.directions] if remainder else []
            )
            gradients = gradients._replace(directions=jnp.concatenate(parts))
    return value / total, jax.tree.map(lambda gradient: gradient / total, gradients)


def _block_sum(
    p, x, y, x_weights, y_weights, wanted: _Wanted, directions
) -> tuple[Scalar, _Gradients]:
    """Sum over one block of directions of W_p^p, and its gradients."""
    matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    weighted = x_weights is not None
    need_u, need_v = wanted.x or wanted.directions, wanted.y or wanted.directions
    u, u_permutation = _sorted(matmul(directions, x.T), need_u or weighted)
    v, v_permutation = _sorted(matmul(directions, y.T), need_v or weighted)
    if weighted:
        rows = line.couple_weighted(u, v, x_weights[u_permutation], y_weights[v_permutation], p)
    else:
        rows = line.couple_uniform(u, v, p, need_u, need_v)
    u_gradient: Any = unsort_rows(rows.u, u_permutation) if need_u else None
    v_gradient: Any = unsort_rows(rows.v, v_permutation) if need_v else None
    gradients = _Gradients(
        x=matmul(u_gradient.T, directions) if wanted.x else None,
        y=matmul(v_gradient.T, directions) if wanted.y else None,
        directions=matmul(u_gradient, x) + matmul(v_gradient, y) if wanted.directions else None,
        x_weights=jnp.sum(unsort_rows(rows.u_potential, u_permutation), axis=0)
        if wanted.x_weights
        else None,
        y_weights=jnp.sum(unsort_rows(rows.v_potential, v_permutation), axis=0)
        if wanted.y_weights
        else None,
    )
    return jnp.sum(rows.cost), gradients


def _sorted(values: Float[Array, "l n"], with_permutation: bool) -> tuple[Array, Any]:
    return sort_rows_with_permutation(values) if with_permutation else (sort_rows(values), None)
