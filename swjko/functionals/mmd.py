"""The maximum mean discrepancy to a target that is known by its points."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from swjko.functionals.base import (
    as_data,
    expectation,
    kernel_at_zero,
    kernel_values,
    map_in_blocks,
)
from swjko.functionals.energies import Interaction, interaction
from swjko.types import Cloud, Key, Leaf, Scalar, validation
from swjko.types.readable import Readable
from swjko.types.sharding import on_auto_axes

# Bytes of the pairs of target points that are held at once when a functional is made.
_TARGET_BLOCK_BYTES = 2**26


def mmd_to_target(
    target: Float[Array, "m d"],
    kernel: Callable[[Float[Array, " d"]], Scalar],
    *,
    weights: Float[Array, " m"] | None = None,
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
      weights: Weights [m] of the target, nonnegative, with sum one; None is uniform.
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
    weights = validation.as_weights(weights, target.shape[0], "weights")
    own = interaction(kernel, block_size=block_size)
    return MMDToTarget(own, target, _target_energy(own, target, weights), weights)


def _target_energy(
    own: Interaction, target: Float[Array, "m d"], weights: Float[Array, " m"] | None
) -> Scalar:
    in_blocks = dataclasses.replace(own, block_size=_target_block(target, own.block_size))
    return in_blocks(jax.random.key(0), Cloud(target, weights))


def _target_block(target: Float[Array, "m d"], block_size: int | None) -> int:
    """Returns the number of rows, each of pairs [m d], that fit into half of the budget."""
    fitting = max(1, _TARGET_BLOCK_BYTES // (2 * target.nbytes))
    return min(block_size or target.shape[0], fitting)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MMDToTarget(Readable):
    """Made by ``mmd_to_target``. target, target_energy and weights are leaves."""

    own: Interaction
    target: Leaf
    target_energy: Leaf
    weights: Leaf | None = None
    needs_density: ClassVar[bool] = False

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        return on_auto_axes(MMDToTarget._value, self, key, cloud)

    def _value(self, key: Key, cloud: Cloud) -> Scalar:
        at_zero = kernel_at_zero(self.own.w, cloud.points, "kernel")

        def attraction(point):
            differences = point[None, :] - self.target
            values = kernel_values(self.own.w, at_zero, differences, "kernel")
            return expectation(Cloud(self.target, self.weights), values)

        cross = map_in_blocks(attraction, self.own.block_size, cloud.points)
        own = self.own(key, cloud) - expectation(cloud, cross)
        return own + self.target_energy.astype(cross.dtype)

    def with_data(
        self, target: Float[Array, "m d"], weights: Float[Array, " m"] | None = None
    ) -> "MMDToTarget":
        """Returns the functional with another target."""
        target, weights = as_data(target, weights, "target", self.target.dtype)
        energy = _target_energy(self.own, target, weights)
        return MMDToTarget(self.own, target, energy, weights)
