"""``run_many`` and ``solve`` of many flows: they equal single flows, on one device or a mesh."""

import dataclasses
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import at_index, axes_of
from jax.tree_util import Partial
from scipy.special import softmax

import swjko
from swjko.checkpoints import read_history
from swjko.checkpoints.store import Store
from swjko.running.batching import Batching, prepare
from swjko.running.compiled import ChunkRunner, advance_flows, start_flows
from swjko.running.ensemble import run_flows

COLLECTIVES = (
    r"all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter"
)
OPTIMIZER = optax.adam(1e-2)
SGD = optax.sgd(0.1)
PADDING = r"flows, 5, is not a multiple of 4, .*: 3 dummy flows are run as padding"


def log_prob(center, x):
    return -jnp.sum((x - center) ** 2) / 2


def jko_scheme(step_size=0.1, center=0.0, init_mean=1.0, **options):
    defaults = {"num_inner_steps": 2, "num_samples": 16, "num_projections": 4}
    family = swjko.gaussian(2, init_mean=init_mean)
    energy = swjko.kl_divergence(Partial(log_prob, jnp.asarray(center)))
    return swjko.sw_jko(family, energy, OPTIMIZER, step_size=step_size, **(defaults | options))


def particle_scheme(step_size=0.1, center=0.0):
    """A scheme that compiles fast."""
    points = jnp.linspace(-1.0, 1.0, 12).reshape(6, 2)
    return swjko.langevin(points, Partial(log_prob, jnp.asarray(center)), step_size=step_size)


def varied(make=particle_scheme, num=4):
    return [make(step_size=0.05 * (1 + index), center=0.5 * index) for index in range(num)]


def keys_of(num=4):
    return jax.random.split(jax.random.key(0), num)


def mesh_of(num):
    return swjko.flow_mesh(jax.devices()[:num])


def singles(keys, schemes, num_steps):
    """Run the flows one at a time and stack the results."""

    @jax.jit
    def single(key, scheme):
        init_key, run_key = jax.random.split(key)
        return swjko.run(run_key, scheme, scheme.init(init_key), num_steps, swjko.infos)

    return stacked([single(key, scheme) for key, scheme in zip(keys, schemes, strict=True)])


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def rows(tree, index):
    return at_index(jax.tree.map(np.asarray, tree), np.asarray(index))


