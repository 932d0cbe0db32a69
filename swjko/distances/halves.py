"""Rows sorted as a whole and half by half, by one sort: what the jackknife of a distance needs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from swjko.distances.sort_keys import floats_of_ordered_integers, ordered_integers, through_packed
from swjko.distances.sorting import network_with_halves, sort_rows_with_permutation, unsort_rows
from swjko.distances.sorting_network import NETWORK_MAX_LENGTH, network_pays, packed_network_pays
from swjko.types import Leaf


class SortedHalves(NamedTuple):
    """Rows sorted as a whole and half by half.

    A row of n columns has two halves of h = n // 2; the last column of an odd n is in neither.

    Attributes:
      ordered: Each row [l n], sorted ascending.
      permutation: Its permutation, int32 [l n]; None if only values are sorted.
      parts: The sorted first half of each row, then its sorted second half [l 2h].
      link: Where the parts come from, in the form of the platform, for ``unsort_with_halves``.
    """

    ordered: Float[Array, "l n"]
    permutation: Leaf
    parts: Float[Array, "l k"]
    link: Leaf


def sort_both_with_halves(
    u: Float[Array, "l n"], v: Float[Array, "l n"], need_u: bool, need_v: bool
) -> tuple[SortedHalves, SortedHalves]:
    """Returns u and v sorted as a whole and half by half, with permutations where needed.

    On a GPU, where time goes by the number of kernels, all rows are sorted together.
    """

    def apart(u: Array, v: Array) -> tuple[SortedHalves, SortedHalves]:
        return _sort_one(u, need_u), _sort_one(v, need_v)

    def together(u: Array, v: Array) -> tuple[SortedHalves, SortedHalves]:
        # Neighbouring rows, so that devices keep the directions that they have.
        rows = _sort_and_partition(jnp.stack([u, v], axis=1).reshape(-1, u.shape[1]))
        both = (jax.tree.map(lambda leaf, at=at: leaf[at::2], rows) for at in (0, 1))
        first, second = (
            one if needed else one._replace(permutation=None, link=None)
            for one, needed in zip(both, (need_u, need_v), strict=True)
        )
        return first, second

    return lax.platform_dependent(u, v, cpu=apart, default=together)


def _sort_one(values: Array, needed: bool) -> SortedHalves:
    return sort_with_halves(values) if needed else sort_values_with_halves(values)


def sort_with_halves(values: Float[Array, "l n"]) -> SortedHalves:
    """Returns each row [l n] of ``values`` sorted as a whole and half by half, by one sort.

    On a CPU the halves come out of the network before its last merge. Programs that sort so do it
    in a loop, so small rows use the network as well. Elsewhere they are a stable partition of the
    sorted row.
    """
    if not _network_gives_halves(values):
        return _sort_and_partition(values)
    return lax.platform_dependent(values, cpu=_sort_halves_packed, default=_sort_and_partition)


def sort_values_with_halves(values: Float[Array, "l n"]) -> SortedHalves:
    """Returns what ``sort_with_halves`` does, for less and without permutations."""
    if not (_is_even(values) and network_pays(values, NETWORK_MAX_LENGTH, 0)):
        return _without_permutations(values)
    return lax.platform_dependent(values, cpu=_sort_halves, default=_without_permutations)


def unsort_with_halves(
    whole: Float[Array, "l n"], parts: Float[Array, "l k"], rows: SortedHalves
) -> Float[Array, "l n"]:
    """Returns the sum at each column of what its places in the whole and in the parts hold.

    Args:
      whole: Entries at the places of ``rows.ordered``.
      parts: Entries at the places of ``rows.parts``.
      rows: What ``sort_with_halves`` returned.
    """

    def scattered(whole: Array, parts: Array, permutation: Array, link: Array) -> Array:
        return unsort_rows(whole, permutation) + unsort_rows(parts, link)

    def gathered(whole: Array, parts: Array, permutation: Array, link: Array) -> Array:
        parts = jnp.pad(parts, ((0, 0), (0, whole.shape[1] - parts.shape[1])))
        return unsort_rows(whole + jnp.take_along_axis(parts, link, axis=-1), permutation)

    arguments = (whole, parts, rows.permutation, rows.link)
    if not _network_gives_halves(whole):
        return gathered(*arguments)
    return lax.platform_dependent(*arguments, cpu=scattered, default=gathered)


def _network_gives_halves(values: Array) -> bool:
    return _is_even(values) and packed_network_pays(values, 0)


def _is_even(values: Array) -> bool:
    return values.dtype == jnp.float32 and values.shape[1] % 2 == 0


@jax.custom_jvp
def _sort_halves_packed(values: Array) -> SortedHalves:
    return SortedHalves(*through_packed(values, network_with_halves))


@_sort_halves_packed.defjvp
def _sort_halves_packed_jvp(primals, tangents):
    rows, (tangent,) = _sort_halves_packed(*primals), tangents
    no_tangent = jnp.zeros(rows.link.shape, dtype=jax.dtypes.float0)
    ordered, parts = (jnp.take_along_axis(tangent, at, -1) for at in (rows.permutation, rows.link))
    return rows, SortedHalves(ordered, no_tangent, parts, no_tangent)


@jax.custom_jvp
def _sort_halves(values: Array) -> SortedHalves:
    whole, parts = network_with_halves(ordered_integers(values))
    return SortedHalves(
        floats_of_ordered_integers(whole), None, floats_of_ordered_integers(parts), None
    )


@_sort_halves.defjvp
def _sort_halves_jvp(primals, tangents):
    return jax.jvp(_without_permutations, primals, tangents)


def _without_permutations(values: Array) -> SortedHalves:
    return _sort_and_partition(values)._replace(permutation=None, link=None)


def _sort_and_partition(values: Array) -> SortedHalves:
    """Moves the points of each half to its front, in order; ``link`` is where each goes."""
    ordered, permutation = sort_rows_with_permutation(values)
    h = values.shape[1] // 2
    column = lax.broadcasted_iota(jnp.int32, values.shape, 1)
    in_first = permutation < h
    rank = jnp.cumsum(in_first, axis=1, dtype=jnp.int32)
    link = jnp.where(in_first, rank - 1, h + column - rank)
    if values.shape[1] % 2:
        is_last = permutation == 2 * h
        after = column > jnp.sum(jnp.where(is_last, column, 0), axis=1, keepdims=True)
        link = jnp.where(is_last, 2 * h, link - (after & ~in_first))
    return SortedHalves(ordered, permutation, unsort_rows(ordered, link)[:, : 2 * h], link)
