"""Integers in the order of float32 values, and sorts of them with their columns.

XLA on a CPU sorts a single integer operand several times as fast as floats or pairs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

INT32_MAX = 0x7FFFFFFF


def through_packed(values: Array, sort: Callable[[Array], list[Array]]) -> list[Array]:
    """Returns ordered values and a permutation for each result of the sort."""
    # 64-bit keys exist only inside this function; the user's global switch does not change.
    with jax.enable_x64(True):
        column = lax.broadcasted_iota(jnp.int64, values.shape, values.ndim - 1)
        results = sort((ordered_integers(values).astype(jnp.int64) << 32) | column)
        parts = [
            part.astype(jnp.int32) for one in results for part in (one >> 32, one & 0xFFFFFFFF)
        ]
    parts[0::2] = map(floats_of_ordered_integers, parts[0::2])
    return parts


def ordered_integers(values: Array) -> Array:
    """Returns int32 in the order of float32 values.

    Negative floats have descending bit patterns, so these are flipped.
    """
    # values + 0 would also make -0.0 equal 0.0, but compilers drop the addition.
    bits = lax.bitcast_convert_type(jnp.where(values == 0, 0.0, values), jnp.int32)
    return bits ^ ((bits >> 31) & INT32_MAX)


def floats_of_ordered_integers(integers: Array) -> Array:
    return lax.bitcast_convert_type(integers ^ ((integers >> 31) & INT32_MAX), jnp.float32)
