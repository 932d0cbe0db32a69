"""What the kernel takes: clouds of one dtype, centred, with weights of sum one."""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from swjko.distances.blocks import automatic_block_size
from swjko.distances.centering import centred, exact_on_the_line, without_wild_padding
from swjko.types import validation


def normalised_weights(weights: Array | None, count: int, dtype: DTypeLike) -> Array:
    """Returns weights [count] divided by their sum; None is uniform."""
    if weights is None:
        return jnp.full((count,), 1.0 / count, dtype)
    weights = weights.astype(dtype)
    return weights / jnp.sum(weights)


def prepared_inputs(
    x, y, directions, x_weights, y_weights, block_size, *, centre: bool = True
) -> tuple[Array, Array, Array, Array | None, Array | None, int]:
    """Returns inputs of one dtype, centred and of total weight one, and the size of a block."""
    dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    x, y, directions = x.astype(dtype), y.astype(dtype), directions.astype(dtype)
    if x_weights is not None or y_weights is not None:
        x_weights = normalised_weights(x_weights, x.shape[0], dtype)
        y_weights = normalised_weights(y_weights, y.shape[0], dtype)
    if block_size is None:
        block_size = automatic_block_size(
            x.shape[0], y.shape[0], directions.shape[0], x_weights is not None
        )
    block_size = min(validation.as_count(block_size, "block_size"), directions.shape[0])
    if not centre:
        x, y = without_wild_padding(x, x_weights), without_wild_padding(y, y_weights)
        return x, y, directions, x_weights, y_weights, block_size
    x, y = centred(x, y, x_weights, y_weights)
    return x, y, exact_on_the_line(directions), x_weights, y_weights, block_size
