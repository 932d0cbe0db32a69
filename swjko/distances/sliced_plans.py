"""Plans between clouds from monotone plans along directions."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from swjko.distances.centering import centred
from swjko.distances.one_dimensional import merge_weights, power
from swjko.distances.sorting import sort_rows_with_permutation
from swjko.types import Scalar, validation

# Coordinates whose differences are held at once, 2 MiB of float32.
_COST_ELEMENTS = 2**19


class SlicedPlan(NamedTuple):
    """A coupling of two clouds as a list of k pieces; no array is n x m.

    ``jnp.zeros((n, m)).at[plan.x_index, plan.y_index].add(plan.mass)`` is the dense matrix.

    Attributes:
      x_index: Index [k] of the point of x. For equal sizes and uniform weights it counts 0 to n - 1
        for each direction that the plan holds.
      y_index: Index [k] of the point of y.
      mass: Mass [k] that moves between the two, with sum one; may be zero.
      cost: The sum of mass |x_i - y_j|^p, an upper bound of W_p^p.
    """

    x_index: Int[Array, " k"]
    y_index: Int[Array, " k"]
    mass: Float[Array, " k"]
    cost: Scalar


def best_sliced_plan(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    directions: Float[Array, "l d"],
    *,
    p: float = 2.0,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
) -> SlicedPlan:
    """Returns the cheapest in d dimensions of the monotone plans along directions (min-SWGG).

    It holds n pieces for equal sizes and uniform weights, n + m otherwise. Gradients of its cost
    are those of the plan held fixed.

    Args:
      x: Points [n d].
      y: Points [m d]; n and m may differ.
      directions: Unit rows [l d] to choose from.
      p: Order of the cost |x - y|^p, at least 1, with Euclidean length.
      x_weights: Weights [n] with sum one; None is uniform.
      y_weights: Weights [m] with sum one; None is uniform.

    Example:
      ``y[best_sliced_plan(x, y, directions).y_index]`` are partners of x, for equal sizes.

    References:
      Mahey, Chapel, Gasso, Bonet, Courty (2023), arXiv 2307.01770.
    """
    i, j, mass = _pieces_of_directions(x, y, directions, x_weights, y_weights)
    p = validation.as_power(p)
    costs = _costs(*lax.stop_gradient((x, y)), i, j, lax.stop_gradient(mass), p)
    best = jnp.argmin(costs)
    i, j, mass = i[best], j[best], mass[best]
    return SlicedPlan(i, j, mass, _known_cost(p, costs[best], x, y, mass, i, j))


def expected_sliced_plan(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    directions: Float[Array, "l d"],
    *,
    p: float = 2.0,
    inverse_temperature: float | Scalar = 0.0,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
) -> SlicedPlan:
    """Returns the mean over directions of the monotone plans along them.

    Directions have the weights softmax(-inverse_temperature * cost): all are equal at zero, and the
    cheapest remains at infinity. The plan holds the pieces of all directions, one after the other.

    Args:
      x: Points [n d].
      y: Points [m d]; n and m may differ.
      directions: Unit rows [l d].
      p: Order of the cost |x - y|^p, at least 1, with Euclidean length.
      inverse_temperature: How much cheap directions are preferred, at least 0.
      x_weights: Weights [n] with sum one; None is uniform.
      y_weights: Weights [m] with sum one; None is uniform.

    References:
      Liu, Diaz Martin, Bai, Shahbazi, Thorpe, Aldroubi, Kolouri (2024), arXiv 2410.12176.
    """
    i, j, mass = _pieces_of_directions(x, y, directions, x_weights, y_weights)
    costs = _costs(x, y, i, j, mass, validation.as_power(p))
    colder = validation.as_nonnegative(inverse_temperature, "inverse_temperature")
    if isinstance(inverse_temperature, (int, float)) and inverse_temperature == 0:
        # The plan does not need the costs, and no time is spent on them if nobody reads them.
        shares = jnp.full(costs.shape, 1.0 / costs.shape[0], costs.dtype)
    else:
        shares = jax.nn.softmax(-colder.astype(costs.dtype) * costs)
    mass = mass * shares[:, None]
    return SlicedPlan(i.ravel(), j.ravel(), mass.ravel(), jnp.sum(shares * costs))


def _pieces_of_directions(
    x, y, directions, x_weights, y_weights
) -> tuple[Int[Array, "l k"], Int[Array, "l k"], Float[Array, "l k"]]:
    x, y = validation.as_points(x, "x"), validation.as_points(y, "y")
    validation.require_same_dim(x, y, "x", "y")
    directions = validation.as_directions(directions, x.shape[1])
    x_weights = validation.as_weights(x_weights, x.shape[0], "x_weights")
    y_weights = validation.as_weights(y_weights, y.shape[0], "y_weights")
    x, y = centred(x, y, x_weights, y_weights)
    orders = []
    for points in (x, y):
        # Half the time of the product in the other order, whose operand is transposed.
        projections = jnp.matmul(points, directions.T, precision=lax.Precision.HIGHEST).T
        orders.append(sort_rows_with_permutation(projections)[1])
    if x_weights is None and y_weights is None and x.shape[0] == y.shape[0]:
        # In the order of x, so that its points need no gather.
        y_index = jax.vmap(lambda i, j: jnp.zeros_like(j).at[i].set(j, unique_indices=True))(
            *orders
        )
        x_index = lax.broadcasted_iota(y_index.dtype, y_index.shape, 1)
        return x_index, y_index, jnp.full(y_index.shape, 1.0 / x.shape[0], x.dtype)
    weights = [
        jnp.full((points.shape[0],), 1.0 / points.shape[0], x.dtype) if given is None else given
        for points, given in ((x, x_weights), (y, y_weights))
    ]
    rows = [(w / jnp.sum(w))[order] for w, order in zip(weights, orders, strict=True)]
    i, j, mass, _ = merge_weights(*rows)
    take = functools.partial(jnp.take_along_axis, axis=-1)
    return take(orders[0], i), take(orders[1], j), mass


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _known_cost(p: float, cost: Scalar, x, y, mass, i, j) -> Scalar:
    """Returns the cost, whose derivatives are those of one plan alone."""
    del p, x, y, mass, i, j
    return cost


@_known_cost.defjvp
def _known_cost_jvp(p, primals, tangents):
    cost, x, y, mass, i, j = primals

    def of_plan(x, y, mass):
        return _costs(x, y, i[None], j[None], mass[None], p)[0]

    return cost, jax.jvp(of_plan, (x, y, mass), tangents[1:4])[1]


def _costs(x, y, i, j, mass, p: float) -> Float[Array, " l"]:
    """Returns the costs of plans, some pieces of all directions at a time.

    Differences of these pieces stay in the cache, and a product with ones sums their squares faster
    than a reduction, which would add one number after the other.
    """
    (count, length), dim = i.shape, x.shape[1]
    size = min(length, max(1, _COST_ELEMENTS // (count * dim)))
    # For equal sizes the pieces of all directions are in the order of x.
    aligned = length == x.shape[0]
    ones = jnp.ones((dim, 1), x.dtype)

    @jax.checkpoint
    def of_pieces(x, y, pieces):
        i, j, mass = pieces
        difference = (x[i[:1]] if aligned else x[i]) - y[j]
        squares = difference * difference
        squares = jnp.matmul(squares.reshape(-1, dim), ones, precision=lax.Precision.HIGHEST)
        squares = squares.reshape(mass.shape)
        return jnp.sum(mass * _power_of_lengths(squares, p), axis=1)

    def in_blocks(array):
        padded = jnp.pad(array, ((0, 0), (0, -length % size)))
        return padded.reshape(count, -1, size).swapaxes(0, 1)

    blocks = tuple(in_blocks(array) for array in (i, j, mass))
    return jnp.sum(lax.map(lambda pieces: of_pieces(x, y, pieces), blocks), axis=0)


def _power_of_lengths(squares: Float[Array, "l k"], p: float) -> Float[Array, "l k"]:
    """Returns |x - y|^p with the derivative zero at zero."""
    if p == 2.0:
        return squares
    apart = squares > 0
    return jnp.where(apart, power(jnp.sqrt(jnp.where(apart, squares, 1.0)), p), 0.0)
