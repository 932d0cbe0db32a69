"""The sort kernel: rows of a matrix sorted along the last axis, with their permutations if needed.

Sorts are ascending and stable. NaN goes to an end of its row, so that what is computed from the row
is NaN. -0.0 counts as 0.0.

- CPU: XLA's sort calls its comparator through a pointer for floats and for pairs; only a single
  integer operand gets a built-in comparison. A float32 row is therefore mapped to integers of the
  same order, packed above its column index into one int64, and sorted once: 4-5 times faster than
  ``jnp.sort``, permutation included. For many rows that are not long, a bitonic network over whole
  columns is 2-3 times faster still for values alone, since minimum and maximum run on vectors and
  all cores share the columns. Its many stages compile slowly, so small inputs do not use it.
  Where the package swjko-native is installed, its sorts replace these, with the same results.
- GPU: the key is an unsigned integer, the index a 32-bit payload, and the sort need not be stable.
  XLA gives this form to the vendor's radix sort for long rows. The order of equal values is open.
- Other platforms and dtypes sort the (value, index) pair, stably.

The derivative of sorted values is the gather of the tangents by the permutation. ``custom_jvp``
states it, since bit patterns have no derivative.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from swjko.distances.native import native_sorts
from swjko.distances.sort_keys import (
    INT32_MAX,
    floats_of_ordered_integers,
    ordered_integers,
    through_packed,
)
from swjko.distances.sorting_network import (
    NETWORK_MAX_LENGTH,
    network_pays,
    packed_network_pays,
    sort_by_network,
)
from swjko.linalg import derivatives_of
from swjko.types import Leaf

_SIGN_BIT = 0x80000000
_NUM_PIECES, _PIECES_MIN_SIZE = 12, 1_000_000


@jax.custom_jvp
def sort_rows(values: Float[Array, "l n"]) -> Float[Array, "l n"]:
    """Returns each row [l n] of ``values`` [l n], sorted ascending."""
    if values.dtype != jnp.float32:
        return _sort_generic(values)
    cpu = _sort_by_network if network_pays(values, NETWORK_MAX_LENGTH) else _sort_as_integers
    if native := native_sorts():
        cpu = native.sort
    return lax.platform_dependent(
        values, cpu=cpu, cuda=_sort_unsigned, rocm=_sort_unsigned, default=_sort_generic
    )


@sort_rows.defjvp
def _sort_rows_jvp(primals, tangents):
    (values,), (tangent,) = primals, tangents
    ordered, permutation = sort_rows_with_permutation(values)
    return ordered, jnp.take_along_axis(tangent, permutation, axis=-1)


@jax.custom_jvp
def sort_rows_with_permutation(
    values: Float[Array, "l n"],
) -> tuple[Float[Array, "l n"], Int[Array, "l n"]]:
    """Returns each row sorted ascending, and its permutation, int32 [l n].

    ``ordered[i, j] == values[i, permutation[i, j]]``.
    """
    if values.dtype != jnp.float32:
        return _sort_pairs(values)
    cpu = _sort_packed_by_network if packed_network_pays(values) else _sort_packed
    if native := native_sorts():
        cpu = native.sort_with_permutation
    return lax.platform_dependent(
        values, cpu=cpu, cuda=_sort_unsigned_pairs, rocm=_sort_unsigned_pairs, default=_sort_pairs
    )


@sort_rows_with_permutation.defjvp
def _sort_rows_with_permutation_jvp(primals, tangents):
    (values,), (tangent,) = primals, tangents
    ordered, permutation = sort_rows_with_permutation(values)
    no_tangent = jnp.zeros(permutation.shape, dtype=jax.dtypes.float0)
    return (ordered, permutation), (jnp.take_along_axis(tangent, permutation, axis=-1), no_tangent)


def sort_rows_as_needed(
    values: Float[Array, "l n"], with_permutation: bool
) -> tuple[Float[Array, "l n"], Leaf]:
    """Returns each row sorted ascending, and its permutation; None unless it is needed."""
    return sort_rows_with_permutation(values) if with_permutation else (sort_rows(values), None)


def sort_rows_of_integers(keys: Int[Array, "l n"]) -> Int[Array, "l n"]:
    """Returns each row [l n] of distinct integers, sorted ascending."""
    cpu = _network if packed_network_pays(keys) else _sort_integers
    if native := native_sorts():
        cpu = native.sort_integers
    return lax.platform_dependent(keys, cpu=cpu, default=_sort_generic)


def network_with_halves(rows: Int[Array, "l n"]) -> list[Array]:
    """Returns rows of integers sorted by a network, and their halves, each sorted by itself."""
    return sort_by_network(rows, strided=_may_be_sharded(), num_parts=2)


def unsort_rows(
    ordered: Float[Array, "l n"], permutation: Int[Array, "l n"]
) -> Float[Array, "l n"]:
    """Returns rows with entry j at column ``permutation[j]``, the inverse of a gather."""
    if native_sorts() and ordered.dtype == jnp.float32:
        return lax.platform_dependent(
            ordered, permutation, cpu=_scatter_native, default=_scatter_rows
        )
    if _may_be_sharded() or ordered.size > INT32_MAX:
        return _scatter_rows(ordered, permutation)
    return lax.platform_dependent(ordered, permutation, cpu=_scatter_flat, default=_scatter_rows)


def _may_be_sharded() -> bool:
    """Returns whether several devices may share the rows.

    An operation across rows would then move them between devices.
    """
    return jax.device_count() > 1


def _scatter_rows(ordered: Array, permutation: Array) -> Array:
    def scatter(row, index):
        at = jnp.zeros_like(row).at[index]
        return at.set(row, unique_indices=True, mode="promise_in_bounds")

    return jax.vmap(scatter)(ordered, permutation)


@derivatives_of(_scatter_rows)
def _scatter_native(ordered: Array, permutation: Array) -> Array:
    return native_sorts().unsort(ordered, permutation)


def _scatter_flat(ordered: Array, permutation: Array) -> Array:
    """Scatters by one index for each entry: 25-33 % less time than by a row and a column."""
    start = permutation.shape[1] * lax.broadcasted_iota(jnp.int32, permutation.shape, 0)
    index = (start + permutation).reshape(-1)
    at = jnp.zeros_like(ordered, shape=index.shape).at[index]
    flat = at.set(ordered.reshape(-1), unique_indices=True, mode="promise_in_bounds")
    return flat.reshape(ordered.shape)


def _sort_packed(values: Array) -> tuple[Array, Array]:
    ordered, permutation = through_packed(values, lambda keys: [_sort_integers(keys)])
    return ordered, permutation


def _sort_packed_by_network(values: Array) -> tuple[Array, Array]:
    ordered, permutation = through_packed(values, lambda keys: [_network(keys)])
    return ordered, permutation


def _sort_as_integers(values: Array) -> Array:
    return floats_of_ordered_integers(_sort_integers(ordered_integers(values)))


def _sort_integers(rows: Array) -> Array:
    # XLA sorts all rows of an operation in one thread, and uses other threads if more than eight
    # operations are ready: hence the pieces.
    if rows.size < _PIECES_MIN_SIZE or rows.shape[0] < _NUM_PIECES or _may_be_sharded():
        return lax.sort(rows, dimension=-1, is_stable=True)
    size = math.ceil(rows.shape[0] / _NUM_PIECES)
    pieces = [rows[first : first + size] for first in range(0, rows.shape[0], size)]
    return jnp.concatenate([lax.sort(piece, dimension=-1, is_stable=True) for piece in pieces])


def _sort_by_network(values: Array) -> Array:
    return floats_of_ordered_integers(_network(ordered_integers(values)))


def _network(rows: Array) -> Array:
    return sort_by_network(rows, strided=_may_be_sharded())[0]


def _sort_unsigned(values: Array) -> Array:
    ordered = lax.sort(_ordered_unsigned(values), dimension=-1, is_stable=False)
    return floats_of_ordered_integers(_flip_sign(ordered, jnp.int32))


def _sort_unsigned_pairs(values: Array) -> tuple[Array, Array]:
    column = lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)
    ordered, permutation = lax.sort(
        (_ordered_unsigned(values), column), dimension=-1, num_keys=1, is_stable=False
    )
    return floats_of_ordered_integers(_flip_sign(ordered, jnp.int32)), permutation


def _ordered_unsigned(values: Array) -> Array:
    return _flip_sign(ordered_integers(values), jnp.uint32)


def _flip_sign(integers: Array, dtype: DTypeLike) -> Array:
    """Converts between int32 and uint32 of the same order, which differ in the highest bit."""
    unsigned = lax.bitcast_convert_type(integers, jnp.uint32) ^ jnp.uint32(_SIGN_BIT)
    return lax.bitcast_convert_type(unsigned, dtype)


def _sort_pairs(values: Array) -> tuple[Array, Array]:
    column = lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)
    ordered, permutation = lax.sort((values, column), dimension=-1, num_keys=1, is_stable=True)
    return ordered, permutation


def _sort_generic(values: Array) -> Array:
    return lax.sort(values, dimension=-1, is_stable=False)
