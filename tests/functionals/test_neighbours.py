"""The nearest-neighbour entropy: SciPy's search, finite differences, Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.spatial
import scipy.special
from helpers import central_difference, jitted_run

import swjko
from swjko import Cloud

KEY = jax.random.key(0)


def by_scipy(points, k):
    n, dim = points.shape
    distances = scipy.spatial.cKDTree(points).query(points, k + 1)[0][:, k]
    log_ball = dim / 2 * np.log(np.pi) - scipy.special.gammaln(dim / 2 + 1)
    counts = scipy.special.digamma(k) - scipy.special.digamma(n)
    return counts - log_ball - dim * np.mean(np.log(distances))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("block_size", [None, 1, 7, 50])
def test_value_and_gradient(k, block_size):
    with jax.enable_x64(True):
        points = np.random.default_rng(k).normal(size=(23, 3))
        functional = swjko.nearest_neighbour_negative_entropy(k, block_size=block_size)
        value_and_grad = jax.value_and_grad(lambda points: functional(KEY, Cloud(points)))
        value, gradient = jax.jit(value_and_grad)(jnp.asarray(points))
        np.testing.assert_allclose(value, by_scipy(points, k), rtol=1e-10)
        slope = central_difference(lambda points: by_scipy(points, k), points)
        np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_near_the_entropy_of_a_gaussian():
    exact = -0.5 * 2 * np.log(2 * np.pi * np.e)
    functional = swjko.nearest_neighbour_negative_entropy()
    clouds = Cloud(
        jax.vmap(lambda key: jax.random.normal(key, (500, 2)))(jax.random.split(KEY, 32))
    )
    values = np.asarray(jax.vmap(lambda cloud: functional(KEY, cloud))(clouds))
    assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(len(values)) + 0.01


def test_particles_that_cannot_be_estimated_from():
    functional = swjko.nearest_neighbour_negative_entropy(3)
    with pytest.raises(ValueError, match="more than num_neighbours = 3 points; got 3"):
        functional(KEY, Cloud(jnp.ones((3, 2))))
    with pytest.raises(ValueError, match="equal weights"):
        functional(KEY, Cloud(jnp.ones((4, 2)), weights=jnp.full(4, 0.25)))


@pytest.mark.parametrize("block_size", [None, 4])
def test_points_that_coincide(block_size):
    """Up to k of them count as any points do; the negative entropy of an atom is +infinity."""
    with jax.enable_x64(True):
        points = np.random.default_rng(0).normal(size=(10, 2))
        points[:3] = points[0]
        functional = swjko.nearest_neighbour_negative_entropy(3, block_size=block_size)
        value_and_grad = jax.jit(jax.value_and_grad(lambda points: functional(KEY, Cloud(points))))
        value, gradient = value_and_grad(jnp.asarray(points))
        np.testing.assert_allclose(value, by_scipy(points, 3), rtol=1e-10)
        # A change of scale by 1 + h adds log(1 + h) to each coordinate's entropy.
        np.testing.assert_allclose(np.sum(gradient * points), -2.0, rtol=1e-10)
        points[3] = points[0]
        assert value_and_grad(jnp.asarray(points))[0] == np.inf


def test_a_flow_of_points_that_coincide_ends_with_its_reason():
    scheme = swjko.sw_jko(
        swjko.particles(jnp.zeros((8, 2))),
        swjko.nearest_neighbour_negative_entropy(3),
        optax.adam(1e-2),
        step_size=0.1,
        num_inner_steps=2,
        num_samples=8,
        num_projections=2,
    )
    state, _ = jitted_run(KEY, scheme, scheme.init(KEY), num_steps=2, record=swjko.infos)
    assert state.result == swjko.Result.NON_FINITE


@pytest.mark.slow
def test_particles_flow_to_a_gaussian():
    points = 0.3 * jax.random.normal(KEY, (256, 2))
    energy = swjko.weighted_sum(
        (1.0, swjko.potential(lambda x: jnp.sum(x**2) / 2)),
        (1.0, swjko.nearest_neighbour_negative_entropy(5)),
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, 60))
    numbers = {"num_inner_steps": 60, "num_samples": 256, "num_projections": 16}
    scheme = swjko.sw_jko(swjko.particles(points), energy, optimizer, step_size=0.5, **numbers)
    state, _ = jitted_run(KEY, scheme, scheme.init(KEY), num_steps=6, record=swjko.infos)
    np.testing.assert_allclose(np.cov(np.asarray(state.params).T), np.eye(2), atol=0.15)
