"""Costs of projected clouds, one for each slice, on lines or circles.

Nonlinear projections, weights of slices and circles use these rows. The plain sliced distance has
``swjko.distances.kernel``, which needs no array of all projections for its gradient.

The derivative of a cost is that of the optimal coupling held fixed (the envelope theorem), and in
the weights it is the Kantorovich potential. It is linear in the tangents, so forward mode, reverse
mode and the derivative of any projection before it follow.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from swjko.distances.one_dimensional import Rows, couple_uniform, couple_weighted
from swjko.distances.shifts import optimal_cut
from swjko.distances.sorting import sort_rows_as_needed, unsort_rows
from swjko.linalg import nan_where
from swjko.types import Leaf, Projection, Scalar, validation


class Costs(NamedTuple):
    """W_p^p of each slice as value * scale^p.

    Attributes:
      value: W_p^p [l] of the positions divided by ``scale``.
      scale: A constant in derivatives.
    """

    value: Float[Array, " l"]
    scale: Scalar


def sliced_costs(
    project: Projection,
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    directions: Float[Array, "l ..."],
    x_weights: Float[Array, " n"] | None,
    y_weights: Float[Array, " m"] | None,
    *,
    p: float,
    block_size: int,
    on_circle: bool = False,
) -> Costs:
    """Returns the cost of each slice, a block of directions at a time.

    With more than one block the derivative projects and sorts again, so that its memory is that of
    a block.

    Args:
      project: ``(points [n d], directions [l ...]) -> positions [l n]``.
      x: Points [n d].
      y: Points [m d].
      directions: Parameters of the slices, along the first axis.
      x_weights: Weights [n] with sum one; None if both clouds have uniform weights.
      y_weights: Weights [m], likewise.
      p: Order of the distance.
      block_size: Directions processed at once.
      on_circle: Whether positions are in turns around a circle.
    """

    def of_block(block: Float[Array, "l ..."]) -> Costs:
        u, v = (project(points, block).astype(x.dtype) for points in (x, y))
        return Costs(*_costs((p, on_circle), u, v, x_weights, y_weights))

    num_blocks, remainder = divmod(directions.shape[0], block_size)
    if num_blocks == 1 and remainder == 0:
        return of_block(directions)
    split = num_blocks * block_size
    head = directions[:split].reshape(num_blocks, block_size, *directions.shape[1:])
    of_block = jax.checkpoint(of_block)
    costs = lax.map(of_block, head)
    values, scales = costs.value.reshape(-1), jnp.repeat(costs.scale, block_size)
    if remainder:
        last = of_block(directions[split:])
        values = jnp.concatenate([values, last.value])
        scales = jnp.concatenate([scales, jnp.repeat(last.scale, remainder)])
    scales = lax.stop_gradient(scales)
    scale = jnp.max(scales)
    return Costs(values * (scales / scale) ** p, scale)


def linear_projection(
    points: Float[Array, "n d"], directions: Float[Array, "l d"]
) -> Float[Array, "l n"]:
    """Returns scalar products [l n] of points [n d] with directions [l d], at full precision."""
    return jnp.matmul(directions, points.T, precision="highest")


def as_slices(directions: object) -> Array:
    """Returns what a projection takes as a float array [l ...], finite if concrete."""
    array = validation.as_float_array(directions, "directions")
    if array.ndim < 2 or array.size == 0:
        raise ValueError(
            "directions must have one row for each slice, at least one; "
            f"got shape {array.shape}. Pass [l q]."
        )
    validation.require_finite(array, "directions")
    return array


def require_positions(projection: object, x: Array, y: Array, directions: Array) -> None:
    """Raises an error unless ``projection`` maps both clouds to one row for each direction."""
    signature = "(points [n d], directions [l ...]) -> positions [l n]"
    function = validation.require_callable(projection, "projection", signature)
    for points in (x, y):
        got = jax.eval_shape(function, points, directions)
        shape, expected = getattr(got, "shape", None), (directions.shape[0], points.shape[0])
        if shape != expected or not jnp.issubdtype(got.dtype, jnp.floating):
            raise ValueError(
                "projection must return floats of shape [directions, points], here "
                f"{expected}; got {got}. Return one row for each direction."
            )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _costs(setting, u, v, u_weights, v_weights):
    rows, _ = _coupled(setting, u, v, u_weights, v_weights, (False, False))
    return rows.cost, _scale(rows)


def _costs_jvp(setting, primals, tangents):
    wanted = [not (tangent is None or isinstance(tangent, SymbolicZero)) for tangent in tangents]
    u, v, u_weights, v_weights = primals
    rows, permutations = _coupled(setting, u, v, u_weights, v_weights, (wanted[0], wanted[1]))
    parts = (rows.u, rows.v, rows.u_potential, rows.v_potential)
    # Sorting moves a NaN to an end of its row and shifts the ranks of other points, whose
    # derivatives would be finite and wrong.
    unknown = ~jnp.isfinite(rows.cost)[:, None]
    scale = _scale(rows)
    tangent = jnp.zeros_like(rows.cost)
    for index, (part, given) in enumerate(zip(parts, tangents, strict=True)):
        if wanted[index]:
            of_points = nan_where(unknown, unsort_rows(part, permutations[index % 2]))
            along = given if index < 2 else jnp.broadcast_to(given[None, :], of_points.shape)
            rate = jnp.sum(of_points * along, axis=-1)
            tangent += rate / scale if index < 2 else rate
    return (rows.cost, scale), (tangent, jnp.zeros_like(scale))


_costs.defjvp(_costs_jvp, symbolic_zeros=True)


def _scale(rows: Rows) -> Scalar:
    one = jnp.ones((), rows.cost.dtype)
    return one if rows.scale is None else lax.stop_gradient(rows.scale)


def _coupled(
    setting: tuple[float, bool], u, v, u_weights, v_weights, wanted: tuple[bool, bool]
) -> tuple[Rows, tuple[Leaf, Leaf]]:
    """Returns the coupling of unsorted rows, and the permutations that sorted them if needed."""
    p, on_circle = setting
    weighted = u_weights is not None
    u, u_order = sort_rows_as_needed(u, weighted or wanted[0])
    v, v_order = sort_rows_as_needed(v, weighted or wanted[1])
    if on_circle:
        weights = (u_weights[u_order], v_weights[v_order]) if weighted else None
        u_start, v_start = optimal_cut(*lax.stop_gradient((u, v, weights)), p)
        (u, u_order), (v, v_order) = _unrolled(u, u_order, u_start), _unrolled(v, v_order, v_start)
    if weighted:
        weights = u_weights[u_order], v_weights[v_order]
        rows = couple_weighted(u, v, *weights, p, scaled=not on_circle)
    else:
        rows = couple_uniform(u, v, p, *wanted, scaled=not on_circle)
    return rows, (u_order, v_order)


def _unrolled(
    values: Float[Array, "l n"], order: Leaf, start: Int[Array, " l"]
) -> tuple[Array, Leaf]:
    """Returns sorted positions on a line that leaves the circle at the point ``start``."""
    count = values.shape[-1]
    index = start[:, None] + lax.broadcasted_iota(jnp.int32, values.shape, 1)
    turn = index // count
    take = functools.partial(jnp.take_along_axis, indices=index - turn * count, axis=-1)
    return take(values) + turn.astype(values.dtype), None if order is None else take(order)
