"""Velocities of particles on the Wasserstein flow of a divergence from a target.

Points alone have no density, so the drift -grad log(rho / nu) of KL(mu | nu) must be estimated.
A drift is a function ``(key, cloud) -> velocity [n d]`` for ``particle_flow``. Those of the package
have a method ``energy(key, cloud)``, which the scheme reports: for a divergence from a density it
is the mean of -log nu, KL without its entropy. ``radon_wasserstein`` is in
``swjko.schemes.radon``.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko.functionals.radial import (
    RadialKernel,
    TowardsTarget,
    as_target,
    equal_weights,
    gaussian_profile,
    radial_kernel,
    scores,
)
from swjko.types import Cloud, Key, Leaf, Scalar, validation
from swjko.types.readable import Readable

Profile = Callable[[Scalar], Scalar]
LogProb = Callable[[Float[Array, " d"]], Scalar]


def svgd(
    log_prob: LogProb,
    *,
    bandwidth: float | Scalar | None = None,
    kernel: Profile = gaussian_profile,
    block_size: int | None = None,
) -> "SVGD":
    """Makes the drift of Stein variational gradient descent towards a density.

    v(x) = sum_j w_j [k(x, x_j) grad log nu(x_j) + grad_{x_j} k(x, x_j)]: the steepest descent of
    KL(mu | nu) among fields of the kernel's space. There is no noise, and one particle climbs to a
    mode.

    Args:
      log_prob: Log-density of nu at one point [d], up to a constant. Bind data by
        ``jax.tree_util.Partial``.
      bandwidth: h of the kernel, positive. None means 2 h^2 = med^2 / log(n + 1) at each move,
        where med is the median distance of n random pairs of points.
      kernel: Profile of k(x, y) = kernel(|x - y|^2 / h^2), smooth; by default exp(-u / 2).
      block_size: Rows of the matrix of pairs held at once, so that memory is O(block_size n);
        None means about a million entries.

    Example::

        scheme = particle_flow(points, optimizer=optax.adagrad(0.1), drift=svgd(log_prob),
                               step_size=0.1, num_inner_steps=100)

    References:
      Liu, Wang, "Stein variational gradient descent" (2016), arXiv 1608.04471, equation 8.
    """
    return SVGD(as_target(log_prob), radial_kernel(kernel, bandwidth, block_size))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SVGD(TowardsTarget):
    """Made by ``svgd``."""

    log_prob: Partial
    kernel: RadialKernel

    def __call__(self, key: Key, cloud: Cloud) -> Float[Array, "n d"]:
        points, width = cloud.points, self.kernel.width(key, cloud.points)
        values = scores(self.log_prob, points, self.kernel.block_size)
        attraction, gradient = self.kernel.sums(width, points, points, equal_weights(cloud), values)
        # The gradients of k in its two points are opposite.
        return attraction - gradient


def kernel_density_drift(
    log_prob: LogProb,
    *,
    bandwidth: float | Scalar | None = None,
    kernel: Profile = gaussian_profile,
    block_size: int | None = None,
) -> "KernelDensityDrift":
    """Makes the drift grad log nu - grad log(k * mu), with mu smoothed by a kernel.

    The points settle where mu smoothed is about nu, so they are narrower than nu by the kernel's
    width. In many dimensions the estimate is poor, as all kernel densities are.

    Args:
      log_prob: Log-density of nu at one point [d], up to a constant.
      bandwidth: h of the kernel, positive; None means the median rule of ``svgd`` at each move.
      kernel: Profile of k(x, y) = kernel(|x - y|^2 / h^2), smooth and positive.
      block_size: Rows of the matrix of pairs held at once; None means about a million entries.

    Example:
      ``particle_flow(points, drift=kernel_density_drift(log_prob), step_size=0.05)``

    References:
      Carrillo, Craig, Patacchini, "A blob method for diffusion" (2019), arXiv 1709.09195.
    """
    return KernelDensityDrift(as_target(log_prob), radial_kernel(kernel, bandwidth, block_size))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KernelDensityDrift(TowardsTarget):
    """Made by ``kernel_density_drift``."""

    log_prob: Partial
    kernel: RadialKernel

    def __call__(self, key: Key, cloud: Cloud) -> Float[Array, "n d"]:
        points, width = cloud.points, self.kernel.width(key, cloud.points)
        ones = jnp.ones_like(points[:, :1])
        density, gradient = self.kernel.sums(width, points, points, equal_weights(cloud), ones)
        return scores(self.log_prob, points, self.kernel.block_size) - gradient / density


def mmd_drift(
    target: Float[Array, "m d"],
    *,
    bandwidth: float | Scalar | None = None,
    kernel: Profile = gaussian_profile,
    noise: float | Scalar = 0.0,
    block_size: int | None = None,
) -> "MMDDrift":
    """Makes the drift of MMD^2(mu, nu) / 2 towards a sample, with noise injected into it.

    v(x) = -grad f(x + noise * z), z ~ N(0, I), with the witness
    f(x) = sum_j w_j k(x, x_j) - mean_i k(x, y_i). The noise lets points feel forces where the
    kernel is flat; points themselves do not get noise. Without it the flow is that of
    ``mmd_to_target`` with all pairs.

    Args:
      target: Sample [m d] of nu; a leaf, never compiled in.
      bandwidth: h of the kernel, positive; None means the median rule of ``svgd`` on the target.
      kernel: Profile of k(x, y) = kernel(|x - y|^2 / h^2), smooth.
      noise: Deviation of the injected noise, at least 0.
      block_size: Rows of the matrix of pairs held at once; None means about a million entries.

    Example:
      ``particle_flow(points, drift=mmd_drift(data, noise=0.5), step_size=1.0)``

    References:
      Arbel, Korba, Salim, Gretton, "Maximum mean discrepancy gradient flow" (2019), arXiv
      1906.04370, equation 17.
    """
    target = validation.as_points(target, "target")
    noise = validation.as_nonnegative(noise, "noise")
    own = radial_kernel(kernel, bandwidth, block_size)
    width = own.width(jax.random.key(0), target)
    own = dataclasses.replace(own, bandwidth=width)
    return MMDDrift(target, own, noise, _mean_kernel(own, Cloud(target), Cloud(target)) / 2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MMDDrift(Readable):
    """Made by ``mmd_drift``. target, noise and the bandwidth are leaves."""

    target: Leaf
    kernel: RadialKernel
    noise: Leaf
    target_energy: Leaf

    def __call__(self, key: Key, cloud: Cloud) -> Float[Array, "n d"]:
        points = cloud.points
        noise = self.noise.astype(points.dtype) * jax.random.normal(key, points.shape, points.dtype)
        own = self._gradient(points + noise, cloud)
        return self._gradient(points + noise, Cloud(self.target)) - own

    def energy(self, key: Key, cloud: Cloud) -> Scalar:
        """Returns MMD^2 / 2 over all pairs, at least zero."""
        del key
        own, cross = (
            _mean_kernel(self.kernel, cloud, other) for other in (cloud, Cloud(self.target))
        )
        return own / 2 - cross + self.target_energy.astype(own.dtype)

    def _gradient(self, queries: Float[Array, "n d"], cloud: Cloud) -> Float[Array, "n d"]:
        width = self.kernel.bandwidth.astype(queries.dtype)
        ones = jnp.ones_like(cloud.points[:, :1])
        return self.kernel.sums(width, queries, cloud.points, equal_weights(cloud), ones)[1]


def _mean_kernel(kernel: RadialKernel, first: Cloud, second: Cloud) -> Scalar:
    """Returns the mean of the kernel over pairs of points of two clouds."""
    width = kernel.width(jax.random.key(0), first.points)
    ones = jnp.ones_like(second.points[:, :1])
    values, _ = kernel.sums(width, first.points, second.points, equal_weights(second), ones)
    return jnp.sum(equal_weights(first) * values[:, 0])
