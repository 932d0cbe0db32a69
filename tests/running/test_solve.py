"""``solve`` of one flow: chunks, records, progress, result codes, and stopping rules."""

import dataclasses
import re
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import at_index, axes_of, failing_scheme, jitted_run, tiny_scheme
from jax.tree_util import Partial

import swjko
from swjko.checkpoints.store import Store


def log_prob(center, x):
    return -jnp.sum((x - center) ** 2) / 2


def particle_scheme(step_size=0.1):
    """Points far from a standard normal target."""
    points = 6.0 + jnp.linspace(-1.0, 1.0, 80).reshape(40, 2)
    return swjko.langevin(points, Partial(log_prob, jnp.zeros(())), step_size=step_size)


def solved(key, scheme, num_steps, **options):
    return swjko.solve(key, scheme, num_steps, **({"progress": False} | options))


@pytest.mark.slow
def test_solve_equals_run_whatever_the_chunks(key):
    scheme = tiny_scheme()
    first, *others = (solved(key, scheme, 7, chunk_size=size) for size in (1, 3, 7))
    for other in others:
        chex.assert_trees_all_equal(first[:2], other[:2])
    init_key, run_key = jax.random.split(key)
    state, info = jitted_run(
        run_key, scheme, scheme.init(init_key), num_steps=7, record=swjko.infos
    )
    chex.assert_trees_all_close(first.state, state, rtol=1e-6)
    np.testing.assert_allclose(first.history.energy, info.energy, rtol=1e-5)
    assert first.result is swjko.Result.OK
    assert first.timing.compile_seconds > 0


def test_history_can_keep_the_trajectory_which_can_be_replayed(key):
    scheme = tiny_scheme()
    solution = solved(key, scheme, 4, record="trajectory")
    states, info = solution.history
    assert info.energy.shape == (4,)
    cloud = swjko.replay(key, scheme.family, states.params, 6)
    assert cloud.points.shape == (4, 6, 2)
    last = scheme.family.push(solution.state.params, scheme.family.latent(key, 6))
    np.testing.assert_allclose(cloud.points[-1], last.points, rtol=1e-6)


def test_a_failed_flow_raises_with_advice_or_returns_its_code(key):
    message = re.escape("after step 0 with NON_FINITE: a value became NaN or infinite")
    with pytest.raises(swjko.FlowError, match=message) as caught:
        solved(key, failing_scheme(), 5)
    assert caught.value.solution.result is swjko.Result.NON_FINITE
    solution = solved(key, failing_scheme(), 50, chunk_size=2, throw=False)
    assert solution.result is swjko.Result.NON_FINITE
    assert solution.history.energy.shape == (2,)
    chex.assert_tree_all_finite(solution.state.params)


