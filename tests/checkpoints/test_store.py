"""Runs that are stopped resume bit for bit, and never from damaged files or from another run."""

import errno
import functools
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import IndependentFlows, failing_scheme, tiny_scheme

import swjko
from swjko.checkpoints import format as checkpoint_format
from swjko.checkpoints import read_history
from swjko.checkpoints.lock import LOCK, lock
from swjko.checkpoints.store import Store, open_store

STEPS = 6
NAMES = [f"step-{step:010d}.ckpt" for step in range(STEPS + 1)]


class Cut(Exception):
    """Ends a run as a kill would, without telling ``solve``."""


@functools.cache
def shared_scheme():
    return tiny_scheme()


def solved(directory=None, *, key=0, scheme=None, num_steps=STEPS, **options):
    options = {"chunk_size": 2, "progress": False, "record": swjko.both} | options
    scheme = shared_scheme() if scheme is None else scheme
    return swjko.solve(jax.random.key(key), scheme, num_steps, checkpoint_dir=directory, **options)


def after_append(monkeypatch, action):
    """Call ``action(number)`` after each chunk that reaches the history."""
    numbers = iter(range(1, 1000))

    def append(self, *arguments, real=Store.append):
        real(self, *arguments)
        action(next(numbers))

    monkeypatch.setattr(Store, "append", append)


def cut_after(chunks, directory, monkeypatch, **options):
    """Run until this many chunks are saved as the cadence says; the next one is not."""

    def action(number):
        if number > chunks:
            raise Cut

    with monkeypatch.context() as patch:
        after_append(patch, action)
        with pytest.raises(Cut):
            solved(directory, **options)


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def assert_equal(one, other):
    chex.assert_trees_all_equal((one.state, one.history), (other.state, other.history))
    chex.assert_trees_all_equal_shapes_and_dtypes(one.history, other.history)
    assert one.result is other.result


@pytest.fixture(scope="module")
def uninterrupted():
    return solved()


@pytest.fixture
def saved(tmp_path):
    """The directory of a complete run with checkpoints after steps 4 and 6."""
    solved(tmp_path / "run", checkpoint_steps=2)
    return tmp_path / "run"


# Resuming.


