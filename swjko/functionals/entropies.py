"""Entropies: from the density, relative to a target, and from nearest neighbours."""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import digamma
from jaxtyping import Array, Float

from swjko.distances.sorting import sort_rows
from swjko.functionals.base import expectation, log_density
from swjko.functionals.energies import Potential
from swjko.functionals.sums import WeightedSum, weighted_sum
from swjko.types import Cloud, Key, Scalar, as_partial, static_field, validation
from swjko.types.readable import Readable


def negative_entropy() -> "NegativeEntropy":
    """Makes int log(rho) drho, estimated by the mean log-density of the points.

    Its Wasserstein flow is the heat equation. It needs a family with a density, and raises
    ValueError on a cloud without ``log_density``.
    """
    return NegativeEntropy()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NegativeEntropy(Readable):
    """Made by ``negative_entropy``."""

    needs_density: ClassVar[bool] = True
    entropy_like: ClassVar[bool] = True

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        del key
        return expectation(cloud, log_density(cloud, "negative_entropy"))


def kl_divergence(target_log_prob: Callable[[Float[Array, " d"]], Scalar]) -> WeightedSum:
    """Makes KL(mu || nu) = int log(rho) drho - int log(nu) drho.

    Its Wasserstein flow is the Fokker-Planck equation with V = -log nu. It needs a family with a
    density.

    Args:
      target_log_prob: Log-density of nu at one point [d]. If it is not normalised, the value is
        shifted by the log of the normalisation.

    Example:
      ``kl_divergence(lambda x: -0.5 * jnp.sum(x**2))``

    References:
      Jordan, Kinderlehrer, Otto (1998), doi 10.1137/S0036141096303359.
    """
    validation.require_callable(
        target_log_prob, "target_log_prob", "from one point [d] to a scalar"
    )
    target = Potential(as_partial(target_log_prob), "target_log_prob")
    return weighted_sum((-1.0, target), (1.0, negative_entropy()))


def nearest_neighbour_negative_entropy(
    num_neighbours: int = 3, *, block_size: int | None = None
) -> "NearestNeighbourNegativeEntropy":
    """Makes int log(rho) drho for families without a density, estimated from points alone.

    The estimate is psi(k) - psi(n) - log V_d - (d / n) sum_i log e_i, where e_i is the distance
    from point i to its k-th neighbour, V_d the volume of the unit ball and psi the digamma
    function. Its bias falls with n, slowly in high dimension, and is of the size of 0.01 d at
    n = 1000. For particles that repel each other it is not an unbiased entropy, but its gradient
    still spreads them. If more than k points coincide, the value is infinite, as int log(rho) drho
    of an atom is, and has no gradient. Start particles at different points.

    Args:
      num_neighbours: k, below the number of points. Larger k is smoother and more biased.
      block_size: Points worked on at once, so that memory is O(block_size n d); None takes all n.

    Raises:
      ValueError: When called on a cloud of k points or fewer, or with weights.

    Example:
      ``weighted_sum((1.0, potential(v)), (1.0, nearest_neighbour_negative_entropy()))``

    References:
      Kozachenko and Leonenko (1987); Kraskov, Stoegbauer, Grassberger (2004), arXiv
      cond-mat/0305641.
    """
    num_neighbours = validation.as_count(num_neighbours, "num_neighbours")
    if block_size is not None:
        block_size = validation.as_count(block_size, "block_size")
    return NearestNeighbourNegativeEntropy(num_neighbours, block_size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NearestNeighbourNegativeEntropy(Readable):
    """Made by ``nearest_neighbour_negative_entropy``."""

    num_neighbours: int = static_field()
    block_size: int | None = static_field()
    needs_density: ClassVar[bool] = False

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        del key
        (n, dim), k = cloud.points.shape, self.num_neighbours
        if cloud.weights is not None:
            raise ValueError(
                "nearest_neighbour_negative_entropy needs clouds of equal weights; got weights. "
                "Use negative_entropy: a family with weights, the grid, has a density."
            )
        if n <= k:
            raise ValueError(
                f"nearest_neighbour_negative_entropy needs more than num_neighbours = {k} points; "
                f"got {n}."
            )
        log_squares = self._log_square_distances(cloud.points)
        log_ball = 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1.0)
        dtype = log_squares.dtype
        counts = digamma(jnp.asarray(k, dtype)) - digamma(jnp.asarray(n, dtype))
        return counts - log_ball - 0.5 * dim * jnp.mean(log_squares)

    def _log_square_distances(self, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Returns log e_i^2, in blocks that keep nothing for the gradient."""
        n, dim = points.shape
        block = n if self.block_size is None else min(self.block_size, n)

        @jax.checkpoint
        def of_block(rows: Float[Array, "b d"]) -> Float[Array, " b"]:
            squares = jnp.sum((rows[:, None, :] - points[None, :, :]) ** 2, axis=-1)
            # The first of each row is the point itself, at distance zero.
            return jnp.log(sort_rows(squares)[:, self.num_neighbours])

        if block == n:
            return of_block(points)
        padded = jnp.pad(points, ((0, -n % block), (0, 0)), mode="edge").reshape(-1, block, dim)
        return lax.map(of_block, padded).reshape(-1)[:n]
