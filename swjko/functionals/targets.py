"""Distances to a target that is known by its points."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from swjko.distances.directions import uniform_directions
from swjko.distances.quantiles import QuantileTable, sliced_wasserstein_to_quantiles_pow
from swjko.distances.sliced import sliced_wasserstein_pow
from swjko.distances.unbalanced import Prices, as_prices, unbalanced_sliced_ot
from swjko.functionals.base import as_data, expectation
from swjko.linalg import stratified_indices
from swjko.types import (
    Cloud,
    DirectionFn,
    Key,
    Leaf,
    Projection,
    Scalar,
    as_partial,
    static_field,
    validation,
)
from swjko.types.readable import Readable


def sw_to_target(
    target: Float[Array, "m d"] | QuantileTable,
    num_projections: int,
    *,
    weights: Float[Array, " m"] | None = None,
    direction_fn: DirectionFn = uniform_directions,
    batch_size: int | None = None,
    unbalanced: Prices | None = None,
    projection: Projection | None = None,
) -> "SWToTarget":
    """Makes SW_2^2(mu, nu) / 2 for an empirical target nu. Note the factor 1/2.

    With ``unbalanced``, points of the target that are far from all others may be left out, so that
    outliers do not pull: ``unbalanced_sliced_ot`` takes the place of SW_2^2.

    Args:
      target: Points [m d] of nu; a leaf, never compiled in. A table of ``sliced_quantiles`` stands
        for any number of points: then directions are drawn from those of the table.
      num_projections: Number of directions, drawn anew at each evaluation.
      weights: Weights [m] of the target, nonnegative, with sum one; None is uniform.
      direction_fn: ``(key, num, dim) -> [num dim]``, unit vectors.
      batch_size: Number of target points drawn for each evaluation, without replacement or by
        their weights; None takes all m.
      unbalanced: Price of leaving out mass of the target, in units of the squared distance: about
        the square of the distance from which points are outliers. A pair (rho_mu, rho_nu) puts a
        price on the mass of mu as well, which is kept otherwise. None leaves out nothing.
      projection: ``(points [n d], directions [l ...]) -> positions [l n]``; None is the scalar
        product. ``direction_fn`` then draws what it takes.

    References:
      Liutkus et al. (2019); Bonet et al. (2023), arXiv 2306.07176, for the unbalanced one.
    """
    num_projections = validation.as_count(num_projections, "num_projections")
    if isinstance(target, QuantileTable):
        if any(one is not None for one in (weights, batch_size, unbalanced, projection)):
            raise ValueError(
                "`weights`, `batch_size`, `unbalanced` and `projection` need the points of the "
                "target; got a table of quantiles. Leave them out, or pass points."
            )
        if num_projections > target.directions.shape[0]:
            raise ValueError(
                f"`num_projections` must not exceed the {target.directions.shape[0]} directions of "
                f"the table; got {num_projections}."
            )
        return SWToTarget(target, num_projections, direction_fn, None)
    target = validation.as_points(target, "target")
    if batch_size is not None and validation.as_count(batch_size, "batch_size") > target.shape[0]:
        raise ValueError(
            f"`batch_size` must not exceed the {target.shape[0]} points of the target; "
            f"got {batch_size}."
        )
    validation.require_callable(direction_fn, "direction_fn", "(key, num, dim) -> directions")
    weights = validation.as_weights(weights, target.shape[0], "weights")
    if unbalanced is not None:
        if projection is not None:
            raise ValueError(
                "`projection` must be None if `unbalanced` is given; got both. Leave one out."
            )
        unbalanced = as_prices(unbalanced, "unbalanced", of_second=True)
    if projection is not None:
        signature = "(points, directions) -> positions"
        projection = as_partial(validation.require_callable(projection, "projection", signature))
    options = weights, unbalanced, projection
    return SWToTarget(target, num_projections, direction_fn, batch_size, *options)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SWToTarget(Readable):
    """Made by ``sw_to_target``. target, weights, unbalanced and projection are leaves."""

    target: Leaf
    num_projections: int = static_field()
    direction_fn: DirectionFn = static_field()
    batch_size: int | None = static_field()
    weights: Leaf | None = None
    unbalanced: Leaf = None
    projection: Leaf = None
    needs_density: ClassVar[bool] = False

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        direction_key, batch_key = jax.random.split(key)
        x = cloud.points
        if isinstance(self.target, QuantileTable):
            number = self.target.directions.shape[0]
            rows = jax.random.choice(direction_key, number, (self.num_projections,), replace=False)
            table = jax.tree.map(lambda leaf: leaf[rows], self.target)
            return 0.5 * sliced_wasserstein_to_quantiles_pow(x, table, x_weights=cloud.weights)
        directions = self.direction_fn(direction_key, self.num_projections, x.shape[1])
        y, y_weights = _batch(batch_key, self.target, self.weights, self.batch_size)
        weights: dict[str, Any] = {"x_weights": cloud.weights, "y_weights": y_weights}
        if self.unbalanced is None:
            return 0.5 * sliced_wasserstein_pow(
                x, y, directions, projection=self.projection, **weights
            )
        rho = self.unbalanced[0], self.unbalanced[1]
        return 0.5 * unbalanced_sliced_ot(x, y, directions, rho=rho, **weights)

    def with_data(
        self, target: Float[Array, "m d"], weights: Float[Array, " m"] | None = None
    ) -> "SWToTarget":
        """Returns the functional with another target."""
        target, weights = as_data(target, weights, "target", self.target.dtype)
        return dataclasses.replace(self, target=target, weights=weights)


def _batch(
    key: Key,
    points: Float[Array, "m d"],
    weights: Float[Array, " m"] | None,
    batch_size: int | None,
) -> tuple[Float[Array, "b d"], Float[Array, " b"] | None]:
    """Draws a batch of equal weights by the weights; None takes all points and their weights."""
    if batch_size is None:
        return points, weights
    if weights is None:
        return jax.random.choice(key, points, (batch_size,), replace=False), None
    return points[stratified_indices(key, weights, batch_size)], None


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
class ForwardKL(Readable):
    """Made by ``forward_kl``. points and weights are leaves."""

    points: Leaf
    weights: Leaf | None
    batch_size: int | None = static_field()
    needs_density: ClassVar[bool] = False
    needs_log_prob: ClassVar[bool] = True

    def __call__(
        self, key: Key, cloud: Cloud, log_prob: Callable[..., Array] | None = None
    ) -> Scalar:
        del cloud
        if log_prob is None:
            raise ValueError(
                "`log_prob` must be the log-density of the measure, which forward_kl reads at its "
                "points; got None. Pass points [m d] -> [m], such as distribution.log_prob."
            )
        if self.batch_size is None or self.weights is not None:
            points, weights = _batch(key, self.points, self.weights, self.batch_size)
            return -expectation(Cloud(points, weights), log_prob(points))
        # One in each of equal parts: a draw without replacement sorts all points.
        parts = jnp.arange(float(self.batch_size)) + jax.random.uniform(key, (self.batch_size,))
        indices = (parts * (len(self.points) / self.batch_size)).astype(int)
        points = self.points[jnp.minimum(indices, len(self.points) - 1)]
        return -expectation(Cloud(points), log_prob(points))

    def with_data(
        self, points: Float[Array, "m d"], weights: Float[Array, " m"] | None = None
    ) -> "ForwardKL":
        """Returns the functional with other points."""
        points, weights = as_data(points, weights, "points", self.points.dtype)
        return dataclasses.replace(self, points=points, weights=weights)
