"""Runs that go on: longer ones, given states, new data, callbacks, saved runs that are read."""

import itertools
import logging
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import swjko
from swjko.checkpoints.store import Store
from swjko.running import compiled

POINTS = np.linspace(-1.0, 1.0, 8, dtype=np.float32).reshape(4, 2)
TARGET = POINTS + 1.0
FLOW = {"step_size": 0.1, "num_projections": 3}
LANGEVIN = swjko.langevin(jnp.asarray(POINTS), jnp.sum, step_size=0.1)


def solved(scheme=LANGEVIN, num_steps=6, key=0, **options):
    options = {"chunk_size": 2, "progress": False} | options
    return swjko.solve(jax.random.key(key), scheme, num_steps, **options)


def gaussian_scheme():
    sizes = {"step_size": 0.1, "num_inner_steps": 2, "num_samples": 8, "num_projections": 2}
    energy = swjko.kl_divergence(lambda x: -jnp.sum(x**2) / 2)
    return swjko.sw_jko(swjko.gaussian(2), energy, optax.adam(1e-2), **sizes)


def assert_equal(one, other):
    chex.assert_trees_all_equal((one.state, one.history), (other.state, other.history))


# Longer runs.


@pytest.mark.parametrize("record", ["infos", "trajectory"])
def test_a_finished_run_is_extended_bit_for_bit(record, tmp_path):
    for num_steps, chunk_size in ((3, 2), (5, None), (9, 4)):
        options = {"record": record, "chunk_size": chunk_size}
        found = solved(num_steps=num_steps, checkpoint_dir=tmp_path, **options)
        assert_equal(found, solved(num_steps=num_steps, record=record))
    assert len(swjko.checkpoints.read_history(tmp_path)) == 9
    assert swjko.load(tmp_path).configuration["num_steps"] == "9"


def test_many_flows_are_extended(tmp_path):
    keys = jax.random.split(jax.random.key(0), 3)
    options = {"progress": False, "chunk_size": 2}
    swjko.solve(keys, LANGEVIN, 2, checkpoint_dir=tmp_path, **options)
    found = swjko.solve(keys, LANGEVIN, 6, checkpoint_dir=tmp_path, **options)
    assert_equal(found, swjko.solve(keys, LANGEVIN, 6, **options))
    saved = swjko.load(tmp_path)
    assert_equal(saved, found)
    assert saved.history.energy.shape == (3, 6)


def test_a_shorter_run_is_refused(tmp_path):
    solved(checkpoint_dir=tmp_path)
    message = r"holds a run of 6 steps; got num_steps=4\. Pass num_steps=6 or more"
    with pytest.raises(swjko.CheckpointError, match=message):
        solved(num_steps=4, checkpoint_dir=tmp_path)


def test_a_given_state_continues_its_run_bit_for_bit(tmp_path):
    whole, first = solved(num_steps=7), solved(num_steps=3)
    found = solved(num_steps=4, state=first.state, checkpoint_dir=tmp_path)
    chex.assert_trees_all_equal(found.state, whole.state)
    np.testing.assert_array_equal(found.history.energy, whole.history.energy[3:])
    # It resumes from its own start, and not from another.
    assert_equal(solved(num_steps=4, state=first.state, checkpoint_dir=tmp_path), found)
    with pytest.raises(swjko.CheckpointError, match=r"start\.params: float32"):
        solved(num_steps=4, state=whole.state, checkpoint_dir=tmp_path)
    stopped = first.state._replace(result=first.state.result + swjko.Result.STOPPED)
    chex.assert_trees_all_equal(solved(num_steps=4, state=stopped).state, whole.state)


