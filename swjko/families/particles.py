"""Measures of finitely many points: moving points of equal weight, and weights on fixed points."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from swjko import validation
from swjko.families.base import Family
from swjko.types import Cloud, Key, Leaf, Scalar, static_field


def particles(
    points: Float[Array, "n d"], *, weights: Float[Array, " n"] | None = None
) -> "Particles":
    """Makes the family of n particles of fixed weights, mu = sum_i w_i delta(x_i).

    Params are the points [n d]. ``latent(key, num)`` picks indices: all n in order if num == n, a
    subset without replacement if num < n, and independent draws if num > n. Points with weights
    are drawn by them, with replacement, unless num == n. There is no density.

    Args:
      points: Points [n d] of mu_0.
      weights: Weights [n], nonnegative with sum one; None means equal weights.
    """
    points = validation.as_points(points, "points")
    return Particles(
        points, points.shape[1], validation.as_weights(weights, points.shape[0], "weights")
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Particles(Family):
    """Made by ``particles``. points and weights are leaves."""

    points: Leaf
    dim: int = static_field()
    weights: Leaf = None
    is_finite: ClassVar[bool] = True

    def init(self, key: Key) -> Float[Array, "n d"]:
        del key
        return self.points

    def latent(self, key: Key, num: int) -> Int[Array, " num"]:
        count = self.points.shape[0]
        if num == count:
            return jnp.arange(count)
        replace = num > count or self.weights is not None
        return jax.random.choice(key, count, (num,), replace=replace, p=self.weights)

    def push(self, params: Float[Array, "n d"], z: Int[Array, " num"]) -> Cloud:
        if self.weights is None or z.shape[0] != self.points.shape[0]:
            return Cloud(params[z])
        return Cloud(params[z], self.weights[z])


def grid(
    points: Float[Array, "n d"],
    cell_volume: float | Scalar,
    *,
    weights: Float[Array, " n"] | None = None,
    weight_floor: float | Scalar = 1e-6,
) -> "Grid":
    """Makes the family of weights on fixed points, mu = sum_i w_i delta(x_i).

    Its density is w_i / cell_volume on the cell around point i, so it is known at these points
    only, and ``log_prob`` is None. Params are logits [n], w = softmax(logits). Clouds hold all n
    points and their weights, so schemes need num_samples == n, and nothing is drawn at random.
    If d = 1, every direction gives the exact distance, and num_projections=1 is enough.

    The derivative in a logit is proportional to its weight, so no flow leaves a weight of zero.
    Therefore the weights of mu_0 start at ``weight_floor`` / n at least.

    Args:
      points: Points [n d], such as the centres of the cells of a regular grid.
      cell_volume: Volume of one cell, in units of length^d.
      weights: Weights [n] of mu_0, nonnegative with sum one; None means equal weights.
      weight_floor: Smallest weight of mu_0, in units of 1 / n: smaller ones are raised to it, and
        all are then divided by their sum. With 0, points of weight zero keep it: they are padding,
        and no mass moves there.

    Example:
      ``grid(jnp.linspace(-4.0, 4.0, 161)[:, None], 0.05)``

    References:
      Bonet et al. (2022), arXiv 2110.10972.
    """
    points = validation.as_points(points, "points")
    cell_volume = validation.as_positive(cell_volume, "cell_volume")
    weights = validation.as_weights(weights, points.shape[0], "weights")
    floor = validation.as_nonnegative(weight_floor, "weight_floor")
    logits = jnp.zeros_like(points[:, 0]) if weights is None else _logits(weights, floor)
    return Grid(points, cell_volume.astype(points.dtype), logits, points.shape[1])


def _logits(weights: Float[Array, " n"], floor: Scalar) -> Float[Array, " n"]:
    """Returns logs of weights that are at least ``floor`` / n, and finite."""
    least = jnp.maximum(floor / weights.shape[0], jnp.finfo(weights.dtype).tiny)
    return jnp.log(jnp.maximum(weights, least.astype(weights.dtype)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Grid(Family):
    """Made by ``grid``. points, cell_volume and logits, those of mu_0, are leaves."""

    points: Leaf
    cell_volume: Leaf
    logits: Leaf
    dim: int = static_field()
    has_density: ClassVar[bool] = True
    is_finite: ClassVar[bool] = True

    def init(self, key: Key) -> Float[Array, " n"]:
        del key
        return self.logits

    def latent(self, key: Key, num: int) -> Int[Array, " n"]:
        del key
        if num != self.points.shape[0]:
            raise ValueError(
                f"`num_samples` of a grid must be the number of its points, "
                f"{self.points.shape[0]}; got {num}."
            )
        return jnp.arange(num)

    def push(self, params: Float[Array, " n"], z: Int[Array, " n"]) -> Cloud:
        log_weights = jax.nn.log_softmax(params)
        log_density = log_weights - jnp.log(self.cell_volume)
        return Cloud(self.points[z], jnp.exp(log_weights)[z], log_density[z])
