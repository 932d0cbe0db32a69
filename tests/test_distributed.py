"""Several processes: how they find each other, and what they say when one does not come."""

import contextlib
import itertools
import json
import re
import signal
import socket
import threading
import time

import jax
import jax.numpy as jnp
import pytest
from helpers import free_port

from swjko import distributed
from swjko.running import lifeline, relay, rendezvous
from swjko.running.relay import open_relay
from swjko.running.rendezvous import PeerError, local_addresses, meet

# How processes meet.


def close(connections):
    for connection in connections.values():
        connection.close()


def met(*processes, seconds=20.0, before=lambda port: None, host="localhost"):
    """Let these (number, id) meet in threads; return the error of each, or None."""
    port = free_port()
    errors = [None] * len(processes)

    def one(index, number, process):
        try:
            close(meet(host, port, number, process, seconds))
        except PeerError as error:
            errors[index] = str(error)

    threads = [
        threading.Thread(target=one, args=(index, *process))
        for index, process in enumerate(processes)
    ]
    for thread in threads:
        thread.start()
    before(port)
    for thread in threads:
        thread.join()
    return errors


def test_all_continue_when_all_have_come():
    assert met((3, 0), (3, 2), (3, 1)) == [None, None, None]
    assert met((1, 0)) == [None]


def call(port, words, host="localhost"):
    """Send a line to process 0 as soon as it listens; return the open connection."""
    deadline = time.monotonic() + 20.0
    while True:
        try:
            stranger = socket.create_connection((host, port), timeout=5)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with contextlib.suppress(OSError):
        stranger.sendall(words)
    return stranger


def hello(process, processes, **more):
    return json.dumps({"process": process, "processes": processes, **more}).encode() + b"\n"


STRANGERS = {
    "silence": b"",
    "another protocol": b"GET / HTTP/1.1\r\n\r\n",
    "no message": b"[1]\n",
    "no text": b"\xff\xfe\n",
    "no end": b"x" * 10_000,
    "too deep": b"[" * 4000 + b"\n",
    "no token": hello(1, 2),
    "no number": hello("one", 2),
    "another number": hello(1, 7),
    "another run": hello(1, 2, token="0" * 64),
    "no text as a token": hello(1, 2, token=[1]),
}


@pytest.mark.parametrize("words", STRANGERS.values(), ids=STRANGERS)
def test_strangers_are_ignored(words):
    strangers = []

    def first_a_stranger(port):
        strangers.append(call(port, words))
        close(meet("localhost", port, 2, 1, 20.0))

    try:
        assert met((2, 0), before=first_a_stranger) == [None]
    finally:
        for stranger in strangers:
            stranger.close()


@pytest.mark.parametrize("process", [0, -1, 2, 10**30, 1.0, "1", True, None])
def test_an_id_that_no_process_can_have_is_ignored(process):
    def first_a_stranger(port):
        with call(port, hello(process, 2, token=rendezvous._token(port))):
            close(meet("localhost", port, 2, 1, 20.0))

    assert met((2, 0), before=first_a_stranger) == [None]


def test_another_secret_is_another_run(monkeypatch):
    tokens = {port: rendezvous._token(port) for port in (1234, 1235)}
    monkeypatch.setenv("SWJKO_SECRET", "ours")
    assert len({*tokens.values(), rendezvous._token(1234)}) == 3


def test_silent_strangers_keep_nobody_waiting():
    strangers = []

    def many_strangers(port):
        strangers.extend(call(port, b"") for _ in range(20))
        close(meet("localhost", port, 2, 1, 20.0))

    assert met((2, 0), before=many_strangers) == [None]
    for stranger in strangers:
        stranger.close()


def test_missing_processes_are_named_to_all_who_wait():
    errors = met((4, 0), (4, 2), seconds=0.5)
    message = r"processes 1, 3 of 4 did not come to localhost:\d+ within 0\.5 seconds\. .*"
    assert re.fullmatch(message, errors[0])
    waited = "process 2 of 4 waited 0.5 seconds for process 0"
    assert errors[1] == errors[0] or waited in errors[1]


def test_a_missing_coordinator_is_named():
    (error,) = met((2, 1), seconds=0.3)
    message = r"process 1 of 2 waited 0\.3 seconds for process 0 at localhost:\d+: nothing answers"
    assert re.match(message, error)
    with pytest.raises(PeerError, match=r"the name nowhere\.invalid is not known"):
        meet("nowhere.invalid", 1234, 2, 1, 0.2)


def test_processes_that_disagree_are_told():
    errors = met((2, 0), (3, 1))
    message = "process 1 was started for 3 processes and process 0 for 2. Start all with the same"
    assert errors[0] == errors[1]
    assert errors[0].startswith(message)
    errors = met((3, 0), (3, 1), (3, 1))
    assert re.match(r"two processes came to localhost:\d+ with the process id 1\. ", errors[0])
    assert errors[0] in errors[1:]


