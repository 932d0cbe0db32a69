"""Unbalanced sliced transport, in which mass may be left behind at a price.

Marginals of a plan may differ from the measures, which costs rho times their KL divergence; see
``swjko.distances.frank_wolfe`` for the problem on the line and its method. Mass that would travel
at a cost above some rho is left behind instead, so that outliers do not pull.
"""

from typing import SupportsFloat

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from swjko.distances.blocks import automatic_block_size
from swjko.distances.centering import centred, exact_on_the_line
from swjko.distances.frank_wolfe import optimal_marginals, potentials_of_rows
from swjko.distances.kernel import sliced_power
from swjko.distances.sorting import sort_rows_with_permutation, unsort_rows
from swjko.types import Scalar, validation

Prices = SupportsFloat | Array | tuple[SupportsFloat | Array, SupportsFloat | Array]


def sliced_unbalanced_ot(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    directions: Float[Array, "l d"],
    *,
    rho: Prices,
    p: float = 2.0,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
    num_iterations: int = 20,
    block_size: int | None = None,
) -> Scalar:
    """Returns SUOT, the mean over directions of unbalanced transport on the line.

    On each line, with u and v the projections and a, b the weights, it is

        inf_{a', b'} W_p^p(a' on u, b' on v) + rho_1 KL(a' | a) + rho_2 KL(b' | b).

    Each direction leaves its own mass behind. The value is a lower bound that rises with the
    iterations. Its gradients are those of the marginals held fixed, exact at the optimum.

    Args:
      x: Points [n d].
      y: Points [m d].
      directions: Unit rows [l d].
      rho: Price of mass, in units of |x - y|^p, or a pair of prices for x and y. An infinite one
        keeps the mass of its cloud. As both grow, the value tends to ``sliced_wasserstein_pow``.
      p: Order of the cost, at least 1.
      x_weights: Weights [n], nonnegative, of any positive sum; None is uniform with sum one.
      y_weights: Weights [m], likewise.
      num_iterations: Iterations of the Frank-Wolfe method; more for a rho below typical costs.
      block_size: Directions processed at once; None keeps the temporaries within a budget.

    References:
      Bonet, Nadjahi, Sejourne, Fatras, Courty (2023), arXiv 2306.07176, equation 4.
    """
    inputs = _prepared(x, y, directions, x_weights, y_weights, rho)
    p, num_iterations, block_size = _options(inputs, p, num_iterations, block_size)
    return sliced_power(*inputs, p=p, block_size=block_size, num_iterations=num_iterations).value


def unbalanced_sliced_ot(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    directions: Float[Array, "l d"],
    *,
    rho: Prices,
    p: float = 2.0,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
    num_iterations: int = 20,
    block_size: int | None = None,
) -> Scalar:
    """Returns USOT, the sliced-Wasserstein distance with a price on changes of the weights.

        inf_{a', b'} SW_p^p(a' on x, b' on y) + rho_1 KL(a' | a) + rho_2 KL(b' | b)

    All directions leave the same mass behind, so that points are judged in d dimensions; it is at
    least SUOT. The value is a lower bound that rises with the iterations. Its gradients are those
    of the marginals held fixed, exact at the optimum. Memory is 16 bytes for each projected point.

    Args:
      x: Points [n d].
      y: Points [m d].
      directions: Unit rows [l d].
      rho: Price of mass, in units of |x - y|^p, or a pair of prices for x and y. An infinite one
        keeps the mass of its cloud. As both grow, the value tends to ``sliced_wasserstein_pow``.
      p: Order of the cost, at least 1.
      x_weights: Weights [n], nonnegative, of any positive sum; None is uniform with sum one.
      y_weights: Weights [m], likewise.
      num_iterations: Iterations of the Frank-Wolfe method; more for a rho below typical costs.
      block_size: Directions processed at once; None keeps the temporaries within a budget.

    References:
      Bonet, Nadjahi, Sejourne, Fatras, Courty (2023), arXiv 2306.07176, equation 6.
    """
    inputs = _prepared(x, y, directions, x_weights, y_weights, rho)
    p, num_iterations, block_size = _options(inputs, p, num_iterations, block_size)
    x, y, directions, x_weights, y_weights, rho = inputs
    fixed = [lax.stop_gradient(array) for array in inputs]
    potentials = _mean_potentials(fixed[0], fixed[1], fixed[2], p, block_size)
    # Means of potentials over many lines are smooth.
    found = optimal_marginals(
        potentials, fixed[3], fixed[4], fixed[5], num_iterations, relaxation=1.3
    )
    a, b = found.u_weights, found.v_weights
    transport = sliced_power(x, y, directions, a, b, p=p, block_size=block_size).value

    def moves(values, fixed):
        # Zero, with the derivative one.
        return values - fixed

    return (
        found.value
        + found.mass * moves(transport, lax.stop_gradient(transport))
        + jnp.vdot(found.u_slope, moves(x_weights, fixed[3]))
        + jnp.vdot(found.v_slope, moves(y_weights, fixed[4]))
        + jnp.vdot(found.divergences, jnp.where(jnp.isinf(rho), 0.0, moves(rho, fixed[5])))
    )


