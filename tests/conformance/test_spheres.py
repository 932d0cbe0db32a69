"""Circle and sphere give the values of POT, on cases written here."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from helpers import random_weights

import swjko

NUM_CASES = 50
TOLERANCE = {"float32": 1e-6, "float64": 1e-10}


def as_given(arrays, dtype):
    """Arrays that both packages get, rounded to the dtype of ours."""
    return [np.asarray(array, dtype).astype(np.float64) for array in arrays]


@pytest.mark.slow_except_first
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("p", "sizes", "weighted"), [(1.0, (9, 9), False), (2.0, (9, 6), True)])
def test_circle(p, sizes, weighted, dtype):
    rng = np.random.default_rng(int(p))
    cases = as_given([rng.uniform(size=(NUM_CASES, size)) for size in sizes], dtype)
    weights = [np.stack([random_weights(rng, size) for _ in range(NUM_CASES)]) for size in sizes]
    weights = as_given(weights, dtype) if weighted else []
    # Rounded weights do not sum to one, and POT does not divide by their sum.
    theirs = [
        ot.wasserstein_circle(
            u[:, None], v[:, None], *(mass / mass.sum() for mass in masses), p=p, eps=1e-14
        )[0]
        for u, v, *masses in zip(*cases, *weights, strict=True)
    ]
    names = ("u_weights", "v_weights")

    @jax.jit
    @jax.vmap
    def ours(u, v, *masses):
        given = dict(zip(names, masses, strict=False))
        return swjko.wasserstein_circle_pow(u, v, p=p, **given)

    with jax.enable_x64(True):
        values = ours(*(jnp.asarray(one, dtype) for one in (*cases, *weights)))
        assert values.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(values, theirs, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_uniform_law_of_the_circle(dtype):
    rng = np.random.default_rng(3)
    # POT sorts the points and not their weights, so the points are given in order.
    u = np.sort(rng.uniform(size=(NUM_CASES, 8)), axis=1)
    u, weights = as_given([u, np.stack([random_weights(rng, 8) for _ in u])], dtype)
    theirs = [
        ot.semidiscrete_wasserstein2_unif_circle(one[:, None], mass / mass.sum())
        for one, mass in zip(u, weights, strict=True)
    ]
    with jax.enable_x64(True):
        ours = jax.jit(jax.vmap(lambda u, a: swjko.wasserstein_circle_pow(u, u_weights=a)))
        values = ours(jnp.asarray(u, dtype), jnp.asarray(weights, dtype))
    np.testing.assert_allclose(values, np.ravel(theirs), rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_sphere(dtype):
    rng = np.random.default_rng(4)

    def unit(*shape):
        vectors = rng.normal(size=shape)
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    pairs = np.linalg.qr(rng.normal(size=(NUM_CASES, 6, 3, 2)))[0].swapaxes(-1, -2)
    cases = as_given((unit(NUM_CASES, 8, 3), unit(NUM_CASES, 8, 3), pairs), dtype)
    theirs, to_uniform = [], []
    for x, y, planes in zip(*cases, strict=True):
        given = {"n_projections": 6, "projections": planes.swapaxes(1, 2)}
        theirs.append(ot.sliced_wasserstein_sphere(x, y, p=1, **given))
        to_uniform.append(ot.sliced_wasserstein_sphere_unif(x, **given) ** 2)

    @jax.jit
    @jax.vmap
    def ours(x, y, planes):
        cost = swjko.spherical_sliced_wasserstein_pow
        return cost(x, y, planes, p=1.0), cost(x, None, planes)

    with jax.enable_x64(True):
        values = ours(*(jnp.asarray(one, dtype) for one in cases))
    for value, expected in zip(values, (theirs, to_uniform), strict=True):
        np.testing.assert_allclose(value, expected, rtol=TOLERANCE[dtype])