def test_a_port_in_use_is_reported():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PeerError, match=r"cannot listen on port \d+: Address already in use"):
            meet("localhost", port, 2, 0, 0.2)


def test_process_0_listens_where_it_is_asked_to():
    assert {address for _, address in local_addresses("localhost")} <= {"127.0.0.1", "::1"}
    assert [address for _, address in local_addresses("127.0.0.2")] == ["127.0.0.2"]
    # An address of another machine, and a name that stands for nothing.
    assert local_addresses("192.0.2.1") == []
    assert local_addresses("nowhere.invalid") == []

    def elsewhere(port):
        with call(port, b"", "127.0.0.2"), pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port))
        close(meet("127.0.0.2", port, 2, 1, 20.0))

    assert met((2, 0), host="127.0.0.2", before=elsewhere) == [None]


def test_jax_listens_where_process_0_does(initialized):
    distributed.initialize("localhost:1234", 2, 0)
    distributed.initialize("192.0.2.1:1234", 2, 0)
    addresses = [options.get("coordinator_bind_address") for _, options in initialized]
    assert addresses == ["localhost:1234", None]


# What they know of each other later.


@pytest.fixture
def alone(monkeypatch):
    """A process that has lost nobody."""
    monkeypatch.setattr(lifeline, "_lost", [])
    monkeypatch.setattr(lifeline, "_is_lost", threading.Event())


@pytest.mark.usefixtures("alone")
def test_the_process_that_ended_is_named():
    ends = [socket.socketpair() for _ in range(3)]
    ended = threading.Event()
    with contextlib.ExitStack() as stack:
        for end in itertools.chain(*ends):
            stack.enter_context(end)
        mine = dict(enumerate((pair[0] for pair in ends), 4))
        lifeline.watch_over(mine, 20.0, ended.set)
        ends[0][1].sendall(b"a word is no end")
        assert lifeline.lost(0.1) is None
        ends[2][1].close()
        assert lifeline.lost(20.0) == 6
        assert ended.wait(20.0)


@pytest.fixture
def relays(monkeypatch):
    """End the relays of a test, as the end of their process would."""
    found = []
    monkeypatch.setattr(relay, "_relays", found)
    yield found
    for one in found:
        one.communicate(timeout=20.0)


@pytest.mark.usefixtures("relays")
def test_a_relay_hides_that_the_other_side_has_ended():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        address = open_relay("127.0.0.1", port, 20.0).rpartition(":")
        with socket.create_connection((address[0], int(address[2])), timeout=20.0) as here:
            there, _ = server.accept()
            with there:
                here.sendall(b"question")
                assert there.recv(100) == b"question"
                there.sendall(b"answer")
                assert here.recv(100) == b"answer"
            here.settimeout(0.2)
            with pytest.raises(TimeoutError):
                here.recv(1)
        with socket.create_connection((address[0], int(address[2])), timeout=20.0) as here:
            there, _ = server.accept()
        with there:
            there.settimeout(20.0)
            assert there.recv(1) == b""


def test_a_relay_waits_for_the_other_side(relays):
    port = free_port()
    for seconds in (20.0, 0.1):
        address = open_relay("127.0.0.1", port, seconds).rpartition(":")
        with socket.create_connection((address[0], int(address[2])), timeout=20.0) as here:
            if seconds < 1:
                assert here.recv(1) == b""
                break
            time.sleep(0.2)
            with socket.create_server(("127.0.0.1", port)) as server:
                there, _ = server.accept()
                with there:
                    there.sendall(b"late")
                    assert here.recv(100) == b"late"
                    # Signals to a group of processes are not for the relay.
                    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                        relays[0].send_signal(number)
                    there.sendall(b"later")
                    assert here.recv(100) == b"later"


# Arguments and environments.


