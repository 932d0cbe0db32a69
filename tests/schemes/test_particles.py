"""Langevin and the sliced-Wasserstein flow: exact moments, fixed points, failures."""

import dataclasses

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import axes_of, jitted_run, jitted_step, quadratic_log_prob
from jax.tree_util import Partial

import swjko

PRECISION, CENTER = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([1.0, -1.0])


def langevin(points=None, *, step_size=0.2, **options):
    log_prob = Partial(
        quadratic_log_prob, jnp.asarray(PRECISION, float), jnp.asarray(CENTER, float)
    )
    points = 0.5 * jax.random.normal(jax.random.key(9), (16, 2)) if points is None else points
    return swjko.langevin(points, log_prob, step_size=step_size, **options)


def sliced_flow(points=None, target=None, *, step_size=0.5, num_projections=6, **options):
    points = jax.random.normal(jax.random.key(8), (16, 2)) if points is None else points
    target = jax.random.normal(jax.random.key(7), (12, 2)) + 1.0 if target is None else target
    return swjko.sliced_flow(
        points, target, step_size=step_size, num_projections=num_projections, **options
    )


SCHEMES = {
    "langevin": langevin,
    "sliced_flow": sliced_flow,
    "sliced_flow with noise": lambda **more: sliced_flow(temperature=0.1, **more),
}


@pytest.mark.parametrize("num_inner_steps", [1, 4])
def test_langevin_has_the_moments_of_its_chain(num_inner_steps):
    """x <- (I - h A) x + h A c + sqrt(2 h) z is linear, so moments follow a recursion."""
    num, steps, step_size = 20_000, 6, 0.2
    scheme = langevin(
        2.0 + jax.random.normal(jax.random.key(1), (num, 2)),
        step_size=step_size,
        num_inner_steps=num_inner_steps,
    )
    start = scheme.init(jax.random.key(0))
    state, infos = jitted_run(jax.random.key(2), scheme, start, num_steps=steps, record=swjko.infos)
    h = step_size / num_inner_steps
    factor = np.eye(2) - h * PRECISION
    mean, cov = np.full(2, 2.0), np.eye(2)
    for _ in range(steps * num_inner_steps):
        mean, cov = CENTER + factor @ (mean - CENTER), factor @ cov @ factor.T + 2 * h * np.eye(2)
    points = np.asarray(state.params, np.float64)
    np.testing.assert_allclose(points.mean(axis=0), mean, atol=4 * np.sqrt(cov.max() / num))
    # The variance of an entry of a sample covariance is (s_ii s_jj + s_ij^2) / n.
    errors = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / num)
    assert np.all(np.abs(np.cov(points.T) - cov) < 4 * errors)
    np.testing.assert_allclose(state.time, steps * step_size, rtol=1e-6)
    energy = 0.5 * (np.trace(PRECISION @ cov) + (mean - CENTER) @ PRECISION @ (mean - CENTER))
    np.testing.assert_allclose(infos.energy[-1], energy, rtol=0.05)
    assert np.all(infos.proximity == 0)
    np.testing.assert_array_equal(infos.objective, infos.energy)


def test_langevin_gradient_norm_is_that_of_the_energy():
    scheme = langevin()
    points = scheme.init(jax.random.key(0)).params
    gradient = jax.grad(lambda points: -jnp.mean(jax.vmap(scheme.log_prob)(points)))(points)
    _, info = scheme.step(jax.random.key(1), scheme.init(jax.random.key(0)))
    np.testing.assert_allclose(info.gradient_norm, jnp.linalg.norm(gradient), rtol=1e-5)


@pytest.mark.slow
def test_sliced_flow_contracts_means_by_one_minus_h_over_d():
    """The mean of theta theta^T over whole orthogonal blocks is I / d."""
    for dim, step_size, moves in ((1, 0.3, 1), (3, 0.9, 1), (3, 2.4, 3)):
        start_key, target_key = jax.random.split(jax.random.key(dim))
        start = jax.random.normal(start_key, (40, dim))
        target = 2.0 + jax.random.normal(target_key, (25, dim))
        options = {
            "num_projections": 2 * dim,
            "direction_fn": swjko.orthogonal_directions,
            "num_inner_steps": moves,
        }
        scheme = sliced_flow(start, target, step_size=step_size, **options)
        key = jax.random.key(0)
        state, infos = jitted_run(key, scheme, scheme.init(key), num_steps=5, record=swjko.infos)
        center = np.asarray(target, np.float64).mean(axis=0)
        expected = center + (1 - step_size / moves / dim) ** (5 * moves) * (
            np.asarray(start, np.float64).mean(axis=0) - center
        )
        np.testing.assert_allclose(infos.time, step_size * np.arange(1, 6), rtol=1e-6)
        np.testing.assert_allclose(np.asarray(state.params).mean(axis=0), expected, atol=1e-5)


