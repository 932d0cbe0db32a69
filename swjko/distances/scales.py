"""Powers of two by which numbers are divided before they are raised to a power."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

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
