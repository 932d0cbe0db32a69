"""Triangular matrices, functions of symmetric ones, random signs and indices, NaN.

JAX differentiates eigenvectors, and divides by differences of eigenvalues: NaN where two are equal.
The functions of matrices here are smooth there, and so are their derivatives of any order.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from swjko.types import Key, Scalar


def stratified_indices(key: Key, weights: Float[Array, " n"], num: int) -> Int[Array, " num"]:
    """Draws indices by weights, one in each of ``num`` equal parts of their sum.

    Args:
      key: Random key.
      weights: Weights [n], nonnegative.
      num: Number of indices.
    """
    passed = jnp.cumsum(weights)
    start = jnp.arange(num, dtype=passed.dtype)
    levels = (start + jax.random.uniform(key, (num,), passed.dtype)) / num
    found = jnp.searchsorted(passed, levels * passed[-1], side="right")
    return jnp.minimum(found, weights.shape[0] - 1)


def inverse_of_lower_triangular(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Returns the inverse of a lower triangular matrix, by matrix products alone.

    Neighbouring diagonal blocks are joined until one is left, log2(d) times:

        [A 0; C B]^{-1} = [A^{-1} 0; -B^{-1} C A^{-1}  B^{-1}].

    LAPACK's solves wake the threads of BLAS beside those of XLA, which costs milliseconds on a
    busy CPU, and accelerators run them one row after the other. Entries above the diagonal are
    not read. A zero on the diagonal gives infinities, not an error.
    """
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


def derivatives_of(smooth: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Returns a decorator: the function keeps its values and takes the derivatives of ``smooth``.

    Args:
      smooth: Function of the same arguments with the same values up to rounding.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        decorated = jax.custom_jvp(function)

        @decorated.defjvp
        def _(primals, tangents):
            return decorated(*primals), jax.jvp(smooth, primals, tangents)[1]

        return decorated

    return decorate


@jax.custom_jvp
def sqrt_of_symmetric(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Returns the square root of a positive semidefinite matrix; negative eigenvalues count as 0.

    Its derivative dX solves X dX + dX X = d matrix. It is not finite at singular matrices.
    """
    values, basis = jnp.linalg.eigh(matrix)
    return (basis * jnp.sqrt(jnp.maximum(values, 0.0))[None, :]) @ basis.T


@sqrt_of_symmetric.defjvp
def _sqrt_of_symmetric_jvp(primals, tangents):
    root, (change,) = sqrt_of_symmetric(*primals), tangents
    return root, solve_lyapunov(root, (change + change.T) / 2)


@derivatives_of(lambda matrix: jnp.trace(sqrt_of_symmetric(matrix)))
def trace_of_sqrt(matrix: Float[Array, "d d"]) -> Scalar:
    """Returns the trace of ``sqrt_of_symmetric``, from the eigenvalues alone."""
    return jnp.sum(jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(matrix), 0.0)))


def solve_lyapunov(matrix: Float[Array, "d d"], right: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Returns Y with matrix Y + Y matrix = right, for a symmetric positive definite matrix."""

    def solve(_, right):
        values, basis = jnp.linalg.eigh(matrix)
        sums = values[:, None] + values[None, :]
        return basis @ ((basis.T @ right @ basis) / sums) @ basis.T

    return lax.custom_linear_solve(lambda y: matrix @ y + y @ matrix, right, solve, symmetric=True)


def hadamard_signs(
    key: Key, num_rows: int, num_probes: int, dim: int, dtype: DTypeLike
) -> Float[Array, "m n d"]:
    """Returns random signs [num_probes num_rows dim] for trace estimates, tr A = E[v^T A v].

    Probe j of row i is vector number i num_probes + j of a fixed sequence: row i of a batch takes
    row i mod D of a Hadamard matrix, D the smallest power of two that is at least d, times d
    random signs that all rows share. Each v is then uniform on {-1, 1}^d over the keys, and the
    mean of v v^T over D rows is the identity, so noise that is the same for all points cancels
    within a batch. An optimiser would learn one v shared by all points, or kept for a point from
    one update to the next: it would raise v^T A v in place of the trace.

    References:
      Hutchinson (1990), doi 10.1080/03610919008812866.
    """
    signs = jax.random.rademacher(key, (dim,), dtype)
    number = (
        jnp.arange(num_rows)[None, :, None] * num_probes + jnp.arange(num_probes)[:, None, None]
    )
    # Entry (i, j) of a Hadamard matrix is the parity of the common bits of i and j. Bits beyond
    # those of D have no partner in j.
    parity = lax.population_count(number & jnp.arange(dim)[None, None, :]) % 2
    return signs[None, None, :] * (1 - 2 * parity).astype(dtype)


def nan_where(condition: Bool[Array, "..."], values: Array) -> Array:
    """Returns values, or NaN in all of them if the condition holds.

    The NaN is made when the program runs: a constant one would be an alarm for ``jax_debug_nans``
    whether the condition holds or not.

    Args:
      condition: Whether values are unknown; it broadcasts against them.
      values: Array of floats.
    """
    nan = 0.0 * jnp.where(condition, jnp.inf, 0.0)
    return jnp.where(condition, nan.astype(values.dtype), values)
