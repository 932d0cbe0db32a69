"""A network that sorts the rows of a matrix of integers, and their halves on the way.

Batcher's bitonic sort (1968), over whole columns: minimum and maximum run on vectors, and all cores
share the columns. Before its last merge the network holds both halves of each row in order, so
they cost nothing beside the sort of the whole.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

# The work of a network grows as log(n)^2, so the merge sort is as fast beyond these lengths. Below
# this size a network does not save the second that it takes to compile.
NETWORK_MAX_LENGTH = 16384
NETWORK_MAX_PACKED_LENGTH = 2048
NETWORK_MIN_SIZE = 50_000
_MIN_LANES = 32
# Rows that do not fit in L2 are sorted in blocks of this size; cores would not share smaller ones.
_CACHE_BYTES = 2**23
_BLOCK_BYTES = {4: 2**22, 8: 2**20}


def sort_by_network(rows: Array, *, strided: bool, num_parts: int = 1) -> list[Array]:
    """Returns rows sorted ascending [l n] and, for two parts, rows of sorted parts [l n].

    Args:
      rows: Integers [l n].
      strided: Whether a block takes strided rows, not neighbours, so that each of several devices
        that share the rows has a part of each block.
      num_parts: 1, or 2 for the two halves of a row, whose length must be even.
    """
    lanes, length = rows.shape
    sort_block = functools.partial(_sort_block, num_parts=num_parts)
    row_bytes = padded_length(length) * rows.dtype.itemsize
    if lanes * row_bytes <= _CACHE_BYTES:
        return sort_block(rows)
    block = max(1, _BLOCK_BYTES[rows.dtype.itemsize] // row_bytes)
    rows = jnp.pad(rows, ((0, -lanes % block), (0, 0)))
    if strided:
        blocks = rows.reshape(block, -1, length).swapaxes(0, 1)
        found = [result.swapaxes(0, 1) for result in lax.map(sort_block, blocks)]
    else:
        found = lax.map(sort_block, rows.reshape(-1, block, length))
    return [result.reshape(-1, length)[:lanes] for result in found]


def network_pays(values: Array, max_length: int, min_size: int = NETWORK_MIN_SIZE) -> bool:
    lanes, length = values.shape
    return lanes >= _MIN_LANES and length <= max_length and values.size >= min_size


def packed_network_pays(values: Array, min_size: int = NETWORK_MIN_SIZE) -> bool:
    # Packed keys are twice as wide, so padded columns must be few.
    few_padded = 2 * padded_length(values.shape[1]) <= 3 * values.shape[1]
    return few_padded and network_pays(values, NETWORK_MAX_PACKED_LENGTH, min_size)


def padded_length(length: int) -> int:
    """Returns the number of columns of the network, a power of two."""
    return 1 << (length - 1).bit_length()


def _sort_block(rows: Array, num_parts: int) -> list[Array]:
    lanes, length = rows.shape
    padded, size = padded_length(length), length // num_parts
    largest, padding = jnp.iinfo(rows.dtype).max, padded // num_parts - size
    columns = rows.T.reshape(num_parts, size, lanes)
    columns = jnp.pad(columns, ((0, 0), (0, padding), (0, 0)), constant_values=largest)
    # Transposed once: if fused into a stage, strided reads would be made for both sides of each
    # comparator.
    columns = lax.optimization_barrier(columns.reshape(padded, lanes))
    found = []
    for level in range(1, padded.bit_length()):
        if num_parts << level > padded:
            columns = lax.optimization_barrier(columns)  # computed once for both uses
            found.append(columns.reshape(num_parts, -1, lanes)[:, :size].reshape(length, lanes))
        columns = _merge(columns, 1 << level)
    found.append(columns[:length])
    return [lax.optimization_barrier(result).T for result in reversed(found)]


def _merge(columns: Array, block: int) -> Array:
    """Sorts blocks of columns whose halves are sorted, by ascending comparators alone.

    A reflected stage is followed by halving stages.
    """
    padded, lanes = columns.shape
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
    return columns


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
