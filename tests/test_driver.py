"""``run`` and ``solve``: chunks, records, progress, result codes."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_sw_jko import tiny_scheme

import swjko
from swjko import driver, progress


def failing_scheme():
    return swjko.sw_jko(
        swjko.gaussian(2),
        swjko.potential(lambda x: jnp.sum(jnp.where(x > -jnp.inf, jnp.nan, x))),
        optax.adam(1e-2),
        step_size=0.1,
        num_inner_steps=2,
        num_samples=4,
        num_projections=2,
    )


def test_solve_equals_run_whatever_the_chunks(key):
    scheme = tiny_scheme()
    solutions = [swjko.solve(key, scheme, 7, chunk_size=size, progress=False) for size in (1, 3, 7)]
    for other in solutions[1:]:
        chex.assert_trees_all_equal(solutions[0].state, other.state)
        chex.assert_trees_all_equal(solutions[0].history, other.history)
    init_key, run_key = jax.random.split(key)
    state, info = jax.jit(swjko.run, static_argnames=("num_steps", "record"))(
        run_key, scheme, scheme.init(init_key), num_steps=7, record=swjko.infos
    )
    chex.assert_trees_all_close(solutions[0].state, state, rtol=1e-6)
    np.testing.assert_allclose(solutions[0].history.energy, info.energy, rtol=1e-5)
    assert solutions[0].result is swjko.Result.OK
    assert solutions[0].timing.compile_seconds > 0


def test_history_can_keep_the_trajectory_and_replay_moves_smoothly(key):
    scheme = tiny_scheme()
    solution = swjko.solve(key, scheme, 4, progress=False, record=swjko.both)
    states, info = solution.history
    assert info.energy.shape == (4,)
    cloud = swjko.replay(key, scheme.family, states.params, 6)
    assert cloud.points.shape == (4, 6, 2)
    last = scheme.family.push(solution.state.params, scheme.family.latent(key, 6))
    np.testing.assert_allclose(cloud.points[-1], last.points, rtol=1e-6)


def test_a_failed_flow_raises_with_advice_and_its_last_good_state(key):
    with pytest.raises(swjko.FlowError, match=re.escape("after step 0 with NON_FINITE: a value became NaN or infinite")) as caught:
        swjko.solve(key, failing_scheme(), 5, progress=False)
    assert caught.value.solution.result is swjko.Result.NON_FINITE


def test_throw_false_returns_the_code_and_stops_early(key):
    solution = swjko.solve(key, failing_scheme(), 50, chunk_size=2, progress=False, throw=False)
    assert solution.result is swjko.Result.NON_FINITE
    assert solution.history.energy.shape == (2,)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(solution.state.params))


def test_progress_with_rich_and_without(key, capsys, monkeypatch):
    swjko.solve(key, tiny_scheme(), 2)
    assert "2/2" in capsys.readouterr().err
    monkeypatch.setattr(progress, "_rich_bar", lambda: None)
    swjko.solve(key, tiny_scheme(), 2)
    assert "step 2/2, t = 0.2, energy" in capsys.readouterr().err


@pytest.mark.parametrize("num_steps", [1, 7, 20, 101, 640, 100_003])
def test_default_chunks_are_of_about_twenty_looks(num_steps):
    size = driver._default_chunk(num_steps)
    assert 1 <= size <= max(1, num_steps // 20)
    assert -(-num_steps // size) <= 4 * 20 + 20


def test_every_code_has_advice():
    assert all(result.advice for result in swjko.Result)
