"""Unbalanced sliced transport against POT, whose value is an upper bound and ours a lower one."""

import functools

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


def kl(new, old):
    return np.sum(np.where(new > 0, new * np.log(np.where(new > 0, new, 1.0) / old), 0.0)) + (
        np.sum(old) - np.sum(new)
    )


# Where no part of a plan is cut off from the rest, iterations end at the optimum.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "num"), [(PAIRS[0][0], 1), (PAIRS[1][0], 3)], ids=["SUOT", "USOT"]
)
def test_fifty_values_are_the_costs_of_their_marginals(ours, num):
    """A dual value equals the primal one, with transport by POT, so both are the infimum.

    The marginals are a (1 - s / rho), where s is the derivative of the value in a.
    """
    rng, rho, cases = np.random.default_rng(0), 300.0, 50
    x, y = rng.normal(size=(cases, 6, 2)), rng.normal(size=(cases, 5, 2)) + 0.5
    a = np.stack([random_weights(rng, 6) for _ in range(cases)])
    b = 1.3 * np.stack([random_weights(rng, 5) for _ in range(cases)])
    directions = rng.normal(size=(num, 2))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    @jax.jit
    @jax.vmap
    @functools.partial(jax.value_and_grad, argnums=(2, 3))
    def value(x, y, a, b):
        lines = jnp.asarray(directions, x.dtype)
        return ours(x, y, lines, rho=rho, x_weights=a, y_weights=b)

    single, _ = value(*(jnp.asarray(one, jnp.float32) for one in (x, y, a, b)))
    with jax.enable_x64(True):
        values, slopes = jax.tree.map(np.asarray, value(*map(jnp.asarray, (x, y, a, b))))
    for case, found in enumerate(values):
        old = a[case], b[case]
        new = [one * (1 - s[case] / rho) for one, s in zip(old, slopes, strict=True)]
        masses = [one / one.sum() for one in new]
        on_lines = [ot.wasserstein_1d(x[case] @ k, y[case] @ k, *masses, p=2) for k in directions]
        cost = new[0].sum() * np.mean(on_lines) + rho * sum(map(kl, new, old))
        np.testing.assert_allclose(found, cost, rtol=1e-10)
        np.testing.assert_allclose(single[case], cost, rtol=4e-6)
