"""Costs and plans on the line, as POT and SciPy give them: fifty cases of ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import random_weights

import swjko

ot = pytest.importorskip("ot", reason="POT is not installed")

TOLERANCE = {"float32": 1e-6, "float64": 1e-10}


def lines(n=9, m=7, number=50):
    rng = np.random.default_rng(0)
    u = rng.normal(size=(number, n))
    v = rng.normal(size=(number, m)) * rng.uniform(0.3, 3.0, (number, 1)) + 2.0
    weights = [np.stack([random_weights(rng, size) for _ in range(number)]) for size in (n, m)]
    return u, v, *weights


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_costs(dtype, p):
    with jax.enable_x64(True):
        cases = [np.asarray(array, dtype) for array in lines()]

        @jax.jit
        @jax.vmap
        def cost(u, v, a, b):
            return swjko.wasserstein_1d_pow(u, v, p=p, u_weights=a, v_weights=b)

        found = cost(*cases)
    exact = [np.asarray(array, np.float64) for array in cases]
    for value, u, v, a, b in zip(found, *exact, strict=True):
        a, b = a / a.sum(), b / b.sum()
        # Rounded weights move mass, which costs more than the tolerance where costs are large.
        np.testing.assert_allclose(value, ot.wasserstein_1d(u, v, a, b, p=p), rtol=TOLERANCE[dtype])
        if p == 1.0:
            expected = scipy.stats.wasserstein_distance(u, v, a, b)
            np.testing.assert_allclose(value, expected, rtol=TOLERANCE[dtype])


def test_plans():
    with jax.enable_x64(True):
        cases = lines()
        plans = jax.jit(
            jax.vmap(lambda u, v, a, b: swjko.wasserstein_1d_plan(u, v, u_weights=a, v_weights=b))
        )(*map(jnp.asarray, cases))
    for index, (u, v, a, b) in enumerate(zip(*cases, strict=True)):
        dense = np.zeros((len(u), len(v)))
        i, j, mass = (np.asarray(part[index]) for part in plans)
        np.add.at(dense, (i, j), mass)
        np.testing.assert_allclose(dense, ot.emd_1d(u, v, a, b), atol=1e-12)
