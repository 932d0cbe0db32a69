"""The kernel of the sliced distance: projections, sorted and coupled, with their gradients.

The gradient is that of the optimal coupling held fixed (the envelope theorem). The forward pass
computes it from the same sorted rows, so the backward pass is a product with a scalar. Weights get
the Kantorovich potentials of the 1-D problems.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from swjko.distances.block_sums import (
    BlockSum,
    Gradients,
    Wanted,
    added,
    rescaled,
    without_directions,
    zeros_of,
)
from swjko.distances.frank_wolfe import couple_unbalanced
from swjko.distances.one_dimensional import Rows, couple_weighted
from swjko.distances.sorting import sort_rows_with_permutation, unsort_rows
from swjko.distances.uniform import couple_points, jackknife
from swjko.linalg import derivatives_of, nan_where
from swjko.types import Leaf, Scalar


class ScaledPower(NamedTuple):
    """SW_p^p as value * scale^p, representable whatever the extents of the clouds.

    Attributes:
      value: SW_p^p of the clouds divided by ``scale``.
      scale: A constant in derivatives.
    """

    value: Scalar
    scale: Scalar


class _Setting(NamedTuple):
    """The static part: order, directions of a block, scaling, iterations and jackknife.

    The iterations are those of unbalanced transport.
    """

    p: float
    block_size: int
    scaled: bool
    num_iterations: int
    debiased: bool


def sliced_power(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    directions: Float[Array, "l d"],
    x_weights: Float[Array, " n"] | None,
    y_weights: Float[Array, " m"] | None,
    rho: Float[Array, "2"] | None = None,
    *,
    p: float,
    block_size: int,
    scaled: bool = False,
    num_iterations: int = 0,
    debiased: bool = False,
) -> ScaledPower:
    """Returns the mean over directions of W_p^p of the projections, of one dtype throughout.

    Args:
      x: Points [n d].
      y: Points [m d].
      directions: Unit rows [l d].
      x_weights: Weights [n] with sum one; None if both clouds have uniform weights.
      y_weights: Weights [m], likewise.
      rho: Prices of mass for unbalanced transport, whose weights have any sum; None is balanced.
      p: Order of the distance.
      block_size: Directions processed at once.
      scaled: Whether differences are divided by the largest of them. Otherwise the scale is one.
      num_iterations: Iterations of the Frank-Wolfe method if ``rho`` is given.
      debiased: Whether to take the jackknife, for n = m >= 2 without weights and not scaled.
    """
    setting = _Setting(p, block_size, scaled, num_iterations, debiased)
    value_and_scale: Any = _sliced_power(setting, x, y, directions, x_weights, y_weights, rho)
    value, scale = value_and_scale
    return ScaledPower(value, lax.stop_gradient(scale))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sliced_power(setting, *inputs):
    total = _over_blocks(setting, *inputs, wanted=Wanted())
    return total.value, _scale_or_one(total)


def _sliced_power_jvp(setting, primals, tangents):
    """Returns values, and tangents that are linear in gradients of the forward pass.

    Reverse mode transposes these products with tangents into products with one cotangent.
    """
    moved = [not (tangent is None or isinstance(tangent, SymbolicZero)) for tangent in tangents]
    over_blocks = functools.partial(_over_blocks, setting, wanted=Wanted(*moved))
    total = _in_one_piece(over_blocks)(*primals)
    # Sorting moves a NaN to an end of its row and shifts the ranks of other points, whose gradients
    # would be finite and wrong.
    unknown = ~jnp.isfinite(total.value)
    gradients = jax.tree.map(lambda gradient: nan_where(unknown, gradient), total.gradients)
    along = Gradients(
        *(
            jnp.sum(gradient * tangent) if needed else jnp.zeros_like(total.value)
            for gradient, tangent, needed in zip(gradients, tangents, moved, strict=True)
        )
    )
    of_lengths = along.x + along.y + along.directions
    if total.scale is not None:
        of_lengths = of_lengths / total.scale
    scale = _scale_or_one(total)
    tangent = of_lengths + along.x_weights + along.y_weights + along.rho
    return (total.value, scale), (tangent, jnp.zeros_like(scale))


_sliced_power.defjvp(_sliced_power_jvp, symbolic_zeros=True)


def _in_one_piece(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function as one operation, which partial evaluation does not open.

    Reverse mode evaluates the rule above partially. That would move the constants of the sorts out
    of the loop over blocks and hold them as arrays of the size of a block.
    """
    whole = jax.custom_batching.custom_vmap(function)

    @whole.def_vmap
    def _(axis_size, in_batched, *inputs):
        in_axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(in_batched))
        outputs = jax.vmap(function, in_axes, axis_size=axis_size)(*inputs)
        return outputs, jax.tree.map(lambda _: True, outputs)

    return derivatives_of(function)(whole)


