"""The sliced distance, as POT and OTT give it: fifty cases of ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_weights

import swjko

TOLERANCE = {"float32": 1e-6, "float64": 1e-10}


def cases(number=50, n=11, m=8, dim=4, num=6):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(number, n, dim)), rng.normal(size=(number, m, dim)) + 0.7
    directions = rng.normal(size=(num, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    weights = [np.stack([random_weights(rng, size) for _ in range(number)]) for size in (n, m)]
    return directions, x, y, *weights


@pytest.mark.slow_except_first
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("p", "weighted"), [(2.0, True), (2.0, False), (1.0, True)])
def test_distances_of_pot(dtype, p, weighted):
    ot = pytest.importorskip("ot", reason="POT is not installed")
    with jax.enable_x64(True):
        directions, *clouds = (np.asarray(array, dtype) for array in cases())

        @jax.jit
        @jax.vmap
        def distance(x, y, a, b):
            weights = {"x_weights": a, "y_weights": b} if weighted else {}
            return swjko.sliced_wasserstein(x, y, jnp.asarray(directions), p=p, **weights)

        found = distance(*clouds)
    for value, *cloud in zip(found, *clouds, strict=True):
        x, y, a, b = (np.asarray(array, np.float64) for array in cloud)
        weights = (a / a.sum(), b / b.sum()) if weighted else ()
        columns = np.asarray(directions, np.float64).T
        expected = ot.sliced_wasserstein_distance(x, y, *weights, projections=columns, p=p)
        np.testing.assert_allclose(value, expected, rtol=TOLERANCE[dtype])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_powers_of_ott():
    sliced = pytest.importorskip("ott.tools.sliced", reason="OTT is not installed")
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        directions, *clouds = (jnp.asarray(array) for array in cases(5))
        for x, y, a, b in zip(*clouds, strict=True):
            expected, _ = sliced.sliced_wasserstein(
                x, y, a=a, b=b, proj_fn=lambda points: points @ directions.T
            )
            found = swjko.sliced_wasserstein_pow(x, y, directions, x_weights=a, y_weights=b)
            np.testing.assert_allclose(found, expected, rtol=1e-6)
