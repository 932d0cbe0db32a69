"""Tables of quantiles against the distance to all points, and their streams."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_weights

import swjko
from swjko.distances import quantiles


def data(m=60, n=12, dim=3, num=5):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, dim)), rng.gamma(2.0, size=(m, dim))
    directions = rng.normal(size=(num, dim))
    return x, y, directions / np.linalg.norm(directions, axis=1, keepdims=True)


@pytest.mark.slow
def test_a_full_table_gives_the_distance_to_the_points():
    with jax.enable_x64(True):
        x, y, directions = map(jnp.asarray, data())
        table = swjko.sliced_quantiles(y, directions, y.shape[0])
        weights = jnp.asarray(random_weights(np.random.default_rng(1), x.shape[0]))
        for p, given in ((2.0, None), (1.0, None), (2.0, weights)):
            ours = jax.value_and_grad(swjko.sliced_wasserstein_to_quantiles_pow)
            found = ours(x, table, p=p, x_weights=given)
            exact = jax.value_and_grad(swjko.sliced_wasserstein_pow)
            expected = exact(x, y, directions, p=p, x_weights=given)
            np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
            np.testing.assert_allclose(found[1], expected[1], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_a_small_table_keeps_the_gradient():
    """If n divides the number of quantiles, whether or not that divides the number of points."""
    with jax.enable_x64(True):
        x, y, directions = map(jnp.asarray, data(m=61))
        table = swjko.sliced_quantiles(y, directions, 2 * x.shape[0])
        found = jax.grad(swjko.sliced_wasserstein_to_quantiles_pow)(x, table)
        expected = jax.grad(swjko.sliced_wasserstein_pow)(x, y, directions)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_a_stream_in_bounded_memory(monkeypatch):
    _, y, directions = (jnp.asarray(array, jnp.float32) for array in data(m=4000))
    # Sorted: the worst order for a stream.
    y = y[jnp.argsort(y[:, 0])]
    batches = jnp.split(y, 40)
    exact = swjko.sliced_quantiles(y, directions, 24)
    fits = swjko.sliced_quantiles(iter(batches), directions, 24)
    np.testing.assert_allclose(fits.quantiles, exact.quantiles, rtol=1e-6, atol=1e-6)
    sizes = []
    group = quantiles._bin_means

    def spied(values, masses, number):
        sizes.append(len(values))
        return group(values, masses, number)

    monkeypatch.setattr(quantiles, "_BUDGET", 5 * 400)
    monkeypatch.setattr(quantiles, "_bin_means", spied)
    found = swjko.sliced_quantiles(iter(batches), directions, 24)
    assert max(sizes) <= 400
    spacing = np.diff(exact.quantiles, axis=1)
    error = np.abs(np.asarray(found.quantiles - exact.quantiles))
    assert np.all(error[:, 1:-1] < 0.25 * np.minimum(spacing[:, 1:], spacing[:, :-1]))
    assert error.max() < 0.05


def test_peak_memory_of_arrays_and_streams():
    """Without a copy of the points in float64, and without all projections of a stream."""
    rng = np.random.default_rng(0)
    y = jnp.asarray(rng.normal(size=(50_000, 32)), jnp.float32)
    directions = swjko.uniform_directions(jax.random.key(0), 16, 32)
    batches = jnp.split(y, 10)

    def peak(points, **options):
        tracemalloc.start()
        table = swjko.sliced_quantiles(points, directions, 50, **options)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return table, found

    exact, of_array = peak(y)
    assert of_array < 8 * y.size / 2
    streamed, of_stream = peak(iter(batches), block_size=2000)
    assert of_stream < 8 * 16 * len(y) / 4
    np.testing.assert_allclose(streamed.quantiles[:, 1:-1], exact.quantiles[:, 1:-1], atol=0.01)


@pytest.mark.slow
def test_functional_draws_rows_of_the_table(key):
    x, y, directions = (jnp.asarray(array, jnp.float32) for array in data())
    table = swjko.sliced_quantiles(y, directions, 60)
    functional = swjko.sw_to_target(table, 5)
    expected = 0.5 * swjko.sliced_wasserstein_pow(x, y, directions)
    np.testing.assert_allclose(functional(key, swjko.Cloud(x)), expected, rtol=1e-5)
    few = swjko.sw_to_target(table, 2)
    values = [float(few(jax.random.key(seed), swjko.Cloud(x))) for seed in range(4)]
    assert len(set(values)) > 1


def test_bad_inputs(as_users_see_it):
    x, y, directions = (jnp.asarray(array, jnp.float32) for array in data())
    table = swjko.sliced_quantiles(y, directions, 8)
    with pytest.raises(ValueError, match="dimension 3 of the table's directions"):
        swjko.sliced_wasserstein_to_quantiles_pow(x[:, :2], table)
    with pytest.raises(ValueError, match="dimension 2 of the table's directions"):
        swjko.sliced_quantiles(y, jnp.eye(2), 8)
    with pytest.raises(ValueError, match="empty stream"):
        swjko.sliced_quantiles(iter(()), directions, 8)
    with pytest.raises(ValueError, match="finite"):
        swjko.sliced_quantiles([y, y * jnp.nan], directions, 8)
    with pytest.raises(ValueError, match="num_quantiles must be at least 1"):
        swjko.sliced_quantiles(y, directions, 0)
    with pytest.raises(TypeError, match="or an iterable of them; got int"):
        swjko.sliced_quantiles(3, directions, 8)
    with pytest.raises(ValueError, match="directions must have shape"):
        swjko.sliced_quantiles(y, 1.0, 8)
    with pytest.raises(ValueError, match="at least 8 num_quantiles, 64; got 63"):
        swjko.sliced_quantiles([y], directions, 8, block_size=63)
    with pytest.raises(ValueError, match="need the points of the"):
        swjko.sw_to_target(table, 2, batch_size=3)
    with pytest.raises(ValueError, match="must not exceed the 5 directions"):
        swjko.sw_to_target(table, 6)