def assert_close(found, expected, tolerance):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def assert_same(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def solved(keys, scheme, num_steps=4, **options):
    return swjko.solve(keys, scheme, num_steps, **({"progress": False, "chunk_size": 2} | options))


@pytest.mark.slow
def test_varied_flows_equal_single_runs():
    with jax.enable_x64(True):
        schemes = [jko_scheme(0.05 * (1 + index), 0.5 * index, 1.0 - index) for index in range(3)]
        scheme, axes = swjko.stack_flows(schemes)
        expected = singles(keys_of(3), schemes, 3)
        for batch_size in (None, 3):
            found = swjko.run_many(keys_of(3), scheme, 3, axes=axes, batch_size=batch_size)
            assert found[1].energy.shape == (3, 3)
            assert not np.any(found[0].result)
            assert_close(found, expected, 1e-12)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_batches_change_nothing(batch_size):
    scheme, axes = swjko.stack_flows(varied(num=5))
    expected = swjko.run_many(keys_of(5), scheme, 2, axes=axes)
    found = swjko.run_many(keys_of(5), scheme, 2, axes=axes, batch_size=batch_size)
    assert_close(found, expected, 1e-6)


def test_a_flow_is_what_solve_runs():
    schemes = varied()
    scheme, axes = swjko.stack_flows(schemes)
    found = swjko.run_many(keys_of(), scheme, 3, axes=axes, record="trajectory")
    solutions = [
        swjko.solve(key, one, 3, progress=False, record=swjko.both)
        for key, one in zip(keys_of(), schemes, strict=True)
    ]
    assert_close(found, stacked([(one.state, one.history) for one in solutions]), 1e-5)


@pytest.mark.slow
def test_axes_may_be_a_scheme_or_a_prefix():
    scheme = dataclasses.replace(particle_scheme(), step_size=jnp.asarray([0.05, 0.1]))
    schemes = [particle_scheme(0.05), particle_scheme(0.1)]
    axes = axes_of(scheme, step_size=0)
    by_hand = swjko.run_many(keys_of(2), scheme, 2, axes=axes)
    assert_close(by_hand, singles(keys_of(2), schemes, 2), 1e-5)
    whole = jax.tree.map(lambda *leaves: jnp.stack(leaves), *schemes)
    assert_same(swjko.run_many(keys_of(2), whole, 2, axes=0), by_hand)
    raw_keys = jax.random.key_data(keys_of(2))
    assert_same(swjko.run_many(raw_keys, scheme, 2, axes=axes), by_hand)


def test_stacking_keeps_equal_leaves_once():
    scheme, axes = swjko.stack_flows([particle_scheme(size) for size in (0.1, 0.2)])
    assert scheme.step_size.shape == (2,)
    assert scheme.family.points.shape == (6, 2)
    assert jax.tree.leaves(axes) == [0]
    same, axes = swjko.stack_flows([particle_scheme()] * 3)
    assert jax.tree.leaves(axes) == []
    assert swjko.run_many(keys_of(3), same, 1, axes=axes)[0].params.shape == (3, 6, 2)


@pytest.mark.slow_except_first
@pytest.mark.parametrize(
    ("make", "batch_size"), [(particle_scheme, None), (particle_scheme, 4), (jko_scheme, 4)]
)
@pytest.mark.parametrize("leaf", ["step_size", "center"])
def test_a_failed_flow_stands_still_and_changes_no_other(make, batch_size, leaf):
    schemes = varied(make)
    good, axes = swjko.stack_flows(schemes)
    field = "log_prob" if make is particle_scheme else "functional"
    field = "step_size" if leaf == "step_size" else field
    broken = jax.tree.map(
        lambda value: value.at[1].set(jnp.nan) if value.ndim else value, getattr(good, field)
    )
    bad = dataclasses.replace(good, **{field: broken})
    found, expected = (
        swjko.run_many(keys_of(), scheme, 3, axes=axes, batch_size=batch_size)
        for scheme in (bad, good)
    )
    states, infos = found
    np.testing.assert_array_equal(states.result, [0, swjko.Result.NON_FINITE, 0, 0])
    np.testing.assert_array_equal(infos.result[1], 3 * [swjko.Result.NON_FINITE])
    np.testing.assert_array_equal(states.step, [3, 0, 3, 3])
    assert_same(rows(found, [0, 2, 3]), rows(expected, [0, 2, 3]))
    assert_same(at_index(states.params, 1), schemes[1].init(keys_of()[1]).params)


def test_a_step_size_far_too_large_is_reported_for_its_flow_alone():
    scheme, axes = swjko.stack_flows([particle_scheme(size) for size in (0.1, 40.0)])
    states, _ = swjko.run_many(keys_of(2), scheme, 4, axes=axes)
    np.testing.assert_array_equal(states.result, [swjko.Result.OK, swjko.Result.DIVERGED])
    assert np.all(np.isfinite(states.params))


@pytest.mark.slow_except_first
@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_devices_change_nothing(num_devices):
    with jax.enable_x64(True):
        scheme, axes = swjko.stack_flows(varied(num=8))
        expected = swjko.run_many(keys_of(8), scheme, 3, axes=axes)
        found = swjko.run_many(keys_of(8), scheme, 3, axes=axes, mesh=mesh_of(num_devices))
    assert len(found[0].params.sharding.device_set) == num_devices
    assert_close(found, expected, 1e-12)


def compiled(keys, scheme, axes, mesh, batch_size):
    keys, scheme, batching = prepare(keys, scheme, axes, mesh, batch_size)
    static = {"batching": batching, "num_steps": 3, "record": swjko.infos}
    return run_flows.lower(keys, scheme, **static).compile()


@pytest.mark.slow
def test_flows_on_devices_exchange_nothing():
    scheme, axes = swjko.stack_flows(varied(jko_scheme, 16))
    text = compiled(keys_of(16), scheme, axes, swjko.flow_mesh(), 2).as_text()
    assert not re.findall(COLLECTIVES, text)
    assert " sort(" in text


@pytest.mark.slow
def test_loops_whose_length_depends_on_data_exchange_nothing():
    scheme = swjko.adaptive(jko_scheme(num_inner_steps=1), min_step_size=0.01, max_step_size=1.0)
    text = compiled(keys_of(16), scheme, None, swjko.flow_mesh(), 2).as_text()
    assert not re.findall(COLLECTIVES, text)


@pytest.mark.slow
def test_flows_and_directions_on_a_mesh_of_two_axes():
    mesh = swjko.flow_mesh(jax.devices()[:4], projection_devices=2)
    assert dict(mesh.shape) == {"flow": 2, "projection": 2}
    directions = swjko.sharded_directions(swjko.uniform_directions, mesh, "projection")
    with jax.enable_x64(True):
        points, target = (
            jnp.asarray(np.random.default_rng(seed).normal(size=(16, 2))) for seed in (0, 1)
        )
        plain = swjko.sliced_flow(points, target, step_size=0.5, num_projections=4)
        sharded = dataclasses.replace(plain, direction_fn=directions)
        expected = swjko.run_many(keys_of(2), plain, 3)
        found = swjko.run_many(keys_of(2), sharded, 3, mesh=mesh)
        text = compiled(keys_of(2), sharded, None, mesh, 1).as_text()
    assert_close(found, expected, 1e-12)
    # Each device sorts two of the four directions of its flow; pairs of devices add their sums.
    assert set(re.findall(r"f64\[([\d,]+),16\]\S* (?:\S+ )?sort\(", text)) == {"2"}
    assert "all-reduce" in text
    groups = set(re.findall(r"replica_groups=(\S+?),? ", text))
    assert groups <= {"{{0,1},{2,3}}", "[2,2]<=[4]"}


@pytest.mark.slow
def test_padding_warns_and_is_removed():
    scheme, axes = swjko.stack_flows(varied(num=5))
    expected = swjko.run_many(keys_of(5), scheme, 2, axes=axes)
    with pytest.warns(UserWarning, match=PADDING) as caught:
        found = swjko.run_many(keys_of(5), scheme, 2, axes=axes, mesh=mesh_of(4))
    assert len(caught) == 1
    assert found[1].energy.shape == (5, 2)
    assert_close(found, expected, 1e-6)
    with pytest.warns(UserWarning, match="flows, 1, is not a multiple of 4"):
        one = swjko.run_many(keys_of(1), particle_scheme(), 2, mesh=mesh_of(4))
    assert one[0].params.shape == (1, 6, 2)


@pytest.mark.slow_except_first
@pytest.mark.parametrize(
    ("make", "batch_size"), [(particle_scheme, None), (particle_scheme, 3), (jko_scheme, None)]
)
def test_solve_of_many_is_run_many_in_chunks(make, batch_size):
    scheme, axes = swjko.stack_flows(varied(make))
    options = {"axes": axes, "batch_size": batch_size, "record": swjko.both}
    expected = swjko.run_many(keys_of(), scheme, 4, **options)
    found = solved(keys_of(), scheme, **options)
    assert_same((found.state, found.history), expected)
    assert found.result is swjko.Result.OK
    np.testing.assert_array_equal(found.stopped, 4 * [False])


@pytest.mark.slow
def test_solve_of_many_on_a_mesh_pads_and_unpads():
    scheme, axes = swjko.stack_flows(varied(num=5))
    options = {"axes": axes, "record": swjko.both}
    with pytest.warns(UserWarning, match=PADDING):
        found = solved(keys_of(5), scheme, mesh=mesh_of(4), **options)
    assert found.state.params.shape == (5, 6, 2)
    expected = swjko.run_many(keys_of(5), scheme, 4, **options)
    assert_same((found.state, found.history), expected)


def broken_flows(flows, num=4):
    """Return a scheme and axes in which some flows have a NaN for a step size."""
    scheme, axes = swjko.stack_flows(varied(num=num))
    sizes = scheme.step_size.at[jnp.asarray(flows)].set(jnp.nan)
    return dataclasses.replace(scheme, step_size=sizes), axes


@pytest.mark.slow
def test_failed_flows_are_named_when_all_have_ended():
    scheme, axes = broken_flows([1, 3])
    expected = solved(keys_of(), swjko.stack_flows(varied())[0], axes=axes)
    message = r"^2 of 4 flows stopped: flow 1 after step 0 with NON_FINITE, flow 3 after .*lower"
    with pytest.raises(swjko.FlowError, match=message) as caught:
        solved(keys_of(), scheme, axes=axes)
    solution = caught.value.solution
    assert solution.result is swjko.Result.NON_FINITE
    np.testing.assert_array_equal(solution.state.result, [0, 2, 0, 2])
    np.testing.assert_array_equal(solution.state.step, [4, 0, 4, 0])
    assert_same(rows(solution[:2], [0, 2]), rows(expected[:2], [0, 2]))
    message = r"10 of 12 .* flow 9 after step 0 with NON_FINITE and 2 more\."
    with pytest.raises(swjko.FlowError, match=message):
        solved(keys_of(12), broken_flows(list(range(2, 12)), 12)[0], axes=axes)


def test_progress_of_many_shows_mean_energy_and_how_many_are_ok(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    scheme, axes = broken_flows([2])
    solution = solved(keys_of(), scheme, axes=axes, throw=False, progress=True)
    mean = np.mean(np.delete(solution.history.energy[:, -1], 2), dtype=np.float64)
    shown = capsys.readouterr().err
    assert "4/4" in shown
    assert f"t = 0.467, mean energy {mean:.5g}, 3 of 4 flows ok" in shown
    scheme, axes = broken_flows([0, 1, 2, 3])
    solution = solved(keys_of(), scheme, 50, axes=axes, throw=False, progress=True)
    shown = capsys.readouterr().err
    assert "2/50" in shown
    assert "0 of 4 flows ok" in shown
    assert solution.history.energy.shape == (4, 2)


class Killed(Exception):
    pass


@pytest.mark.parametrize("num", [4, 3])
def test_many_flows_resume_bit_for_bit(num, tmp_path, monkeypatch):
    """Three flows are padded on the mesh of four devices."""
    scheme, axes = swjko.stack_flows(varied(num=num))
    plain = {"axes": axes, "record": swjko.both}
    options = plain | {"checkpoint_dir": tmp_path, "checkpoint_steps": 2}

    def append(self, *arguments, real=Store.append):
        real(self, *arguments)
        if arguments[0] > 2:
            raise Killed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if num == 3 else "error")
        whole = solved(keys_of(num), scheme, mesh=mesh_of(4), **plain)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "append", append)
            with pytest.raises(Killed):
                solved(keys_of(num), scheme, mesh=mesh_of(4), **options)
        resumed = solved(keys_of(num), scheme, mesh=mesh_of(4), **options)
    assert_same(resumed[:2], whole[:2])
    lines = read_history(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    energy = whole.history[1].energy
    np.testing.assert_array_equal(
        np.asarray([line["energy"] for line in lines], energy.dtype), energy.T
    )
    # The checkpoints can be read on one device as well, but not for other flows.
    assert_same(solved(keys_of(num), scheme, **options).state, whole.state)
    message = r"holds another run \(key: .*Nothing was changed"
    with pytest.raises(swjko.CheckpointError, match=message):
        solved(jax.random.split(jax.random.key(1), num), scheme, **options)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("how", ["run_many", "run_many in a batch", "solve", "solve of many"])
def test_one_trace_over_a_hundred_calls(how):
    traces = []

    def counted(center, x):
        traces.append(None)
        return log_prob(center, x)

    plain = swjko.langevin(jnp.ones((3, 2)), Partial(counted, jnp.zeros(())), step_size=0.1)
    counts = set()
    for index in range(100):
        keys = jax.random.split(jax.random.key(index), 2)
        scheme = dataclasses.replace(
            plain,
            step_size=jnp.asarray(0.01 * (1 + index)),
            log_prob=Partial(counted, jnp.asarray(0.1 * index)),
        )
        if "solve" in how:
            solved(keys if "many" in how else keys[0], scheme, 4)
        else:
            swjko.run_many(keys, scheme, 4, batch_size=2 if "batch" in how else 1)
        counts.add(len(traces))
    assert len(counts) == 1


def constants(text):
    """Return the bytes of each constant in a lowered program that is not one repeated number."""
    found = re.findall(r"dense(?:_resource)?<(\[|\"|__)[^:]*: tensor<(\d[\dx]*)x(\w+?)>", text)
    return [
        int(np.prod([int(size) for size in shape.split("x")])) * int(re.sub(r"\D", "", kind)) // 8
        for _, shape, kind in found
    ]


def test_constants_are_found():
    table = np.arange(600.0, dtype=np.float32)
    assert constants(jax.jit(lambda x: x + table).lower(table).as_text()) == [2400]
    plain = jax.jit(lambda x: x + jnp.ones(600) + np.arange(3, dtype=np.int32)[0])
    assert constants(plain.lower(table).as_text()) == []


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [False, True])
def test_no_data_in_the_programs(guarded):
    target = jnp.asarray(np.random.default_rng(0).normal(size=(500, 2)), jnp.float32)

    def make(size):
        scheme = dataclasses.replace(
            jko_scheme(size, num_samples=500, num_projections=8),
            functional=swjko.weighted_sum(
                (1.0, swjko.sw_to_target(target * size, 8)),
                (0.1, swjko.kl_divergence(Partial(log_prob, target[0]))),
            ),
        )
        return swjko.guarded(scheme) if guarded else scheme

    scheme, axes = swjko.stack_flows([make(0.1), make(0.2)])
    keys, scheme, batching = prepare(keys_of(2), scheme, axes, None, None)
    states = jax.eval_shape(ChunkRunner(keys, scheme, swjko.infos, batching).start)
    key, one = keys_of(1)[0], make(0.1)
    static = {"num_steps": 3, "record": swjko.infos, "batching": batching}
    for lowered in (
        run_flows.lower(keys, scheme, **static),
        start_flows.lower(keys, scheme, batching=batching),
        advance_flows.lower(keys, scheme, states, **static),
        advance_flows.lower(key, one, one.init(key), **(static | {"batching": Batching()})),
    ):
        assert max(constants(lowered.as_text()), default=0) <= 1024


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, pytest.param(8, marks=pytest.mark.slow), None])
def test_memory_is_linear_in_the_flows(batch_size):
    """Up to 256 flows of 256 points and 64 directions."""
    scheme = jko_scheme(num_samples=256, num_projections=64)
    temporary, total = {}, {}
    for num in (64, 256):
        program = compiled(keys_of(num), scheme, None, None, batch_size or num)
        size = program.memory_analysis()
        temporary[num] = size.temp_size_in_bytes
        total[num] = temporary[num] + size.output_size_in_bytes + size.argument_size_in_bytes
    assert temporary[64] > 256 * 64 * 4
    assert total[256] <= 4.1 * total[64]
    if batch_size is None:
        # At most ten numbers for each projection of a flow, and as much again for the rest.
        assert temporary[256] <= 256 * 20 * 256 * 64 * jnp.zeros(()).nbytes
    else:
        # Flows that take turns share their temporaries.
        assert temporary[256] - temporary[64] <= 192 * 1024


