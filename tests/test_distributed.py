"""Several processes: how they find each other and what they say when one does not come, and checkpoints of sharded arrays."""

import contextlib
import json
import re
import shutil
import socket
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import swjko
from swjko import distributed
from swjko.checkpoints import sharded as sharded_checkpoints
from swjko.checkpoints import store as checkpoints
from swjko.running import batching as layout
from swjko.running import rendezvous

# How processes meet.


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def met(*processes, seconds=20.0, before=lambda port: None):
    """What each of these (number, id) said, or None where it went on; all at once, in threads."""
    port, said = free_port(), {}

    def one(index, number, process):
        try:
            rendezvous.meet("localhost", port, number, process, seconds)
            said[index] = None
        except rendezvous.PeerError as error:
            said[index] = str(error)

    threads = [
        threading.Thread(target=one, args=(index, *process))
        for index, process in enumerate(processes)
    ]
    for thread in threads:
        thread.start()
    before(port)
    for thread in threads:
        thread.join()
    return [said[index] for index in range(len(processes))]


def test_all_go_on_once_all_have_come():
    assert met((3, 0), (3, 2), (3, 1)) == [None, None, None]
    assert met((1, 0)) == [None]


def test_strangers_are_not_counted():
    def strangers(port):
        for words in (b"", b"GET / HTTP/1.1\r\n\r\n", b"[1]\n"):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("localhost", port), timeout=5) as stranger,
            ):
                stranger.sendall(words)

    assert met((2, 0), (2, 1), before=strangers) == [None, None]


def test_who_does_not_come_is_named_to_all_who_wait():
    said = met((4, 0), (4, 2), seconds=0.5)
    assert re.fullmatch(
        r"processes 1, 3 of 4 did not come to localhost:\d+ within 0\.5 seconds\. .*", said[0]
    )
    assert said[1] == said[0] or "process 2 of 4 waited 0.5 seconds for process 0" in said[1]


def test_a_coordinator_that_does_not_come_is_named():
    (said,) = met((2, 1), seconds=0.3)
    assert re.fullmatch(
        r"process 1 of 2 waited 0\.3 seconds for process 0 at localhost:\d+: nothing answers there\. .*",
        said,
    )
    with pytest.raises(rendezvous.PeerError, match=r"the name nowhere\.invalid is not known"):
        rendezvous.meet("nowhere.invalid", 1234, 2, 1, 0.2)


def test_processes_that_disagree_are_told():
    said = met((2, 0), (3, 1))
    assert (
        said[0]
        == said[1]
        == "process 1 was started for 3 processes and process 0 for 2. Start all with one number."
    )
    said = met((3, 0), (3, 1), (3, 1))
    assert re.fullmatch(
        r"two processes came to localhost:\d+ with the process id 1\. Give each its own\.", said[0]
    )
    assert said[0] in said[1:]


def test_a_port_in_use_is_told():
    with (
        socket.create_server(("", 0)) as taken,
        pytest.raises(
            rendezvous.PeerError, match=r"cannot listen on port \d+: Address already in use"
        ),
    ):
        rendezvous.meet("localhost", taken.getsockname()[1], 2, 0, 0.2)


# What they are told and what they find.


@pytest.fixture
def handed_on(monkeypatch):
    """What ``initialize`` would hand to JAX, in an environment without a job."""
    for name in (
        "SLURM_JOB_ID",
        "OMPI_MCA_orte_hnp_uri",
        "KUBERNETES_SERVICE_HOST",
        "JAX_COORDINATOR_ADDRESS",
        "JOB_COMPLETION_INDEX",
    ):
        monkeypatch.delenv(name, raising=False)
    calls: list[Any] = []
    monkeypatch.setattr(distributed, "_require_unused", lambda: None)
    monkeypatch.setattr(distributed, "meet", lambda *arguments: None)
    monkeypatch.setattr(
        jax.distributed,
        "initialize",
        lambda *arguments, **options: calls.append((arguments, options)),
    )
    return calls


