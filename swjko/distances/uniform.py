"""Rows of uniform weights: their costs, and slopes at the points in the order given.

With swjko-native on a CPU, one pass over each row sorts both sides and leaves the differences of
coupled points where the points are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from swjko.distances.halves import sort_both_with_halves, unsort_with_halves
from swjko.distances.native import native_sorts
from swjko.distances.one_dimensional import Rows, couple_uniform, of_differences
from swjko.distances.sorting import (
    sort_rows,
    sort_rows_as_needed,
    sort_rows_with_permutation,
    unsort_rows,
)
from swjko.linalg import derivatives_of


def couple_points(
    u: Float[Array, "l n"], v: Float[Array, "l m"], p, need_u, need_v, *, scaled: bool = False
) -> Rows:
    """Returns costs of rows in any order, and slopes at their points if needed."""

    def by_sorts(u: Array, v: Array) -> Rows:
        u, u_permutation = sort_rows_as_needed(u, need_u)
        v, v_permutation = sort_rows_as_needed(v, need_v)
        rows = couple_uniform(u, v, p, need_u, need_v, scaled=scaled)
        return rows._replace(
            u=unsort_rows(rows.u, u_permutation) if need_u else None,
            v=unsort_rows(rows.v, v_permutation) if need_v else None,
        )

    def by_differences(u: Array, v: Array) -> Rows:
        first, second = (v, u) if need_v else (u, v)
        differences = _differences(first, second)
        cost, slope, scale = of_differences(differences, p, u.shape[1], scaled=scaled)
        return Rows(cost, slope if need_u else None, slope if need_v else None, scale=scale)

    return _by_one_pass(u, v, need_u, need_v, by_differences, by_sorts)


def jackknife(u: Float[Array, "l n"], v: Float[Array, "l n"], p, need_u, need_v) -> Rows:
    """Returns costs of rows without their bias of order 1 / n, and slopes at the points; unscaled.

    It is (n D_n - h D_h) / (n - h), with D_h the mean over two halves of h = n // 2 points. What
    ``couple_uniform`` gives for both halves in one row is D_h and its slopes.
    """
    n, h = u.shape[1], u.shape[1] // 2
    factors = n / (n - h), -h / (n - h)

    def by_sorts(u: Array, v: Array) -> Rows:
        of_u, of_v = sort_both_with_halves(u, v, need_u, need_v)
        whole = couple_uniform(of_u.ordered, of_v.ordered, p, need_u, need_v)
        parts = couple_uniform(of_u.parts, of_v.parts, p, need_u, need_v)
        whole, parts = (
            jax.tree.map(lambda leaf, factor=factor: factor * leaf, rows)
            for rows, factor in zip((whole, parts), factors, strict=True)
        )
        return Rows(
            whole.cost + parts.cost,
            unsort_with_halves(whole.u, parts.u, of_u) if need_u else None,
            unsort_with_halves(whole.v, parts.v, of_v) if need_v else None,
        )

    def by_differences(u: Array, v: Array) -> Rows:
        first, second = (v, u) if need_v else (u, v)
        whole, parts = (
            of_differences(differences, p, count)[:2]
            for differences, count in zip(
                _differences_with_halves(first, second), (n, 2 * h), strict=True
            )
        )
        cost, slope = (
            factors[0] * one + factors[1] * other for one, other in zip(whole, parts, strict=True)
        )
        return Rows(cost, slope if need_u else None, slope if need_v else None)

    return _by_one_pass(u, v, need_u, need_v, by_differences, by_sorts)


def _by_one_pass(
    u, v, need_u: bool, need_v: bool, native: Callable[..., Rows], general: Callable[..., Rows]
) -> Rows:
    """Couples by swjko-native if it can: equal numbers of points, and slopes for one side."""
    suits = u.shape == v.shape and u.dtype == jnp.float32 and need_u != need_v
    if suits and native_sorts():
        return lax.platform_dependent(u, v, cpu=native, default=general)
    return general(u, v)


def _differences_by_sorts(u: Array, v: Array) -> Array:
    ordered, permutation = sort_rows_with_permutation(u)
    return unsort_rows(ordered - sort_rows(v), permutation)


def _differences_with_halves_by_sorts(u: Array, v: Array) -> tuple[Array, Array]:
    n, h = u.shape[1], u.shape[1] // 2
    halves = [_differences_by_sorts(u[:, at : at + h], v[:, at : at + h]) for at in (0, h)]
    of_halves = jnp.concatenate([*halves, jnp.zeros_like(u[:, : n - 2 * h])], axis=1)
    return _differences_by_sorts(u, v), of_halves


@derivatives_of(_differences_by_sorts)
def _differences(u: Array, v: Array) -> Array:
    """Returns what each entry of u has beyond the entry of v of its rank, at its column."""
    return native_sorts().differences(u, v)


@derivatives_of(_differences_with_halves_by_sorts)
def _differences_with_halves(u: Array, v: Array) -> tuple[Array, Array]:
    """Returns the same differences, and those within the halves of the rows."""
    return tuple(native_sorts().differences_with_halves(u, v))
