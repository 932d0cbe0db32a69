"""The inverse by halves against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swjko.linalg import inverse_of_lower_triangular


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
