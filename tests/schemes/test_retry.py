"""``guarded``: a failed step is repeated smaller, and no other flow changes."""

import dataclasses
import functools

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import at_index, axes_of
from jax.tree_util import Partial

import swjko
from swjko.schemes.base import accept
from swjko.schemes.sw_jko import SWJKO
from swjko.types import Leaf

FLOWS, HURT, STEPS, STEP_SIZE = 16, 5, 24, 0.125
OTHERS = np.delete(np.arange(FLOWS), HURT)
KEYS = jax.random.split(jax.random.key(0), FLOWS)
OPTIMIZER = optax.adam(1e-2)


def towards(center, x):
    return -jnp.sum((x - center) ** 2) / 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Injected(SWJKO):
    """SW-JKO whose functional is not finite at step ``at`` for step sizes above ``above``."""

    at: Leaf = None
    above: Leaf = None
    value: Leaf = None

    def step(self, key, state):
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(SWJKO)}
        hit = (state.step == self.at) & (self.step_size > self.above)
        shared["functional"] = jax.tree.map(
            lambda leaf: leaf + jnp.where(hit, self.value, 0.0), self.functional
        )
        return SWJKO(**shared).step(key, state)


def injected(at=-1, above=0.0, value=np.nan):
    """A scheme with a fault in flow number HURT, and its axes."""
    functional = swjko.kl_divergence(Partial(towards, jnp.zeros(())))
    plain = helpers.sw_jko(
        functional=functional, optimizer=OPTIMIZER, step_size=STEP_SIZE, num_inner_steps=2
    )
    places = np.where(np.arange(FLOWS) == HURT, at, -1)
    leaves = {
        "at": jnp.asarray(places, jnp.int32),
        "above": jnp.asarray(above),
        "value": jnp.asarray(value),
    }
    scheme = Injected(
        **{field.name: getattr(plain, field.name) for field in dataclasses.fields(SWJKO)}, **leaves
    )
    return scheme, axes_of(scheme, at=0)


def guard(scheme, axes, **options):
    options = {"max_retries": 3} | options
    guarded = swjko.guarded(scheme, **options)
    return guarded, axes_of(guarded, scheme=axes)


def ran(scheme, axes, batch_size):
    return jax.device_get(
        swjko.run_many(KEYS, scheme, STEPS, axes=axes, batch_size=batch_size, record=swjko.both)
    )


@functools.cache
def clean(batch_size, guarded):
    scheme, axes = injected()
    return ran(*(guard(scheme, axes) if guarded else (scheme, axes)), batch_size)


def assert_same(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def assert_close(found, expected, tolerance):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def random_steps(num):
    return np.random.default_rng(0).choice(STEPS, num, replace=False)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, FLOWS])
def test_a_fault_stops_its_flow_at_its_step_and_touches_no_other(batch_size):
    expected = clean(batch_size, guarded=False)
    for index, step in enumerate(random_steps(20)):
        states, (trajectory, infos) = ran(
            *injected(at=step, value=(np.nan, np.inf)[index % 2]), batch_size
        )
        np.testing.assert_array_equal(
            infos.result[HURT], np.where(np.arange(STEPS) < step, 0, swjko.Result.NON_FINITE)
        )
        assert states.step[HURT] == step
        start = injected()[0].init(jax.random.split(KEYS[HURT])[0]).params
        last_good = at_index(expected[1][0].params, (HURT, step - 1)) if step else start
        assert_same(at_index(states.params, HURT), last_good)
        assert_same(at_index((states, (trajectory, infos)), OTHERS), at_index(expected, OTHERS))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, FLOWS])
def test_a_fault_that_smaller_steps_avoid_is_overcome(batch_size):
    expected = clean(batch_size, guarded=True)
    for step in random_steps(20):
        found = ran(*guard(*injected(at=step, above=0.9 * STEP_SIZE)), batch_size)
        states, (_, infos) = found
        assert states.result[HURT] == swjko.Result.OK
        np.testing.assert_array_equal(infos.extra.retries[HURT], np.arange(STEPS) == step)
        # Half the size for the step itself and the ten steps that follow, then as before.
        small = (np.arange(STEPS) >= step) & (np.arange(STEPS) <= step + 10)
        np.testing.assert_array_equal(
            infos.extra.step_size[HURT], np.where(small, STEP_SIZE / 2, STEP_SIZE)
        )
        assert states.time[HURT] == np.sum(infos.extra.step_size[HURT])
        assert states.step[HURT] == STEPS
        assert_same(
            at_index(found[1], (HURT, slice(step))), at_index(expected[1], (HURT, slice(step)))
        )
        assert_same(at_index(found, OTHERS), at_index(expected, OTHERS))


