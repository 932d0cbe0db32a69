"""Powers of two by which numbers are divided before a power is taken, and sums of many terms."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# A quotient below 2 may be raised to this power in float32, and the sum of many is finite still.
_LARGEST_POWER = 64.0


def power_of_two(values: Array) -> Array:
    """Returns the power of two [] next below the largest magnitude, a constant in derivatives.

    Division by it does not round. It and its inverse are normal numbers, also for zeros, NaN and
    infinity, which the quotients then show.
    """
    largest = jnp.max(jnp.abs(lax.stop_gradient(values)))
    limits = jnp.finfo(largest.dtype)
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(largest), largest, 1.0))
    exponent = jnp.clip(exponent - 1, limits.minexp, -limits.minexp)
    smallest = jnp.where(largest > 0, exponent, limits.minexp)
    return jnp.ldexp(jnp.ones_like(largest), smallest)


def scale_of_powers(values: Array, p: float) -> Array:
    """Returns a scale [] for which sums of |values / scale|^p are representable."""
    scale = power_of_two(values)
    if p <= _LARGEST_POWER:
        return scale
    largest = jnp.max(jnp.abs(lax.stop_gradient(values)))
    return jnp.where(jnp.isfinite(largest), jnp.maximum(largest, scale), scale)


def sum_of_rows(values: Float[Array, "l n"]) -> Float[Array, " l"]:
    """Returns the sum of each row, with an error that hardly grows with n.

    A sum in one pass loses a digit for each hundredfold number of terms on some CPUs. The barrier
    keeps XLA from making one pass of two.
    """
    length = values.shape[1]
    size = 1 << (length.bit_length() // 2)
    if length < 1024:
        return jnp.sum(values, axis=1)
    padded = jnp.pad(values, ((0, 0), (0, -length % size)))
    parts = jnp.sum(padded.reshape(values.shape[0], -1, size), axis=2)
    return jnp.sum(lax.optimization_barrier(parts), axis=1)
