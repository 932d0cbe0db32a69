"""``run_many``: many flows equal single ones, one that fails touches no other, and a mesh of devices changes nothing."""

import dataclasses
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial
from scipy.special import softmax

import swjko
from swjko.checkpoints import read_history
from swjko.checkpoints import store as checkpoints
from swjko.running import compiled as programs
from swjko.running import ensemble, progress
from swjko.running.batching import laid_out

COLLECTIVES = (
    r"all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter"
)
OPTIMIZER = optax.adam(1e-2)
SGD = optax.sgd(0.1)


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    """Nearly all of the time here is compilation, and nothing here is about speed."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def towards(center, x):
    return -jnp.sum((x - center) ** 2) / 2


def jko_scheme(step_size=0.1, center=0.0, init_mean=1.0, **options):
    defaults = {"num_inner_steps": 2, "num_samples": 16, "num_projections": 4}
    energy = swjko.kl_divergence(Partial(towards, jnp.asarray(center)))
    return swjko.sw_jko(
        swjko.gaussian(2, init_mean=init_mean),
        energy,
        OPTIMIZER,
        step_size=step_size,
        **(defaults | options),
    )


def particle_scheme(step_size=0.1, center=0.0):
    """Compiles in a fraction of the time."""
    return swjko.langevin(
        jnp.linspace(-1.0, 1.0, 12).reshape(6, 2),
        Partial(towards, jnp.asarray(center)),
        step_size=step_size,
    )


def varied(make=particle_scheme, num=4):
    return [make(step_size=0.05 * (1 + index), center=0.5 * index) for index in range(num)]


def split(num=4):
    return jax.random.split(jax.random.key(0), num)


def singles(keys, schemes, num_steps):
    """One at a time, by a program that is compiled once; the results stacked on the host."""

    @jax.jit
    def single(key, scheme):
        init_key, run_key = jax.random.split(key)
        return swjko.run(run_key, scheme, scheme.init(init_key), num_steps, swjko.infos)

    return stacked([single(key, scheme) for key, scheme in zip(keys, schemes, strict=True)])


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def assert_close(found, expected, tolerance):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def assert_same(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_keys_step_sizes_targets_and_starts_as_single_runs():
    with jax.enable_x64(True):
        schemes = [jko_scheme(0.05 * (1 + index), 0.5 * index, 1.0 - index) for index in range(3)]
        scheme, axes = swjko.stack_flows(schemes)
        expected = singles(split(3), schemes, 3)
        for batch_size in (None, 3):
            found = swjko.run_many(split(3), scheme, 3, axes=axes, batch_size=batch_size)
            assert found[1].energy.shape == (3, 3)
            assert not np.any(found[0].result)
            assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_batches_change_nothing(batch_size):
    scheme, axes = swjko.stack_flows(varied(num=5))
    expected = swjko.run_many(split(5), scheme, 2, axes=axes)
    assert_close(
        swjko.run_many(split(5), scheme, 2, axes=axes, batch_size=batch_size), expected, 1e-6
    )


def test_a_flow_is_what_solve_runs():
    schemes = varied()
    scheme, axes = swjko.stack_flows(schemes)
    states, recorded = swjko.run_many(split(), scheme, 3, axes=axes, record=swjko.both)
    solutions = [
        swjko.solve(key, one, 3, progress=False, record=swjko.both)
        for key, one in zip(split(), schemes, strict=True)
    ]
    assert_close(states, stacked([solution.state for solution in solutions]), 1e-5)
    assert_close(recorded, stacked([solution.history for solution in solutions]), 1e-5)


def test_axes_may_be_written_by_hand():
    # A scheme of None and 0, a prefix of it, and keys of the old kind.
    sizes = jnp.asarray([0.05, 0.1])
    scheme = dataclasses.replace(particle_scheme(), step_size=sizes)
    axes = dataclasses.replace(jax.tree.map(lambda leaf: None, scheme), step_size=0)
    by_hand = swjko.run_many(split(2), scheme, 2, axes=axes)
    assert_close(by_hand, singles(split(2), [particle_scheme(0.05), particle_scheme(0.1)], 2), 1e-5)
    whole = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), particle_scheme(0.05), particle_scheme(0.1)
    )
    assert_same(swjko.run_many(split(2), whole, 2, axes=0), by_hand)
    assert_same(swjko.run_many(jax.random.key_data(split(2)), scheme, 2, axes=axes), by_hand)


def test_stacking_keeps_equal_leaves_once():
    scheme, axes = swjko.stack_flows([particle_scheme(size) for size in (0.1, 0.2)])
    assert scheme.step_size.shape == (2,)
    assert scheme.family.init.args[0].shape == (6, 2)
    assert jax.tree.leaves(axes) == [0]
    same, axes = swjko.stack_flows([particle_scheme()] * 3)
    assert jax.tree.leaves(axes) == []
    assert swjko.run_many(split(3), same, 1, axes=axes)[0].params.shape == (3, 6, 2)


@pytest.mark.parametrize(
    ("make", "batch_size"), [(particle_scheme, None), (particle_scheme, 4), (jko_scheme, 4)]
)
@pytest.mark.parametrize("leaf", ["step_size", "center"])
def test_a_failed_flow_stands_still_and_touches_no_other(make, batch_size, leaf):
    schemes = varied(make)
    good, axes = swjko.stack_flows(schemes)
    if leaf == "step_size":
        bad = dataclasses.replace(good, step_size=good.step_size.at[1].set(jnp.nan))
    else:
        field = "log_prob" if make is particle_scheme else "functional"
        function = getattr(good, field)
        bad = dataclasses.replace(
            good,
            **{
                field: jax.tree.map(
                    lambda value: value.at[1].set(jnp.nan) if value.ndim else value, function
                )
            },
        )
    states, infos = swjko.run_many(split(), bad, 3, axes=axes, batch_size=batch_size)
    expected_states, expected_infos = swjko.run_many(
        split(), good, 3, axes=axes, batch_size=batch_size
    )
    np.testing.assert_array_equal(states.result, [0, swjko.Result.NON_FINITE, 0, 0])
    np.testing.assert_array_equal(infos.result[1], 3 * [swjko.Result.NON_FINITE])
    np.testing.assert_array_equal(states.step, [3, 0, 3, 3])
    others = np.asarray([0, 2, 3])
    for found, expected in ((states, expected_states), (infos, expected_infos)):
        assert_same(
            *(
                jax.tree.map(lambda value: np.asarray(value)[others], tree)
                for tree in (found, expected)
            )
        )
    start = schemes[1].init(split()[1]).params
    assert_same(jax.tree.map(lambda value: value[1], states.params), start)


def test_a_step_size_far_too_large_is_told_for_its_flow_alone():
    scheme, axes = swjko.stack_flows([particle_scheme(size) for size in (0.1, 40.0)])
    states, _ = swjko.run_many(split(2), scheme, 4, axes=axes)
    np.testing.assert_array_equal(states.result, [swjko.Result.OK, swjko.Result.DIVERGED])
    assert np.all(np.isfinite(states.params))


@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_devices_change_nothing(num_devices):
    with jax.enable_x64(True):
        scheme, axes = swjko.stack_flows(varied(num=8))
        expected = swjko.run_many(split(8), scheme, 3, axes=axes)
        mesh = swjko.flow_mesh(jax.devices()[:num_devices])
        found = swjko.run_many(split(8), scheme, 3, axes=axes, mesh=mesh)
    assert len(found[0].params.sharding.device_set) == num_devices
    assert_close(found, expected, 1e-12)


def compiled_text(keys, scheme, axes, mesh, batch_size=1):
    return compiled(keys, scheme, axes, mesh, batch_size).as_text()


def compiled(keys, scheme, axes, mesh, batch_size):
    keys, scheme, layout = laid_out(keys, scheme, axes, mesh, batch_size)
    return ensemble._run_flows.lower(
        keys, scheme, layout=layout, num_steps=3, record=swjko.infos
    ).compile()


def test_flows_on_devices_exchange_nothing():
    mesh = swjko.flow_mesh()
    scheme, axes = swjko.stack_flows(varied(jko_scheme, 16))
    text = compiled_text(split(16), scheme, axes, mesh, batch_size=2)
    assert not re.findall(COLLECTIVES, text)
    assert " sort(" in text


def test_loops_that_data_end_exchange_nothing_either():
    # Under a vmap over all devices, whether to go on would be asked of all of them at each turn.
    scheme = swjko.adaptive(jko_scheme(num_inner_steps=1), min_step_size=0.01, max_step_size=1.0)
    assert not re.findall(
        COLLECTIVES, compiled_text(split(16), scheme, None, swjko.flow_mesh(), batch_size=2)
    )


def test_flows_and_directions_on_a_mesh_of_two_axes():
    mesh = swjko.flow_mesh(jax.devices()[:4], projection_devices=2)
    assert dict(mesh.shape) == {"flow": 2, "projection": 2}
    with jax.enable_x64(True):
        points, target = (
            jnp.asarray(np.random.default_rng(seed).normal(size=(16, 2))) for seed in (0, 1)
        )
        plain = swjko.sliced_flow(points, target, step_size=0.5, num_projections=4)
        sharded = dataclasses.replace(
            plain,
            direction_fn=swjko.sharded_directions(swjko.uniform_directions, mesh, "projection"),
        )
        expected = swjko.run_many(split(2), plain, 3)
        found = swjko.run_many(split(2), sharded, 3, mesh=mesh)
        text = compiled_text(split(2), sharded, None, mesh)
    assert_close(found, expected, 1e-12)
    # Each device sorts two of the four directions of its one flow, and the sums are over pairs of devices.
    sorts = set(re.findall(r"f64\[([\d,]+),16\]\S* (?:\S+ )?sort\(", text))
    assert sorts == {"2"}
    groups = set(re.findall(r"replica_groups=(\S+?),? ", text))
    assert "all-reduce" in text
    assert groups <= {"{{0,1},{2,3}}", "[2,2]<=[4]"}


def test_padding_is_told_and_cut_off():
    scheme, axes = swjko.stack_flows(varied(num=5))
    expected = swjko.run_many(split(5), scheme, 2, axes=axes)
    with pytest.warns(
        UserWarning, match=r"flows, 5, is no multiple of 4, .*: 3 more are run and cut off"
    ):
        found = swjko.run_many(
            split(5), scheme, 2, axes=axes, mesh=swjko.flow_mesh(jax.devices()[:4])
        )
    assert found[1].energy.shape == (5, 2)
    assert_close(found, expected, 1e-6)
    with pytest.warns(UserWarning, match="flows, 1, is no multiple of 4"):
        one = swjko.run_many(
            split(1), particle_scheme(), 2, mesh=swjko.flow_mesh(jax.devices()[:4])
        )
    assert one[0].params.shape == (1, 6, 2)


def test_one_compilation_for_all_values():
    scheme, axes = swjko.stack_flows(varied(num=3))
    swjko.run_many(split(3), scheme, 2, axes=axes)
    before = ensemble._run_flows._cache_size()
    for index in range(4):
        swjko.run_many(
            split(4)[1:],
            dataclasses.replace(scheme, step_size=scheme.step_size * index),
            2,
            axes=axes,
        )
    assert ensemble._run_flows._cache_size() == before


def solved(keys, scheme, num_steps=4, **options):
    return swjko.solve(keys, scheme, num_steps, **({"progress": False, "chunk_size": 2} | options))


@pytest.mark.parametrize(
    ("make", "batch_size"), [(particle_scheme, None), (particle_scheme, 3), (jko_scheme, None)]
)
def test_solve_of_many_is_run_many_in_chunks(make, batch_size):
    scheme, axes = swjko.stack_flows(varied(make))
    expected = swjko.run_many(
        split(), scheme, 4, axes=axes, batch_size=batch_size, record=swjko.both
    )
    found = solved(split(), scheme, axes=axes, batch_size=batch_size, record=swjko.both)
    assert_same((found.state, found.history), expected)
    assert found.result is swjko.Result.OK
    np.testing.assert_array_equal(found.stopped, 4 * [False])


def test_solve_of_many_on_a_mesh_pads_and_cuts():
    scheme, axes = swjko.stack_flows(varied(num=5))
    with pytest.warns(
        UserWarning, match=r"flows, 5, is no multiple of 4, .*: 3 more are run and cut off"
    ):
        found = solved(
            split(5), scheme, axes=axes, mesh=swjko.flow_mesh(jax.devices()[:4]), record=swjko.both
        )
    assert found.state.params.shape == (5, 6, 2)
    assert_same(
        (found.state, found.history),
        swjko.run_many(split(5), scheme, 4, axes=axes, record=swjko.both),
    )


def hurt(flows, num=4):
    """Schemes of which these have no number for a step size."""
    scheme, axes = swjko.stack_flows(varied(num=num))
    return dataclasses.replace(
        scheme, step_size=scheme.step_size.at[jnp.asarray(flows)].set(jnp.nan)
    ), axes


def test_failed_flows_are_named_when_all_have_ended():
    scheme, axes = hurt([1, 3])
    expected = solved(split(), swjko.stack_flows(varied())[0], axes=axes)
    with pytest.raises(
        swjko.FlowError,
        match=r"^2 of 4 flows stopped: flow 1 after step 0 with NON_FINITE, flow 3 after .*lower",
    ) as caught:
        solved(split(), scheme, axes=axes)
    solution = caught.value.solution
    assert solution.result is swjko.Result.NON_FINITE
    np.testing.assert_array_equal(solution.state.result, [0, 2, 0, 2])
    np.testing.assert_array_equal(solution.state.step, [4, 0, 4, 0])
    good = np.asarray([0, 2])
    for name in ("state", "history"):
        assert_same(
            *(
                jax.tree.map(lambda leaf: np.asarray(leaf)[good], getattr(one, name))
                for one in (solution, expected)
            )
        )
    with pytest.raises(
        swjko.FlowError, match=r"10 of 12 .* flow 9 after step 0 with NON_FINITE and 2 more\."
    ):
        solved(split(12), hurt(list(range(2, 12)), 12)[0], axes=axes)


def test_a_run_of_many_ends_when_all_have_failed():
    scheme, axes = hurt([0, 1, 2, 3])
    assert solved(split(), scheme, 50, axes=axes, throw=False).history.energy.shape == (4, 2)


def test_progress_of_many_tells_mean_energy_and_how_many_are_ok(capsys, monkeypatch):
    scheme, axes = hurt([2])
    monkeypatch.setattr(progress, "_rich_bar", lambda: None)
    solution = solved(split(), scheme, axes=axes, throw=False, progress=True)
    mean = np.mean(np.delete(solution.history.energy[:, -1], 2), dtype=np.float64)
    assert (
        f"step 4/4, t = 0.467, mean energy {mean:.5g}, 3 of 4 flows ok" in capsys.readouterr().err
    )
    solved(split(), hurt([0, 1, 2, 3])[0], axes=axes, throw=False, progress=True)
    assert "step 2/4, 0 of 4 flows ok" in capsys.readouterr().err


class Cut(Exception):
    pass


@pytest.mark.parametrize("num", [4, 3])
def test_many_flows_go_on_bit_for_bit(num, tmp_path, monkeypatch):
    """num 3 is padded on the mesh of four devices."""
    scheme, axes = swjko.stack_flows(varied(num=num))
    options = {
        "axes": axes,
        "record": swjko.both,
        "checkpoint_dir": tmp_path,
        "checkpoint_steps": 2,
    }

    def append(self, *arguments, real=checkpoints.Store.append):
        real(self, *arguments)
        if arguments[0] > 2:
            raise Cut

    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if num == 3 else "error")
        mesh = swjko.flow_mesh(jax.devices()[:4])
        whole = solved(split(num), scheme, axes=axes, record=swjko.both, mesh=mesh)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints.Store, "append", append)
            with pytest.raises(Cut):
                solved(split(num), scheme, mesh=mesh, **options)
        resumed = solved(split(num), scheme, mesh=mesh, **options)
    assert_same((resumed.state, resumed.history), (whole.state, whole.history))
    lines = read_history(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    np.testing.assert_array_equal(
        np.asarray([line["energy"] for line in lines], whole.history[1].energy.dtype),
        whole.history[1].energy.T,
    )
    # It may be read on one device as well, but not as other flows.
    assert_same(solved(split(num), scheme, **options).state, whole.state)
    with pytest.raises(
        swjko.CheckpointError, match=r"holds another run \(key: .*Nothing was changed"
    ):
        solved(jax.random.split(jax.random.key(1), num), scheme, **options)


@pytest.mark.parametrize("how", ["run_many", "run_many in a batch", "solve", "solve of many"])
def test_one_trace_over_a_hundred_calls(how):
    traces = []

    def counted(center, x):
        traces.append(None)
        return towards(center, x)

    def make(index):
        return dataclasses.replace(
            plain,
            step_size=jnp.asarray(0.01 * (1 + index)),
            log_prob=Partial(counted, jnp.asarray(0.1 * index)),
        )

    plain = swjko.langevin(jnp.ones((3, 2)), Partial(counted, jnp.zeros(())), step_size=0.1)
    counts = set()
    for index in range(100):
        keys = jax.random.split(jax.random.key(index), 2)
        if how == "solve":
            solved(keys[0], make(index), 4)
        elif how == "solve of many":
            solved(keys, make(index), 4)
        else:
            swjko.run_many(keys, make(index), 4, batch_size=2 if "batch" in how else 1)
        counts.add(len(traces))
    assert len(counts) == 1


def constants(text):
    """Bytes of each constant in a lowered program that is not one number over and over."""
    found = re.findall(r"dense(?:_resource)?<(\[|\"|__)[^:]*: tensor<(\d[\dx]*)x(\w+?)>", text)
    return [
        int(np.prod([int(size) for size in shape.split("x")])) * int(re.sub(r"\D", "", kind)) // 8
        for _, shape, kind in found
    ]


def test_constants_are_seen():
    table = np.arange(600.0, dtype=np.float32)
    assert constants(jax.jit(lambda x: x + table).lower(table).as_text()) == [2400]
    assert (
        constants(
            jax.jit(lambda x: x + jnp.ones(600) + np.arange(3, dtype=np.int32)[0])
            .lower(table)
            .as_text()
        )
        == []
    )


@pytest.mark.parametrize("guarded", [False, True])
def test_no_data_in_the_programs(guarded):
    target = jnp.asarray(np.random.default_rng(0).normal(size=(500, 2)), jnp.float32)

    def make(size):
        energy = swjko.weighted_sum(
            (1.0, swjko.sw_to_target(target * size, 8)),
            (0.1, swjko.kl_divergence(Partial(towards, target[0]))),
        )
        scheme = swjko.sw_jko(
            swjko.gaussian(2),
            energy,
            OPTIMIZER,
            step_size=size,
            num_inner_steps=2,
            num_samples=500,
            num_projections=8,
        )
        return swjko.guarded(scheme) if guarded else scheme

    scheme, axes = swjko.stack_flows([make(0.1), make(0.2)])
    keys, scheme, layout = laid_out(split(2), scheme, axes, None, None)
    chunks = programs.Chunks(keys, scheme, swjko.infos, layout)
    state = jax.eval_shape(chunks.start)
    static = {"num_steps": 3, "record": swjko.infos, "layout": layout}
    for lowered in (
        ensemble._run_flows.lower(keys, scheme, **static),
        programs._run.lower(keys, scheme, state, **static),
        programs._start.lower(keys, scheme, layout=layout),
        programs._run.lower(
            split(1)[0], make(0.1), make(0.1).init(split(1)[0]), **(static | {"layout": None})
        ),
    ):
        assert max(constants(lowered.as_text()), default=0) <= 1024


@pytest.mark.parametrize("batch_size", [1, pytest.param(8, marks=pytest.mark.slow), None])
def test_memory_is_linear_in_the_flows(batch_size):
    """256 flows of 256 points and 64 directions."""
    scheme = jko_scheme(num_samples=256, num_projections=64)
    sizes = {
        num: compiled(split(num), scheme, None, None, batch_size or num).memory_analysis()
        for num in (64, 256)
    }
    temporary, total = (
        {
            num: size.temp_size_in_bytes
            + whole * (size.output_size_in_bytes + size.argument_size_in_bytes)
            for num, size in sizes.items()
        }
        for whole in (False, True)
    )
    assert temporary[64] > 256 * 64 * 4
    assert total[256] <= 4.1 * total[64]
    if batch_size is None:
        # No more than ten numbers for each of its own projections, and as much again for what else there is.
        assert temporary[256] <= 256 * 20 * 256 * 64 * jnp.zeros(()).nbytes
    else:
        # Flows that take turns share their temporaries.
        assert temporary[256] - temporary[64] <= 192 * 1024


def on_grid(num, size):
    """``num`` weighted points, then padding of weight zero up to ``size``."""
    points = np.random.default_rng(num).normal(size=(size, 2))
    weights = np.where(np.arange(size) < num, 1.0 / num, 0.0)
    family = swjko.grid(jnp.asarray(points), 1.0, weights=jnp.asarray(weights))
    energy = swjko.kl_divergence(Partial(towards, jnp.zeros(())))
    options = {"step_size": 0.1, "num_inner_steps": 2, "num_samples": size, "num_projections": 4}
    return swjko.sw_jko(family, energy, SGD, **options)


def test_clouds_padded_with_zero_weights_are_single_runs_without_padding():
    num, size = 7, 16
    with jax.enable_x64(True):
        padded = [on_grid(num, size), on_grid(size, size)]
        points = padded[0].family.latent.args[0][:num]
        alone = dataclasses.replace(
            padded[0],
            family=swjko.grid(points, 1.0, weights=jnp.full(num, 1.0 / num)),
            num_samples=num,
        )
        scheme, axes = swjko.stack_flows(padded)
        states, infos = swjko.run_many(split(2), scheme, 3, axes=axes)
        state, info = singles(split(2)[:1], [alone], 3)
    weights = softmax(states.params[0])
    np.testing.assert_allclose(weights[:num], softmax(state.params[0]), rtol=1e-11)
    assert np.all(weights[num:] < 1e-300)
    np.testing.assert_allclose(infos.objective[0], info.objective[0], rtol=1e-11)


def to_weighted_sample(target, weights, key, cloud):
    directions = swjko.uniform_directions(key, 4, 2)
    return 0.5 * swjko.sliced_wasserstein_pow(cloud.points, target, directions, y_weights=weights)


def test_targets_padded_with_zero_weights_are_single_runs_without_padding():
    def scheme_towards(target, weights):
        options = {"step_size": 0.5, "num_inner_steps": 2, "num_samples": 16, "num_projections": 4}
        return swjko.sw_jko(family, Partial(to_weighted_sample, target, weights), SGD, **options)

    with jax.enable_x64(True):
        family = swjko.particles(jnp.linspace(-1.0, 1.0, 32).reshape(16, 2))
        target = jnp.asarray(np.random.default_rng(0).normal(size=(9, 2)))
        # What stands at the padding does not matter.
        padded = scheme_towards(target.at[5:].set(1e6), jnp.where(jnp.arange(9) < 5, 0.2, 0.0))
        scheme, axes = swjko.stack_flows([padded, scheme_towards(target, jnp.full(9, 1 / 9))])
        states, _ = swjko.run_many(split(2), scheme, 3, axes=axes)
        state, _ = singles(split(2)[:1], [scheme_towards(target[:5], jnp.full(5, 0.2))], 3)
        np.testing.assert_allclose(states.params[0], state.params[0], rtol=1e-12, atol=1e-12)
    assert not np.any(states.result)


def test_sharded_trees_lie_on_all_devices():
    mesh = swjko.flow_mesh()
    tree = swjko.shard_flows({"keys": split(16), "values": jnp.arange(32.0).reshape(16, 2)}, mesh)
    assert {shard.data.shape for shard in tree["values"].addressable_shards} == {(2, 2)}
    assert len(tree["keys"].sharding.device_set) == 8
    np.testing.assert_array_equal(tree["values"], np.arange(32.0).reshape(16, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(
            swjko.run_many(tree["keys"], particle_scheme(), 2, mesh=mesh),
            swjko.run_many(split(16), particle_scheme(), 2),
        )


FOUR, FOUR_AXES = swjko.stack_flows(varied(num=4))


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: swjko.run_many(
                split(), dataclasses.replace(particle_scheme(), step_size=jnp.ones(4)), 1
            ),
            "axes must say which leaves",
        ),
        (
            lambda: swjko.run_many(split(3), FOUR, 1, axes=FOUR_AXES),
            r"scheme\.log_prob.* must have a leading axis of 3 flows.*received shape \(4,\)",
        ),
        (
            lambda: swjko.stack_flows([particle_scheme(), jko_scheme()]),
            "schemes must differ in leaves alone; these differ in their kind",
        ),
        (
            lambda: swjko.stack_flows([jko_scheme(), jko_scheme(num_samples=17)]),
            "these differ in num_samples",
        ),
        (
            lambda: swjko.stack_flows([particle_scheme(), particle_scheme(center=[0.0, 1.0])]),
            r"\.log_prob.*Pad clouds",
        ),
        (
            lambda: swjko.shard_flows(split(6), swjko.flow_mesh()),
            "multiple of 8 flows.*received 6. Pad it by 2",
        ),
        (lambda: swjko.shard_flows((split(8), jnp.ones(16)), swjko.flow_mesh()), "leading lengths"),
        (
            lambda: swjko.flow_mesh(projection_devices=3),
            "projection_devices must divide the number of devices, 8; received 3",
        ),
    ],
)
def test_what_does_not_fit_is_told_with_its_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