def test_a_fault_that_remains_stops_the_flow_after_the_retries():
    expected = clean(1, guarded=True)
    for value in (np.nan, np.inf):
        found = ran(*guard(*injected(at=9, value=value)), 1)
        states, (trajectory, infos) = found
        np.testing.assert_array_equal(
            infos.result[HURT], np.where(np.arange(STEPS) < 9, 0, swjko.Result.NON_FINITE)
        )
        np.testing.assert_array_equal(
            infos.extra.retries[HURT], np.where(np.arange(STEPS) == 9, 3, 0)
        )
        assert infos.extra.step_size[HURT, 9] == STEP_SIZE / 8
        assert_same(at_index(states.params, HURT), at_index(expected[1][0].params, (HURT, 8)))
        assert_same(at_index(trajectory.params, (HURT, -1)), at_index(states.params, HURT))
        assert_same(at_index(found, OTHERS), at_index(expected, OTHERS))


@pytest.mark.slow
def test_without_a_failure_the_steps_are_those_of_the_scheme():
    states, (trajectory, infos) = clean(1, guarded=True)
    plain = clean(1, guarded=False)
    assert not np.any(infos.extra.retries)
    found = [record._replace(extra=()) for record in (states, trajectory, infos)]
    assert_close(found, [plain[0], *plain[1]], 1e-5)


def too_large():
    points = jnp.linspace(-1.0, 1.0, 12).reshape(6, 2)
    log_prob = Partial(towards, jnp.zeros(()))
    # Stable below 2.
    return [
        swjko.langevin(points, log_prob, step_size=size) for size in np.geomspace(40.0, 4000.0, 10)
    ]


def assert_near_the_lowest(energies):
    """What the guard promises in two dimensions."""
    lowest = np.minimum.accumulate(energies, axis=-1)
    assert np.all(energies <= 1.001 * (lowest + 10 * (2 + np.abs(lowest))))


@pytest.mark.slow
def test_step_sizes_far_too_large_are_reported_at_once_and_overcome_under_a_guard():
    keys = KEYS[:10]
    scheme, axes = swjko.stack_flows(too_large())
    failed = swjko.solve(keys, scheme, 20, axes=axes, chunk_size=2, progress=False, throw=False)
    assert failed.history.energy.shape == (10, 2)
    np.testing.assert_array_equal(failed.state.result, 10 * [swjko.Result.DIVERGED])
    assert np.all(np.isfinite(failed.state.params))
    scheme, axes = swjko.stack_flows([swjko.guarded(one, factor=0.25) for one in too_large()])
    good = swjko.solve(keys, scheme, 20, axes=axes, progress=False)
    np.testing.assert_array_equal(good.state.result, 10 * [swjko.Result.OK])
    np.testing.assert_array_equal(good.state.step, 10 * [20])
    assert np.all(good.history.extra.retries[:, 0] >= 2)
    assert_near_the_lowest(good.history.energy)
    quarters = np.log2(good.history.extra.step_size / np.geomspace(40.0, 4000.0, 10)[:, None]) / 2
    np.testing.assert_allclose(quarters, np.round(quarters), atol=1e-3)


def test_slow_growth_is_detected_too():
    # Energy grows by 1.5^2 in each step, which is not a divergence of one step.
    plain = swjko.langevin(jnp.ones((6, 2)), Partial(towards, jnp.zeros(())), step_size=2.5)
    wild = swjko.solve(KEYS[0], plain, 15, progress=False)
    assert wild.result is swjko.Result.OK
    assert wild.history.energy[-1] > 1e4
    tamed = swjko.solve(KEYS[0], swjko.guarded(plain), 15, progress=False)
    assert_near_the_lowest(tamed.history.energy)
    assert np.any(tamed.history.extra.retries)
    # A factor that hardly shrinks does not help, so the flow diverges.
    stubborn = swjko.solve(
        KEYS[0], swjko.guarded(plain, max_retries=1, factor=0.99), 15, progress=False, throw=False
    )
    assert stubborn.result is swjko.Result.DIVERGED
    assert_near_the_lowest(stubborn.history.energy[stubborn.history.result == 0])
    assert np.all(np.isfinite(stubborn.state.params))