def _scale_or_one(total: BlockSum) -> Scalar:
    return jnp.ones_like(total.value) if total.scale is None else total.scale


def _over_blocks(
    setting: _Setting, x, y, directions, x_weights, y_weights, rho, wanted: Wanted
) -> BlockSum:
    """Returns the mean over directions and its gradients, a block of directions at a time."""
    total, block_size = directions.shape[0], setting.block_size
    one_block = functools.partial(_block_sum, setting, x, y, x_weights, y_weights, rho, wanted)
    num_blocks, remainder = divmod(total, block_size)
    if num_blocks == 1 and remainder == 0:
        summed = one_block(directions)
    else:
        split = num_blocks * block_size
        head, tail = directions[:split], directions[split:]

        def add(carry, block):
            block = one_block(block)
            stacked = block.gradients.directions, block.scale
            return added(setting.p, carry, without_directions(block)), stacked

        first = one_block(tail) if remainder else zeros_of(one_block, directions[:block_size])
        # A block takes strided directions, not neighbours, so devices share those of each block.
        blocks = head.reshape(block_size, num_blocks, -1).swapaxes(0, 1)
        summed, (stacked, scales) = lax.scan(add, without_directions(first), blocks)
        if wanted.directions:
            stacked = rescaled(setting.p - 1.0, stacked, scales, summed.scale)
            parts = [stacked.swapaxes(0, 1).reshape(head.shape)]
            if remainder:
                last = first.gradients.directions
                parts.append(rescaled(setting.p - 1.0, last, first.scale, summed.scale))
            gradients = summed.gradients._replace(directions=jnp.concatenate(parts))
            summed = summed._replace(gradients=gradients)
    gradients = jax.tree.map(lambda gradient: gradient / total, summed.gradients)
    return BlockSum(summed.value / total, gradients, summed.scale)


_matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def _block_sum(
    setting: _Setting, x, y, x_weights, y_weights, rho, wanted: Wanted, directions
) -> BlockSum:
    """Returns the sum of W_p^p over one block of directions, and its gradients."""
    p, scaled = setting.p, setting.scaled
    weighted = x_weights is not None
    need_u, need_v = wanted.x or wanted.directions, wanted.y or wanted.directions
    u, v = _matmul(directions, x.T), _matmul(directions, y.T)
    if not weighted:
        if setting.debiased:
            rows = jackknife(u, v, p, need_u, need_v)
        else:
            rows = couple_points(u, v, p, need_u, need_v, scaled=scaled)
        return BlockSum(jnp.sum(rows.cost), _of_points(rows, x, y, directions, wanted), rows.scale)
    (u, u_permutation), (v, v_permutation) = map(sort_rows_with_permutation, (u, v))
    weights = x_weights[u_permutation], y_weights[v_permutation]
    of_rho: Leaf = None
    if rho is None:
        rows = couple_weighted(u, v, *weights, p, scaled=scaled)
    else:
        rows, of_rho = couple_unbalanced(u, v, *weights, p, rho, setting.num_iterations)
    unsorted = rows._replace(
        u=unsort_rows(rows.u, u_permutation) if need_u else None,
        v=unsort_rows(rows.v, v_permutation) if need_v else None,
    )

    def summed(potential, permutation):
        return jnp.sum(unsort_rows(potential, permutation), axis=0)

    gradients = _of_points(unsorted, x, y, directions, wanted)._replace(
        x_weights=summed(rows.u_potential, u_permutation) if wanted.x_weights else None,
        y_weights=summed(rows.v_potential, v_permutation) if wanted.y_weights else None,
        rho=jnp.sum(of_rho, axis=0) if wanted.rho else None,
    )
    return BlockSum(jnp.sum(rows.cost), gradients, rows.scale)


def _of_points(unsorted: Rows, x, y, directions, wanted: Wanted) -> Gradients:
    """Returns gradients by the points, from slopes in the order of the points."""
    u, v = unsorted.u, unsorted.v
    return Gradients(
        x=_matmul(u.T, directions) if wanted.x else None,
        y=_matmul(v.T, directions) if wanted.y else None,
        directions=_matmul(u, x) + _matmul(v, y) if wanted.directions else None,
    )
