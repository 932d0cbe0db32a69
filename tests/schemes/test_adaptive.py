"""Adaptive step sizes: attempts against exact energies, codes, vmap and solve."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import at_index, failing_scheme, jitted_run

import swjko
from swjko.schemes.adaptive import _Energies

POINTS = np.stack([np.linspace(-1.0, 1.0, 20), np.linspace(1.0, -1.0, 20)], axis=1)


def pushed_to_a_wall(x, at=6.0):
    """A constant force to the right, and a wall that no gradient sees."""
    return -x[0] + 12.0 * (x[0] > at) + 0.5 * x[1] ** 2


def wall_scheme(v=pushed_to_a_wall, step_size=10.0, **options):
    defaults = {"num_inner_steps": 80, "num_samples": 20, "num_projections": 8}
    return swjko.sw_jko(
        swjko.particles(jnp.asarray(POINTS)),
        swjko.potential(v),
        optax.adam(0.1),
        step_size=step_size,
        **(defaults | options),
    )


@pytest.mark.slow
def test_energy_never_rises_from_a_step_size_far_too_large(key):
    scheme = swjko.adaptive(wall_scheme(), min_step_size=1e-4, max_step_size=20.0)
    start = scheme.init(key)
    states, info = swjko.solve(
        key, scheme, 14, chunk_size=7, progress=False, record=swjko.both
    ).history
    accepted, tried = np.asarray(info.extra.accepted), np.asarray(info.extra.step_size, np.float64)
    assert 2 <= np.sum(accepted) <= 12
    assert not accepted[0]
    # Half after a rejection, never smaller after an accepted step. A linear F never saturates.
    factors = tried[1:] / tried[:-1]
    np.testing.assert_allclose(factors[~accepted[:-1]], 0.5, rtol=1e-5)
    assert np.all(factors[accepted[:-1]] > 0.99)
    assert np.max(factors) == pytest.approx(1.5, rel=1e-5)
    # Every cloud holds all particles, so energies are exact.
    points = np.concatenate([start.params[None], states.params]).astype(np.float64)
    x, y = points[..., 0], points[..., 1]
    energies = np.mean(-x + 12.0 * (x > 6.0) + 0.5 * y**2, axis=1)
    assert np.all(np.diff(energies) <= 1e-5)
    assert energies[-1] < energies[0] - 1.0
    np.testing.assert_allclose(info.energy, energies[1:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(states.time, np.cumsum(np.where(accepted, tried, 0.0)), rtol=1e-5)
    assert np.all(points[1:][~accepted] == points[:-1][~accepted])
    assert list(np.asarray(states.step)) == list(range(1, 15))


@pytest.mark.slow
def test_random_energies_rise_by_no_more_than_their_noise(key):
    """Momentum overshoots a Gaussian of exact energy |m|^2/2 + tr(S)/2 - log det(S)/2."""
    scheme = swjko.sw_jko(
        swjko.gaussian(2, init_scale=0.1),
        swjko.kl_divergence(lambda x: -jnp.sum(x**2) / 2),
        optax.sgd(0.35, momentum=0.9),
        step_size=20.0,
        num_inner_steps=4,
        num_samples=128,
        num_projections=16,
    )
    scheme = swjko.adaptive(scheme, min_step_size=1e-3, max_step_size=100.0)
    start = scheme.init(key)
    _, (states, info) = jitted_run(key, scheme, start, num_steps=24)
    params = jax.tree.map(
        lambda one, rest: jnp.concatenate([one[None], rest]), start.params, states.params
    )
    means, covs = (
        np.asarray(moment, np.float64) for moment in jax.vmap(swjko.gaussian_moments)(params)
    )
    energies = (
        np.sum(means**2, axis=1) + np.trace(covs, axis1=1, axis2=2) - np.linalg.slogdet(covs)[1]
    ) / 2
    error = np.asarray(info.extra.energy_change.standard_error)
    assert np.any(~np.asarray(info.extra.accepted))
    assert np.all(np.diff(energies) <= 6 * error + 1e-5)
    assert energies[-1] < energies[0]


def test_step_sizes_grow_until_they_resolve_the_flow_no_more(key):
    """An exact step of curvature 1 on the line falls by (2 + tau) P; growth ends at saturation."""
    scheme = swjko.sw_jko(
        swjko.particles(jnp.asarray([[4.0], [5.0]])),
        swjko.potential(lambda x: 0.5 * jnp.sum(x**2)),
        optax.sgd(0.2),
        step_size=0.2,
        num_inner_steps=60,
        num_samples=2,
        num_projections=1,
    )
    scheme = swjko.adaptive(scheme, min_step_size=0.1, max_step_size=10.0, saturation=0.5)
    _, info = jitted_run(key, scheme, scheme.init(key), num_steps=6, record=swjko.infos)
    np.testing.assert_allclose(
        info.extra.step_size, [0.2, 0.3, 0.45, 0.675, 0.675, 0.675], rtol=1e-5
    )


def test_steps_within_their_noise_may_grow():
    """The decrease is compared with three times the proximity beyond that of no move."""
    scheme = swjko.adaptive(wall_scheme(), min_step_size=0.1, max_step_size=10.0)
    noise = 0.1 * jnp.asarray([-1.0, 1.0, -1.0, 1.0])
    cases = ((2.9, 1.0, 0.0, 1), (3.1, 1.0, 0.0, 0), (3.1, 1.5, 0.5, 0), (3.1, 0.52, 0.5, 1))
    for fall, proximity, no_move, grows in cases:
        energies = _Energies(noise - fall, noise, proximity + noise, jnp.full(4, no_move))
        assert bool(scheme._may_grow(energies)) is bool(grows)


@pytest.mark.slow
def test_the_code_of_the_inner_solve_remains_after_the_retries(key):
    scheme = swjko.adaptive(failing_scheme(), min_step_size=1e-9, max_step_size=1.0, max_retries=3)
    start = scheme.init(key)
    state, info = jitted_run(key, scheme, start, num_steps=6, record=swjko.infos)
    assert list(np.asarray(info.result)) == [swjko.Result.OK] * 3 + [swjko.Result.NON_FINITE] * 3
    np.testing.assert_allclose(info.extra.step_size[:4], [0.1, 0.05, 0.025, 0.0125], rtol=1e-5)
    assert int(state.step) == 4
    assert float(state.time) == 0.0
    chex.assert_trees_all_equal(state.params, start.params)


def test_a_rise_at_the_smallest_step_size_is_an_inner_solve_that_did_not_converge(key):
    scheme = swjko.adaptive(
        wall_scheme(lambda x: pushed_to_a_wall(x, at=1.0), 0.2),
        min_step_size=0.1,
        max_step_size=1.0,
    )
    with pytest.raises(swjko.FlowError, match="INNER_NOT_CONVERGED"):
        swjko.solve(key, scheme, 4, progress=False)


@pytest.mark.slow
def test_vmap_over_step_sizes_equals_a_loop(key):
    with jax.enable_x64(True):
        scheme = swjko.adaptive(
            wall_scheme(num_inner_steps=4, step_size=0.1), min_step_size=0.01, max_step_size=1.0
        )
        sizes = jnp.asarray([0.05, 0.4])

        def end(step_size):
            one = dataclasses.replace(
                scheme, scheme=dataclasses.replace(scheme.scheme, step_size=step_size)
            )
            return swjko.run(key, one, one.init(key), 3, record=swjko.infos)

        many, single = jax.jit(jax.vmap(end))(sizes), jax.jit(end)
        for index, size in enumerate(sizes):
            one = single(size)
            chex.assert_trees_all_close(at_index(many, index), one, rtol=1e-10, atol=1e-12)
