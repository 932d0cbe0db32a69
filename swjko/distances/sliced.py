"""Wasserstein distances on the line, and the sliced-Wasserstein distance, their mean.

On the line, W_p^p(u, v) = int_0^1 |F_u^{-1}(t) - F_v^{-1}(t)|^p dt, and SW_p^p(mu, nu) is its mean
over projections on the sphere (Bonneel, Rabin, Peyre, Pfister, "Sliced and Radon Wasserstein
barycenters of measures", 2015). Quantile functions of empirical measures are piecewise constant,
so the integral is a finite sum and computed exactly: sorted differences for equal sizes, a merge of
the two grids {i/n} and {j/m} for unequal ones, a merge of the cumulative weights in general. Costs
are formed from differences, so a small displacement of distant clouds keeps its digits.

The gradient is that of the optimal coupling held fixed (the envelope theorem). The forward pass
computes it from the same sorted rows, so the backward pass is a product with a scalar. Weights get
the Kantorovich potentials of the 1-D problems.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from swjko import validation
from swjko.distances.blocks import automatic_block_size
from swjko.distances.one_dimensional import couple_uniform, couple_weighted
from swjko.distances.sorting import sort_rows, sort_rows_with_permutation, unsort_rows
from swjko.linalg import nan_where
from swjko.types import Leaf, Scalar


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
    """Returns SW_p, the p-th root of ``sliced_wasserstein_pow``: a distance.

    Its gradient is infinite at distance zero; optimise the power instead.

    Args:
      x: Points [n d].
      y: Points [m d]; n and m may differ.
      directions: Unit rows [l d].
      p: Order of the distance, at least 1.
      x_weights: Weights [n] with sum one; None is uniform.
      y_weights: Weights [m] with sum one; None is uniform.
      block_size: Directions processed at once, as for ``sliced_wasserstein_pow``.
    """
    value = sliced_wasserstein_pow(
        x, y, directions, p=p, x_weights=x_weights, y_weights=y_weights, block_size=block_size
    )
    return value ** (1.0 / float(p))


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
    # Projections of centred clouds keep the digits that a large offset would take.
    mean = jnp.mean(y, axis=0) if y_weights is None else jnp.sum(y_weights[:, None] * y, axis=0)
    center = lax.stop_gradient(mean)[None, :]
    return _sliced_pow(p, block_size, x - center, y - center, directions, x_weights, y_weights)


def _without_wild_padding(points: Array, weights: Array | None) -> Array:
    # NaN or infinity in a point of zero weight would enter sums as 0 * nan.
    if weights is None:
        return points
    return jnp.where((weights > 0)[:, None] | jnp.isfinite(points), points, 0.0)


def _normalised(weights: Array | None, count: int, dtype: DTypeLike) -> Array:
    if weights is None:
        return jnp.full((count,), 1.0 / count, dtype)
    weights = weights.astype(dtype)
    return weights / jnp.sum(weights)


class _Wanted(NamedTuple):
    """Which inputs need a gradient; permutations are computed for those only."""

    x: bool = False
    y: bool = False
    directions: bool = False
    x_weights: bool = False
    y_weights: bool = False


class _Gradients(NamedTuple):
    """One array for each wanted input, None for the others."""

    x: Leaf = None
    y: Leaf = None
    directions: Leaf = None
    x_weights: Leaf = None
    y_weights: Leaf = None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sliced_pow(p, block_size, x, y, directions, x_weights, y_weights):
    value, _ = _over_blocks(p, block_size, x, y, directions, x_weights, y_weights, _Wanted())
    return value


def _sliced_pow_forward(p, block_size, *inputs):
    values = [None if entry is None else entry.value for entry in inputs]
    wanted = _Wanted(*(entry is not None and entry.perturbed for entry in inputs))
    value, gradients = _over_blocks(p, block_size, *values, wanted=wanted)
    # Sorting moves a NaN to an end of its row and shifts the ranks of other points, whose gradients
    # would be finite and wrong.
    unknown = ~jnp.isfinite(value)
    return value, jax.tree.map(lambda gradient: nan_where(unknown, gradient), gradients)


def _sliced_pow_backward(p, block_size, gradients, cotangent):
    del p, block_size
    if isinstance(cotangent, SymbolicZero):
        return tuple(None for _ in gradients)
    return tuple(None if gradient is None else cotangent * gradient for gradient in gradients)


_sliced_pow.defvjp(_sliced_pow_forward, _sliced_pow_backward, symbolic_zeros=True)


def _over_blocks(
    p, block_size, x, y, directions, x_weights, y_weights, wanted: _Wanted
) -> tuple[Scalar, _Gradients]:
    """Returns the mean over directions and its gradients, a block of directions at a time."""
    total = directions.shape[0]
    one_block = functools.partial(_block_sum, p, x, y, x_weights, y_weights, wanted)
    num_blocks, remainder = divmod(total, block_size)
    if num_blocks == 1 and remainder == 0:
        value, gradients = one_block(directions)
    else:
        split = num_blocks * block_size
        head, tail = directions[:split], directions[split:]

        def add(carry, block):
            value, gradients = one_block(block)
            summed = (value, gradients._replace(directions=None))
            return jax.tree.map(jnp.add, carry, summed), gradients.directions

        if remainder:
            first_value, first = one_block(tail)
        else:
            # Zeros give the carry its shapes and add nothing.
            first_value, first = jax.tree.map(
                lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
                jax.eval_shape(one_block, directions[:block_size]),
            )
        # A block takes strided directions, not neighbours, so devices share those of each block.
        blocks = head.reshape(block_size, num_blocks, -1).swapaxes(0, 1)
        carry = (first_value, first._replace(directions=None))
        (value, gradients), stacked = lax.scan(add, carry, blocks)
        if wanted.directions:
            parts = [stacked.swapaxes(0, 1).reshape(head.shape)]
            parts += [first.directions] if remainder else []
            gradients = gradients._replace(directions=jnp.concatenate(parts))
    return value / total, jax.tree.map(lambda gradient: gradient / total, gradients)


def _block_sum(
    p, x, y, x_weights, y_weights, wanted: _Wanted, directions
) -> tuple[Scalar, _Gradients]:
    """Returns the sum of W_p^p over one block of directions, and its gradients."""
    matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    weighted = x_weights is not None
    need_u, need_v = wanted.x or wanted.directions, wanted.y or wanted.directions
    u, u_permutation = _sorted(matmul(directions, x.T), need_u or weighted)
    v, v_permutation = _sorted(matmul(directions, y.T), need_v or weighted)
    if weighted:
        rows = couple_weighted(u, v, x_weights[u_permutation], y_weights[v_permutation], p)
    else:
        rows = couple_uniform(u, v, p, need_u, need_v)
    u_gradient: Leaf = unsort_rows(rows.u, u_permutation) if need_u else None
    v_gradient: Leaf = unsort_rows(rows.v, v_permutation) if need_v else None

    def summed(potential, permutation):
        return jnp.sum(unsort_rows(potential, permutation), axis=0)

    gradients = _Gradients(
        x=matmul(u_gradient.T, directions) if wanted.x else None,
        y=matmul(v_gradient.T, directions) if wanted.y else None,
        directions=matmul(u_gradient, x) + matmul(v_gradient, y) if wanted.directions else None,
        x_weights=summed(rows.u_potential, u_permutation) if wanted.x_weights else None,
        y_weights=summed(rows.v_potential, v_permutation) if wanted.y_weights else None,
    )
    return jnp.sum(rows.cost), gradients


def _sorted(values: Float[Array, "l n"], with_permutation: bool) -> tuple[Array, Leaf]:
    return sort_rows_with_permutation(values) if with_permutation else (sort_rows(values), None)
