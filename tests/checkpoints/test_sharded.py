"""Checkpoints of sharded arrays, here over the devices of one process."""

import hashlib
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as orbax

import swjko
from swjko.checkpoints import format as checkpoint_format
from swjko.checkpoints import read_history
from swjko.checkpoints.lock import LOCK
from swjko.checkpoints.sharded import from_process_0
from swjko.checkpoints.store import open_store
from swjko.running import batching

NUM_FLOWS = 8
INFO = swjko.Info(*[np.zeros((1, NUM_FLOWS), np.float32)] * 6)


def start(devices=None):
    place = NamedSharding(swjko.flow_mesh(devices), PartitionSpec("flow"))
    zeros = np.zeros(NUM_FLOWS, np.int32)
    points = np.linspace(0, 1, 6 * NUM_FLOWS).astype(np.float32).reshape(NUM_FLOWS, 3, 2)
    params, keys = {"points": points, "flag": zeros == 1}, jax.random.split(jax.random.key(3), 8)
    state = swjko.State(params, zeros.astype(np.float32), zeros, zeros, keys)
    return jax.tree.map(lambda leaf: jax.device_put(leaf, place), state)


@jax.jit
def advanced(state):
    points = state.params["points"]
    return state._replace(params=state.params | {"points": 3 * points + 1}, step=state.step + 1)


def opened(directory, *, run=None, devices=None, together=True):
    options = {"resume": True, "every_seconds": 1e9, "every_steps": 1, "together": together}
    run = {"key": "one"} if run is None else run
    return open_store(directory, run, start(devices), {"energy": 0}, **options)


def ran(directory, steps, **options):
    """Run with a save after each step; return the last state and the step that was restored."""
    with opened(directory, **options) as store:
        first, state, records = store.saved
        assert [record["energy"].item() for record in records] == list(range(1, first + 1))
        for step in range(first + 1, steps + 1):
            state = advanced(state)
            store.append(step, INFO, {"energy": np.full(1, step)})
            store.save_if_due(step, state)
    return state, first


def assert_same(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory):
    """A directory with the checkpoints of steps 2 and 3, and the state after step 3."""
    directory = tmp_path_factory.mktemp("sharded") / "run"
    return directory, ran(directory, 3)[0]


@pytest.fixture
def saved(three_steps, tmp_path):
    shutil.copytree(three_steps[0], tmp_path / "run")
    return tmp_path / "run"


def arrays(step):
    return f"step-{step:010d}.arrays"


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [8, 2, 1])
def test_a_run_resumes_on_any_mesh(num_devices, saved, three_steps):
    devices = jax.devices()[:num_devices]
    state, first = ran(saved, 3, devices=devices)
    assert first == 3
    assert_same(state, three_steps[1])
    assert state.params["points"].sharding.device_set == set(devices)
    assert ran(saved, 5)[1] == 3
    assert [line["step"] for line in read_history(saved)] == [1, 2, 3, 4, 5]
    kept = {f"step-000000000{step}{kind}" for step in (4, 5) for kind in (".ckpt", ".arrays")}
    assert {path.name for path in saved.iterdir()} == {"history.bin", "history.jsonl"} | kept


def test_arrays_without_a_checkpoint_are_removed(saved, three_steps):
    shutil.copytree(saved / arrays(3), saved / arrays(4))
    shutil.copytree(saved / arrays(3), saved / f"{arrays(5)}.orbax-checkpoint-tmp-1")
    (saved / "step-0000000003.ckpt").unlink()
    state, first = ran(saved, 3)
    assert first == 2
    assert_same(state, three_steps[1])
    assert {path.name for path in saved.glob("*.arrays*")} == {arrays(2), arrays(3)}


