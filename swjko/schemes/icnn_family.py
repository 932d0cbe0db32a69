"""Images of N(mean, scale^2 I) under a chain of maps, each the gradient of a convex network.

Params are those of the maps, stacked in slots, and the number of maps so far:
{"maps": {"frame", "network"}, "num_maps"}. A map works in the coordinates of its frame, the
principal axes of the points that it moves. The network's input has unit scale on average over
axes, so one learning rate suits narrow measures far from the origin as well.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from swjko.families.base import standard_normal_log_prob
from swjko.types import Cloud, Key, Leaf, Params, Scalar, static_field
from swjko.types.readable import Readable


class Frame(NamedTuple):
    """Coordinates (x - center) / unit along ``axes``, the columns of an orthogonal matrix.

    A gradient in these coordinates is a gradient in x.
    """

    center: Float[Array, " d"]
    axes: Float[Array, "d d"]
    unit: Scalar

    def inward(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return (x - self.center[None, :]) @ self.axes / self.unit

    def outward(self, u: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return self.center[None, :] + self.unit * (u @ self.axes.T)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MapChain(Readable):
    """mu_0 = N(mean, scale^2 I) and the chain of maps that follows it.

    Attributes:
      maps: A ``swjko.networks.convex.ConvexMaps``, the architecture of one map.
      mean: Mean [d] of mu_0.
      scale: Standard deviations [d] of mu_0.
      max_steps: Slots for maps.
    """

    maps: Any
    mean: Leaf
    scale: Leaf
    max_steps: int = static_field()

    @property
    def dim(self) -> int:
        return self.maps.dim

    def init(self, key: Key) -> Params:
        """Returns params without a map; the slots hold identities that are never a start."""
        shapes = jax.eval_shape(self.maps.init, key)
        network = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        axes = jnp.eye(self.dim, dtype=self.mean.dtype)
        frame = Frame(jnp.zeros_like(self.mean), axes, jnp.ones_like(self.mean[0]))
        slots = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (self.max_steps, *leaf.shape)),
            {"frame": frame, "network": network},
        )
        return {"maps": slots, "num_maps": jnp.zeros((), jnp.int32)}

    def latent(self, key: Key, num: int) -> Float[Array, "n d"]:
        return jax.random.normal(key, (num, self.dim), self.mean.dtype)

    def push(self, params: Params, z: Float[Array, "n d"]) -> Cloud:
        def move(map_params, carry):
            points, log_det = self.forward(map_params, carry[0])
            return points, carry[1] - log_det

        points, log_density = _through_maps(move, params, self.start(z))
        return Cloud(points, None, log_density)

    def log_prob(self, params: Params, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        def move_back(map_params, carry):
            points, log_det = self.inverse(map_params, carry[0])
            return points, carry[1] + log_det

        carry = (points, jnp.zeros_like(points[:, 0]))
        points, log_det = _through_maps(move_back, params, carry, reverse=True)
        z = (points - self.mean[None, :]) / self.scale[None, :]
        return standard_normal_log_prob(z) - jnp.sum(jnp.log(self.scale)) + log_det

    def start(self, z: Float[Array, "n d"]) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        """Returns points of mu_0 and their log-density."""
        points = self.mean[None, :] + self.scale[None, :] * z
        return points, standard_normal_log_prob(z) - jnp.sum(jnp.log(self.scale))

    def identity_around(self, key: Key, points: Float[Array, "n d"]) -> Params:
        """Returns params of one map, the identity, in the frame of the points."""
        points = lax.stop_gradient(points)
        center = jnp.mean(points, axis=0)
        centred = points - center[None, :]
        variances, axes = jnp.linalg.eigh(centred.T @ centred / points.shape[0])
        least = jnp.finfo(points.dtype).eps * variances[-1]
        deviations = jnp.sqrt(jnp.maximum(variances, least))
        unit = jnp.exp(jnp.mean(jnp.log(deviations)))
        return {
            "frame": Frame(center, axes, unit),
            "network": self.maps.init(key, deviations / unit),
        }

    def transport(self, params: Params, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Returns the images of points under one map."""
        frame = params["frame"]
        return frame.outward(self.maps.transport(params["network"], frame.inward(x)))

    def forward(self, params: Params, x: Float[Array, "n d"]) -> tuple[Array, Array]:
        """Returns the images of points under one map, and its log-determinants."""
        frame = params["frame"]
        u, log_det = self.maps.forward(params["network"], frame.inward(x))
        return frame.outward(u), log_det

    def forward_with_score(
        self, params: Params, x: Float[Array, "n d"], score: Float[Array, "n d"]
    ) -> tuple[Array, Array, Array]:
        """Returns images, log-determinants, and the score of the image measure."""
        frame = params["frame"]
        inward_score = frame.unit * (score @ frame.axes)
        u, log_det, score = self.maps.forward_with_score(
            params["network"], frame.inward(x), inward_score
        )
        return frame.outward(u), log_det, score @ frame.axes.T / frame.unit

    def inverse(self, params: Params, y: Float[Array, "n d"]) -> tuple[Array, Array]:
        """Returns the points that one map sends to y, and log-determinants of the inverse."""
        frame = params["frame"]
        u, log_det = self.maps.inverse(params["network"], frame.inward(y))
        return frame.outward(u), log_det

    def add(self, params: Params, step: Int[Array, ""], new: Params, keep: Array) -> Params:
        """Returns params with one map more, in slot number ``step``, if it is to be kept."""
        slot = jnp.minimum(step, self.max_steps - 1)
        maps = jax.tree.map(
            lambda slots, new: slots.at[slot].set(jnp.where(keep, new, slots[slot])),
            params["maps"],
            new,
        )
        return {"maps": maps, "num_maps": step + keep.astype(step.dtype)}


def _through_maps(move: Callable, params: Params, carry: PyTree, reverse: bool = False) -> Any:
    """Returns the carry after the maps so far; empty slots cost nothing outside ``vmap``."""

    def pass_slot(carry, slot):
        index, map_params = slot
        used = index < params["num_maps"]
        return lax.cond(used, move, lambda _, carry: carry, map_params, carry), None

    slots = jnp.arange(jax.tree.leaves(params["maps"])[0].shape[0])
    return lax.scan(pass_slot, carry, (slots, params["maps"]), reverse=reverse)[0]