@pytest.mark.slow_except_first
@pytest.mark.parametrize("chunks", [0, 1, 2])
@pytest.mark.parametrize("chunk_size", [1, 2, 3])
def test_a_cut_run_resumes_bit_for_bit(chunks, chunk_size, uninterrupted, tmp_path, monkeypatch):
    cut_after(chunks, tmp_path, monkeypatch, checkpoint_steps=1)
    assert_equal(solved(tmp_path, chunk_size=chunk_size), uninterrupted)
    lines = read_history(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    energy = uninterrupted.history[1].energy
    np.testing.assert_array_equal(
        np.asarray([line["energy"] for line in lines], energy.dtype), energy
    )


def test_steps_after_the_last_save_are_repeated(uninterrupted, tmp_path, monkeypatch):
    cut_after(2, tmp_path, monkeypatch)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == NAMES[:1]
    assert len(read_history(tmp_path)) == STEPS
    assert_equal(solved(tmp_path), uninterrupted)
    assert len(read_history(tmp_path)) == STEPS


def test_a_complete_run_is_read_and_not_repeated(saved, uninterrupted, monkeypatch, tmp_path):
    before = contents(saved)
    assert list(before) == ["history.bin", "history.jsonl", NAMES[4], NAMES[6]]
    shutil.copytree(saved, tmp_path / "copy")
    after_append(monkeypatch, lambda number: pytest.fail("a step was taken"))
    for directory in (saved, tmp_path / "copy"):
        assert_equal(solved(directory), uninterrupted)
        assert contents(directory) == before


def schemes():
    potential, optimizer = helpers.FUNCTIONALS["potential"], optax.adam(1e-2)
    sizes = {"step_size": 0.1, "num_inner_steps": 2, "num_samples": 8}
    gaussian, divergence = helpers.FAMILIES["gaussian"], helpers.FUNCTIONALS["kl_divergence"]
    points = {"num_points": 8, "max_steps": 3, "width": 4, "rank": 1}
    return {
        "langevin": lambda: swjko.langevin(jnp.ones((4, 2)), jnp.sum, step_size=0.1),
        "sw_bdf2": lambda: swjko.sw_bdf2(
            gaussian(), divergence(), optimizer, num_projections=3, **sizes
        ),
        "adaptive": lambda: swjko.adaptive(tiny_scheme(), min_step_size=1e-2, max_step_size=1.0),
        "icnn_jko": lambda: swjko.icnn_jko(2, potential(), optimizer, **sizes, **points),
        "flows": lambda: IndependentFlows(tiny_scheme()),
    }


@pytest.mark.slow_except_first
@pytest.mark.parametrize("name", schemes())
def test_every_kind_of_state_is_restored(name, tmp_path, monkeypatch):
    options = {"scheme": schemes()[name](), "num_steps": 3, "chunk_size": 1}
    cut_after(1, tmp_path, monkeypatch, checkpoint_steps=1, **options)
    assert_equal(solved(tmp_path, **options), solved(**options))
    if name == "adaptive":
        fields = {"step", *swjko.Info._fields, "step_size", "accepted"} - {"extra"}
        assert fields <= set(read_history(tmp_path)[0])


@pytest.mark.slow
def test_a_failed_flow_stays_failed(tmp_path, monkeypatch):
    first = solved(tmp_path, scheme=failing_scheme(), throw=False)
    after_append(monkeypatch, lambda number: pytest.fail("a step was taken"))
    with pytest.raises(swjko.FlowError, match="NON_FINITE"):
        solved(tmp_path, scheme=failing_scheme())
    assert_equal(solved(tmp_path, scheme=failing_scheme(), throw=False), first)
    # JSON has no NaN.
    assert read_history(tmp_path)[0]["energy"] is None


# Damage.


def damage(path, how, rng):
    content = bytearray(path.read_bytes())
    if how == "bit":
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    elif how == "cut":
        del content[rng.integers(len(content)) :]
    elif how == "longer":
        content += rng.bytes(1 + rng.integers(64))
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["bit", "cut", "longer"])
def test_a_damaged_checkpoint_is_replaced_by_an_older_one(how, saved, uninterrupted):
    newest = saved / NAMES[6]
    damage(newest, how, np.random.default_rng(0))
    with pytest.warns(RuntimeWarning, match=re.escape(f"{newest} is damaged")):
        assert_equal(solved(saved), uninterrupted)
    assert len(read_history(saved)) == STEPS
    names = sorted(path.name for path in saved.glob("*.ckpt*"))
    assert names == [NAMES[4], NAMES[6], f"{NAMES[6]}.damaged"]


def test_every_damage_is_found(saved):
    rng = np.random.default_rng(1)
    path, history = saved / NAMES[6], saved / "history.bin"
    good = {path: path.read_bytes(), history: history.read_bytes()}
    for index in range(1000):
        target = history if index % 4 == 3 else path
        how = ("bit", "cut", "longer" if target is path else "cut")[index % 3]
        damage(target, how, rng)
        with pytest.raises(checkpoint_format.Damaged):
            checkpoint_format.load(path)
        target.write_bytes(good[target])
    assert checkpoint_format.load(path).step == STEPS


def test_a_directory_without_an_intact_checkpoint_is_not_changed(saved):
    for path in saved.glob("*.ckpt"):
        damage(path, "bit", np.random.default_rng(2))
    before = contents(saved)
    with pytest.raises(swjko.CheckpointError, match=rf"no intact checkpoint: .*{NAMES[6]}: its"):
        solved(saved)
    assert contents(saved) == before


def test_an_incomplete_line_is_not_read_and_not_kept(saved, uninterrupted):
    path = saved / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    assert [line["step"] for line in read_history(saved)] == [1, 2, 3, 4, 5]
    path.write_bytes(b"".join(lines) + b'{"step": 7, "ener')
    assert_equal(solved(saved), uninterrupted)
    assert path.read_bytes() == b"".join(lines)


# Directories that are refused.

OTHERS = {
    "key": lambda: {"key": 1},
    "record": lambda: {"record": swjko.infos},
    "scheme.step_size: float32[] 0.1": lambda: {"scheme": tiny_scheme(step_size=0.2)},
    "scheme.num_inner_steps: 4 saved, 5": lambda: {"scheme": tiny_scheme(num_inner_steps=5)},
    "scheme.family": lambda: {"scheme": tiny_scheme("coupling")},
    "scheme.functional": lambda: {"scheme": tiny_scheme(functional="kl_divergence")},
    "scheme.optimizer": lambda: {"scheme": helpers.sw_jko(optimizer=optax.adam(2e-2))},
}