def on_grid(num, size):
    """Return a scheme of ``num`` weighted points, padded with weight zero to ``size`` points."""
    points = np.random.default_rng(num).normal(size=(size, 2))
    weights = np.where(np.arange(size) < num, 1.0 / num, 0.0)
    family = swjko.grid(jnp.asarray(points), 1.0, weights=jnp.asarray(weights), weight_floor=0.0)
    energy = swjko.kl_divergence(Partial(log_prob, jnp.zeros(())))
    options = {"step_size": 0.1, "num_inner_steps": 2, "num_samples": size, "num_projections": 4}
    return swjko.sw_jko(family, energy, SGD, **options)


@pytest.mark.slow
def test_clouds_padded_with_zero_weights_equal_single_runs():
    num, size = 7, 16
    with jax.enable_x64(True):
        padded = [on_grid(num, size), on_grid(size, size)]
        points = padded[0].family.points[:num]
        family = swjko.grid(points, 1.0, weights=jnp.full(num, 1.0 / num))
        alone = dataclasses.replace(padded[0], family=family, num_samples=num)
        scheme, axes = swjko.stack_flows(padded)
        states, infos = swjko.run_many(keys_of(2), scheme, 3, axes=axes)
        state, info = singles(keys_of(2)[:1], [alone], 3)
    weights = softmax(states.params[0])
    np.testing.assert_allclose(weights[:num], softmax(state.params[0]), rtol=1e-11)
    assert np.all(weights[num:] < 1e-300)
    np.testing.assert_allclose(infos.objective[0], info.objective[0], rtol=1e-11)