def _mean_potentials(x, y, directions, p: float, block_size: int):
    """Returns the function from weights to the mean over directions of potentials on lines.

    Rows are sorted once. A last block is padded with rows that do not count.
    """
    count = directions.shape[0]
    padded = jnp.pad(directions, ((0, -count % block_size), (0, 0)), mode="edge")
    blocks = padded.reshape(-1, block_size, directions.shape[1])
    counts = (jnp.arange(padded.shape[0]) < count).astype(x.dtype).reshape(-1, block_size)

    def sort(block):
        projections = [
            jnp.matmul(block, points.T, precision=lax.Precision.HIGHEST) for points in (x, y)
        ]
        return [sort_rows_with_permutation(rows) for rows in projections]

    ordered = lax.map(sort, blocks)

    def mean_potentials(x_weights, y_weights):
        def add(sums, block):
            ((u, u_order), (v, v_order)), counted = block
            found = potentials_of_rows(u, v, x_weights[u_order], y_weights[v_order], p)
            unsorted = [unsort_rows(*pair) for pair in zip(found, (u_order, v_order), strict=True)]
            return tuple(total + counted @ f for total, f in zip(sums, unsorted, strict=True)), None

        zeros = jnp.zeros_like(x_weights), jnp.zeros_like(y_weights)
        sums, _ = lax.scan(add, zeros, (ordered, counts))
        return sums[0] / count, sums[1] / count

    return mean_potentials


def _prepared(
    x, y, directions, x_weights, y_weights, rho
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Returns checked inputs of one dtype, centred, with weights for every point."""
    x, y = validation.as_points(x, "x"), validation.as_points(y, "y")
    validation.require_same_dim(x, y, "x", "y")
    directions = validation.as_directions(directions, x.shape[1])
    dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    weights = []
    for name, given, points in (("x_weights", x_weights, x), ("y_weights", y_weights, y)):
        count = points.shape[0]
        found = validation.as_weights(given, count, name, any_sum=True)
        found = jnp.full((count,), 1.0 / count) if found is None else found
        weights.append(found.astype(dtype))
    a, b = weights
    x, y = centred(x.astype(dtype), y.astype(dtype), a / jnp.sum(a), b / jnp.sum(b))
    directions = exact_on_the_line(directions.astype(dtype))
    return x, y, directions, a, b, as_prices(rho).astype(dtype)


def as_prices(rho: Prices, name: str = "rho", *, of_second: bool = False) -> Float[Array, "2"]:
    """Returns the prices of mass of both clouds, positive, at most one of them infinite.

    With ``of_second`` a single price is that of the second cloud, and the first keeps its mass.
    """
    pair = rho if isinstance(rho, tuple) else (jnp.inf if of_second else rho, rho)
    requirement = f"`{name}` must be a positive number or a pair of them, at most one infinite"
    try:
        prices = jnp.stack([jnp.asarray(price, float) for price in pair])
    except (TypeError, ValueError) as error:
        raise TypeError(f"{requirement}; got {rho!r}.") from error
    if prices.shape != (2,):
        raise ValueError(f"{requirement}; got shape {prices.shape}. To sweep it, use vmap.")
    if validation.is_concrete(prices):
        host = np.asarray(prices)
        if not np.all(host > 0):
            raise ValueError(
                f"{requirement}; got {rho}. Pass a cost above which mass stays behind."
            )
        if np.all(np.isinf(host)):
            raise ValueError(f"{requirement}; got {rho}. Use swjko.sliced_wasserstein_pow instead.")
    return prices


def _options(inputs, p: float, num_iterations: int, block_size: int | None):
    """Returns the order, the iterations and the size of a block, checked."""
    p = validation.as_power(p)
    num_iterations = validation.as_count(num_iterations, "num_iterations")
    n, m, count = (array.shape[0] for array in inputs[:3])
    if block_size is None:
        return p, num_iterations, automatic_block_size(n, m, count, True)
    return p, num_iterations, min(validation.as_count(block_size, "block_size"), count)
