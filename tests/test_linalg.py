"""The inverse by halves against NumPy, and square roots against their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swjko.linalg import (
    inverse_of_lower_triangular,
    solve_lyapunov,
    sqrt_of_symmetric,
    trace_of_sqrt,
)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("dim", [1, 2, 3, 7, 16, 50])
def test_inverse_and_its_gradient(dim):
    rng = np.random.default_rng(dim)
    matrix = np.tril(rng.normal(size=(dim, dim)), -1) * 0.5 + np.diag(rng.uniform(0.5, 2.0, dim))
    above = np.triu(np.full((dim, dim), np.nan), 1)
    reference = np.linalg.inv(matrix)
    scale = np.abs(reference).max()
    with jax.enable_x64(True):
        inverse = jax.jit(inverse_of_lower_triangular)(jnp.asarray(matrix + above))
        np.testing.assert_allclose(inverse, reference, atol=1e-12 * scale)
        assert np.all(np.triu(inverse, 1) == 0)
        weights = rng.normal(size=(dim, dim))
        gradient = jax.jit(jax.grad(lambda m: jnp.sum(weights * inverse_of_lower_triangular(m))))(
            jnp.asarray(matrix)
        )
        # Only what lies on and below the diagonal of the inverse is summed.
        expected = np.tril(-reference.T @ np.tril(weights) @ reference.T)
        np.testing.assert_allclose(np.tril(gradient), expected, atol=1e-12 * scale**2 * dim)
    single = jax.jit(inverse_of_lower_triangular)(jnp.asarray(matrix, jnp.float32))
    np.testing.assert_allclose(single, reference, atol=1e-5 * scale)


@pytest.mark.parametrize("values", [[4.0, 4.0, 4.0], [9.0, 1.0, 1.0 + 1e-12], [1e-6, 2.0, 50.0]])
def test_square_roots_and_their_derivatives(values):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    change = rng.normal(size=(3, 3))
    change = change + change.T
    with jax.enable_x64(True):
        matrix = jnp.asarray((basis * np.asarray(values)) @ basis.T)
        root, slope = jax.jvp(sqrt_of_symmetric, (matrix,), (jnp.asarray(change),))
        np.testing.assert_allclose(root @ root, matrix, atol=1e-13 * max(values))
        scale = np.abs(change).max() / np.sqrt(min(values))
        np.testing.assert_allclose(root @ slope + slope @ root, change, atol=1e-12 * scale)
        np.testing.assert_allclose(solve_lyapunov(root, matrix), root / 2, atol=1e-12)
        np.testing.assert_allclose(trace_of_sqrt(matrix), np.sum(np.sqrt(values)), rtol=1e-13)
        # The gradient of tr X is X^{-1} / 2.
        gradient = jax.jit(jax.grad(trace_of_sqrt))(matrix)
        np.testing.assert_allclose(gradient, np.linalg.inv(root) / 2, rtol=1e-6, atol=1e-9)
