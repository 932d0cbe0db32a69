"""Random signs that estimate traces, tr A = E[v^T A v], without drawing: each row of a batch has its own, fixed by a seed.

Row i of a batch takes row i mod D of a Hadamard matrix, D the smallest power of two that is not below d, times d random signs that all
rows share. Each v is then uniform on {-1, 1}^d over the seeds, and the mean of v v^T over D rows is the identity: noise that is the same
for all points cancels within a batch. One v shared by all points, or kept for a point from one update to the next, would be learned by
an optimiser, which raises v^T A v in place of the trace. Source: Hutchinson (1990), doi 10.1080/03610919008812866.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from swjko.types import Key


def row_probes(key: Key, num_rows: int, num_probes: int, dim: int, dtype: DTypeLike) -> Float[Array, "m n d"]:
    """[num_probes num_rows dim] entries +-1; probe j of row i is number i num_probes + j of the sequence."""
    signs = jax.random.rademacher(key, (dim,), dtype)
    number = jnp.arange(num_rows)[None, :, None] * num_probes + jnp.arange(num_probes)[:, None, None]
    # Entry (i, j) of a Hadamard matrix is the parity of the bits that i and j have in common; bits beyond those of D meet none in j.
    parity = lax.population_count(number & jnp.arange(dim)[None, None, :]) % 2
    return signs[None, None, :] * (1 - 2 * parity).astype(dtype)
