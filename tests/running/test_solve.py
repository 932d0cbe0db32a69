"""``run`` and ``solve``: chunks, records, progress, result codes, and rules by which to stop."""

import dataclasses
import re
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import failing_scheme, tiny_scheme
from jax.tree_util import Partial

import swjko
from swjko.checkpoints import store as checkpoints
from swjko.running import progress
from swjko.running import solve as driver


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
    with pytest.raises(
        swjko.FlowError,
        match=re.escape("after step 0 with NON_FINITE: a value became NaN or infinite"),
    ) as caught:
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


# Stopping.


def particle_scheme(step_size=0.1):
    """From far away to a standard normal law."""
    points = 6.0 + jnp.linspace(-1.0, 1.0, 80).reshape(40, 2)
    return swjko.langevin(
        points,
        Partial(lambda center, x: -jnp.sum((x - center) ** 2) / 2, jnp.zeros(())),
        step_size=step_size,
    )


def from_step(number):
    """A rule that notes what it is asked, and says yes from the step of this number on; 0 says no."""
    asked = []

    def rule(state, history):
        asked.append((np.asarray(state.step).tolist(), np.asarray(history.time).tolist()))
        return state.step >= number if number else np.asarray(False)

    return rule, asked


@pytest.mark.parametrize("chunk_size", [1, 3, 5, 100, None])
def test_a_rule_is_asked_at_the_same_steps_whatever_the_chunks(key, chunk_size):
    rule, asked = from_step(12)
    solution = swjko.solve(
        key, particle_scheme(), 23, chunk_size=chunk_size, progress=False, stop=rule, stop_steps=4
    )
    assert [step for step, _ in asked] == [4, 8, 12]
    for step, times in asked:
        np.testing.assert_allclose(times, 0.1 * np.arange(step - 3, step + 1), rtol=1e-5)
    assert solution.stopped is True
    assert solution.result is swjko.Result.OK
    assert int(solution.state.result) == swjko.Result.OK
    assert int(solution.state.step) == 12
    whole = swjko.solve(key, particle_scheme(), 23, progress=False)
    assert whole.stopped is False
    np.testing.assert_array_equal(solution.history.energy, whole.history.energy[:12])


def test_a_rule_that_says_no_changes_nothing(key):
    rule, asked = from_step(0)
    solution = swjko.solve(key, particle_scheme(), 10, progress=False, stop=rule, stop_steps=4)
    assert [step for step, _ in asked] == [4, 8]
    assert solution.stopped is False
    chex.assert_trees_all_equal(
        solution.state, swjko.solve(key, particle_scheme(), 10, progress=False).state
    )


def test_a_run_that_was_cut_stops_where_it_would_have_stopped(key, tmp_path, monkeypatch):
    options = {
        "progress": False,
        "stop": swjko.until_stationary(),
        "stop_steps": 5,
        "record": swjko.both,
    }
    whole = swjko.solve(key, particle_scheme(), 100, **options)
    assert whole.stopped
    stopped_at = int(whole.state.step)
    assert 10 <= stopped_at < 100
    for cut_at in (2, stopped_at - 1):
        directory = tmp_path / str(cut_at)

        def append(self, first_step, *arguments, real=checkpoints.Store.append, cut_at=cut_at):
            if first_step > cut_at:
                raise KeyError("cut")
            real(self, first_step, *arguments)

        kept = options | {"checkpoint_dir": directory, "checkpoint_steps": 1}
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints.Store, "append", append)
            with pytest.raises(KeyError, match="cut"):
                swjko.solve(key, particle_scheme(), 100, chunk_size=1, **kept)
        # In other chunks, and then from its end.
        for chunk_size in (4, None):
            found = swjko.solve(key, particle_scheme(), 100, chunk_size=chunk_size, **kept)
            chex.assert_trees_all_equal((found.state, found.history), (whole.state, whole.history))
            assert found.stopped is True
    with pytest.raises(swjko.CheckpointError, match=r"stop_steps: 5 saved, 6 now"):
        swjko.solve(key, particle_scheme(), 100, **(kept | {"stop_steps": 6}))
    with pytest.raises(swjko.CheckpointError, match=r"num_standard_errors: 2.0 saved, 1.0 now"):
        swjko.solve(
            key,
            particle_scheme(),
            100,
            **(kept | {"stop": swjko.until_stationary(num_standard_errors=1.0)}),
        )


@pytest.mark.parametrize("devices", [None, 4])
def test_each_of_many_flows_stops_by_itself(key, devices):
    keys = jax.random.split(key, 4 if devices is None else 3)
    sizes = jnp.asarray([0.3, 0.02, 0.1, 0.05])[: len(keys)]
    scheme = dataclasses.replace(particle_scheme(), step_size=sizes)
    options = {"progress": False, "stop": swjko.until_stationary(), "stop_steps": 6, "throw": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if devices else "error")
        mesh = None if devices is None else swjko.flow_mesh(jax.devices()[:devices])
        axes = dataclasses.replace(jax.tree.map(lambda leaf: None, scheme), step_size=0)
        many = swjko.solve(keys, scheme, 60, axes=axes, mesh=mesh, **options)
    assert many.result is swjko.Result.OK
    assert len(set(np.asarray(many.state.step).tolist())) > 1
    for index, (one_key, size) in enumerate(zip(keys, sizes, strict=True)):
        one = swjko.solve(one_key, particle_scheme(size), 60, **options)
        assert many.stopped[index] == one.stopped
        assert many.state.step[index] == one.state.step
        np.testing.assert_allclose(many.state.params[index], one.state.params, rtol=1e-5, atol=1e-6)
        length = int(one.state.step)
        np.testing.assert_allclose(
            many.history.energy[index, :length], one.history.energy, rtol=1e-5
        )
        assert set(many.history.result[index, length:].tolist()) <= {swjko.Result.STOPPED}
    # A state that stopped is no failed one: it may go on.
    state, _ = swjko.run(key, particle_scheme(), jax.tree.map(lambda leaf: leaf[0], many.state), 1)
    assert state.step == many.state.step[0] + 1


