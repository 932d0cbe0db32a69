"""Tables of the quantiles of a target along directions, against which a cloud is compared.

The quantile function of each projection is replaced by its means over equal intervals of levels,
which is its best approximation in L2 by that number of points. For p = 2 a uniform cloud of n
points then has the exact gradient if n divides the number of quantiles, since
int_I |u - F^{-1}|^2 = |I| |u - mean|^2 + const on an interval I of levels.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from swjko.distances.one_dimensional import couple_uniform, couple_weighted
from swjko.distances.sorting import sort_rows, sort_rows_with_permutation
from swjko.types import Scalar, validation

# Numbers that are held at once while a table is made, 256 MiB of float64.
_BUDGET = 2**25
# Coordinates of points that are converted to float64 at once.
_CONVERTED = 2**18
# Groups for each quantile that are left when a stream has too many projections, times two.
_LEAST_HELD = 8


class QuantileTable(NamedTuple):
    """Quantiles of a target along directions, made by ``sliced_quantiles``.

    Attributes:
      directions: Unit rows [l d].
      quantiles: Means [l q] of the quantile functions over q equal intervals of levels, ascending.
    """

    directions: Float[Array, "l d"]
    quantiles: Float[Array, "l q"]


def sliced_quantiles(
    points: Float[Array, "m d"] | Iterable[Float[Array, "k d"]],
    directions: Float[Array, "l d"],
    num_quantiles: int,
    *,
    block_size: int | None = None,
) -> QuantileTable:
    """Makes a table of the quantiles of a target, in one pass on the host.

    For an array the table is exact. For a stream it is exact while all projections are held.
    Beyond, neighbouring projections are replaced by their means, in at least four groups for each
    quantile, and errors are a fraction of the distance between neighbouring quantiles.

    Beside the result, memory is that of ``block_size`` projections for each direction, and of one
    batch; for an array, of the projections on one direction. Numbers are in float64.

    Args:
      points: Points [m d] of the target, or an iterable of batches of them, in any order.
      directions: Unit rows [l d].
      num_quantiles: Number q of intervals, a multiple of the number of points of the flow for
        exact gradients; with q = m the table holds all sorted projections.
      block_size: Projections of a stream that are held for each direction, at least 8
        ``num_quantiles``; None holds as many as fit into 256 MiB. Arrays do not use it.
    """
    num_quantiles = validation.as_count(num_quantiles, "num_quantiles")
    dim = np.shape(directions)[-1] if np.ndim(directions) == 2 else 1
    host = np.asarray(validation.as_directions(directions, dim), np.float64)
    if not isinstance(points, Iterable):
        raise TypeError(
            "points must be an array [m d] or an iterable of them; got "
            f"{type(points).__name__}. Pass the points, or a generator of batches."
        )
    least = _LEAST_HELD * num_quantiles
    if block_size is None:
        block_size = max(_BUDGET // len(host), least)
    elif validation.as_count(block_size, "block_size") < least:
        raise ValueError(
            f"block_size must be at least 8 num_quantiles, {least}; got {block_size}. Raise it, or "
            "reduce num_quantiles."
        )
    if hasattr(points, "shape"):
        points = validation.as_points(points, "points")
        _require_dimension(points, host.shape[1])
        masses = np.ones(len(points))
        rows = [_bin_means(_projected(points, theta), masses, num_quantiles) for theta in host]
    else:
        values, masses = _held_atoms(points, host, block_size)
        rows = [_bin_means(row, masses, num_quantiles) for row in values]
    directions = jnp.asarray(directions)
    return QuantileTable(directions, jnp.asarray(np.stack(rows), directions.dtype))


def _projected(points: Array, direction: np.ndarray) -> np.ndarray:
    """Returns projections [m] in float64, without a float64 copy of all points."""
    rows, found = np.asarray(points), np.empty(len(points))
    for at in _pieces(rows, len(rows)):
        found[at] = rows[at].astype(np.float64) @ direction
    return found


def _held_atoms(batches, directions: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns projections [l k] and masses [k]; groups of them where there are too many."""
    values, masses, count = np.empty((len(directions), capacity)), np.empty(capacity), 0
    for batch in batches:
        batch = validation.as_points(batch, "points")
        _require_dimension(batch, directions.shape[1])
        rows = np.asarray(batch)
        for at in _pieces(rows, max(1, capacity // 8)):
            if count + at.stop - at.start > capacity:
                count = _group(values, masses, count)
            added = slice(count, count + at.stop - at.start)
            values[:, added] = directions @ rows[at].astype(np.float64).T
            masses[added] = 1.0
            count = added.stop
    if count == 0:
        raise ValueError("points must hold at least one batch; got an empty stream.")
    return values[:, :count], masses[:count]


def _pieces(rows: np.ndarray, most: int) -> Iterator[slice]:
    """Yields slices of rows whose coordinates are converted at once."""
    size = min(most, max(1, _CONVERTED // rows.shape[1]))
    for start in range(0, len(rows), size):
        yield slice(start, min(start + size, len(rows)))


def _group(values: np.ndarray, masses: np.ndarray, count: int) -> int:
    """Replaces atoms by half the capacity of them, in place; returns their number."""
    size = max(1, values.shape[1] // 2)
    for row in values:
        row[:size] = _bin_means(row[:count], masses[:count], size)
    masses[:size] = masses[:count].sum() / size
    return size


def _bin_means(values: np.ndarray, masses: np.ndarray, number: int) -> np.ndarray:
    """Returns the means of a quantile function over equal intervals of levels."""
    order = np.argsort(values)
    middle = values[order[len(order) // 2]]
    levels = np.concatenate([[0.0], np.cumsum(masses[order])])
    integral = np.concatenate([[0.0], np.cumsum(masses[order] * (values[order] - middle))])
    edges = levels[-1] / number * np.arange(number + 1)
    means = np.diff(np.interp(edges, levels, integral)) * (number / levels[-1])
    return np.maximum.accumulate(means + middle)


def sliced_wasserstein_to_quantiles_pow(
    x: Float[Array, "n d"],
    table: QuantileTable,
    *,
    p: float = 2.0,
    x_weights: Float[Array, " n"] | None = None,
) -> Scalar:
    """Returns SW_p^p between a cloud and a target that is known by its quantiles.

    It is ``sliced_wasserstein_pow`` along the table's directions, with each projection of the
    target replaced by the table's quantiles. Only the points of the cloud are projected and sorted.

    Args:
      x: Points [n d].
      table: Made by ``sliced_quantiles``, for points of the same dimension.
      p: Order of the distance, at least 1.
      x_weights: Weights [n] with sum one; None is uniform.
    """
    x, p = validation.as_points(x, "x"), validation.as_power(p)
    _require_dimension(x, table.directions.shape[1])
    x_weights = validation.as_weights(x_weights, x.shape[0], "x_weights")
    u = jnp.matmul(table.directions, x.T, precision=lax.Precision.HIGHEST)
    v = table.quantiles.astype(u.dtype)
    if x_weights is None:
        return jnp.mean(couple_uniform(sort_rows(u), v, p, False, False).cost)
    u, order = sort_rows_with_permutation(u)
    weights = (x_weights / jnp.sum(x_weights)).astype(u.dtype)[order]
    return jnp.mean(couple_weighted(u, v, weights, jnp.full_like(v, 1.0 / v.shape[1]), p).cost)


def _require_dimension(points: Array, dim: int) -> None:
    if points.shape[1] != dim:
        raise ValueError(
            f"points must have the dimension {dim} of the table's directions; got shape "
            f"{points.shape}. Make the table along directions of the points' dimension."
        )
