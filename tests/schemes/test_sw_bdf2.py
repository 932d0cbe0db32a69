"""The scheme of second order: exact Gaussian steps, its first step, its state."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    at_index,
    exact_directions,
    failing_scheme,
    gaussian_scheme,
    jitted_run,
    jitted_step,
    tiny_scheme,
)

import swjko
from swjko import closed_form

PRECISION = np.array([[1.5, 0.4], [0.4, 0.7]])
CENTER = np.array([0.5, -1.0])


def second_order(scheme):
    """The BDF2 scheme with the numbers of ``scheme``."""
    numbers = (
        "step_size",
        "num_inner_steps",
        "num_samples",
        "num_projections",
        "direction_fn",
        "path_gradient",
        "debias",
    )
    return swjko.sw_bdf2(
        scheme.family,
        scheme.functional,
        scheme.optimizer,
        **{name: getattr(scheme, name) for name in numbers},
    )


@pytest.mark.slow
def test_anisotropic_flow_follows_the_exact_steps_of_second_order(key):
    scheme = second_order(
        gaussian_scheme(
            swjko.gaussian(2, init_mean=1.5, init_scale=1.5),
            precision=PRECISION,
            center=CENTER,
            inner=100,
            samples=1024,
            projections=16,
            step_size=0.2,
            direction_fn=swjko.quasi_directions,
        )
    )

    _, params = jitted_run(
        key, scheme, scheme.init(key), num_steps=3, record=lambda state, info: state.params
    )
    means, covs = jax.vmap(swjko.gaussian_moments)(params)
    with jax.enable_x64(True):
        inputs = (
            jnp.full(2, 1.5),
            2.25 * jnp.eye(2),
            jnp.asarray(PRECISION),
            jnp.asarray(CENTER),
            0.2,
        )
        exact = closed_form.gaussian_sw_bdf2_flow(*inputs, 3, exact_directions(2))
        ordinary = closed_form.gaussian_sw_jko_flow(*inputs, 3, exact_directions(2))
    # The exact flows of first and second order differ by more than the sampling error.
    for values, wanted, other in (
        (means, exact.mean, ordinary.mean),
        (covs, exact.cov, ordinary.cov),
    ):
        values, wanted, other = (
            np.asarray(array, np.float64) for array in (values, wanted[1:], other[1:])
        )
        assert np.linalg.norm(values - wanted) < 0.01 * np.linalg.norm(wanted)
        assert np.linalg.norm(values[1:] - wanted[1:]) < 0.3 * np.linalg.norm(
            other[1:] - wanted[1:]
        )


@pytest.mark.slow
def test_the_first_step_is_an_ordinary_one(key):
    with jax.enable_x64(True):
        ordinary = tiny_scheme("gaussian", "kl_divergence", step_size=jnp.asarray(0.1, jnp.float64))
        scheme = second_order(ordinary)
        ends = [jitted_step(key, one, one.init(key)) for one in (scheme, ordinary)]
        chex.assert_trees_all_close(ends[0][0].params, ends[1][0].params, rtol=1e-8, atol=1e-10)
        chex.assert_trees_all_close(ends[0][1], ends[1][1], rtol=1e-8, atol=1e-10)
        chex.assert_trees_all_equal(ends[0][0].extra, scheme.init(key).params)


@pytest.mark.slow
def test_solve_in_parts_sample_and_replay(key):
    scheme = second_order(tiny_scheme())
    assert isinstance(scheme, swjko.Scheme)
    solution = swjko.solve(key, scheme, 4, chunk_size=2, progress=False, record=swjko.both)
    states, info = solution.history
    assert solution.result is swjko.Result.OK
    np.testing.assert_allclose(info.time, 0.1 * np.arange(1, 5), rtol=1e-5)
    chex.assert_trees_all_equal(solution.state.extra, at_index(states.params, -2))
    assert swjko.sample(scheme.family, solution.state.params, key, 5).points.shape == (5, 2)
    assert swjko.replay(key, scheme.family, states.params, 5).points.shape == (4, 5, 2)


@pytest.mark.slow
def test_vmapped_flows_equal_single_ones(key):
    with jax.enable_x64(True):
        scheme = second_order(tiny_scheme("particles", "potential", num_inner_steps=2))
        keys = jax.random.split(key, 2)

        def end(key):
            return swjko.run(key, scheme, scheme.init(key), 2, record=swjko.infos)[0]

        many, single = jax.jit(jax.vmap(end))(keys), jax.jit(end)
        for index in range(2):
            one = single(keys[index])
            chex.assert_trees_all_close(at_index(many, index), one, rtol=1e-10, atol=1e-12)


def test_a_failed_step_leaves_the_whole_state(key):
    scheme = second_order(failing_scheme())
    start = scheme.init(key)
    state, info = jitted_step(key, scheme, start)
    assert int(state.result) == int(info.result) == swjko.Result.NON_FINITE
    chex.assert_trees_all_equal(state._replace(result=start.result), start)


def test_particles_extrapolate_along_straight_lines(key):
    """Without forces a step keeps 1/3 of the velocity: 3 x_{k+1} = 4 x_k - x_{k-1}."""
    points = jnp.asarray(np.random.default_rng(0).normal(size=(6, 1)))
    scheme = swjko.sw_bdf2(
        swjko.particles(points),
        swjko.potential(lambda x: 0.0 * jnp.sum(x)),
        optax.sgd(0.5 * 6),
        step_size=jnp.asarray(1.0),
        num_inner_steps=60,
        num_samples=6,
        num_projections=1,
    )
    state = scheme.init(key)._replace(params=points + 0.3, extra=points, step=jnp.asarray(1))
    new, _ = jitted_step(key, scheme, state)
    np.testing.assert_allclose(new.params, points + 0.4, atol=1e-5)


def test_weighted_families_are_refused():
    with pytest.raises(ValueError, match=r"family.* must give points of equal weight"):
        second_order(tiny_scheme("grid", "potential"))
