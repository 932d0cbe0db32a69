"""Slice matching: a distribution fitted to points by optimal maps of their projections.

Each step draws an orthonormal basis Q of rows q_k and moves points towards N(0, I) by

    x <- x + step_size * sum_k (T_k(<q_k, x>) - <q_k, x>) q_k,

where T_k is the monotone map from the projections of the points to N(0, 1). The bases and the
tables of T_k are kept. The map acts on each coordinate of the basis Q alone, so the density is that
of N(0, I) times the slopes of all T_k, and the inverse maps noise to new points.

What a step adds to the likelihood is the negentropy of the projections. In most random bases they
are almost normal, so a step adds little but noise. Each basis is therefore turned towards
projections that are not normal, from the basis before, by fixed-point iterations of independent
component analysis (FastICA) with the function tanh:

    q_k <- E[tanh(<q_k, x>) x] - E[1 - tanh(<q_k, x>)^2] q_k, then a QR of all q_k.

For N(0, S) the first line is a multiple of (S - I) q_k, so the iteration finds eigenvectors of S.

Tables are regularised. A knot is the mean of an equal share of the sorted projections, matched to
the mean of N(0, 1) between the same levels. Between knots and in the tails the maps are linear,
with slopes between bounds.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular
from jax.tree_util import Partial
from jaxtyping import Array, Float
from scipy.special import ndtri

from swjko.distances.directions import orthogonal_directions, refined_directions
from swjko.distances.sorting import sort_rows
from swjko.families.base import standard_normal_log_prob
from swjko.families.distribution import FlowDistribution
from swjko.families.pushforward import pushforward
from swjko.types import Key, Params, Scalar, validation

# Slopes of a table lie between the inverse of this and this.
_STEEPEST = 20.0
# Added to the covariance of marginals of unit variance, which may be singular.
_RIDGE = 1e-4
# Marginals are fitted once, by one map each, so their tables may be finer than those of the steps.
_MARGINAL_KNOTS = 4

# Points and log |det| of the map that led to them.
_Moved = tuple[Float[Array, "n d"], Float[Array, " n"]]


class _Table(NamedTuple):
    """Monotone maps of d coordinates: knots x to y [d b], and log-slopes [d b + 1] around them."""

    x: Float[Array, "..."]
    y: Float[Array, "..."]
    log_slopes: Float[Array, "..."]


def slice_matching(
    key: Key,
    points: Float[Array, "n d"],
    *,
    num_steps: int,
    step_size: float | Scalar = 0.1,
    num_knots: int | None = None,
    num_refinements: int = 1,
    standardize: bool = True,
    held_out: Float[Array, "m d"] | None = None,
) -> FlowDistribution:
    """Returns a distribution with a density, fitted to points by slice matching.

    The points are moved to N(0, I), one orthonormal basis a step, and the maps are kept. There is
    no optimizer: a step takes O(n d^2) for projections and O(n d log n) for sorting. The params
    are the tables, which may be trained further, and the distribution may be the ``base`` of a
    flow. It may be compiled with the numbers static.

    With random bases a whole step near N(0, I) shrinks the traceless error of a covariance to
    d / (d + 2) of its mean square, and leaves nothing of a mean or a trace.

    Args:
      key: Random key of the bases.
      points: Points [n d] to fit.
      num_steps: Number of steps, at least 1.
      step_size: Part of the way that a step goes, above 0 and at most 1. Small steps fit less of
        the noise of a sample; 50 steps of 0.1 are a start, and more of them fit more closely.
      num_knots: Knots of each table, from 2 to n. Few knots make smooth maps. None takes the cube
        root of n, or 4 if that is larger.
      num_refinements: Iterations that turn each basis towards projections that are not normal,
        from the basis of the step before. 0 draws each basis at random.
      standardize: Whether the marginals, by finer tables, and the covariance are matched first.
      held_out: Points [m d] of the same law. The steps after their largest likelihood are
        dropped; None keeps all.

    Example::

        law = slice_matching(key, data, num_steps=50, held_out=others)
        cloud, log_density = law.sample(key, 1000), law.log_prob(others)

    References:
      Dai, Seljak, "Sliced iterative normalizing flows" (2021), arXiv 2007.00674, algorithm GIS;
      Thurin, Boyer, Nadjahi, "Convergence rates for distribution matching with sliced optimal
      transport" (2026), arXiv 2602.10691. Hyvarinen, "Fast and robust fixed-point algorithms for
      independent component analysis" (1999), for the bases; Laparra, Camps-Valls, Malo, "Iterative
      Gaussianization: from ICA to random rotations" (2011), for what they are worth.
    """
    points = validation.as_points(points, "points")
    num_steps = validation.as_count(num_steps, "num_steps")
    num_points, dim = points.shape
    num_knots = _as_knots(num_knots, num_points)
    num_refinements = validation.as_count(num_refinements, "num_refinements", minimum=0)
    step_size = _as_part(step_size).astype(points.dtype)
    params: dict[str, Any] = _standardizing(points, num_knots) if standardize else {}
    watched = points[:1] if held_out is None else validation.as_points(held_out, "held_out")
    validation.require_same_dim(points, watched, "points", "held_out")
    watched = watched.astype(points.dtype)
    start = _standardized(params, points)[0], _standardized(params, watched)

    def step(carry: Any, key: Key) -> tuple[Any, Any]:
        (moved, (watched, log_det)), basis = carry
        if num_refinements:
            # A whole step leaves nothing to gain along its basis, so the iteration may stay there.
            # A turn leaves it; after small steps the turn is negligible.
            basis = refined_directions(key, basis, moved, num_refinements, turn=step_size**2)
        else:
            basis = orthogonal_directions(key, dim, dim).astype(moved.dtype)
        projections = moved @ basis.T
        table = _matched(sort_rows(projections.T), step_size, num_knots)
        watched, more = _turned(basis, table, watched)
        watched = watched, log_det + more
        carry = (_mapped(table, projections)[0] @ basis, watched), basis
        return carry, ((basis, table), _likelihood(watched))

    keys = jax.random.split(key, num_steps + 1)
    basis = orthogonal_directions(keys[0], dim, dim).astype(points.dtype)
    _, (steps, likelihoods) = lax.scan(step, (start, basis), keys[1:])
    if held_out is not None:
        likelihoods = jnp.append(_likelihood(start[1]), likelihoods)
        steps = first_steps(steps, jnp.argmax(likelihoods))
    init = Partial(_constant, params | {"steps": steps})
    family = pushforward(init, _transform, dim=dim, inverse=_inverse)
    return FlowDistribution(family, params | {"steps": steps})


def _as_knots(num_knots: int | None, count: int) -> int:
    if num_knots is None:
        return min(max(4, round(count ** (1 / 3))), max(2, count))
    num_knots = validation.as_count(num_knots, "num_knots", minimum=2)
    if num_knots > count:
        raise ValueError(
            f"num_knots must not exceed the {count} points; got {num_knots}. Use fewer knots."
        )
    return num_knots


def _as_part(step_size: float | Scalar) -> Scalar:
    step_size = validation.as_positive(step_size, "step_size")
    if validation.is_concrete(step_size) and step_size > 1:
        raise ValueError(f"step_size must be at most 1, the whole way; got {step_size}.")
    return step_size


def _constant(params: Params, key: Key) -> Params:
    del key
    return params


def _likelihood(watched: _Moved) -> Scalar:
    points, log_det = watched
    return jnp.mean(standard_normal_log_prob(points) + log_det)


def _standardizing(points: Float[Array, "n d"], num_knots: int) -> dict[str, Any]:
    """Returns the params of maps of the marginals to N(0, 1), and then of their covariance to I."""
    n, dim = points.shape
    mean, scale = jnp.mean(points, axis=0), jnp.std(points, axis=0)
    # A constant coordinate stays as it is.
    scale = jnp.where(scale > 0, scale, 1.0)
    z = (points - mean[None]) / scale[None]
    num_knots = min(_MARGINAL_KNOTS * num_knots, n)
    # Once, so a sort that compiles at once.
    table = _matched(jnp.sort(z.T, axis=1), jnp.ones((), z.dtype), num_knots)
    z, _ = _mapped(table, z)
    cov = z.T @ z / n + _RIDGE * jnp.eye(dim, dtype=z.dtype)
    return {"mean": mean, "scale": scale, "marginals": table, "factor": jnp.linalg.cholesky(cov)}


def _standardized(params: Params, points: Float[Array, "n d"]) -> _Moved:
    if "factor" not in params:
        return points, jnp.zeros_like(points[:, 0])
    z, log_det = _mapped(
        params["marginals"], (points - params["mean"][None]) / params["scale"][None]
    )
    scales = params["scale"] * jnp.diagonal(params["factor"])
    z = solve_triangular(params["factor"], z.T, lower=True).T
    return z, log_det - jnp.sum(jnp.log(jnp.abs(scales)))


def _unstandardized(params: Params, z: Float[Array, "n d"]) -> _Moved:
    if "factor" not in params:
        return z, jnp.zeros_like(z[:, 0])
    z, log_det = _mapped(_inverted(params["marginals"]), z @ params["factor"].T)
    scales = params["scale"] * jnp.diagonal(params["factor"])
    points = z * params["scale"][None] + params["mean"][None]
    return points, log_det + jnp.sum(jnp.log(jnp.abs(scales)))


def _matched(rows: Float[Array, "d n"], step_size: Scalar, num_knots: int) -> _Table:
    """Returns the maps of sorted rows of projections towards N(0, 1)."""
    x = _share_means(rows, num_knots)
    # The mean of N(0, 1) between two quantiles is the difference of its densities there.
    densities = np.exp(-(ndtri(np.linspace(0.0, 1.0, num_knots + 1)) ** 2) / 2) / np.sqrt(2 * np.pi)
    normal = (-num_knots * np.diff(densities)).astype(rows.dtype)
    gaps = jnp.diff(x, axis=1)
    slopes = np.diff(normal)[None] / jnp.where(gaps > 0, gaps, 1.0)
    # Points that coincide would have the slope infinity.
    slopes = jnp.clip(jnp.where(gaps > 0, slopes, 1.0), 1 / _STEEPEST, _STEEPEST)
    slopes = 1 + step_size * (slopes - 1)
    y = jnp.pad(jnp.cumsum(slopes * gaps, axis=1), ((0, 0), (1, 0)))
    shift = jnp.mean((1 - step_size) * x - y, axis=1, keepdims=True)
    return _Table(x, y + shift, jnp.log(jnp.pad(slopes, ((0, 0), (1, 1)), mode="edge")))


def _share_means(rows: Float[Array, "d n"], num: int) -> Float[Array, "d b"]:
    """Returns the means of ``num`` equal shares of sorted rows; a value may be split."""
    n = rows.shape[1]
    ends = np.arange(num + 1) * (n / num)
    first = np.floor(ends[:-1]).astype(int)
    # A share touches at most this many values, and each by the part between its ends.
    steps = jnp.arange(math.ceil(n / num) + 1)
    counts = steps.astype(rows.dtype)[None]
    before, after = (
        jnp.clip(jnp.asarray(end - first, rows.dtype)[:, None] - counts, 0.0, 1.0)
        for end in (ends[:-1], ends[1:])
    )
    shares = rows[:, jnp.minimum(first[:, None] + steps[None], n - 1)]
    return jnp.sum(shares * (after - before)[None], axis=2) * (num / n)


def _mapped(table: _Table, points: Float[Array, "n d"]) -> _Moved:
    """Returns the images of points under the maps of their coordinates, and log |det|."""

    def coordinate(table: _Table, u: Float[Array, " n"]) -> tuple[Array, Array]:
        # Tables are short, so comparisons with all knots are the fastest search. The method
        # "compare_all" of searchsorted counts wrong in jax 0.10 if its arguments are constants.
        place = jnp.sum((table.x[None, :] < u[:, None]).astype(int), axis=1)
        left, log_slope = jnp.maximum(place - 1, 0), table.log_slopes[place]
        return table.y[left] + jnp.exp(log_slope) * (u - table.x[left]), log_slope

    moved, log_slopes = jax.vmap(coordinate, (0, 1), 1)(table, points)
    return moved, jnp.sum(log_slopes, axis=1)


def _inverted(table: _Table) -> _Table:
    return _Table(table.y, table.x, -table.log_slopes)


def _turned(basis: Float[Array, "d d"], table: _Table, points: Float[Array, "n d"]) -> _Moved:
    """Returns the images under maps of the coordinates in a basis, and log |det|."""
    moved, log_det = _mapped(table, points @ basis.T)
    return moved @ basis, log_det


def first_steps(steps: tuple[Array, _Table], num: Array) -> tuple[Array, _Table]:
    """Returns the steps of ``params["steps"]`` with the identity after the first ``num``."""
    basis, table = steps
    kept = (jnp.arange(basis.shape[0]) < num)[:, None, None]
    y = jnp.where(kept, table.y, table.x)
    return basis, _Table(table.x, y, jnp.where(kept, table.log_slopes, 0.0))


def _turned_in_turn(steps: tuple[Array, _Table], start: _Moved, reverse: bool = False) -> _Moved:
    def step(carry: _Moved, step: tuple[Array, _Table]) -> tuple[_Moved, None]:
        moved, more = _turned(*step, carry[0])
        return (moved, carry[1] + more), None

    return lax.scan(step, start, steps, reverse=reverse)[0]


def _inverse(params: Params, points: Float[Array, "n d"]) -> _Moved:
    return _turned_in_turn(params["steps"], _standardized(params, points))


def _transform(params: Params, z: Float[Array, "n d"]) -> _Moved:
    basis, table = params["steps"]
    start = z, jnp.zeros_like(z[:, 0])
    z, log_det = _turned_in_turn((basis, _inverted(table)), start, reverse=True)
    points, more = _unstandardized(params, z)
    return points, log_det + more
