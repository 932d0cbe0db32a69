"""Radial kernels and their sums over pairs of points, by matrix products in blocks of rows.

    k(x, y) = profile(|x - y|^2 / h^2),   by default profile(u) = exp(-u / 2)

Sums over n points of d coordinates take O(n^2 d) operations and O(block_size n) memory. Squared
distances come from products of centred points: a kernel is smooth, so their rounding errors of
eps |x|^2 / h^2 do not matter as long as clouds are not far wider than the kernel.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko.functionals.base import expectation, map_in_blocks
from swjko.types import Cloud, Key, Leaf, Scalar, as_partial, static_field, validation
from swjko.types.readable import Readable

# Entries of the matrix of pairs in an automatic block: 4 MiB in float32.
_BLOCK_ENTRIES = 2**20
# On accelerators the default precision of products would lose distances.
matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def gaussian_profile(u: Scalar) -> Scalar:
    """Returns exp(-u / 2), the profile of the Gaussian kernel."""
    return jnp.exp(-u / 2)


def radial_kernel(
    profile: Callable[[Scalar], Scalar],
    bandwidth: float | Scalar | None,
    block_size: int | None,
) -> "RadialKernel":
    """Makes a kernel from arguments of a user.

    Args:
      profile: Function of the squared distance in units of bandwidth^2, smooth at 0.
      bandwidth: h, positive; None means the median rule.
      block_size: Rows of the matrix of pairs held at once; None means about a million entries.
    """
    profile = as_partial(validation.require_callable(profile, "kernel", "of |x - y|^2 / h^2"))
    values = jax.eval_shape(jax.vmap(profile), jnp.zeros((2,)))
    validation.require_scalars(values, 2, "kernel", "squared distance")
    return RadialKernel(
        profile,
        None if bandwidth is None else validation.as_positive(bandwidth, "bandwidth"),
        None if block_size is None else validation.as_count(block_size, "block_size"),
    )


def median_bandwidth(key: Key, points: Float[Array, "n d"]) -> Scalar:
    """Returns h with 2 h^2 = med^2 / log(n + 1), med the median distance of n random pairs.

    exp(-|x - y|^2 / 2 h^2) is then 1 / (n + 1) at the median distance (Liu and Wang, 2016). The
    pairs are neighbours in a random order, so the cost is O(n d).
    """
    n = points.shape[0]
    if n < 2:
        raise ValueError(
            "bandwidth must be given for a cloud of one point, which has no distances; got None. "
            "Pass bandwidth=1.0, or use more points."
        )
    shuffled = jax.random.permutation(key, points)
    squares = jnp.sum((shuffled - jnp.roll(shuffled, 1, axis=0)) ** 2, axis=1)
    # Points that coincide would make the kernel infinitely narrow.
    least = jnp.finfo(points.dtype).tiny ** 0.5
    return jnp.sqrt(jnp.maximum(jnp.median(squares) / (2 * jnp.log(n + 1.0)), least)).astype(
        points.dtype
    )


def equal_weights(cloud: Cloud) -> Float[Array, " n"]:
    """Returns the weights of a cloud with sum one, 1 / n if it has none."""
    n = cloud.points.shape[0]
    if cloud.weights is None:
        return jnp.full((n,), 1.0 / n, cloud.points.dtype)
    return cloud.weights / jnp.sum(cloud.weights)


def scores(
    log_prob: Partial, points: Float[Array, "n d"], block_size: int | None
) -> Float[Array, "n d"]:
    """Returns the gradient of the log-density at each point."""
    return map_in_blocks(jax.grad(log_prob), block_size, points)


class TowardsTarget(Readable):
    """What drifts towards a density nu share: their energy.

    Attributes:
      log_prob: Log-density of nu at one point [d].
    """

    log_prob: Partial

    def energy(self, key: Key, cloud: Cloud) -> Scalar:
        """Returns the mean of -log nu over the cloud."""
        del key
        return mean_potential(self.log_prob, cloud)


def mean_potential(log_prob: Partial, cloud: Cloud) -> Scalar:
    """Returns the mean of -log_prob over a cloud, its KL divergence without the entropy."""
    return -expectation(cloud, jax.vmap(log_prob)(cloud.points))


def as_target(log_prob: Callable[[Float[Array, " d"]], Scalar]) -> Partial:
    """Returns the log-density of a target as a pytree, or raises TypeError."""
    validation.require_callable(log_prob, "log_prob", "from one point [d] to a scalar")
    return as_partial(log_prob)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RadialKernel(Readable):
    """Made by ``radial_kernel``. The data bound to profile and the bandwidth are leaves."""

    profile: Partial
    bandwidth: Leaf
    block_size: int | None = static_field()

    def width(self, key: Key, points: Float[Array, "n d"]) -> Scalar:
        """Returns h for a cloud, a constant in derivatives."""
        if self.bandwidth is None:
            return lax.stop_gradient(median_bandwidth(key, points))
        return self.bandwidth.astype(points.dtype)

    def sums(
        self,
        width: Scalar,
        queries: Float[Array, "q d"],
        points: Float[Array, "n d"],
        weights: Float[Array, " n"],
        values: Float[Array, "n e"],
    ) -> tuple[Float[Array, "q e"], Float[Array, "q d"]]:
        """Returns sum_j w_j k(z, x_j) values_j and sum_j w_j grad_z k(z, x_j) at each query z."""
        center = jnp.mean(queries, axis=0, keepdims=True)
        x, z = (points - center) / width, (queries - center) / width
        squares = jnp.sum(x**2, axis=1)

        def row(z: Float[Array, " d"]) -> Float[Array, " columns"]:
            u = jnp.maximum(jnp.sum(z**2) + squares - 2 * matmul(x, z), 0.0)
            kernel, slope = jax.vmap(jax.value_and_grad(self.profile))(u)
            slope = 2 * weights * slope
            gradient = (jnp.sum(slope) * z - matmul(slope, x)) / width
            return jnp.concatenate([matmul(weights * kernel, values), gradient])

        found = map_in_blocks(row, self.block(points), z)
        return found[:, : values.shape[1]], found[:, values.shape[1] :]

    def block(self, points: Float[Array, "n d"]) -> int:
        """Returns the number of rows that are held at once."""
        return self.block_size or max(1, _BLOCK_ENTRIES // points.shape[0])
