"""Distances to a target that is known by its points."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from swjko import validation
from swjko.distances.directions import uniform_directions
from swjko.distances.sliced import sliced_wasserstein_pow
from swjko.functionals.base import (
    expectation,
    kernel_at_zero,
    kernel_values,
    map_in_blocks,
    stratified_indices,
)
from swjko.functionals.energies import Interaction, interaction
from swjko.types import Cloud, DirectionFn, Key, Leaf, Scalar, static_field

# Bytes of the pairs of target points that are held at once when a functional is made.
_TARGET_BLOCK_BYTES = 2**26


def sw_to_target(
    target: Float[Array, "m d"],
    num_projections: int,
    *,
    direction_fn: DirectionFn = uniform_directions,
    batch_size: int | None = None,
) -> "SWToTarget":
    """Makes SW_2^2(mu, nu) / 2 for an empirical target nu. Note the factor 1/2.

    Args:
      target: Points [m d] of nu; a leaf, never compiled in.
      num_projections: Number of directions, drawn anew at each evaluation.
      direction_fn: ``(key, num, dim) -> [num dim]``, unit vectors.
      batch_size: Number of target points drawn without replacement for each evaluation; None
        takes all m.

    References:
      Liutkus et al. (2019).
    """
    target = validation.as_points(target, "target")
    num_projections = validation.as_count(num_projections, "num_projections")
    if batch_size is not None and validation.as_count(batch_size, "batch_size") > target.shape[0]:
        raise ValueError(
            f"`batch_size` must not exceed the {target.shape[0]} points of the target; "
            f"got {batch_size}."
        )
    validation.require_callable(direction_fn, "direction_fn", "(key, num, dim) -> directions")
    return SWToTarget(target, num_projections, direction_fn, batch_size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SWToTarget:
    """Made by ``sw_to_target``. target is a leaf."""

    target: Leaf
    num_projections: int = static_field()
    direction_fn: DirectionFn = static_field()
    batch_size: int | None = static_field()
    needs_density: ClassVar[bool] = False

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        direction_key, batch_key = jax.random.split(key)
        x, y = cloud.points, self.target
        directions = self.direction_fn(direction_key, self.num_projections, x.shape[1])
        if self.batch_size is not None:
            y = jax.random.choice(batch_key, y, (self.batch_size,), replace=False)
        return 0.5 * sliced_wasserstein_pow(x, y, directions, x_weights=cloud.weights)


def mmd_to_target(
    target: Float[Array, "m d"],
    kernel: Callable[[Float[Array, " d"]], Scalar],
    *,
    block_size: int | None = None,
) -> "MMDToTarget":
    """Makes MMD^2(mu, nu) / 2 for an empirical target nu.

    It is 1/2 E k(X - X') - E k(X - Y) + 1/2 E k(Y - Y'). Pairs of a point with itself are left out
    on both sides, so the value is unbiased and may be negative.

    Args:
      target: Points [m d] of nu, m >= 2; a leaf, never compiled in.
      kernel: Positive definite function of the difference of two points [d], such as
        ``lambda x: jnp.exp(-jnp.sum(x**2) / 2)``; or, for half the energy distance,
        ``lambda x: -jnp.linalg.norm(x)``. Points that coincide have the gradient zero.
      block_size: Points worked on at once, so that the memory of a call is
        O(block_size (n + m) d); None takes all. The term of the target alone is computed here, in
        blocks of at most 64 MiB.

    References:
      Arbel, Korba, Salim, Gretton, "Maximum mean discrepancy gradient flow" (2019), arXiv
      1906.04370.
    """
    target = validation.as_points(target, "target")
    if target.shape[0] < 2:
        raise ValueError(
            f"`target` must hold at least two points, since none is paired with itself; "
            f"got {target.shape[0]}."
        )
    validation.require_callable(kernel, "kernel", "from a difference of points [d] to a scalar")
    own = interaction(kernel, block_size=block_size)
    in_blocks = dataclasses.replace(own, block_size=_target_block(target, block_size))
    return MMDToTarget(own, target, in_blocks(jax.random.key(0), Cloud(target)))


def _target_block(target: Float[Array, "m d"], block_size: int | None) -> int:
    """Returns the number of rows, each of pairs [m d], that fit into half of the budget."""
    fitting = max(1, _TARGET_BLOCK_BYTES // (2 * target.nbytes))
    return min(block_size or target.shape[0], fitting)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MMDToTarget:
    """Made by ``mmd_to_target``. target and target_energy are leaves."""

    own: Interaction
    target: Leaf
    target_energy: Leaf
    needs_density: ClassVar[bool] = False

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        at_zero = kernel_at_zero(self.own.w, cloud.points, "kernel")

        def attraction(point):
            differences = point[None, :] - self.target
            return jnp.mean(kernel_values(self.own.w, at_zero, differences, "kernel"))

        cross = map_in_blocks(attraction, self.own.block_size, cloud.points)
        own = self.own(key, cloud) - expectation(cloud, cross)
        return own + self.target_energy.astype(cross.dtype)


def forward_kl(
    points: Float[Array, "m d"],
    weights: Float[Array, " m"] | None = None,
    *,
    batch_size: int | None = None,
) -> "ForwardKL":
    """Makes -sum_j w_j log rho(y_j), for maximum likelihood.

    For a sample y of nu it is KL(nu || mu) up to a constant.

    Its minimum over a family is the maximum-likelihood fit, or the weighted one. Unlike
    KL(mu || nu) it covers all modes of nu. It needs a family with ``log_prob``.

    Args:
      points: Points [m d] of nu; a leaf, never compiled in.
      weights: Weights [m], nonnegative, with sum one; None is uniform.
      batch_size: Number of points drawn for each evaluation, one from each of as many parts of
        equal weight; None takes all m.

    Example:
      ``sw_jko(flows.coupling(2), forward_kl(data, batch_size=512), optimizer, ...)``
    """
    points = validation.as_points(points, "points")
    weights = validation.as_weights(weights, points.shape[0], "weights")
    if batch_size is not None and validation.as_count(batch_size, "batch_size") > points.shape[0]:
        raise ValueError(
            f"`batch_size` must not exceed the {points.shape[0]} points; got {batch_size}."
        )
    return ForwardKL(points, weights, batch_size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ForwardKL:
    """Made by ``forward_kl``. points and weights are leaves."""

    points: Leaf
    weights: Leaf | None
    batch_size: int | None = static_field()
    needs_density: ClassVar[bool] = False
    needs_log_prob: ClassVar[bool] = True

    def __call__(self, key: Key, cloud: Cloud, log_prob: Callable[..., Array]) -> Scalar:
        del cloud
        points, weights = self.points, self.weights
        if self.batch_size is not None and weights is None:
            # One in each of equal parts: a draw without replacement sorts all points.
            parts = jnp.arange(self.batch_size) + jax.random.uniform(key, (self.batch_size,))
            indices = (parts * (len(points) / self.batch_size)).astype(int)
            points = points[jnp.minimum(indices, len(points) - 1)]
        elif self.batch_size is not None and weights is not None:
            points = points[stratified_indices(key, weights, self.batch_size)]
            weights = None
        return -expectation(Cloud(points, weights), log_prob(points))