@pytest.fixture
def initialized(monkeypatch):
    """Calls of ``jax.distributed.initialize``, in an environment without a job."""
    for name in (
        *("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "OMPI_MCA_orte_hnp_uri"),
        *("OMPI_COMM_WORLD_RANK", "KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"),
        *("JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_PORT", "JAX_COORDINATOR_BIND_ADDRESS"),
    ):
        monkeypatch.delenv(name, raising=False)
    calls = []

    def initialize(*arguments, **options):
        if None in arguments:
            raise ValueError("JAX has not found it either")
        calls.append((arguments, options))

    monkeypatch.setattr(distributed, "_require_unused", lambda: None)
    monkeypatch.setattr(distributed, "meet", lambda *arguments: {})
    monkeypatch.setattr(distributed, "open_relay", lambda host, port, _: f"to {host} {port}")
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    return calls


def slurm(nodes, **more):
    names = {"SLURM_NTASKS": "3", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"}
    return {**names, "SLURM_STEP_NODELIST": nodes, **more}


def open_mpi(uri=None):
    address = {} if uri is None else {"OMPI_MCA_orte_hnp_uri": uri}
    return {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", **address}


NOTHING = (None, None, None)
TCP = "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"
TCP6 = "1314521088.0;tcp6://[fe80::b9b:ac5d:9cf0:b858,2620:10d:c083:150e::3000:2]:43370"
INDEX = {"JOB_COMPLETION_INDEX": "5"}
JAX_ADDRESS = {"JAX_COORDINATOR_ADDRESS": "node0:1234"}
JOBS = {
    "flags": ({}, ("node0:1234", 4, 3), ("node0:1234", 4, 3)),
    "JAX's address": (JAX_ADDRESS, (None, 4, 3), ("node0:1234", 4, 3)),
    "Slurm": (slurm("node[003-005]"), NOTHING, ("node003:61447", 3, 2)),
    "Slurm, a list": (slurm("node7,other[1-2]"), NOTHING, ("node7:61447", 3, 2)),
    "Slurm, a port": (slurm("a[01,03]", JAX_COORDINATOR_PORT="9"), NOTHING, ("a01:9", 3, 2)),
    "Open MPI 4": (open_mpi(TCP), NOTHING, ("10.96.0.1:62624", 2, 1)),
    "Open MPI 4, IPv6": (open_mpi(TCP6), NOTHING, ("fe80::b9b:ac5d:9cf0:b858:62880", 2, 1)),
    "Open MPI 5": (open_mpi(), ("node0:1234", None, None), ("node0:1234", 2, 1)),
    "an indexed job": (INDEX, ("job-0.pods:1234", 8, None), ("job-0.pods:1234", 8, 5)),
    "flags before the job": (INDEX, ("[::1]:1234", 8, 6), ("[::1]:1234", 8, 6)),
}


@pytest.mark.parametrize("name", JOBS)
def test_missing_arguments_are_read_from_the_job(name, initialized, monkeypatch):
    environment, given, expected = JOBS[name]
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    distributed.initialize(*given, initialization_timeout=7.5, heartbeat_timeout=3.0)
    ((arguments, options),) = initialized
    coordinator, *numbers = expected
    host, _, port = coordinator.rpartition(":")
    assert arguments == (f"to {host.strip('[]')} {port}", *numbers)
    assert options == {"initialization_timeout": 8, "heartbeat_timeout_seconds": 3}


ADDRESS = "coordinator must be HOST:PORT of process 0"
MISTAKES = [
    ({"coordinator": "node0"}, ValueError, f"{ADDRESS}, .*'node0'"),
    ({"coordinator": "http://node0:80"}, ValueError, ADDRESS),
    ({"coordinator": "node0:99999"}, ValueError, ADDRESS),
    ({"coordinator": ":80"}, ValueError, ADDRESS),
    ({"coordinator": 80}, TypeError, ADDRESS),
    ({"process_id": 2}, ValueError, "process_id must be below num_processes, which is 2; got 2"),
    ({"process_id": -1}, ValueError, "process_id must be at least 0"),
    ({"num_processes": 0}, ValueError, "num_processes must be at least 1"),
    ({"num_processes": 2.5}, TypeError, "num_processes must be a static integer"),
    ({"initialization_timeout": 0}, ValueError, "initialization_timeout must be positive"),
    ({"heartbeat_timeout": "long"}, TypeError, "heartbeat_timeout must be a number of seconds"),
    ({"process_id": None}, distributed.DistributedError, "process_id must be given.*no job"),
    ({"coordinator": None}, distributed.DistributedError, "coordinator must be given.*no job"),
]


@pytest.mark.parametrize(("given", "error", "message"), MISTAKES)
@pytest.mark.usefixtures("as_users_see_it")
def test_mistakes_are_reported_before_anyone_waits(given, error, message, initialized):
    arguments = {"coordinator": "node0:1234", "num_processes": 2, "process_id": 1} | given
    with pytest.raises(error, match=message):
        distributed.initialize(**arguments)
    assert not initialized


def test_an_environment_that_cannot_be_read_is_reported(initialized, monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "first")
    message = "JOB_COMPLETION_INDEX must be a whole number; got 'first'"
    with pytest.raises(distributed.DistributedError, match=message):
        distributed.initialize("node0:1234", 2)
    assert not initialized


def test_jax_must_not_be_in_use():
    jnp.zeros(1)
    with pytest.raises(distributed.DistributedError, match="JAX is in use already"):
        distributed.initialize("node0:1234", 2, 1)