def to_weighted_sample(target, weights, key, cloud):
    directions = swjko.uniform_directions(key, 4, 2)
    return 0.5 * swjko.sliced_wasserstein_pow(cloud.points, target, directions, y_weights=weights)


@pytest.mark.slow
def test_targets_padded_with_zero_weights_equal_single_runs():
    def scheme_towards(target, weights):
        options = {"step_size": 0.5, "num_inner_steps": 2, "num_samples": 16, "num_projections": 4}
        return swjko.sw_jko(family, Partial(to_weighted_sample, target, weights), SGD, **options)

    with jax.enable_x64(True):
        family = swjko.particles(jnp.linspace(-1.0, 1.0, 32).reshape(16, 2))
        target = jnp.asarray(np.random.default_rng(0).normal(size=(9, 2)))
        # The values of the padding do not matter.
        padded = scheme_towards(target.at[5:].set(1e6), jnp.where(jnp.arange(9) < 5, 0.2, 0.0))
        scheme, axes = swjko.stack_flows([padded, scheme_towards(target, jnp.full(9, 1 / 9))])
        states, _ = swjko.run_many(keys_of(2), scheme, 3, axes=axes)
        state, _ = singles(keys_of(2)[:1], [scheme_towards(target[:5], jnp.full(5, 0.2))], 3)
        np.testing.assert_allclose(states.params[0], state.params[0], rtol=1e-12, atol=1e-12)
    assert not np.any(states.result)