@pytest.mark.slow
def test_sliced_flow_moves_along_the_sliced_displacement(key):
    scheme = sliced_flow(
        direction_fn=lambda key, num, dim: swjko.quasi_directions(jax.random.key(3), num, dim)
    )
    start = scheme.init(key)
    state, info = scheme.step(key, start)
    directions = swjko.quasi_directions(jax.random.key(3), 6, 2)
    velocity = swjko.sliced_displacement(start.params, scheme.target, directions)
    np.testing.assert_allclose(state.params, start.params + 0.5 * velocity, rtol=1e-5, atol=1e-6)
    energy, gradient = jax.value_and_grad(
        lambda x: swjko.sliced_wasserstein_pow(x, scheme.target, directions) / 2
    )(start.params)
    np.testing.assert_allclose(info.gradient_norm, jnp.linalg.norm(gradient), rtol=1e-5)
    after = swjko.sliced_wasserstein_pow(state.params, scheme.target, directions) / 2
    np.testing.assert_allclose(info.energy, after, rtol=1e-5)
    assert float(after) < float(energy)


def test_sliced_flow_stands_where_the_points_are_the_target(key):
    target = jax.random.normal(key, (30, 3))
    scheme = sliced_flow(target[::-1], target, step_size=1.0)
    state, infos = jitted_run(key, scheme, scheme.init(key), num_steps=3, record=swjko.infos)
    np.testing.assert_allclose(state.params, target[::-1], atol=1e-5)
    np.testing.assert_allclose(infos.energy, 0.0, atol=1e-9)


@pytest.mark.slow
def test_sliced_flow_comes_nearer_than_an_independent_sample(key):
    """The end is nearer to a bent sample than an independent sample of its law."""

    def bent(key, num):
        x = jax.random.normal(key, (num, 2))
        return jnp.stack([2.0 * x[:, 0], x[:, 0] ** 2 + 0.3 * x[:, 1]], axis=1)

    start_key, target_key, other_key, run_key = jax.random.split(key, 4)
    target, other = bent(target_key, 200), bent(other_key, 200)
    scheme = sliced_flow(
        jax.random.normal(start_key, (200, 2)), target, step_size=1.0, num_projections=32
    )
    state, infos = jitted_run(run_key, scheme, scheme.init(key), num_steps=60, record=swjko.infos)
    directions = swjko.quasi_directions(key, 64, 2)
    reached = swjko.sliced_wasserstein_pow(state.params, target, directions)
    assert float(reached) < 0.5 * float(swjko.sliced_wasserstein_pow(other, target, directions))
    assert float(infos.energy[-1]) < 0.01 * float(infos.energy[0])


def test_entropic_sliced_flow_settles_at_its_own_scale():
    """To N(0, r^2 I): s^2 <- s^2 (1 + h (r / s - 1) / d)^2 + 2 h temperature."""
    dim, num, h, temperature, r = 2, 4000, 0.5, 0.3, 1.5
    exact = (r + np.sqrt(r**2 + 4 * dim * temperature)) / 2
    s = exact
    for _ in range(200):
        s = np.sqrt(s**2 * (1 + h * (r / s - 1) / dim) ** 2 + 2 * h * temperature)
    assert s == pytest.approx(exact, rel=0.05)
    start_key, target_key, run_key = jax.random.split(jax.random.key(4), 3)
    target = r * jax.random.normal(target_key, (num, dim))
    target = target * (r / jnp.sqrt(jnp.mean(target**2)))
    scheme = sliced_flow(
        s * jax.random.normal(start_key, (num, dim)),
        target,
        step_size=h,
        num_projections=8,
        temperature=temperature,
    )
    state, _ = jitted_run(run_key, scheme, scheme.init(run_key), num_steps=20, record=swjko.infos)
    scale = float(jnp.sqrt(jnp.mean(state.params**2)))
    # s itself has a standard error of s / sqrt(2 n d), and the target's shape one of the same size.
    assert scale == pytest.approx(s, abs=6 * s / np.sqrt(2 * num * dim))