def test_progress_shows_steps_time_and_energy(key, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    solution = swjko.solve(key, tiny_scheme(), 2)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert f"t = 0.2, energy {solution.history.energy[-1]:.5g}" in shown


@pytest.mark.parametrize("num_steps", [1, 7, 20, 101])
def test_default_chunks_divide_the_run_into_about_twenty(key, num_steps, monkeypatch):
    chunks = []
    real = swjko.running.solve.ChunkRunner.run

    def run(self, size, state):
        chunks.append(size)
        return real(self, size, state)

    monkeypatch.setattr(swjko.running.solve.ChunkRunner, "run", run)
    solved(key, particle_scheme(), num_steps)
    assert sum(chunks) == num_steps
    assert max(chunks) <= max(1, num_steps // 20)
    assert len(chunks) <= 4 * 20 + 21


def test_every_code_has_advice():
    assert all(result.advice for result in swjko.Result)


def rule_from_step(number):
    """Return a rule that stops from this step on (never for 0), and the list of its arguments."""
    asked = []

    def rule(state, history):
        asked.append((np.asarray(state.step).tolist(), np.asarray(history.time).tolist()))
        return state.step >= number if number else np.asarray(False)

    return rule, asked


@pytest.mark.parametrize("chunk_size", [1, 3, 5, 100, None])
def test_a_rule_is_called_at_the_same_steps_whatever_the_chunks(key, chunk_size):
    rule, asked = rule_from_step(12)
    options = {"chunk_size": chunk_size, "stop_steps": 4}
    solution = solved(key, particle_scheme(), 23, stop=rule, **options)
    assert [step for step, _ in asked] == [4, 8, 12]
    for step, times in asked:
        np.testing.assert_allclose(times, 0.1 * np.arange(step - 3, step + 1), rtol=1e-5)
    assert solution.stopped is True
    assert solution.result is swjko.Result.OK
    assert int(solution.state.result) == swjko.Result.OK
    assert int(solution.state.step) == 12
    whole = solved(key, particle_scheme(), 23)
    assert whole.stopped is False
    np.testing.assert_array_equal(solution.history.energy, whole.history.energy[:12])


def test_a_rule_that_never_stops_changes_nothing(key):
    rule, asked = rule_from_step(0)
    solution = solved(key, particle_scheme(), 10, stop=rule, stop_steps=4)
    assert [step for step, _ in asked] == [4, 8]
    assert solution.stopped is False
    chex.assert_trees_all_equal(solution.state, solved(key, particle_scheme(), 10).state)


def test_a_resumed_run_stops_at_the_same_step(key, tmp_path, monkeypatch):
    options = {"stop": swjko.until_stationary(), "stop_steps": 5, "record": swjko.both}
    whole = solved(key, particle_scheme(), 100, **options)
    assert whole.stopped
    stopped_at = int(whole.state.step)
    assert 10 <= stopped_at < 100
    for killed_at in (2, stopped_at - 1):

        def append(self, first_step, *arguments, real=Store.append, killed_at=killed_at):
            if first_step > killed_at:
                raise KeyError("killed")
            real(self, first_step, *arguments)

        directory = tmp_path / str(killed_at)
        kept = options | {"checkpoint_dir": directory, "checkpoint_steps": 1}
        with monkeypatch.context() as patch:
            patch.setattr(Store, "append", append)
            with pytest.raises(KeyError, match="killed"):
                solved(key, particle_scheme(), 100, chunk_size=1, **kept)
        # Resume in other chunks, and then from the end.
        for chunk_size in (4, None):
            found = solved(key, particle_scheme(), 100, chunk_size=chunk_size, **kept)
            chex.assert_trees_all_equal(found[:2], whole[:2])
            assert found.stopped is True
    for change, message in (
        ({"stop_steps": 6}, r"stop_steps: 5 saved, 6 now"),
        (
            {"stop": swjko.until_stationary(num_standard_errors=1.0)},
            r"num_standard_errors: 2.0 saved, 1.0 now",
        ),
    ):
        with pytest.raises(swjko.CheckpointError, match=message):
            solved(key, particle_scheme(), 100, **(kept | change))


@pytest.mark.slow_except_first
@pytest.mark.parametrize("devices", [None, 4])
def test_each_of_many_flows_stops_by_itself(key, devices):
    keys = jax.random.split(key, 4 if devices is None else 3)
    sizes = jnp.asarray([0.3, 0.02, 0.1, 0.05])[: len(keys)]
    scheme = dataclasses.replace(particle_scheme(), step_size=sizes)
    options = {"stop": swjko.until_stationary(), "stop_steps": 6, "throw": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if devices else "error")
        mesh = None if devices is None else swjko.flow_mesh(jax.devices()[:devices])
        axes = axes_of(scheme, step_size=0)
        many = solved(keys, scheme, 60, axes=axes, mesh=mesh, **options)
    assert many.result is swjko.Result.OK
    assert len(set(np.asarray(many.state.step).tolist())) > 1
    for index, (one_key, size) in enumerate(zip(keys, sizes, strict=True)):
        one = solved(one_key, particle_scheme(size), 60, **options)
        length = int(one.state.step)
        assert many.stopped[index] == one.stopped
        assert many.state.step[index] == length
        np.testing.assert_allclose(many.state.params[index], one.state.params, rtol=1e-5, atol=1e-6)
        found = many.history.energy[index, :length]
        np.testing.assert_allclose(found, one.history.energy, rtol=1e-5)
        assert set(many.history.result[index, length:].tolist()) <= {swjko.Result.STOPPED}
    # A stopped flow has not failed: it may continue.
    state, _ = swjko.run(key, particle_scheme(), at_index(many.state, 0), 1)
    assert state.step == many.state.step[0] + 1


@pytest.mark.parametrize("answer", [1.0, None, np.asarray([True, False]), "no"])
def test_an_answer_that_is_not_a_bool_raises(key, answer):
    with pytest.raises(ValueError, match=r"stop must return a bool; got"):
        solved(key, particle_scheme(), 4, stop=lambda state, history: answer, stop_steps=2)


def reported(energies):
    return swjko.Info(*6 * [None])._replace(energy=np.asarray(energies))


def test_until_stationary_compares_the_fall_with_the_scatter():
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
    # The fall of the line over nine steps has a standard error of 9 / sqrt(82.5); this is six.
    falling = reported(noise - 6.0 / np.sqrt(82.5) * steps)
    assert np.mean(rule(None, falling)) < 0.01
    assert np.mean(swjko.until_stationary(num_standard_errors=20.0)(None, falling)) > 0.95
    assert rule(None, (swjko.State(*4 * [None]), reported(steps)))
    with pytest.raises(TypeError, match=r"record=swjko\.both"):
        rule(None, np.ones(10))
    with pytest.raises(ValueError, match="stop_steps must be at least 4"):
        rule(None, reported(np.ones(3)))


RATE = optax.adam(optax.cosine_decay_schedule(0.1, 60))


def relaxing_scheme(optimizer=RATE):
    family = swjko.gaussian(2, init_mean=2.0)
    energy = swjko.kl_divergence(Partial(log_prob, jnp.zeros(())))
    options = {"step_size": 0.5, "num_samples": 32, "num_projections": 8, "num_inner_steps": 60}
    return swjko.sw_jko(family, energy, optimizer, **options)


def certified(key, scheme, **options):
    return swjko.until_certified(key, scheme, num_samples=100, num_repeats=4, **options)


OPTIONS = {"stop_steps": 4, "record": swjko.both, "chunk_size": 4}


@pytest.mark.slow
def test_a_converged_flow_is_certified_and_stops(key):
    check, scheme = jax.random.key(7), relaxing_scheme()
    rule = certified(check, scheme)
    solution = solved(key, scheme, 40, stop=rule, **OPTIONS)
    assert solution.stopped
    _, infos = solution.history
    assert 8 <= len(infos.energy) < 40
    # The least energy is minus the logarithm of the integral of exp(-|x|^2 / 2).
    assert abs(np.mean(infos.energy[-4:]) + np.log(2 * np.pi)) < 0.02
    # The start of the flow has not converged.
    first, last = (at_index(solution.history, part) for part in (slice(4), slice(-4, None)))
    assert not rule(at_index(first[0], -1), first)
    # Each of many flows is judged by itself.
    many = certified(jnp.stack([check, check]), scheme)
    tails = jax.tree.map(lambda *leaves: np.stack(leaves), first, last)
    ends = jax.tree.map(lambda leaf: leaf[:, -1], tails[0])
    np.testing.assert_array_equal(many(ends, tails), [False, True])
    with pytest.raises(TypeError, match=r"record=swjko\.both"):
        rule(solution.state, infos)
    with pytest.raises(ValueError, match="stop_steps must be at least 2"):
        rule(at_index(first[0], -1), at_index(first, slice(1)))


@pytest.mark.slow
def test_a_flow_that_its_inner_solves_do_not_move_has_not_converged(key):
    scheme, check = relaxing_scheme(optax.sgd(0.0)), jax.random.key(7)
    solution = solved(key, scheme, 4, stop=certified(check, scheme), **OPTIONS)
    assert not solution.stopped
    # Only its gradient keeps it from passing.
    assert np.ptp(solution.history[1].energy) < 2.0
    lenient = certified(check, scheme, gradient_tolerance=2.0)
    assert lenient(at_index(solution.history[0], -1), solution.history)


def one_dimensional(functional):
    return swjko.sw_jko(
        swjko.gaussian(1),
        functional,
        optax.adam(1e-3),
        step_size=0.1,
        num_inner_steps=2,
        num_samples=64,
        num_projections=1,
    )


def exponential(x):
    return jnp.where(x[0] > 0, -x[0], -jnp.inf)


def without_gradient(x):
    return -(jnp.where(x[0] > 0, x[0], jnp.sqrt(jnp.minimum(x[0], 0.0)) ** 2) ** 2)


def on_a_line(make):
    return lambda: one_dimensional(make())


COUNT = r"on \d\d of 64 points"
BAD_TARGETS = {
    "bounded support": (
        on_a_line(lambda: swjko.kl_divergence(exponential)),
        rf"log-densities are -inf {COUNT}.*interval\(low, high\)",
    ),
    "a bounded potential": (
        on_a_line(lambda: swjko.potential(lambda x: -exponential(x))),
        rf"potentials are \+inf {COUNT}.*interval\(low, high\)",
    ),
    "log of a negative number": (
        on_a_line(lambda: swjko.kl_divergence(lambda x: jnp.log(x[0]) - x[0])),
        rf"log-densities are NaN {COUNT}.*Define",
    ),
    "a pole": (
        on_a_line(lambda: swjko.kl_divergence(lambda x: jnp.where(x[0] > 0, jnp.inf, 0.0))),
        rf"log-densities are \+inf {COUNT}.*pole",
    ),
    "no gradient": (
        on_a_line(lambda: swjko.kl_divergence(without_gradient)),
        "log-densities are NaN on|gradients of the log-densities are NaN on",
    ),
    "a function of densities": (
        on_a_line(lambda: swjko.internal_energy(lambda r: jnp.log(r - 0.2))),
        "values of f at the densities are NaN on",
    ),
    "a function of the user": (
        on_a_line(lambda: lambda key, cloud: jnp.mean(jnp.log(cloud.points))),
        "the functional is nan on a sample of 64 points",
    ),
    "inside of a guard": (
        lambda: swjko.guarded(one_dimensional(swjko.kl_divergence(exponential)), max_retries=1),
        f"log-densities are -inf {COUNT}",
    ),
    "particles": (
        lambda: swjko.langevin(jnp.linspace(-1.0, 1.0, 8)[:, None], exponential, step_size=0.1),
        "log-densities are -inf on 4 of 8 points",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_TARGETS)
def test_the_error_says_what_is_not_finite_and_what_helps(name, key):
    make, message = BAD_TARGETS[name]
    with pytest.raises(swjko.FlowError, match=message) as caught:
        solved(key, make(), 1)
    assert "lower the learning rate" not in str(caught.value)


@pytest.mark.slow
def test_the_error_of_many_flows_is_about_the_one_that_failed(key):
    def bounded(low, x):
        return jnp.where(x[0] > low, -x[0], -jnp.inf)

    functionals = [swjko.kl_divergence(Partial(bounded, jnp.asarray(low))) for low in (-1e3, 0.0)]
    first = one_dimensional(functionals[0])
    second = dataclasses.replace(first, functional=functionals[1])
    scheme, axes = swjko.stack_flows([first, second])
    with pytest.raises(swjko.FlowError, match=f"1 of 2 flows .*-inf {COUNT}"):
        solved(jax.random.split(key, 2), scheme, 1, axes=axes)


@pytest.mark.slow
def test_a_failure_that_the_functional_does_not_explain_has_the_usual_advice(key):
    scheme = dataclasses.replace(tiny_scheme(), optimizer=optax.sgd(jnp.inf))
    with pytest.raises(swjko.FlowError, match="lower the learning rate"):
        solved(key, scheme, 1)
