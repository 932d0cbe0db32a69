"""Plans from slices, as POT gives them for permutations: fifty cases of ours.

POT 0.9.7 takes equal weights for a permutation only if sums of 1/n are exact, hence n = 8. Costs of
its other plans are not those of its pairs; ``test_plans.py`` has other oracles for these.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import swjko

ot = pytest.importorskip("ot", reason="POT is not installed")


def dense(n, i, j, mass):
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.asarray(i), np.asarray(j)), np.asarray(mass))
    return matrix


def test_best_and_expected_plans():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(50, 8, 3)), rng.normal(size=(50, 8, 3)) + 0.5
    directions = rng.normal(size=(6, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(array) for array in (x, y, directions)]
        best, mean, cold = (
            jax.jit(jax.vmap(function, in_axes=(0, 0, None)))(*arrays)
            for function in (
                swjko.best_sliced_plan,
                swjko.expected_sliced_plan,
                lambda *inputs: swjko.expected_sliced_plan(*inputs, inverse_temperature=2.0),
            )
        )
    for index in range(50):
        options = {"projections": directions.T, "p": 2}
        expected = [
            ot.min_sliced_transport_plan(x[index], y[index], **options),
            ot.expected_sliced_plan(x[index], y[index], **options),
            ot.expected_sliced_plan(x[index], y[index], beta=2.0, **options),
        ]
        for plan, (matrix, cost) in zip((best, mean, cold), expected, strict=True):
            *pieces, found = (part[index] for part in plan)
            np.testing.assert_allclose(dense(8, *pieces), matrix, atol=1e-12)
            np.testing.assert_allclose(found, cost, rtol=1e-10)
