"""The kernel Stein discrepancy, a distance to a target that is known by its score."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko.functionals.base import map_in_blocks
from swjko.functionals.radial import (
    RadialKernel,
    as_target,
    equal_weights,
    gaussian_profile,
    matmul,
    radial_kernel,
    scores,
)
from swjko.types import Cloud, Key, Scalar
from swjko.types.readable import Readable


def ksd_to_target(
    log_prob: Callable[[Float[Array, " d"]], Scalar],
    *,
    bandwidth: float | Scalar | None = None,
    kernel: Callable[[Scalar], Scalar] = gaussian_profile,
    block_size: int | None = None,
) -> "KSDToTarget":
    """Makes KSD^2(mu, nu) / 2 for a target nu whose density is known up to a constant.

    KSD^2 = int int k_nu dmu dmu with s = grad log nu and
    k_nu(x, y) = s(x)^T s(y) k + s(x)^T grad_y k + s(y)^T grad_x k + tr grad_x grad_y k. All pairs
    count (the V-statistic), so it is at least zero. Its flow needs second derivatives of log nu.

    Args:
      log_prob: Log-density of nu at one point [d], up to a constant.
      bandwidth: h of the kernel, positive; None means the median rule of ``svgd`` at each call.
      kernel: Profile of k(x, y) = kernel(|x - y|^2 / h^2), smooth; by default exp(-u / 2). The
        profile ``lambda u: (1 + u) ** -0.5`` also sees masses far away.
      block_size: Rows of the matrix of pairs held at once, so that memory is O(block_size n);
        None means about a million entries.

    Example:
      ``particle_flow(points, ksd_to_target(log_prob, bandwidth=1.0), step_size=0.1)``

    References:
      Korba, Aubin-Frankowski, Majewski, Ablin, "Kernel Stein discrepancy descent" (2021),
      arXiv 2105.09994.
    """
    return KSDToTarget(as_target(log_prob), radial_kernel(kernel, bandwidth, block_size))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KSDToTarget(Readable):
    """Made by ``ksd_to_target``."""

    log_prob: Partial
    kernel: RadialKernel
    needs_density: ClassVar[bool] = False

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        points, profile = cloud.points, self.kernel.profile
        weights, width = equal_weights(cloud), self.kernel.width(key, points)
        block, dim = self.kernel.block(points), points.shape[1]
        # In units of the bandwidth: points over h, and scores times h.
        x = (points - jnp.mean(points, axis=0, keepdims=True)) / width
        s = scores(self.log_prob, points, self.kernel.block_size) * width
        squares, products = jnp.sum(x**2, axis=1), jnp.sum(s * x, axis=1)
        slope = jax.grad(profile)

        def row(z: Float[Array, " d"], t: Float[Array, " d"], weight: Scalar) -> Scalar:
            u = jnp.maximum(jnp.sum(z**2) + squares - 2 * matmul(x, z), 0.0)
            first, second = jax.vmap(jax.value_and_grad(slope))(u)
            # (s(y) - s(x))^T (x - y) of the pairs of this row.
            along = matmul(s, z) - products - jnp.sum(t * z) + matmul(x, t)
            values = matmul(s, t) * jax.vmap(profile)(u)
            values += 2 * first * (along - dim) - 4 * u * second
            return weight * jnp.sum(weights * values)

        return jnp.sum(map_in_blocks(row, block, x, s, weights)) / (2 * width**2)
