"""The sort kernel: rows of a matrix sorted along the last axis, with their permutations if needed.

Sorts are ascending and stable. NaN goes to an end of its row, so that what is computed from the row
is NaN. -0.0 counts as 0.0.

- CPU: XLA's sort calls its comparator through a pointer for floats and for pairs; only a single
  integer operand gets a built-in comparison. A float32 row is therefore mapped to integers of the
  same order, packed above its column index into one int64, and sorted once: 4-5 times faster than
  ``jnp.sort``, permutation included. For many rows that are not long, a bitonic network over whole
  columns is 2-3 times faster still for values alone, since minimum and maximum run on vectors and
  all cores share the columns. Its many stages compile slowly, so small inputs do not use it.
- GPU: the key is an unsigned integer, the index a 32-bit payload, and the sort need not be stable.
  XLA gives this form to the vendor's radix sort for long rows. The order of equal values is open.
- Other platforms and dtypes sort the (value, index) pair, stably.

The derivative of sorted values is the gather of the tangents by the permutation. ``custom_jvp``
states it, since bit patterns have no derivative.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

_INT32_MAX = 0x7FFFFFFF
_SIGN_BIT = 0x80000000
# The work of a network grows as log(n)^2, so the merge sort is as fast beyond these lengths. Below
# this size a network does not save the second that it takes to compile.
NETWORK_MAX_LENGTH = 16384
NETWORK_MAX_PACKED_LENGTH = 2048
NETWORK_MIN_SIZE = 50_000
# Rows that do not fit in L2 are sorted in blocks of this size; cores would not share smaller ones.
_NETWORK_CACHE_BYTES = 2**23
_NETWORK_BLOCK_BYTES = {4: 2**22, 8: 2**20}
_NUM_PIECES, _PIECES_MIN_SIZE = 12, 1_000_000


@jax.custom_jvp
def sort_rows(values: Float[Array, "l n"]) -> Float[Array, "l n"]:
    """Returns each row [l n] of ``values`` [l n], sorted ascending."""
    if values.dtype != jnp.float32:
        return _sort_generic(values)
    cpu = _sort_by_network if _network_pays(values, NETWORK_MAX_LENGTH) else _sort_as_integers
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
    cpu = _sort_packed_by_network if _packed_network_pays(values) else _sort_packed
    return lax.platform_dependent(
        values, cpu=cpu, cuda=_sort_unsigned_pairs, rocm=_sort_unsigned_pairs, default=_sort_pairs
    )


@sort_rows_with_permutation.defjvp
def _sort_rows_with_permutation_jvp(primals, tangents):
    (values,), (tangent,) = primals, tangents
    ordered, permutation = sort_rows_with_permutation(values)
    no_tangent = jnp.zeros(permutation.shape, dtype=jax.dtypes.float0)
    return (ordered, permutation), (jnp.take_along_axis(tangent, permutation, axis=-1), no_tangent)


def sort_rows_of_integers(keys: Int[Array, "l n"]) -> Int[Array, "l n"]:
    """Returns each row [l n] of distinct integers, sorted ascending."""
    cpu = _network if _packed_network_pays(keys) else _sort_integers
    return lax.platform_dependent(keys, cpu=cpu, default=_sort_generic)


def unsort_rows(
    ordered: Float[Array, "l n"], permutation: Int[Array, "l n"]
) -> Float[Array, "l n"]:
    """Returns rows with entry j at column ``permutation[j]``, the inverse of a gather."""
    if _may_be_sharded() or ordered.size > _INT32_MAX:
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


def _scatter_flat(ordered: Array, permutation: Array) -> Array:
    """Scatters by one index for each entry: 25-33 % less time than by a row and a column."""
    start = permutation.shape[1] * lax.broadcasted_iota(jnp.int32, permutation.shape, 0)
    index = (start + permutation).reshape(-1)
    at = jnp.zeros_like(ordered, shape=index.shape).at[index]
    flat = at.set(ordered.reshape(-1), unique_indices=True, mode="promise_in_bounds")
    return flat.reshape(ordered.shape)


def _sort_packed(values: Array) -> tuple[Array, Array]:
    return _through_packed(values, _sort_integers)


def _sort_packed_by_network(values: Array) -> tuple[Array, Array]:
    return _through_packed(values, _network)


def _network_pays(values: Array, max_length: int) -> bool:
    lanes, length = values.shape
    return lanes >= 32 and length <= max_length and values.size >= NETWORK_MIN_SIZE


def _packed_network_pays(values: Array) -> bool:
    # Packed keys are twice as wide, so padded columns must be few.
    few_padded = 2 * _padded(values.shape[1]) <= 3 * values.shape[1]
    return few_padded and _network_pays(values, NETWORK_MAX_PACKED_LENGTH)


def _through_packed(values: Array, sort: Callable[[Array], Array]) -> tuple[Array, Array]:
    # 64-bit keys exist only inside this function; the user's global switch does not change.
    with jax.enable_x64(True):
        column = lax.broadcasted_iota(jnp.int64, values.shape, values.ndim - 1)
        packed = sort((_ordered_integers(values).astype(jnp.int64) << 32) | column)
        permutation = (packed & 0xFFFFFFFF).astype(jnp.int32)
        ordered = (packed >> 32).astype(jnp.int32)
    return _floats_of_ordered_integers(ordered), permutation


def _sort_as_integers(values: Array) -> Array:
    return _floats_of_ordered_integers(_sort_integers(_ordered_integers(values)))


def _sort_integers(rows: Array) -> Array:
    # XLA sorts all rows of an operation in one thread, and uses other threads if more than eight
    # operations are ready: hence the pieces.
    if rows.size < _PIECES_MIN_SIZE or rows.shape[0] < _NUM_PIECES or _may_be_sharded():
        return lax.sort(rows, dimension=-1, is_stable=True)
    size = math.ceil(rows.shape[0] / _NUM_PIECES)
    pieces = [rows[first : first + size] for first in range(0, rows.shape[0], size)]
    return jnp.concatenate([lax.sort(piece, dimension=-1, is_stable=True) for piece in pieces])


def _sort_by_network(values: Array) -> Array:
    return _floats_of_ordered_integers(_network(_ordered_integers(values)))


def _network(rows: Array) -> Array:
    """Returns rows sorted by a network over columns, in blocks that fit in the cache."""
    lanes, length = rows.shape
    row_bytes = _padded(length) * rows.dtype.itemsize
    if lanes * row_bytes <= _NETWORK_CACHE_BYTES:
        return _network_of_block(rows)
    block = max(1, _NETWORK_BLOCK_BYTES[rows.dtype.itemsize] // row_bytes)
    rows = jnp.pad(rows, ((0, -lanes % block), (0, 0)))
    if _may_be_sharded():
        # A block takes strided rows, not neighbours, so that each device has a part of each block.
        strided = rows.reshape(block, -1, length).swapaxes(0, 1)
        blocks = lax.map(_network_of_block, strided).swapaxes(0, 1)
    else:
        blocks = lax.map(_network_of_block, rows.reshape(-1, block, length))
    return blocks.reshape(-1, length)[:lanes]


def _network_of_block(rows: Array) -> Array:
    """Sorts rows by Batcher's bitonic sort (1968), with all comparators ascending.

    A reflected stage merges two blocks, and halving stages order the result.
    """
    lanes, length = rows.shape
    padded = _padded(length)
    largest = jnp.iinfo(rows.dtype).max
    columns = jnp.pad(rows.T, ((0, padded - length), (0, 0)), constant_values=largest)
    # Transposed once: if fused into a stage, strided reads would be made for both sides of each
    # comparator.
    columns = lax.optimization_barrier(columns)
    block = 2
    while block <= padded:
        first, second = jnp.split(columns.reshape(padded // block, 2, block // 2, lanes), 2, axis=1)
        second = second[:, :, ::-1]
        columns = jnp.concatenate(
            [jnp.minimum(first, second), jnp.maximum(first, second)[:, :, ::-1]], axis=1
        ).reshape(padded, lanes)
        distance = block // 4
        while distance >= 1:
            # Two stages in one pass halve the memory traffic; three would repeat too much work.
            stages = min(2, distance.bit_length())
            columns = _half_cleaners(columns, distance, stages)
            distance >>= stages
        block *= 2
    return lax.optimization_barrier(columns)[:length].T


def _padded(length: int) -> int:
    return 1 << (length - 1).bit_length()


def _half_cleaners(columns: Array, distance: int, stages: int) -> Array:
    """Applies comparators at ``distance``, at half of it and so on, to groups of columns."""
    group, nearest = 1 << stages, distance >> (stages - 1)
    split = columns.reshape(-1, group, nearest, columns.shape[-1])
    return jnp.stack(_cleaned([split[:, i] for i in range(group)]), axis=1).reshape(columns.shape)


def _cleaned(parts: list[Array]) -> list[Array]:
    if len(parts) == 1:
        return parts
    half = len(parts) // 2
    pairs = list(zip(parts[:half], parts[half:], strict=True))
    low, high = ([choose(a, b) for a, b in pairs] for choose in (jnp.minimum, jnp.maximum))
    return _cleaned(low) + _cleaned(high)


def _sort_unsigned(values: Array) -> Array:
    ordered = lax.sort(_ordered_unsigned(values), dimension=-1, is_stable=False)
    return _floats_of_ordered_integers(_flip_sign(ordered, jnp.int32))


def _sort_unsigned_pairs(values: Array) -> tuple[Array, Array]:
    column = lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)
    ordered, permutation = lax.sort(
        (_ordered_unsigned(values), column), dimension=-1, num_keys=1, is_stable=False
    )
    return _floats_of_ordered_integers(_flip_sign(ordered, jnp.int32)), permutation


def _ordered_unsigned(values: Array) -> Array:
    return _flip_sign(_ordered_integers(values), jnp.uint32)


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


def _ordered_integers(values: Array) -> Array:
    """Returns int32 in the order of float32 values.

    Negative floats have descending bit patterns, so these are flipped.
    """
    # values + 0 would also make -0.0 equal 0.0, but compilers drop the addition.
    bits = lax.bitcast_convert_type(jnp.where(values == 0, 0.0, values), jnp.int32)
    return bits ^ ((bits >> 31) & _INT32_MAX)


def _floats_of_ordered_integers(integers: Array) -> Array:
    return lax.bitcast_convert_type(integers ^ ((integers >> 31) & _INT32_MAX), jnp.float32)
