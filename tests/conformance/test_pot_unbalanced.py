"""Unbalanced sliced transport against POT, whose value is an upper bound and ours a lower one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_weights

import swjko

ot = pytest.importorskip("ot", reason="POT is not installed")


def usot_of_pot(*inputs, **options):
    return ot.unbalanced_sliced_ot(*inputs, **options)[2]


PAIRS = [
    (swjko.sliced_unbalanced_ot, ot.sliced_unbalanced_ot),
    (swjko.unbalanced_sliced_ot, usot_of_pot),
]


# POT runs on JAX operation by operation.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["SUOT", "USOT"])
@pytest.mark.parametrize(("n", "m", "tolerance"), [(1, 1, 1e-10), (6, 5, 1e-2)])
def test_bounds_meet(ours, theirs, n, m, tolerance):
    rng = np.random.default_rng(3)
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        x, y = jnp.asarray(rng.normal(size=(n, 2))), jnp.asarray(rng.normal(size=(m, 2)) + 0.5)
        a, b = jnp.asarray(random_weights(rng, n)), jnp.asarray(1.4 * random_weights(rng, m))
        directions = jnp.array([[1.0, 0.0], [0.6, 0.8]])
        upper = theirs(x, y, 2.0, a, b, projections=directions.T, numItermax=40)
        lower = ours(x, y, directions, rho=2.0, x_weights=a, y_weights=b, num_iterations=40)
    assert lower <= upper * (1 + 1e-10)
    np.testing.assert_allclose(lower, upper, rtol=tolerance)