@pytest.mark.parametrize("answer", [1.0, None, np.asarray([True, False]), "no"])
def test_an_answer_that_is_none_is_refused(key, answer):
    with pytest.raises(ValueError, match=r"stop must return a bool; it returned"):
        swjko.solve(
            key,
            particle_scheme(),
            4,
            progress=False,
            stop=lambda state, history: answer,
            stop_steps=2,
        )


def reported(energies):
    return swjko.Info(*6 * [None])._replace(energy=np.asarray(energies))


def test_energies_that_fall_and_energies_that_scatter():
    rule, steps = swjko.until_stationary(), np.arange(10.0)
    noise = np.random.default_rng(0).normal(size=(4000, 10))
    assert not rule(None, reported(-0.01 * steps))
    assert rule(None, reported(np.full(10, 3.0, np.float32)))
    assert rule(None, reported(0.01 * steps))
    assert not rule(None, reported(np.exp(-0.1 * steps)))
    assert not rule(None, reported(np.full(10, np.nan)))
    # Student's t of 8 degrees of freedom is above 2 in 4.0 % of cases.
    stopped = rule(None, reported(noise))
    assert stopped.shape == (4000,)
    assert abs(np.mean(~stopped) - 0.0403) < 4 * np.sqrt(0.04 * 0.96 / 4000)
    # The fall of a line over nine steps has a standard error of 9 / sqrt(82.5): six of them are seen nearly always.
    falling = rule(None, reported(noise - 6.0 / np.sqrt(82.5) * steps))
    assert np.mean(falling) < 0.01
    assert (
        np.mean(
            swjko.until_stationary(num_standard_errors=20.0)(
                None, reported(noise - 6.0 / np.sqrt(82.5) * steps)
            )
        )
        > 0.95
    )
    # What was recorded may hold the states too.
    assert rule(None, (swjko.State(*4 * [None]), reported(steps)))
    with pytest.raises(TypeError, match=r"record=swjko\.both"):
        rule(None, np.ones(10))
    with pytest.raises(ValueError, match="stop_steps must be at least 4"):
        rule(None, reported(np.ones(3)))


RATE = optax.adam(optax.cosine_decay_schedule(0.1, 60))
FALLING = Partial(lambda center, x: -0.5 * jnp.sum((x - center) ** 2), jnp.zeros(()))


def relaxing_scheme(optimizer=RATE):
    options = {"step_size": 0.5, "num_samples": 32, "num_projections": 8, "num_inner_steps": 60}
    return swjko.sw_jko(
        swjko.gaussian(2, init_mean=2.0), swjko.kl_divergence(FALLING), optimizer, **options
    )


def test_a_flow_that_has_arrived_is_certified_and_stops(key):
    check, scheme = jax.random.key(7), relaxing_scheme()
    rule = swjko.until_certified(check, scheme, num_samples=100, num_repeats=4)
    options = {"progress": False, "stop_steps": 4, "record": swjko.both, "chunk_size": 4}
    solution = swjko.solve(key, scheme, 40, stop=rule, **options)
    assert solution.stopped
    _, infos = solution.history
    assert 8 <= len(infos.energy) < 40
    # The least energy: minus the logarithm of the integral of exp(-|x|^2 / 2).
    assert abs(np.mean(infos.energy[-4:]) + np.log(2 * np.pi)) < 0.02
    # The start of the flow has much left to do.
    first, last = (
        jax.tree.map(lambda leaf, part=part: leaf[part], solution.history)
        for part in (slice(4), slice(-4, None))
    )
    assert not rule(flow_end(first), first)
    # Of many flows each is judged for itself.
    many = swjko.until_certified(jnp.stack([check, check]), scheme, num_samples=100, num_repeats=4)
    tails = jax.tree.map(lambda *leaves: np.stack(leaves), first, last)
    np.testing.assert_array_equal(
        many(jax.tree.map(lambda leaf: leaf[:, -1], tails[0]), tails), [False, True]
    )
    with pytest.raises(TypeError, match=r"record=swjko\.both"):
        rule(solution.state, infos)
    with pytest.raises(ValueError, match="stop_steps must be at least 2"):
        rule(flow_end(first), jax.tree.map(lambda leaf: leaf[:1], first))


def flow_end(history):
    return jax.tree.map(lambda leaf: leaf[-1], history[0])


def test_a_flow_that_its_solves_do_not_move_has_not_arrived(key):
    scheme = relaxing_scheme(optax.sgd(0.0))
    rule = swjko.until_certified(jax.random.key(7), scheme, num_samples=100, num_repeats=4)
    solution = swjko.solve(
        key, scheme, 4, stop=rule, stop_steps=4, progress=False, record=swjko.both, chunk_size=4
    )
    assert not solution.stopped
    # It would pass but for its gradient.
    assert np.ptp(solution.history[1].energy) < 2.0
    lenient = swjko.until_certified(
        jax.random.key(7), scheme, num_samples=100, num_repeats=4, gradient_tolerance=2.0
    )
    assert lenient(flow_end(solution.history), solution.history)