def test_sharded_trees_are_on_all_devices():
    mesh = swjko.flow_mesh()
    values = jnp.arange(32.0).reshape(16, 2)
    tree = swjko.shard_flows({"keys": keys_of(16), "values": values}, mesh)
    assert {shard.data.shape for shard in tree["values"].addressable_shards} == {(2, 2)}
    assert len(tree["keys"].sharding.device_set) == 8
    np.testing.assert_array_equal(tree["values"], values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = swjko.run_many(tree["keys"], particle_scheme(), 2, mesh=mesh)
    assert_same(found, swjko.run_many(keys_of(16), particle_scheme(), 2))


SIZES = dataclasses.replace(particle_scheme(), step_size=jnp.ones(4))
FOUR, FOUR_AXES = swjko.stack_flows(varied())
CENTERS = [particle_scheme(), particle_scheme(center=[0.0, 1.0])]
MISTAKES = [
    ("axes must say which leaves", lambda: swjko.run_many(keys_of(), SIZES, 1)),
    (
        r"scheme\.log_prob.* must have a leading axis of 3 flows.*got shape \(4,\)",
        lambda: swjko.run_many(keys_of(3), FOUR, 1, axes=FOUR_AXES),
    ),
    (
        "schemes must differ only in leaves; got schemes that differ in their type",
        lambda: swjko.stack_flows([particle_scheme(), jko_scheme()]),
    ),
    (
        "differ in num_samples",
        lambda: swjko.stack_flows([jko_scheme(), jko_scheme(num_samples=17)]),
    ),
    (r"\.log_prob.*Pad clouds", lambda: swjko.stack_flows(CENTERS)),
    (
        "multiple of 8 flows.*got 6. Pad it by 2",
        lambda: swjko.shard_flows(keys_of(6), swjko.flow_mesh()),
    ),
    (
        "leading lengths",
        lambda: swjko.shard_flows((keys_of(8), jnp.ones(16)), swjko.flow_mesh()),
    ),
    (
        "projection_devices must divide the number of devices, 8; got 3",
        lambda: swjko.flow_mesh(projection_devices=3),
    ),
]


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(("message", "call"), MISTAKES)
def test_mistakes_are_explained(message, call):
    with pytest.raises(ValueError, match=message):
        call()