ENVIRONMENTS = {
    "flags": ({}, ("node0:1234", 4, 3), ("node0:1234", 4, 3)),
    "JAX's address": (
        {"JAX_COORDINATOR_ADDRESS": "node0:1234"},
        (None, 4, 3),
        ("node0:1234", 4, 3),
    ),
    "Slurm": (
        {
            "SLURM_JOB_ID": "7",
            "SLURM_STEP_NODELIST": "node[003-005]",
            "SLURM_NTASKS": "3",
            "SLURM_PROCID": "2",
            "SLURM_LOCALID": "0",
        },
        (None, None, None),
        ("node003:61447", 3, 2),
    ),
    "Open MPI 4": (
        {
            "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_RANK": "1",
            "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        },
        (None, None, None),
        ("10.96.0.1:62624", 2, 1),
    ),
    "Open MPI 5": (
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"},
        ("node0:1234", None, None),
        ("node0:1234", 2, 1),
    ),
    "an indexed job": (
        {"JOB_COMPLETION_INDEX": "5"},
        ("job-0.pods:1234", 8, None),
        ("job-0.pods:1234", 8, 5),
    ),
    "flags before the job": (
        {"JOB_COMPLETION_INDEX": "5"},
        ("[::1]:1234", 8, 6),
        ("[::1]:1234", 8, 6),
    ),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_what_is_not_given_comes_from_the_job(name, handed_on, monkeypatch):
    environment, given, expected = ENVIRONMENTS[name]
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    distributed.initialize(*given, initialization_timeout=7.5, heartbeat_timeout=3.0)
    ((arguments, options),) = handed_on
    assert arguments[:3] == expected
    assert (options["initialization_timeout"], options["heartbeat_timeout_seconds"]) == (8, 3)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            {"coordinator": "node0"},
            ValueError,
            "coordinator must be HOST:PORT of process 0, .*'node0'",
        ),
        ({"coordinator": "http://node0:80"}, ValueError, "coordinator must be HOST:PORT"),
        ({"coordinator": "node0:99999"}, ValueError, "coordinator must be HOST:PORT"),
        ({"coordinator": ":80"}, ValueError, "coordinator must be HOST:PORT"),
        (
            {"process_id": 2},
            ValueError,
            "process_id must be below num_processes, 2, counted from 0; received 2",
        ),
        ({"process_id": -1}, ValueError, "process_id must be at least 0"),
        ({"num_processes": 0}, ValueError, "num_processes must be at least 1"),
        ({"num_processes": 2.5}, TypeError, "num_processes must be a static integer"),
        ({"initialization_timeout": 0}, ValueError, "initialization_timeout must be positive"),
        ({"heartbeat_timeout": "long"}, TypeError, "heartbeat_timeout must be a number of seconds"),
        (
            {"process_id": None},
            distributed.DistributedError,
            "no job .* was found that tells process_id: give what is missing",
        ),
        (
            {"coordinator": None},
            distributed.DistributedError,
            "no job .* was found that tells coordinator",
        ),
    ],
)
@pytest.mark.usefixtures("as_users_see_it")
def test_what_cannot_be_is_told_before_anyone_waits(given, error, message, handed_on):
    with pytest.raises(error, match=message):
        distributed.initialize(
            **({"coordinator": "node0:1234", "num_processes": 2, "process_id": 1} | given)
        )
    assert not handed_on


def test_an_environment_that_cannot_be_read_is_told(handed_on, monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "first")
    with pytest.raises(
        distributed.DistributedError,
        match="JOB_COMPLETION_INDEX must be a whole number; it is 'first'",
    ):
        distributed.initialize("node0:1234", 2)
    assert not handed_on


def test_jax_must_not_be_in_use():
    jnp.zeros(1)
    with pytest.raises(
        distributed.DistributedError, match="JAX is in use already: call initialize before"
    ):
        distributed.initialize("node0:1234", 2, 1)


# Checkpoints of sharded arrays, here over the devices of one process.

NUM_FLOWS = 8


class OldKeyed(NamedTuple):
    params: Any
    time: Any
    step: Any
    result: Any
    key: Any


def laid(tree, devices=None):
    place = NamedSharding(swjko.flow_mesh(devices), PartitionSpec("flow"))
    return jax.tree.map(lambda leaf: jax.device_put(leaf, place), tree)


def start(devices=None):
    zeros = np.zeros(NUM_FLOWS, np.int32)
    points = np.linspace(0, 1, 6 * NUM_FLOWS).astype(np.float32).reshape(NUM_FLOWS, 3, 2)
    keys = jax.random.split(jax.random.key(3), NUM_FLOWS)
    return laid(
        swjko.State({"points": points, "flag": zeros == 1}, zeros.astype(np.float32), zeros, zeros, keys),
        devices,
    )