@pytest.mark.slow
def test_updates_may_shrink_with_the_step_size():
    """A learning rate of 3 on a parabola diverges for every step size; a quarter of it does not."""
    scheme = swjko.sw_jko(
        *(
            swjko.particles(jnp.ones((4, 2))),
            swjko.potential(Partial(lambda scale, x: scale * jnp.sum(x**2) / 2, jnp.ones(()))),
            optax.sgd(12.0),
        ),
        step_size=1000.0,
        num_inner_steps=8,
        num_samples=4,
        num_projections=3,
    )
    assert (
        swjko.solve(KEYS[0], scheme, 2, progress=False, throw=False).result is swjko.Result.DIVERGED
    )
    same_rate = swjko.solve(
        KEYS[0], swjko.guarded(scheme, max_retries=3), 2, progress=False, throw=False
    )
    assert same_rate.result is swjko.Result.DIVERGED
    smaller_rate = swjko.solve(
        KEYS[0], swjko.guarded(scheme, max_retries=3, scale_updates=True), 4, progress=False
    )
    assert smaller_rate.history.energy[-1] < 1e-2
    assert smaller_rate.history.extra.retries[0] > 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counting:
    """A scheme with a key in its state, whose second step fails unless small, of four steps."""

    step_size: Leaf

    @property
    def family(self):
        return swjko.particles(jnp.ones((3, 2)))

    def init(self, key):
        zero = jnp.zeros((), jnp.int32)
        return swjko.State(jnp.ones((3, 2)), jnp.zeros(()), zero, zero, key)

    def step(self, key, state):
        failed = jnp.where((state.step == 1) & (self.step_size > 0.3), swjko.Result.NON_FINITE, 0)
        failed = jnp.where(state.step == 4, swjko.Result.STEP_LIMIT, failed)
        result = jnp.where(state.result == 0, failed, state.result)
        time = state.time + self.step_size
        new = swjko.State(state.params - self.step_size, time, state.step + 1, result, key)
        state = accept(state, new)
        return state, swjko.Info(*5 * [jnp.zeros(())], result)._replace(time=state.time)


def test_extra_state_is_kept_and_other_codes_are_not_retried():
    scheme = Counting(jnp.asarray(1.0))
    found = swjko.solve(KEYS[0], swjko.guarded(scheme, recovery=2), 6, progress=False, throw=False)
    assert found.result is swjko.Result.STEP_LIMIT
    np.testing.assert_array_equal(found.history.extra.retries, [0, 2, 0, 0, 0])
    np.testing.assert_array_equal(found.history.time, [1.0, 1.25, 1.5, 1.75, 1.75])
    # Two steps without a failure end the first of two back-offs. STEP_LIMIT is neither.
    np.testing.assert_array_equal(found.history.extra.step_size, [1.0, 0.25, 0.25, 0.25, 0.5])
    np.testing.assert_allclose(found.state.params, 1.0 - 1.75)
    assert found.state.extra.extra == jax.random.fold_in(jax.random.split(KEYS[0])[1], 3)


@pytest.mark.slow
def test_a_pool_of_points_is_kept():
    # In float32 Adam makes whole steps of what two programs round differently.
    with jax.enable_x64(True):
        scheme = swjko.icnn_jko(
            *(
                2,
                swjko.potential(Partial(lambda scale, x: scale * jnp.sum(x**2), jnp.ones(()))),
                optax.adam(1e-2),
            ),
            step_size=0.1,
            num_inner_steps=2,
            num_samples=8,
            num_points=8,
            max_steps=2,
            width=4,
            rank=1,
        )
        found, expected = (
            swjko.solve(KEYS[0], one, 3, progress=False, throw=False)
            for one in (swjko.guarded(scheme), scheme)
        )
    assert found.result is expected.result is swjko.Result.STEP_LIMIT
    assert not np.any(found.history.extra.retries)
    assert_close(found.state.extra.extra, expected.state.extra, 1e-6)
    assert_close(found.state.params, expected.state.params, 1e-6)