def test_many_flows_start_at_their_states():
    keys = jax.random.split(jax.random.key(0), 3)
    mesh = swjko.flow_mesh(jax.devices()[:3])
    options = {"progress": False, "mesh": mesh}
    first = swjko.solve(keys, LANGEVIN, 2, **options)
    found = swjko.solve(keys, LANGEVIN, 2, state=first.state, **options)
    whole = swjko.solve(keys, LANGEVIN, 4, **options)
    chex.assert_trees_all_equal(found.state, whole.state)


BAD_STATES = {
    "another family": (
        lambda: gaussian_scheme().init(jax.random.key(0)),
        r"differs at state\.params, where it is missing|differs at state\.params\..*has none",
    ),
    "another size": (
        lambda: swjko.langevin(jnp.ones((5, 2)), jnp.sum, step_size=0.1).init(jax.random.key(0)),
        r"got float32\[5, 2\] for state\.params, which is float32\[4, 2\]",
    ),
    "another dtype": (
        lambda: LANGEVIN.init(jax.random.key(0))._replace(params=np.zeros((4, 2), np.float16)),
        r"got float16\[4, 2\] for state\.params",
    ),
    "no array": (
        lambda: LANGEVIN.init(jax.random.key(0))._replace(time=0.5),
        r"got 0\.5 for state\.time",
    ),
    "points": (lambda: POINTS, r"differs at state"),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_the_state_of_another_scheme_is_refused(name):
    make, message = BAD_STATES[name]
    with pytest.raises(ValueError, match=f"state must .*{message}"):
        solved(state=make())


# Reading a directory.


@pytest.mark.slow
def test_a_run_is_read_without_its_scheme(tmp_path):
    scheme = gaussian_scheme()
    solution = solved(scheme, 3, checkpoint_dir=tmp_path, record="trajectory")
    saved = swjko.load(tmp_path)
    assert saved.step == 3
    assert set(saved.state.params) == {"mean", "log_diagonal", "lower"}
    assert isinstance(saved.state.params["mean"], np.ndarray)
    assert_equal(saved._replace(history=tuple(saved.history)), solution)
    assert "0.1" in saved.configuration["scheme.step_size"]
    assert saved.configuration["version of jax"] == jax.__version__
    more = solved(scheme, 2, state=saved.state)
    chex.assert_trees_all_equal(more.state, solved(scheme, 5).state)


@pytest.mark.slow
def test_the_state_of_an_adaptive_run_is_read(tmp_path):
    scheme = swjko.adaptive(gaussian_scheme(), min_step_size=1e-2, max_step_size=1.0)
    solution = solved(scheme, 2, checkpoint_dir=tmp_path)
    saved = swjko.load(tmp_path)
    assert saved.state.extra == solution.state.extra._asdict()
    chex.assert_trees_all_equal(solved(scheme, 2, state=saved.state).state, solved(scheme, 4).state)


def test_the_newest_intact_checkpoint_is_read(tmp_path):
    solved(checkpoint_dir=tmp_path, checkpoint_steps=2)
    newest = tmp_path / f"step-{6:010d}.ckpt"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert swjko.load(tmp_path).step == 4
    assert newest.exists()


def test_a_directory_of_something_else_cannot_be_read(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(swjko.CheckpointError, match=r"directory must be .*holds no checkpoint"):
        swjko.load(tmp_path)
    (tmp_path / f"step-{6:010d}.ckpt").write_text("mine too")
    with pytest.raises(swjko.CheckpointError, match="does not start like a checkpoint"):
        swjko.load(tmp_path)
    with pytest.raises(swjko.CheckpointError, match=r"cannot read .*No such file"):
        swjko.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["version of swjko", "version of jax"])
def test_another_patch_version_warns_and_goes_on(name, tmp_path, monkeypatch):
    solved(num_steps=2, checkpoint_dir=tmp_path)
    module = "swjko.checkpoints.fingerprint"
    place = f"{module}.__version__" if name == "version of swjko" else "jax.__version__"
    saved = swjko.load(tmp_path).configuration[name]
    other = f"{saved.rpartition('.')[0]}.99"
    said = f"{name}: {saved} saved, {other} now, after step 2"
    with monkeypatch.context() as patch:
        patch.setattr(place, other)
        with pytest.warns(RuntimeWarning, match=re.escape(said)):
            found = solved(num_steps=4, checkpoint_dir=tmp_path)
        assert_equal(found, solved(num_steps=4))
        assert swjko.load(tmp_path).configuration["resumed"] == said
        solved(num_steps=5, checkpoint_dir=tmp_path)
        assert swjko.load(tmp_path).configuration["resumed"] == said
        patch.setattr(place, "99.0")
        with pytest.raises(swjko.CheckpointError, match=rf"{name}: .* saved, 99\.0 now"):
            solved(num_steps=6, checkpoint_dir=tmp_path)


# Between chunks.


def test_the_callback_sees_steps_states_and_reports():
    calls = []
    whole = solved(num_steps=5, callback=lambda *call: calls.append(call), record="trajectory")
    assert [step for step, _, _ in calls] == [2, 4, 5]
    for step, state, infos in calls:
        assert int(state.step) == step
        params = whole.history[0].params[step - 1]
        np.testing.assert_array_equal(state.params, params)
        last = whole.history[1].energy[:step][-len(infos.energy) :]
        np.testing.assert_array_equal(infos.energy, last)
    keys = jax.random.split(jax.random.key(0), 3)
    swjko.solve(keys, LANGEVIN, 2, progress=False, callback=lambda *call: calls.append(call))
    assert calls[-1][2].energy.shape == (3, 1)


def test_a_callback_that_raises_saves_the_state(tmp_path):
    def callback(step, state, infos):
        if step == 4:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        solved(checkpoint_dir=tmp_path, callback=callback)
    assert swjko.load(tmp_path).step == 4
    assert_equal(solved(checkpoint_dir=tmp_path), solved())


def test_progress_may_be_a_function(monkeypatch):
    lines = []
    solution = solved(num_steps=4, progress=lines.append, record=lambda state, info: info)
    energy = f"{solution.history.energy[-1]:.5g}"
    assert lines[0] == "compiling (once for each shape) ..."
    assert lines[1].startswith("2/4 JKO steps: t = 0.2, energy ")
    assert lines[2] == f"4/4 JKO steps: t = 0.4, energy {energy}"
    # Nothing is compiled for an equal run.
    solved(num_steps=4, progress=lines.append)
    solved(num_steps=4, progress=lines.append)
    assert lines[-2].startswith("2/4")
    assert lines[-3].startswith("4/4")

    def start(self):
        raise KeyError("start")

    # The line comes before anything is compiled.
    monkeypatch.setattr(compiled.ChunkRunner, "start", start)
    with pytest.raises(KeyError, match="start"):
        solved(num_steps=4, progress=lines.append, record=lambda state, info: info)
    assert lines[-1] == lines[0]


def test_lines_go_to_a_log_that_shows_them(caplog, capsys):
    with caplog.at_level(logging.INFO, "swjko"):
        solved(num_steps=2, progress=True)
    assert caplog.messages[-1].startswith("2/2 JKO steps: t = 0.2")
    assert capsys.readouterr().err == ""


# Data.


def sliced(target=TARGET):
    return swjko.sliced_flow(jnp.asarray(POINTS), jnp.asarray(target), **FLOW)


def batches(scale=1.0):
    return (TARGET * scale * (1 + number) for number in itertools.count())


def fed(num_steps=6, data=None, scheme=None, **options):
    scheme = sliced() if scheme is None else scheme
    return solved(scheme, num_steps, data=batches() if data is None else data, **options)


def test_each_chunk_meets_its_batch():
    state = None
    for _, batch in zip(range(3), batches(), strict=False):
        state = solved(sliced(batch), 2, state=state).state
    chex.assert_trees_all_equal(fed().state, state)
    missed = solved(sliced(), 6)
    assert not np.allclose(missed.state.params, state.params)


def test_new_data_do_not_compile_again():
    fed()
    before = compiled.advance_flows._cache_size(), compiled._compile.cache_info().misses
    fed(20, data=batches(0.5))
    assert (compiled.advance_flows._cache_size(), compiled._compile.cache_info().misses) == before


def test_a_run_with_data_resumes_and_is_extended_bit_for_bit(tmp_path, monkeypatch):
    whole = fed(7)

    def append(self, first_step, *arguments, real=Store.append):
        if first_step > 3:
            raise KeyError("killed")
        real(self, first_step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", append)
        with pytest.raises(KeyError, match="killed"):
            fed(5, checkpoint_dir=tmp_path, checkpoint_steps=1)
    # The last chunk of five steps is cut, and its batch serves one more step.
    fed(5, checkpoint_dir=tmp_path)
    assert_equal(fed(7, checkpoint_dir=tmp_path), whole)
    with pytest.raises(swjko.CheckpointError, match="data_steps: 2 saved, 3 now"):
        fed(7, checkpoint_dir=tmp_path, chunk_size=3)


FUNCTIONALS = {
    "sw_to_target": lambda points: swjko.sw_to_target(points, 3),
    "mmd_to_target": lambda points: swjko.mmd_to_target(points, lambda x: jnp.exp(-jnp.sum(x**2))),
    "forward_kl": swjko.forward_kl,
    "in a sum": lambda points: swjko.weighted_sum((2.0, swjko.sw_to_target(points, 3))),
}


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_every_functional_of_data_takes_new_ones(name):
    old, new = (FUNCTIONALS[name](jnp.asarray(points)) for points in (TARGET, 2 * TARGET))
    found = swjko.running.hooks.with_data(old, 2.0 * TARGET)
    chex.assert_trees_all_close(jax.tree.leaves(found), jax.tree.leaves(new), rtol=1e-6)


def test_a_stream_that_ends_saves_the_state(tmp_path):
    message = r"data must hold a batch for every 2 steps; it ended after 2 batches, at step 4\."
    with pytest.raises(ValueError, match=message):
        fed(data=[TARGET, TARGET], checkpoint_dir=tmp_path)
    assert swjko.load(tmp_path).step == 4


BAD_DATA = {
    "shape": (
        {"data": [TARGET, TARGET[:3]]},
        r"one shape and dtype, .* target float32\[4, 2\]; got target float32\[3, 2\] in batch 2",
    ),
    "weights": ({"data": [(TARGET, np.full(4, 0.25, np.float32))]}, "no weights; got target_we"),
    "rank": ({"data": [TARGET[0]]}, "target must have rank 2"),
    "numbers": ({"data": [TARGET * np.nan]}, "target must be finite"),
    "no chunk": ({"chunk_size": None}, "chunk_size must be given together with data"),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("name", BAD_DATA)
def test_data_that_do_not_fit_are_refused(name):
    options, message = BAD_DATA[name]
    with pytest.raises(ValueError, match=message):
        fed(**options)


@pytest.mark.usefixtures("as_users_see_it")
def test_hooks_of_other_types_are_refused():
    with pytest.raises(TypeError, match="callback must be a function"):
        solved(callback=3)
    with pytest.raises(TypeError, match="data must be an iterable of batches of points; got int"):
        fed(data=3)
    with pytest.raises(TypeError, match=r"batches \[m d\]; got one ndarray of shape \(4, 2\)"):
        fed(data=TARGET)
    with pytest.raises(TypeError, match=r"got function\. Pass a generator"):
        fed(data=lambda: iter([TARGET]))
    with pytest.raises(TypeError, match=r"data must hold batches .* got a dict"):
        fed(data=[{"x": TARGET}])
    with pytest.raises(TypeError, match=r"a method with_data.*got 0 of them"):
        fed(scheme=LANGEVIN)