def advanced(state):
    return _advance(state)


@jax.jit
def _advance(state):
    points = state.params["points"]
    return state._replace(params=state.params | {"points": 3 * points + 1}, step=state.step + 1)


INFO = swjko.Info(*[np.zeros((1, NUM_FLOWS), np.float32)] * 6)


def opened(directory, state, run=None, **options):
    options = {"resume": True, "every_seconds": 1e9, "every_steps": 1} | options
    return sharded_checkpoints.opened(
        directory, run or {"key": "one"}, state, {"energy": 0}, **options
    )


def ran(directory, steps, state=None, **options):
    """Steps of a run with a save after each; the state reached and the steps that it began after."""
    with opened(directory, state or start(), **options) as store:
        step, state, records = store.saved
        begun = step
        assert [record["energy"].item() for record in records] == list(range(1, step + 1))
        while step < steps:
            state, step = advanced(state), step + 1
            store.append(step, INFO, {"energy": np.full(1, step)})
            store.save_if_due(step, state)
    return state, begun


def assert_same(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory):
    """A directory with the checkpoints of steps 2 and 3, and the state after step 3. Only to be copied."""
    directory = tmp_path_factory.mktemp("sharded") / "run"
    return directory, ran(directory, 3)[0]


@pytest.fixture
def saved(three_steps, tmp_path):
    shutil.copytree(three_steps[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("num_devices", [8, 2, 1])
def test_a_run_goes_on_from_its_shards_on_any_mesh(num_devices, saved, three_steps):
    devices = jax.devices()[:num_devices]
    state, begun = ran(saved, 3, start(devices))
    assert begun == 3
    assert_same(state, three_steps[1])
    assert state.params["points"].sharding.device_set == set(devices)
    assert ran(saved, 5)[1] == 3
    assert [line["step"] for line in checkpoints.read_history(saved)] == [1, 2, 3, 4, 5]
    names = {path.name for path in saved.iterdir()}
    kept = {f"step-000000000{step}{kind}" for step in (4, 5) for kind in (".ckpt", ".arrays")}
    assert names == {"history.bin", "history.jsonl"} | kept


def test_arrays_that_were_not_published_do_not_count(saved, three_steps):
    shutil.copytree(saved / "step-0000000003.arrays", saved / "step-0000000004.arrays")
    shutil.copytree(
        saved / "step-0000000003.arrays", saved / "step-0000000005.arrays.orbax-checkpoint-tmp-1"
    )
    (saved / "step-0000000003.ckpt").unlink()
    state, begun = ran(saved, 3)
    assert begun == 2
    assert_same(state, three_steps[1])
    assert {path.name for path in saved.glob("*.arrays*")} == {
        "step-0000000002.arrays",
        "step-0000000003.arrays",
    }


def damage(path, how, rng):
    """To a file of the arrays, drawn by its size."""
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
    if how == "gone":
        file.unlink()
    elif how == "more":
        (path / "more").write_bytes(b"")
    return file


@pytest.mark.parametrize("how", ["bit", "cut", "longer", "gone", "more"])
def test_damaged_arrays_fall_back_to_the_checkpoint_before(how, saved, three_steps):
    damage(saved / "step-0000000003.arrays", how, np.random.default_rng(0))
    with pytest.warns(
        RuntimeWarning,
        match=r"step-0000000003\.ckpt is damaged \(the checksum of .*step-0000000003\.arrays.* does not agree",
    ):
        state, begun = ran(saved, 3)
    assert begun == 2
    assert_same(state, three_steps[1])
    assert (saved / "step-0000000003.ckpt.damaged").exists()


def test_no_damage_to_arrays_is_read_in_silence(saved):
    rng = np.random.default_rng(1)
    path = saved / "step-0000000003.ckpt"
    assert sharded_checkpoints._damage(saved, path) == ""
    arrays = saved / "step-0000000003.arrays"
    good = {file: file.read_bytes() for file in arrays.rglob("*") if file.is_file()}
    for index in range(200):
        file = damage(arrays, ("bit", "cut", "longer", "gone")[index % 4], rng)
        assert str(file) in sharded_checkpoints._damage(saved, path)
        file.write_bytes(good[file])
    assert sharded_checkpoints._damage(saved, path) == ""


def test_where_all_arrays_are_damaged_nothing_is_changed(saved):
    for step in (2, 3):
        shutil.rmtree(saved / f"step-000000000{step}.arrays")
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(
        swjko.CheckpointError,
        match=r"no checkpoint that is whole: .*3\.arrays cannot be read.*Nothing was changed",
    ):
        ran(saved, 3)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_another_run_and_one_of_a_single_process_are_refused(saved):
    with pytest.raises(
        swjko.CheckpointError, match=r"holds another run \(key: one there and two here\)"
    ):
        ran(saved, 3, run={"key": "two"})
    with (
        pytest.raises(
            swjko.CheckpointError, match=r"state: in \.arrays of orbax there and nothing here"
        ),
        checkpoints.opened(
            saved,
            {"key": "one"},
            start(),
            {"energy": 0},
            resume=True,
            every_seconds=1.0,
            every_steps=None,
        ),
    ):
        pass


# ``solve`` as several processes run it, here in one: what is shared out among them is theirs alone, and nobody else is there to tell.


@pytest.fixture
def together(monkeypatch):
    """The steps after which a preemption is asked about; that of the number put in ``at`` says yes."""
    asked: dict[str, Any] = {"at": None, "steps": []}

    def reached(step):
        asked["steps"].append(step)
        return step == asked["at"]

    monkeypatch.setattr(layout.Layout, "spans_processes", True)
    monkeypatch.setattr(
        sharded_checkpoints.multihost_utils, "reached_preemption_sync_point", reached
    )
    return asked


def solved(directory=None, num_steps=4, **options):
    points = jnp.linspace(-1.0, 1.0, 12).reshape(6, 2)
    scheme = swjko.langevin(points, jax.tree_util.Partial(jnp.sum), step_size=0.1)
    options = {
        "progress": False,
        "chunk_size": 1,
        "mesh": swjko.flow_mesh(),
        "checkpoint_dir": directory,
    } | options
    return swjko.solve(jax.random.split(jax.random.key(0), NUM_FLOWS), scheme, num_steps, **options)


@pytest.mark.filterwarnings("ignore:the number of flows:UserWarning")
@pytest.mark.parametrize("num_devices", [8, 3])
def test_a_preempted_run_saves_on_all_and_goes_on(num_devices, together, tmp_path, capsys):
    expected = solved()
    together["at"] = 2
    mesh = swjko.flow_mesh(jax.devices()[:num_devices])
    with pytest.raises(SystemExit) as ended:
        solved(tmp_path, mesh=mesh)
    assert ended.value.code == 143
    assert f"swjko: stopped after step 2, which is saved in {tmp_path}" in capsys.readouterr().err
    assert (tmp_path / "step-0000000002.arrays").is_dir()
    together["at"], together["steps"] = None, []
    found = solved(tmp_path)
    assert together["steps"] == [2, 3, 4]
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if num_devices == 3 else {"rtol": 0, "atol": 0}
    for one, other in zip(
        jax.tree.leaves((found.state, found.history)),
        jax.tree.leaves((expected.state, expected.history)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, **tolerance)
    assert [line["step"] for line in checkpoints.read_history(tmp_path)] == [1, 2, 3, 4]


def test_a_run_without_checkpoints_is_preempted_too(together, capsys):
    together["at"] = 1
    with pytest.raises(SystemExit):
        solved()
    assert "stopped after step 1\n" in capsys.readouterr().err


def test_a_directory_of_several_processes_needs_flows_spread_over_them(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    scheme = swjko.langevin(jnp.ones((6, 2)), jax.tree_util.Partial(jnp.sum), step_size=0.1)
    with pytest.raises(
        ValueError,
        match=r"checkpoint_dir of a run of several processes .*mesh=swjko\.flow_mesh\(\)",
    ):
        swjko.solve(jax.random.key(0), scheme, 2, checkpoint_dir=tmp_path, progress=False)


def test_messages_of_process_0_survive_their_journey(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        sharded_checkpoints.multihost_utils, "broadcast_one_to_all", lambda line: line
    )
    message = {"step": 3, "error": "täglich " * 100, "due": True}
    assert sharded_checkpoints.from_process_0(message) == message
    assert len(json.dumps(sharded_checkpoints.from_process_0({"error": "x" * 10_000}))) < 4096