def damage(path, how, rng):
    """Damage one file of the arrays, drawn by its size."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)
    sizes = np.asarray([file.stat().st_size for file in files])
    file = files[rng.choice(len(files), p=sizes / sizes.sum())]
    content = bytearray(file.read_bytes())
    if how == "bit":
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    elif how == "cut":
        del content[rng.integers(len(content)) :]
    elif how == "longer":
        content += b"\0"
    file.write_bytes(content)
    if how == "missing":
        file.unlink()
    elif how == "more":
        file = path / "more"
        file.write_bytes(b"")
    return file


@pytest.mark.parametrize("how", ["bit", "cut", "longer", "missing", "more"])
def test_damaged_arrays_are_replaced_by_older_ones(how, saved, three_steps):
    file = damage(saved / arrays(3), how, np.random.default_rng(0))
    message = rf"3\.ckpt is damaged \(the checksum of {re.escape(str(file))} does not match"
    with pytest.warns(RuntimeWarning, match=message):
        state, first = ran(saved, 3)
    assert first == 2
    assert_same(state, three_steps[1])
    assert (saved / "step-0000000003.ckpt.damaged").exists()


def forged(directory, arrays_path, step, **changes):
    """Put other arrays, and changes of the header, into a checkpoint with right checksums."""
    path = directory / f"step-{step:010d}.ckpt"
    found = checkpoint_format.load(path)
    shutil.rmtree(directory / arrays(step))
    shutil.copytree(arrays_path, directory / arrays(step))
    files = [file for file in sorted((directory / arrays(step)).rglob("*")) if file.is_file()]
    sums = {
        str(file.relative_to(directory / arrays(step))): hashlib.sha256(
            file.read_bytes()
        ).hexdigest()
        for file in files
    }
    history = {"bytes": len(found.history), "sha256": found.digest.hexdigest()}
    header = {"step": step, "configuration": found.run, "history": history}
    header |= {"counted": found.counted, "names": found.names} | changes
    leaves = [np.frombuffer(json.dumps(sums).encode(), np.uint8)]
    path.write_bytes(checkpoint_format.encode(header, leaves))


def test_arrays_of_another_step_or_state_are_damaged(saved, three_steps, tmp_path):
    """With right checksums; nothing but their content tells."""
    other = tmp_path / "other"
    shutil.copytree(saved / arrays(2), other)
    forged(saved, other, 3)
    message = r"3\.ckpt is damaged \(its step is 3, and state\.step is another"
    with pytest.warns(RuntimeWarning, match=message):
        state, first = ran(saved, 3)
    assert first == 2
    assert_same(state, three_steps[1])
    for leaves, message in (
        ({"leaf 00000": jnp.zeros(3)}, "other names, shapes or dtypes"),
        (None, "cannot be read"),
    ):
        shutil.rmtree(other)
        if leaves is None:
            other.mkdir()
            (other / "_METADATA").write_text("[")
        else:
            orbax.save(str(other), leaves)
        forged(saved, other, 3)
        with pytest.warns(RuntimeWarning, match=message):
            assert ran(saved, 3)[1] == 2


def test_a_directory_without_intact_arrays_is_not_changed(saved):
    for step in (2, 3):
        shutil.rmtree(saved / arrays(step))
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    message = r"no intact checkpoint: .*3\.arrays cannot be read.*Nothing was changed"
    with pytest.raises(swjko.CheckpointError, match=message):
        ran(saved, 3)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_another_run_and_one_of_a_single_process_are_refused(saved):
    message = r"holds another run \(key: one saved, two now\)"
    with pytest.raises(swjko.CheckpointError, match=message):
        opened(saved, run={"key": "two"})
    message = r"state: in \.arrays of orbax saved, nothing now"
    with pytest.raises(swjko.CheckpointError, match=message):
        opened(saved, together=False)
    assert not (saved / LOCK).exists()


# ``solve`` as several processes run it, here in one.


@pytest.fixture
def preempted(monkeypatch):
    """The counts that JAX is asked with; it says yes ``at`` looks after the first.

    JAX itself stops at the count after the largest, so the counts must have no gap.
    """
    asked = {"at": None, "counts": []}

    def reached(count):
        asked["counts"].append(count)
        first = asked["counts"][0]
        assert asked["counts"] == list(range(first, first + len(asked["counts"])))
        return count - first == asked["at"]

    monkeypatch.setattr(batching.Batching, "spans_processes", True)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", reached)
    return asked


def solved(directory=None, num_steps=4, mesh=None):
    points = jnp.linspace(-1.0, 1.0, 12).reshape(6, 2)
    scheme = swjko.langevin(points, jax.tree_util.Partial(jnp.sum), step_size=0.1)
    keys = jax.random.split(jax.random.key(0), NUM_FLOWS)
    mesh = swjko.flow_mesh() if mesh is None else mesh
    options = {"mesh": mesh, "chunk_size": 1, "progress": False, "checkpoint_dir": directory}
    return swjko.solve(keys, scheme, num_steps, **options)


@pytest.mark.slow_except_first
@pytest.mark.filterwarnings("ignore:the number of flows:UserWarning")
@pytest.mark.parametrize(("num_devices", "tolerance"), [(8, 0.0), (3, 1e-6)])
def test_a_preempted_run_saves_and_resumes(num_devices, tolerance, preempted, tmp_path, caplog):
    expected = solved()
    preempted |= {"at": 2, "counts": []}
    with pytest.raises(SystemExit) as ended:
        solved(tmp_path, mesh=swjko.flow_mesh(jax.devices()[:num_devices]))
    assert ended.value.code == 143
    assert "stopped after step 2" in caplog.text
    assert (tmp_path / arrays(2)).is_dir()
    preempted |= {"at": None, "counts": []}
    found = solved(tmp_path)
    # After steps 2, 3 and 4.
    assert len(preempted["counts"]) == 3
    for one, other in zip(
        jax.tree.leaves((found.state, found.history)),
        jax.tree.leaves((expected.state, expected.history)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
    assert [line["step"] for line in read_history(tmp_path)] == [1, 2, 3, 4]


def test_a_run_without_checkpoints_is_preempted_too(preempted, caplog):
    preempted["at"] = 1
    with pytest.raises(SystemExit):
        solved()
    assert "stopped after step 1" in caplog.text


def test_checkpoints_of_several_processes_need_flows_spread_over_them(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    scheme = swjko.langevin(jnp.ones((6, 2)), jax.tree_util.Partial(jnp.sum), step_size=0.1)
    message = r"checkpoint_dir.*several processes.*mesh=swjko\.flow_mesh\(\)"
    with pytest.raises(ValueError, match=message):
        swjko.solve(jax.random.key(0), scheme, 2, checkpoint_dir=tmp_path, progress=False)


def test_messages_of_process_0_reach_the_others(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda line: line)
    message = {"step": 3, "error": "täglich " * 100, "due": True}
    assert from_process_0(message) == message
    assert len(json.dumps(from_process_0({"error": "x" * 10_000}))) < 4096
