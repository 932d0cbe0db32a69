"""The inverse of a lower triangular matrix by halves, in matrix products alone.

LAPACK's solves wake the threads of BLAS beside those of XLA, which costs milliseconds on a busy CPU, and accelerators run them one row
after the other. Here the inverses of neighbouring diagonal blocks are joined until one is left, log2(d) times:

    [A 0; C B]^{-1} = [A^{-1} 0; -B^{-1} C A^{-1}  B^{-1}].
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def inverse_of_lower_triangular(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The inverse, lower triangular too; entries above the diagonal are not read. A zero on the diagonal gives infinities, not an error."""
    dim = matrix.shape[0]
    padded = 1 << (dim - 1).bit_length()
    matrix = jnp.pad(matrix, ((0, padded - dim), (0, padded - dim)))
    diagonal = jnp.where(jnp.arange(padded) < dim, jnp.diagonal(matrix), 1.0)
    inverses = (1.0 / diagonal)[:, None, None]
    size = 1
    while size < padded:
        pairs = padded // (2 * size)
        at = jnp.arange(pairs)
        below = matrix.reshape(pairs, 2 * size, pairs, 2 * size)[at, size:, at, :size]
        first, second = inverses[0::2], inverses[1::2]
        upper_half = jnp.concatenate([first, jnp.zeros_like(first)], axis=2)
        lower_half = jnp.concatenate([-second @ below @ first, second], axis=2)
        inverses = jnp.concatenate([upper_half, lower_half], axis=1)
        size *= 2
    return inverses[0, :dim, :dim]
