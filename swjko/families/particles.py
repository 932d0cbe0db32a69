"""Measures of finitely many points: particles, and a grid of fixed points with a density."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from swjko.families.base import Family
from swjko.linalg import stratified_indices
from swjko.types import Cloud, Key, Leaf, Params, Scalar, static_field, validation


def particles(
    points: Float[Array, "n d"],
    weights: Float[Array, " n"] | None = None,
    *,
    learned_weights: bool = False,
    fixed_points: bool = False,
) -> "Particles":
    """Makes the family of n particles, mu = sum_i w_i delta(x_i).

    Points move unless they are fixed, and weights stay unless they are learned. Params are the
    points [n d]; with learned weights they are {"points": [n d], "logits": [n]}, or {"logits": [n]}
    if the points are fixed, with w = softmax(logits). There is no density.

    ``latent(key, num)`` picks indices: all n in order if num == n, a subset without replacement if
    num < n, and independent draws if num > n. With weights that stay, draws other than all n are
    made by the weights. With learned weights, schemes need num_samples == n.

    Args:
      points: Points [n d] of mu_0.
      weights: Weights [n] of mu_0, nonnegative with sum one; None means equal weights. A learned
        weight of zero stays zero.
      learned_weights: Whether the weights are params.
      fixed_points: Whether the points stay; needs learned weights.
    """
    points = validation.as_points(points, "points")
    weights = validation.as_weights(weights, points.shape[0], "weights")
    if fixed_points and not learned_weights:
        raise ValueError(
            "learned_weights must be True if fixed_points is, or nothing moves; got False."
        )
    if weights is not None:
        weights = weights.astype(points.dtype)
    return Particles(points, points.shape[1], weights, bool(learned_weights), bool(fixed_points))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Particles(Family):
    """Made by ``particles``. points and weights are leaves."""

    points: Leaf
    dim: int = static_field()
    weights: Leaf | None = None
    learned_weights: bool = static_field(default=False)
    fixed_points: bool = static_field(default=False)
    is_finite: ClassVar[bool] = True

    def init(self, key: Key) -> Params:
        del key
        if not self.learned_weights:
            return self.points
        equal = jnp.zeros_like(self.points[:, 0])
        logits = {"logits": equal if self.weights is None else _logits(self.weights, 0.0)}
        return logits if self.fixed_points else logits | {"points": self.points}

    def latent(self, key: Key, num: int) -> Int[Array, " num"]:
        count = self.points.shape[0]
        if num == count:
            return jnp.arange(count)
        if self.learned_weights:
            raise ValueError(
                "`num_samples` of particles with learned weights must be their number, "
                f"{count}; got {num}."
            )
        if self.weights is not None:
            return stratified_indices(key, self.weights, num)
        return jax.random.choice(key, count, (num,), replace=num > count)

    def push(self, params: Params, z: Int[Array, " num"]) -> Cloud:
        points, weights = self._measure(params)
        # Other draws than all points in order are made by the weights, and have equal ones.
        is_whole = z.shape[0] == self.points.shape[0]
        return Cloud(points[z], weights[z] if is_whole and weights is not None else None)

    def draw(self, params: Params, key: Key, num: int) -> Cloud:
        points, weights = self._measure(params)
        if num == self.points.shape[0] or not self.learned_weights or weights is None:
            return self.push(params, self.latent(key, num))
        return Cloud(points[stratified_indices(key, weights, num)])

    def _measure(self, params: Params) -> tuple[Float[Array, "n d"], Float[Array, " n"] | None]:
        """Returns points and weights."""
        if not self.learned_weights:
            return params, self.weights
        points = self.points if self.fixed_points else params["points"]
        return points, jax.nn.softmax(params["logits"])


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


def _logits(weights: Float[Array, " n"], floor: float | Scalar) -> Float[Array, " n"]:
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
