"""Estimates with standard errors, control variates, max-sliced distances, other directions."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import swjko
from swjko.distances import sorting, sorting_network


def clouds(dim, n=120, m=90):
    key = jax.random.key(11)
    scale = jnp.linspace(0.5, 2.0, dim)[None, :]
    return jax.random.normal(key, (n, dim)) * scale, jax.random.normal(
        jax.random.fold_in(key, 1), (m, dim)
    ) + 0.5


@functools.cache
def brute_force():
    """The value for clouds in space by a dense spiral, whose error is far below those tested."""
    return float(
        jax.jit(swjko.sliced_wasserstein_pow)(
            *clouds(3), swjko.quasi_directions(jax.random.key(99), 50_000, 3)
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("direction_fn", "control_variate"),
    [
        (swjko.uniform_directions, False),
        (swjko.uniform_directions, True),
        (swjko.orthogonal_directions, False),
    ],
)
def test_intervals_cover_and_the_mean_is_right(direction_fn, control_variate):
    x, y = clouds(3)
    exact = brute_force()

    def estimate(key):
        return swjko.sliced_wasserstein_estimate(
            key, x, y, 192, direction_fn=direction_fn, control_variate=control_variate
        )

    values, errors = jax.jit(lambda keys: jax.lax.map(estimate, keys))(
        jax.random.split(jax.random.key(0), 3000)
    )
    # A normal interval for independent directions, Student's t(15) for the 16 replicates.
    quantile = 1.96 if direction_fn is swjko.uniform_directions else scipy.stats.t(15).ppf(0.975)
    assert 0.93 <= np.mean(np.abs(values - exact) < quantile * errors) <= 0.97
    assert (
        abs(float(jnp.mean(values)) - exact)
        < 4 * float(jnp.std(values)) / np.sqrt(3000) + 2e-4 * exact
    )


@pytest.mark.slow
def test_control_variates_lower_the_error_several_times():
    x, y = clouds(4)
    plain = swjko.sliced_wasserstein_estimate(jax.random.key(1), x, y, 256)
    controlled = swjko.sliced_wasserstein_estimate(
        jax.random.key(1), x, y, 256, control_variate=True
    )
    assert float(controlled.standard_error) < 0.3 * float(plain.standard_error)


def test_estimate_options_that_do_not_fit(key, as_users_see_it):
    x, y = clouds(2)
    with pytest.raises(ValueError, match="control_variate needs p = 2"):
        swjko.sliced_wasserstein_estimate(key, x, y, 32, p=1.0, control_variate=True)
    with pytest.raises(ValueError, match="num_projections must be a multiple of 16"):
        swjko.sliced_wasserstein_estimate(key, x, y, 30, direction_fn=swjko.quasi_directions)
    with pytest.raises(ValueError, match="num_projections must be at least 2"):
        swjko.sliced_wasserstein_estimate(key, x, y, 1)
    with pytest.raises(ValueError, match="x and y must have the same dimension"):
        swjko.max_sliced_wasserstein(key, x, y[:, :1], num_iterations=3)


@pytest.mark.parametrize("scale", [2.0**-59, 2.0**50])
@pytest.mark.parametrize(
    ("direction_fn", "control_variate"),
    [
        (swjko.uniform_directions, False),
        (swjko.uniform_directions, True),
        (swjko.orthogonal_directions, False),
    ],
)
def test_standard_errors_scale_with_the_clouds(scale, direction_fn, control_variate):
    x, y = clouds(2, 30, 20)

    @jax.jit
    def estimate(x, y):
        return swjko.sliced_wasserstein_estimate(
            jax.random.key(1),
            x,
            y,
            32,
            direction_fn=direction_fn,
            control_variate=control_variate,
        )

    for one, other in zip(estimate(scale * x, scale * y), estimate(x, y), strict=True):
        np.testing.assert_allclose(one / scale / scale, other, rtol=1e-5)


@pytest.mark.parametrize("control_variate", [False, True])
def test_a_point_of_zero_weight_does_not_spoil_an_estimate(control_variate):
    x, y = clouds(2, 30, 20)
    weights = jnp.full((30,), 1 / 29).at[4].set(0.0)

    @jax.jit
    def estimate(x):
        return swjko.sliced_wasserstein_estimate(
            jax.random.key(1), x, y, 32, x_weights=weights, control_variate=control_variate
        )

    for one, other in zip(estimate(x.at[4].set(jnp.nan)), estimate(x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2.0**-66, 2.0**66])
def test_max_sliced_scales_with_the_clouds(scale):
    x, y = clouds(2, 30, 20)
    find = jax.jit(functools.partial(swjko.max_sliced_wasserstein, num_iterations=20))
    expected, found = find(jax.random.key(0), x, y), find(jax.random.key(0), scale * x, scale * y)
    np.testing.assert_allclose(found.value / scale, expected.value, rtol=1e-6)
    np.testing.assert_allclose(found.direction, expected.direction, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("p", [1.0, 2.0])
def test_max_sliced_against_a_grid_of_angles(p):
    x, y = clouds(2)
    angles = jnp.linspace(0.0, jnp.pi, 2001)
    grid = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    best = max(
        float(value)
        for value in jax.lax.map(
            lambda theta: swjko.sliced_wasserstein_pow(x, y, theta[None], p=p), grid
        )
    ) ** (1 / p)
    found = swjko.max_sliced_wasserstein(jax.random.key(0), x, y, num_iterations=40, p=p)
    np.testing.assert_allclose(found.value, best, rtol=1e-4)
    np.testing.assert_allclose(jnp.linalg.norm(found.direction), 1.0, rtol=1e-5)
    np.testing.assert_allclose(
        swjko.sliced_wasserstein(x, y, found.direction[None], p=p), found.value, rtol=1e-5
    )


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 40])
def test_quasi_directions_are_unit_random_and_uniform(dim):
    keys = jax.random.split(jax.random.key(2), 400)
    draws = jax.jit(jax.vmap(lambda key: swjko.quasi_directions(key, 12, dim)))(keys)
    assert draws.shape == (400, 12, dim)
    np.testing.assert_allclose(jnp.linalg.norm(draws, axis=-1), 1.0, atol=1e-5)
    if dim > 1:
        assert float(jnp.max(jnp.abs(draws[0] - draws[1]))) > 0.01
        # Each direction is uniform: (1 + <theta, e>)/2 is Beta((d-1)/2, (d-1)/2), up to its sign.
        squares = np.asarray(draws[:, 5, 0]) ** 2
        assert scipy.stats.kstest(squares, scipy.stats.beta(0.5, (dim - 1) / 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("dim", "gain"), [(2, 20.0), (3, 4.0), (5, 1.5)])
def test_quasi_directions_beat_independent_ones_in_low_dimension(dim, gain):
    x, y = clouds(dim)
    keys = jax.random.split(jax.random.key(3), 60)
    spread = {
        name: float(
            jnp.std(
                jax.jit(
                    lambda keys, f=f: jax.lax.map(
                        lambda key: swjko.sliced_wasserstein_pow(x, y, f(key, 64, dim)), keys
                    )
                )(keys)
            )
        )
        for name, f in (("quasi", swjko.quasi_directions), ("uniform", swjko.uniform_directions))
    }
    assert spread["uniform"] > gain * spread["quasi"]


@pytest.mark.slow_except_first
@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_sharded_directions_give_the_unsharded_value_and_gradient(num_devices, key):
    with jax.enable_x64(True):
        mesh = jax.make_mesh(
            (num_devices,),
            ("projection",),
            axis_types=(jax.sharding.AxisType.Auto,),
            devices=jax.devices()[:num_devices],
        )
        sharded = swjko.sharded_directions(swjko.uniform_directions, mesh, "projection")
        x, y = (cloud.astype(jnp.float64) for cloud in clouds(3))

        def value_and_gradient(direction_fn):
            return jax.jit(
                jax.value_and_grad(
                    lambda x: swjko.sliced_wasserstein_pow(x, y, direction_fn(key, 16, 3))
                )
            )(x)

        for mine, reference in zip(
            value_and_gradient(sharded), value_and_gradient(swjko.uniform_directions), strict=True
        ):
            np.testing.assert_allclose(mine, reference, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("block_size", [None, 32])
def test_sharded_directions_move_nothing_but_the_sum(block_size, monkeypatch):
    # As large inputs are sorted, in blocks of rows that fit the cache.
    monkeypatch.setattr(sorting_network, "_CACHE_BYTES", 2**17)
    monkeypatch.setattr(sorting_network, "_BLOCK_BYTES", {4: 2**17, 8: 2**17})
    monkeypatch.setattr(sorting, "_PIECES_MIN_SIZE", 100)
    mesh = jax.make_mesh(
        (2,), ("projection",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
    )
    direction_fn = swjko.sharded_directions(swjko.uniform_directions, mesh, "projection")
    x, y = jax.random.normal(jax.random.key(0), (2, 1000, 3))

    def value_and_gradient(x, directions):
        return jax.value_and_grad(
            functools.partial(swjko.sliced_wasserstein_pow, block_size=block_size)
        )(x, y, directions)

    program = (
        jax.jit(value_and_gradient)
        .lower(x, direction_fn(jax.random.key(1), 64, 3))
        .compile()
        .as_text()
    )
    collectives = re.findall(r"(all-reduce|all-gather|all-to-all|collective-permute)\(", program)
    assert set(collectives) == {"all-reduce"}
    assert len(collectives) <= 2


def test_sharding_over_an_axis_that_is_not_there():
    mesh = jax.make_mesh(
        (1,), ("flow",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1]
    )
    with pytest.raises(ValueError, match="axis must be one of"):
        swjko.sharded_directions(swjko.uniform_directions, mesh, "projection")
    explicit = jax.make_mesh(
        (1,), ("flow",), axis_types=(jax.sharding.AxisType.Explicit,), devices=jax.devices()[:1]
    )
    with pytest.raises(ValueError, match="axis must be an Auto axis"):
        swjko.sharded_directions(swjko.uniform_directions, explicit, "flow")