@pytest.mark.parametrize("named", OTHERS)
def test_another_run_is_refused_and_the_difference_is_named(named, saved):
    before, options = contents(saved), OTHERS[named]()
    if jax.config.values["jax_enable_x64"]:
        named = named.replace("float32", "float64")
    message = rf"holds another run \(.*{re.escape(named)}.*Nothing was changed"
    with pytest.raises(swjko.CheckpointError, match=message):
        solved(saved, **options)
    assert contents(saved) == before


def test_another_version_is_refused(saved, monkeypatch):
    monkeypatch.setattr("swjko.checkpoints.fingerprint.__version__", "99.0")
    with pytest.raises(swjko.CheckpointError, match=r"version of swjko: [\d.]+ saved, 99.0 now"):
        solved(saved)


def test_resume_false_overwrites_nothing(saved):
    before = contents(saved)
    with pytest.raises(swjko.CheckpointError, match=r"holds checkpoints.*resume=True"):
        solved(saved, resume=False)
    assert contents(saved) == before


def test_a_history_of_unknown_origin_is_refused(tmp_path):
    (tmp_path / "history.jsonl").write_text("mine\n")
    with pytest.raises(swjko.CheckpointError, match="holds a history but no checkpoint"):
        solved(tmp_path)
    assert contents(tmp_path) == {"history.jsonl": b"mine\n"}


def test_a_directory_in_use_is_refused(saved):
    before = contents(saved)
    with lock(saved / LOCK):
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(swjko.CheckpointError, match=f"is in use by {owner}"):
            solved(saved)
        assert (saved / LOCK).exists()
    assert contents(saved) == before


def test_the_lock_of_a_dead_process_is_taken_over(saved, uninterrupted):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (saved / LOCK).write_text(json.dumps({"pid": dead.pid, "host": socket.gethostname()}))
    message = f"was left by process {dead.pid} on .* is taken over"
    with pytest.warns(RuntimeWarning, match=message):
        assert_equal(solved(saved), uninterrupted)
    assert not (saved / LOCK).exists()


def test_the_lock_of_another_host_is_left(saved):
    (saved / LOCK).write_text(json.dumps({"pid": 1, "host": "elsewhere.example"}))
    before = contents(saved)
    message = r"locked by process 1 on elsewhere\.example.*remove .*lock"
    with pytest.raises(swjko.CheckpointError, match=message):
        solved(saved)
    assert contents(saved) == before