@pytest.mark.parametrize("name", SCHEMES)
def test_particles_are_schemes(name, key):
    scheme = SCHEMES[name]()
    assert isinstance(scheme, swjko.Scheme)
    solution = swjko.solve(key, scheme, 4, progress=False)
    assert solution.result == swjko.Result.OK
    assert solution.history.energy.shape == (4,)
    assert np.all(np.isfinite(solution.history.energy))
    np.testing.assert_array_equal(
        swjko.sample(scheme.family, solution.state.params, key, 16).points, solution.state.params
    )


@pytest.mark.slow_except_first
@pytest.mark.parametrize("name", SCHEMES)
def test_vmap_over_keys_and_step_sizes_equals_single_runs(name, key):
    with jax.enable_x64(True):
        scheme = SCHEMES[name](step_size=jnp.asarray(0.1, jnp.float64))
        sizes, keys = jnp.asarray([0.05, 0.1, 0.4]), jax.random.split(key, 3)
        axes = axes_of(scheme, step_size=0)

        def end(scheme, key):
            return swjko.run(key, scheme, scheme.init(key), 3, record=swjko.infos)[0].params

        many = jax.jit(jax.vmap(end, in_axes=(axes, 0)))(
            dataclasses.replace(scheme, step_size=sizes), keys
        )
        single = jax.jit(end)
        for index, size in enumerate(sizes):
            one = single(dataclasses.replace(scheme, step_size=size), keys[index])
            chex.assert_trees_all_close(many[index], one, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMES)
def test_a_run_in_two_parts_is_the_same_run(name, key):
    scheme = SCHEMES[name]()
    whole, _ = jitted_run(key, scheme, scheme.init(key), num_steps=4, record=swjko.infos)
    part, _ = jitted_run(key, scheme, scheme.init(key), num_steps=2, record=swjko.infos)
    resumed, _ = jitted_run(key, scheme, part, num_steps=2, record=swjko.infos)
    chex.assert_trees_all_equal(whole, resumed)


@pytest.mark.parametrize("name", ["langevin", "sliced_flow"])
def test_steps_far_too_large_are_reported_with_the_last_good_points(name, key):
    sizes = jnp.asarray([0.1, 1e3, 1e30])
    scheme = SCHEMES[name](step_size=0.1)
    axes = axes_of(scheme, step_size=0)
    step = jax.jit(jax.vmap(lambda scheme: scheme.step(key, scheme.init(key)), in_axes=(axes,)))
    state, info = step(dataclasses.replace(scheme, step_size=sizes))
    assert list(np.asarray(state.result)) == [
        swjko.Result.OK,
        swjko.Result.DIVERGED,
        swjko.Result.NON_FINITE,
    ]
    assert list(np.asarray(state.step)) == [1, 0, 0]
    np.testing.assert_array_equal(info.result, state.result)
    for failed in (1, 2):
        np.testing.assert_array_equal(state.params[failed], scheme.init(key).params)
        assert float(state.time[failed]) == 0.0


def test_leaving_a_mode_in_high_dimension_is_not_a_divergence(key):
    scheme = swjko.langevin(
        jnp.zeros((8, 200)), lambda x: -jnp.sum(x**2) / 2, step_size=1.0, num_inner_steps=2
    )
    _, info = jitted_step(key, scheme, scheme.init(key))
    assert int(info.result) == swjko.Result.OK
    assert float(info.energy) > 50.0


def test_a_non_finite_score_stops_its_flow_alone(key):
    def broken(limit, x):
        return -jnp.sum(x**2) / 2 + jnp.where(jnp.isnan(limit), jnp.nan, 0.0)

    def flow(limit):
        scheme = swjko.langevin(jnp.ones((4, 2)), Partial(broken, limit), step_size=0.1)
        return swjko.run(key, scheme, scheme.init(key), 2, record=swjko.infos)[0]

    state = jax.jit(jax.vmap(flow))(jnp.array([0.0, jnp.nan]))
    assert list(np.asarray(state.result)) == [swjko.Result.OK, swjko.Result.NON_FINITE]
    np.testing.assert_array_equal(state.params[1], 1.0)


def test_no_data_are_compiled_in(key):
    scheme = sliced_flow(target=jnp.asarray(np.random.default_rng(0).normal(size=(500, 2)), float))
    sizes = helpers.constant_bytes(jitted_step, key, scheme, scheme.init(key))
    assert max(sizes, default=0) <= 1024