# Disks.


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    message = r"cannot use checkpoint_dir .*file/run: Not a directory"
    with pytest.raises(swjko.CheckpointError, match=message):
        solved(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(saved):
    saved.chmod(0o500)
    with pytest.raises(swjko.CheckpointError, match="Permission denied"):
        solved(saved)
    saved.chmod(0o700)


@pytest.mark.parametrize("writes", range(0, 9, 2))
def test_a_full_disk_loses_nothing_that_is_saved(writes, uninterrupted, tmp_path, monkeypatch):
    left = [writes]

    def write(file, content, real=os.write):
        left[0] -= 1
        if left[0] < 0:
            real(file, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        message = r"checkpoint_dir .*: No space left on device\. .*intact"
        with pytest.raises(swjko.CheckpointError, match=message):
            solved(tmp_path, checkpoint_steps=2)
    assert not list(tmp_path.glob("*.tmp"))
    assert not (tmp_path / LOCK).exists()
    assert_equal(solved(tmp_path), uninterrupted)


@pytest.mark.parametrize("calls", range(0, 36, 3))
def test_a_kill_during_a_write_loses_nothing_that_is_saved(
    calls, uninterrupted, tmp_path, monkeypatch
):
    left, directory = [calls], tmp_path / "run"

    def cut(function):
        def call(*arguments):
            left[0] -= 1
            if left[0] < 0:
                if function is write:
                    function(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise Cut
            return function(*arguments)

        return call

    directory.mkdir()
    write = os.write
    with monkeypatch.context() as patch:
        for name in ("write", "fsync", "replace", "unlink", "ftruncate"):
            patch.setattr(os, name, cut(getattr(os, name)))
        with pytest.raises(Cut):
            solved(directory, checkpoint_steps=2)
    (directory / LOCK).unlink(missing_ok=True)
    assert_equal(solved(directory), uninterrupted)
    assert len(read_history(directory)) == STEPS


# Signals.


@pytest.fixture
def default_handlers():
    """Handlers as in a foreground process; a background process ignores Ctrl-C from its start."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("default_handlers")
@pytest.mark.parametrize(
    ("number", "raised"),
    [
        (signal.SIGTERM, SystemExit),
        (signal.SIGHUP, SystemExit),
        (signal.SIGINT, KeyboardInterrupt),
    ],
)
def test_signals_save_and_end(number, raised, uninterrupted, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        after_append(patch, lambda chunk: signal.raise_signal(number))
        with pytest.raises(raised) as caught:
            solved(tmp_path)
    error, message = caplog.text, "stopped after step 2"
    if raised is SystemExit:
        assert caught.value.code == {signal.SIGTERM: 143, signal.SIGHUP: 129}[number]
        assert message in error
        assert str(tmp_path) in error
    else:
        assert message in str(caught.value)
    assert (tmp_path / NAMES[2]).exists()
    assert_equal(solved(tmp_path), uninterrupted)


class Gone(io.StringIO):
    """A terminal that has been closed."""

    def write(self, text):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def isatty(self):
        return True


class Broken(Gone):
    """A pipe that nobody reads."""

    def isatty(self):
        return False


@pytest.mark.usefixtures("default_handlers")
@pytest.mark.parametrize("stderr", [Gone, Broken])
def test_a_closed_terminal_saves_and_ends(stderr, uninterrupted, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr())
        after_append(patch, lambda chunk: signal.raise_signal(signal.SIGHUP))
        with pytest.raises(SystemExit) as caught:
            solved(tmp_path, progress=True)
    assert caught.value.code == 129
    assert (tmp_path / NAMES[2]).exists()
    assert_equal(solved(tmp_path), uninterrupted)


@pytest.mark.usefixtures("default_handlers")
def test_a_second_interrupt_does_not_wait(tmp_path, monkeypatch):
    def action(chunk):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the run went on")

    after_append(monkeypatch, action)
    with pytest.raises(KeyboardInterrupt):
        solved(tmp_path)
    assert not (tmp_path / NAMES[2]).exists()


def test_a_thread_solves_without_handlers(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(solved(tmp_path, num_steps=2)))
    thread.start()
    thread.join()
    assert results[0].result is swjko.Result.OK


# Format and cadence.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "bool", "uint32"])
def test_arrays_and_keys_are_unpacked_as_they_were(dtype):
    arrays = [np.arange(6).reshape(2, 3), np.zeros((0, 2)), np.asarray(1)]
    leaves = [array.astype(jnp.dtype(dtype)) for array in arrays]
    keys = jax.random.split(jax.random.key(1), 3)
    (back, again) = checkpoint_format.unpack_all(2 * checkpoint_format.pack([*leaves, keys]))
    chex.assert_trees_all_equal(back, again, [*leaves, keys])
    chex.assert_trees_all_equal_shapes_and_dtypes(back, [*leaves, keys])


def test_json_holds_no_nan():
    value = {"a": swjko.Estimate(jnp.asarray([1.0, np.nan]), np.float32(np.inf)), 1: (True, "b")}
    expected = {"a": {"value": [1.0, None], "standard_error": None}, "1": [True, "b"]}
    assert checkpoint_format.finite_json(value) == expected


def test_saves_are_spaced_by_steps_or_seconds_and_by_their_cost(tmp_path, monkeypatch):
    clock, cost = [0.0], [0.0]
    monkeypatch.setattr("swjko.checkpoints.store.time.monotonic", lambda: clock[0])

    def encode(*arguments, real=checkpoint_format.encode):
        clock[0] += cost[0]
        return real(*arguments)

    monkeypatch.setattr("swjko.checkpoints.store.encode", encode)
    state = tiny_scheme().init(jax.random.key(0))
    options = {"resume": True, "every_seconds": 30.0, "every_steps": 100, "together": False}
    with open_store(tmp_path, {}, state, state, **options) as store:

        def saves(step, now):
            clock[0] = now
            store.save_if_due(step, state)
            return (tmp_path / f"step-{step:010d}.ckpt").exists()

        assert not saves(1, 29.0)
        cost[0] = 1.0  # the next save takes a second, so the one after it waits fifty
        assert saves(2, 31.0)
        assert not saves(3, 81.0)
        assert saves(4, 82.0)
        assert not saves(103, 83.0)
        assert saves(104, 83.0)
