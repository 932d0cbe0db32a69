"""Runs that are stopped and go on: bit for bit, whatever stopped them, and never from what is damaged or another run's."""

import dataclasses
import errno
import functools
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import failing_scheme, tiny_scheme

import swjko
from swjko.checkpoints import fingerprint as configuration
from swjko.checkpoints import store as checkpoints
from swjko.running import compiled as programs
from swjko.running import signals as interrupts

STEPS = 6
REPOSITORY = Path(__file__).resolve().parents[2]


class Cut(Exception):
    """What ends a run in these tests: as a kill would, without a word to the driver."""


@functools.cache
def shared_scheme():
    return tiny_scheme()


def solved(directory=None, *, key=0, scheme=None, num_steps=STEPS, **options):
    options = {"chunk_size": 2, "progress": False} | options
    return swjko.solve(
        jax.random.key(key),
        scheme or shared_scheme(),
        num_steps,
        checkpoint_dir=directory,
        **options,
    )


def cut_after(chunks, directory, monkeypatch, **options):
    """A run that ends after so many chunks, the last of which has not been saved unless the cadence says so."""
    left = [chunks]

    def append(self, *arguments, real=checkpoints.Store.append):
        real(self, *arguments)
        left[0] -= 1
        if left[0] < 0:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Store, "append", append)
        with pytest.raises(Cut):
            solved(directory, **options)


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def assert_equal(one, other):
    chex.assert_trees_all_equal(one.state, other.state)
    chex.assert_trees_all_equal(one.history, other.history)
    chex.assert_trees_all_equal_shapes_and_dtypes(one.history, other.history)
    assert one.result is other.result


@pytest.fixture(scope="module")
def whole():
    return solved(record=swjko.both)


@pytest.fixture
def saved(tmp_path):
    """A directory of a finished run with checkpoints at steps 4 and 6."""
    solved(tmp_path / "run", checkpoint_steps=2, record=swjko.both)
    return tmp_path / "run"


@pytest.mark.parametrize("chunks", [0, 1, 2])
@pytest.mark.parametrize("chunk_size", [1, 2, 3])
def test_a_cut_run_goes_on_bit_for_bit(chunks, chunk_size, whole, tmp_path, monkeypatch):
    cut_after(chunks, tmp_path, monkeypatch, checkpoint_steps=1, chunk_size=2, record=swjko.both)
    resumed = solved(tmp_path, chunk_size=chunk_size, record=swjko.both)
    assert_equal(resumed, whole)
    assert [line["step"] for line in checkpoints.read_history(tmp_path)] == list(
        range(1, STEPS + 1)
    )
    np.testing.assert_array_equal(
        np.asarray(
            [line["energy"] for line in checkpoints.read_history(tmp_path)],
            whole.history[1].energy.dtype,
        ),
        whole.history[1].energy,
    )


def test_a_cut_between_two_saves_repeats_the_steps_since_the_last(whole, tmp_path, monkeypatch):
    cut_after(2, tmp_path, monkeypatch, record=swjko.both)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["step-0000000000.ckpt"]
    assert len(checkpoints.read_history(tmp_path)) == STEPS
    assert_equal(solved(tmp_path, record=swjko.both), whole)
    assert len(checkpoints.read_history(tmp_path)) == STEPS


def test_a_finished_run_is_read_and_not_run_again(saved, whole, monkeypatch):
    monkeypatch.setattr(programs.Chunks, "run", None)
    before = contents(saved)
    assert_equal(solved(saved, record=swjko.both), whole)
    assert contents(saved) == before


def test_checkpoints_change_nothing(saved, whole):
    assert_equal(solved(saved, record=swjko.both), whole)
    assert sorted(contents(saved)) == [
        "history.bin",
        "history.jsonl",
        "step-0000000004.ckpt",
        "step-0000000006.ckpt",
    ]


def schemes():
    yield (
        "langevin",
        lambda: swjko.langevin(jnp.ones((4, 2)), lambda x: -jnp.sum(x**2) / 2, step_size=0.1),
    )
    yield (
        "sw_bdf2",
        lambda: swjko.sw_bdf2(
            *(
                helpers.FAMILIES["gaussian"](),
                helpers.FUNCTIONALS["kl_divergence"](),
                optax.adam(1e-2),
            ),
            step_size=0.1,
            num_inner_steps=2,
            num_samples=8,
            num_projections=3,
        ),
    )
    yield "adaptive", lambda: swjko.adaptive(tiny_scheme(), min_step_size=1e-2, max_step_size=1.0)
    yield (
        "icnn_jko",
        lambda: swjko.icnn_jko(
            *(2, helpers.FUNCTIONALS["potential"](), optax.adam(1e-2)),
            step_size=0.1,
            num_inner_steps=2,
            num_samples=8,
            num_points=8,
            max_steps=3,
            width=4,
            rank=1,
        ),
    )
    yield "flows", lambda: Flows(tiny_scheme())


class KeyedState(NamedTuple):
    params: Any
    time: Any
    step: Any
    result: Any
    key: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flows:
    """Three independent flows as one scheme: a leading axis in all but the number of steps. Its state keeps a key as well."""

    one: swjko.Scheme

    @property
    def family(self):
        return self.one.family

    def init(self, key):
        state = jax.vmap(self.one.init)(jax.random.split(key, 3))
        return KeyedState(*state._replace(step=jnp.zeros((), jnp.int32)), key)

    def step(self, key, state):
        old = swjko.State(*state[:4])
        states, info = jax.vmap(self.one.step, in_axes=(0, swjko.State(0, 0, None, 0)))(
            jax.random.split(key, 3), old
        )
        return KeyedState(
            *states._replace(step=state.step + 1), jax.random.fold_in(state.key, 1)
        ), info


@pytest.mark.parametrize(("name", "make"), [pytest.param(*case, id=case[0]) for case in schemes()])
def test_every_kind_of_state_survives(name, make, tmp_path, monkeypatch):
    options = {"scheme": make(), "num_steps": 3, "chunk_size": 1, "record": swjko.both}
    cut_after(1, tmp_path, monkeypatch, checkpoint_steps=1, **options)
    assert_equal(solved(tmp_path, **options), solved(**options))


def test_a_failed_flow_stays_failed(tmp_path, monkeypatch):
    scheme = failing_scheme()
    first = solved(tmp_path, scheme=scheme, throw=False)
    monkeypatch.setattr(programs.Chunks, "run", None)
    with pytest.raises(swjko.FlowError, match="NON_FINITE"):
        solved(tmp_path, scheme=scheme)
    assert_equal(solved(tmp_path, scheme=failing_scheme(), throw=False), first)
    # JSON knows no NaN.
    assert checkpoints.read_history(tmp_path)[0]["energy"] is None


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
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(how, saved, whole):
    newest = saved / "step-0000000006.ckpt"
    damage(newest, how, np.random.default_rng(0))
    with pytest.warns(RuntimeWarning, match=re.escape(f"{newest} is damaged")):
        resumed = solved(saved, record=swjko.both)
    assert_equal(resumed, whole)
    assert len(checkpoints.read_history(saved)) == STEPS
    assert sorted(path.name for path in saved.glob("*.ckpt*")) == [
        "step-0000000004.ckpt",
        "step-0000000006.ckpt",
        "step-0000000006.ckpt.damaged",
    ]


def test_no_damage_is_read_in_silence(saved):
    rng = np.random.default_rng(1)
    path = saved / "step-0000000006.ckpt"
    history = saved / "history.bin"
    good = {path: path.read_bytes(), history: history.read_bytes()}
    for index in range(1000):
        target = history if index % 4 == 3 else path
        how = ("bit", "cut", "longer" if target is path else "cut")[index % 3]
        damage(target, how, rng)
        with pytest.raises(checkpoints._Damaged):
            checkpoints._load(path, history, [])
        target.write_bytes(good[target])
    checkpoints._load(path, history, [])


def test_where_all_are_damaged_nothing_is_changed(saved):
    for path in saved.glob("*.ckpt"):
        damage(path, "bit", np.random.default_rng(2))
    before = contents(saved)
    with (
        pytest.warns(RuntimeWarning, match="is damaged"),
        pytest.raises(
            swjko.CheckpointError, match=r"no checkpoint that is whole: .*step-0000000006\.ckpt"
        ),
    ):
        solved(saved, record=swjko.both)
    assert contents(saved) == before


def test_a_half_line_is_not_read_and_not_kept(saved, whole):
    path = saved / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    assert [line["step"] for line in checkpoints.read_history(saved)] == [1, 2, 3, 4, 5]
    path.write_bytes(b"".join(lines) + b'{"step": 7, "ener')
    assert_equal(solved(saved, record=swjko.both), whole)
    assert path.read_bytes() == b"".join(lines)


# Another run's directory.

OTHERS = {
    "key": {"key": 1},
    "num_steps": {"num_steps": STEPS + 1},
    "record": {"record": swjko.infos},
    "scheme.step_size: float32[] 0.1": {"scheme": lambda: tiny_scheme(step_size=0.2)},
    "scheme.num_inner_steps: 4 there and 5": {"scheme": lambda: tiny_scheme(num_inner_steps=5)},
    "scheme.family": {"scheme": lambda: tiny_scheme("coupling")},
    "scheme.functional": {"scheme": lambda: tiny_scheme(functional="kl_divergence")},
    "scheme.optimizer": {
        "scheme": lambda: dataclasses.replace(tiny_scheme(), optimizer=optax.adam(2e-2))
    },
}


@pytest.mark.parametrize("named", OTHERS)
def test_another_run_is_refused_and_its_difference_named(named, saved):
    options = {"record": swjko.both} | {
        name: value() if name == "scheme" else value for name, value in OTHERS[named].items()
    }
    before = contents(saved)
    if jax.config.values["jax_enable_x64"]:
        named = named.replace("float32", "float64")
    with pytest.raises(
        swjko.CheckpointError,
        match=rf"holds another run \(.*{re.escape(named)}.*Nothing was changed",
    ):
        solved(saved, **options)
    assert contents(saved) == before


def test_another_version_is_refused(saved, monkeypatch):
    monkeypatch.setattr(swjko, "__version__", "99.0")
    with pytest.raises(
        swjko.CheckpointError, match=r"version of swjko: [\d.]+ there and 99.0 here"
    ):
        solved(saved, record=swjko.both)


def test_resume_false_overwrites_nothing(saved):
    before = contents(saved)
    with pytest.raises(swjko.CheckpointError, match=r"holds checkpoints.*resume=True"):
        solved(saved, resume=False, record=swjko.both)
    assert contents(saved) == before


def test_a_history_of_unknown_origin_is_refused(tmp_path):
    (tmp_path / "history.jsonl").write_text("mine\n")
    with pytest.raises(swjko.CheckpointError, match="holds a history but no checkpoint"):
        solved(tmp_path)
    assert contents(tmp_path) == {"history.jsonl": b"mine\n"}


SCALE = 2.0


def test_functions_are_known_by_what_they_do(monkeypatch):
    def potential(power, data=None):
        return swjko.potential(
            jax.tree_util.Partial(
                lambda data, x: SCALE * jnp.sum(x**power) + jnp.sum(data), jnp.ones(3)
            )
        )

    same = configuration.describe(functional=potential(2))
    assert same == configuration.describe(functional=potential(2))
    assert not [value for value in same.values() if " at 0x" in value]
    assert any(
        "power" in phrase
        for phrase in configuration.differences(
            same, configuration.describe(functional=potential(3))
        )
    )
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert any(
        "SCALE: 2.0 there and 3.0 here" in text
        for text in configuration.differences(same, configuration.describe(functional=potential(2)))
    )


class Scaled:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, x):
        return self.scale * jnp.sum(x**2)


def test_objects_are_known_by_their_attributes():
    one, same, other = (
        configuration.describe(functional=swjko.potential(Scaled(scale)))
        for scale in (1.0, 1.0, 2.0)
    )
    assert one == same
    assert any(
        "scale: 1.0 there and 2.0 here" in phrase
        for phrase in configuration.differences(one, other)
    )


def test_many_differences_are_counted():
    phrases = configuration.differences(
        {str(i): "a" for i in range(30)}, {str(i): "b" for i in range(30)}
    )
    assert phrases[0] == "0: a there and b here"
    assert phrases[-1] == "and 22 more"


def test_configurations_agree_between_processes():
    code = """
        import jax, json, optax, swjko, jax.numpy as jnp
        from swjko import flows
        from swjko.checkpoints import fingerprint as configuration
        scheme = swjko.adaptive(swjko.sw_jko(flows.coupling(2, num_layers=2, width=4), swjko.kl_divergence(lambda x: -jnp.sum(x**2)),
            optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, 5))), step_size=0.1, num_inner_steps=2,
            num_samples=8, num_projections=3), min_step_size=0.01, max_step_size=1.0)
        print(json.dumps(configuration.describe(scheme=scheme, record=swjko.both, key=jax.random.key(3))))
    """
    first, second = (
        json.loads(python(code, PYTHONHASHSEED=seed).communicate(timeout=120)[0])
        for seed in ("1", "2")
    )
    assert configuration.differences(first, second) == []
    assert len(first) > 30


# Locks, disks and signals.


def test_a_directory_in_use_is_refused(saved):
    before = contents(saved)
    with open_run(saved):
        with pytest.raises(
            swjko.CheckpointError,
            match=rf"is being written by process {os.getpid()} on {socket.gethostname()}",
        ):
            solved(saved, record=swjko.both)
        assert (saved / "lock").exists()
    assert contents(saved) == before


def open_run(directory):
    from swjko.checkpoints.lock import lock

    return lock(directory / "lock")


def test_the_lock_of_a_dead_process_is_taken_over(saved, whole):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (saved / "lock").write_text(json.dumps({"pid": dead.pid, "host": socket.gethostname()}))
    with pytest.warns(RuntimeWarning, match=f"was left by process {dead.pid} on .* is taken over"):
        assert_equal(solved(saved, record=swjko.both), whole)
    assert not (saved / "lock").exists()


def test_the_lock_of_another_host_is_left(saved):
    (saved / "lock").write_text(json.dumps({"pid": 1, "host": "elsewhere.example"}))
    before = contents(saved)
    with pytest.raises(
        swjko.CheckpointError, match=r"locked by process 1 on elsewhere\.example.*remove .*lock"
    ):
        solved(saved, record=swjko.both)
    assert contents(saved) == before


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        swjko.CheckpointError, match=r"cannot use checkpoint_dir .*file/run: Not a directory"
    ):
        solved(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(saved):
    saved.chmod(0o500)
    with pytest.raises(swjko.CheckpointError, match="Permission denied"):
        solved(saved, record=swjko.both)
    saved.chmod(0o700)


@pytest.mark.parametrize("writes", range(0, 9, 2))
def test_a_full_disk_loses_nothing_that_is_saved(writes, whole, tmp_path, monkeypatch):
    left = [writes]

    def write(file, content, real=os.write):
        left[0] -= 1
        if left[0] < 0:
            real(file, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, "write", write)
        with pytest.raises(
            swjko.CheckpointError, match=r"checkpoint_dir .*: No space left on device\. .*intact"
        ):
            solved(tmp_path, checkpoint_steps=2, record=swjko.both)
    assert not list(tmp_path.glob("*.tmp"))
    assert not (tmp_path / "lock").exists()
    resumed = solved(tmp_path, record=swjko.both)
    assert_equal(resumed, whole)


@pytest.mark.parametrize("calls", range(0, 36, 3))
def test_a_kill_in_the_middle_of_a_write_loses_nothing_that_is_saved(
    calls, whole, tmp_path, monkeypatch
):
    left = [calls]

    def cut(function):
        def call(*arguments):
            left[0] -= 1
            if left[0] < 0:
                if function is os.write:
                    function(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise Cut
            return function(*arguments)

        return call

    (tmp_path / "run").mkdir()
    real = {
        name: getattr(os, name) for name in ("write", "fsync", "replace", "unlink", "ftruncate")
    }
    with monkeypatch.context() as patch:
        for name, function in real.items():
            patch.setattr(os, name, cut(function))
        with pytest.raises(Cut):
            solved(tmp_path / "run", checkpoint_steps=2, record=swjko.both)
    (tmp_path / "run" / "lock").unlink(missing_ok=True)
    assert_equal(solved(tmp_path / "run", record=swjko.both), whole)
    assert len(checkpoints.read_history(tmp_path / "run")) == STEPS


@pytest.fixture
def signals_heard():
    """Handlers as of a process in the foreground; one in the background of a script ignores Ctrl-C from its start."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_heard")
@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_signals_save_and_end(number, raised, whole, tmp_path, monkeypatch, capsys):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def run(self, *arguments, real=programs.Chunks.run):
        signal.raise_signal(number)
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(programs.Chunks, "run", run)
        with pytest.raises(raised) as caught:
            solved(tmp_path, record=swjko.both)
    if raised is SystemExit:
        assert caught.value.code == 143
        assert f"stopped after step 2, which is saved in {tmp_path}" in capsys.readouterr().err
    else:
        assert "stopped after step 2" in str(caught.value)
    assert handlers == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    assert (tmp_path / "step-0000000002.ckpt").exists()
    assert_equal(solved(tmp_path, record=swjko.both), whole)


def test_a_second_interrupt_does_not_wait():
    signals = interrupts.Interrupts(Path())
    signals.note(signal.SIGINT, None)
    signals.note(signal.SIGTERM, None)
    signals.note(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        signals.note(signal.SIGINT, None)


@pytest.mark.usefixtures("signals_heard")
def test_a_signal_that_comes_too_late_is_passed_on():
    with pytest.raises(KeyboardInterrupt), interrupts.listening(Path()):
        signal.raise_signal(signal.SIGINT)


def test_handlers_are_left_alone_without_a_directory_and_in_other_threads(tmp_path):
    default = signal.getsignal(signal.SIGINT)
    with interrupts.listening(None):
        assert signal.getsignal(signal.SIGINT) is default
    results = []
    thread = threading.Thread(target=lambda: results.append(solved(tmp_path, num_steps=2)))
    thread.start()
    thread.join()
    assert results[0].result is swjko.Result.OK


def python(code, **environment):
    environment = (
        {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        | {"JAX_PLATFORMS": "cpu"}
        | environment
    )
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


RUN = """
    import sys, jax, jax.numpy as jnp, numpy as np, optax, swjko
    scheme = swjko.sw_jko(swjko.gaussian(2), swjko.potential(lambda x: jnp.sum(x**2)), optax.adam(1e-2), step_size=1e-3,
                          num_inner_steps=200, num_samples=256, num_projections=16)
    solution = swjko.solve(jax.random.key(0), scheme, 200, chunk_size=1, progress=False, checkpoint_dir=sys.argv[1] or None,
                           checkpoint_steps=1, record=swjko.both)
    digest = __import__("hashlib").sha256()
    for leaf in jax.tree.leaves((solution.state, solution.history)):
        digest.update(np.asarray(leaf).tobytes())
    print(digest.hexdigest())
"""


def size(path):
    return path.stat().st_size if path.exists() else 0


def started(directory):
    return python(RUN.replace("sys.argv[1]", repr(str(directory))))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_goes_on_where_it_was(number, tmp_path):
    expected = started("").communicate(timeout=120)[0]
    rng = np.random.default_rng(number)
    codes = set()
    for _ in range(3):
        process = started(tmp_path)
        lines = size(tmp_path / "history.jsonl")
        while process.poll() is None and size(tmp_path / "history.jsonl") <= lines:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 2.0))
        process.send_signal(number)
        process.communicate(timeout=120)
        codes.add(process.returncode)
    # The last one may have come to its end.
    ended = -signal.SIGKILL if number == signal.SIGKILL else 128 + number
    assert {ended} <= codes <= {ended, 0}
    out, error = started(tmp_path).communicate(timeout=120)
    assert out == expected, error


# What is on the disk.


def test_nothing_is_pickled(saved):
    for path in saved.iterdir():
        with pytest.raises(
            (
                pickle.UnpicklingError,
                EOFError,
                ValueError,
                IndexError,
                KeyError,
                AttributeError,
                ImportError,
            )
        ):
            pickle.loads(path.read_bytes())
    for module in (checkpoints, configuration):
        assert not re.search(
            r"^(import|from) (pickle|dill|cloudpickle|joblib)",
            Path(module.__file__).read_text(encoding="utf-8"),
            re.M,
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "bool", "uint32"])
def test_arrays_come_back_as_they_were(dtype):
    leaves = [
        np.arange(6).reshape(2, 3).astype(jnp.dtype(dtype)),
        np.zeros((0, 2), jnp.dtype(dtype)),
        np.asarray(1).astype(jnp.dtype(dtype)),
    ]
    back, end = checkpoints._unpack(checkpoints._pack(leaves), 0)
    assert end == len(checkpoints._pack(leaves))
    chex.assert_trees_all_equal(back, leaves)
    chex.assert_trees_all_equal_shapes_and_dtypes(back, leaves)


def test_saves_are_spaced_by_steps_or_seconds_and_by_what_they_cost(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    state = tiny_scheme().init(jax.random.key(0))
    options = {"resume": True, "every_seconds": 30.0, "every_steps": 100}
    with checkpoints.opened(tmp_path, {}, state, state, **options) as store:
        saves = []
        monkeypatch.setattr(store, "save", lambda step, state: saves.append(step))
        for step, seconds in ((1, 29.0), (2, 31.0)):
            clock[0] = seconds
            store.save_if_due(step, state)
        assert saves == [2]
        store._cost = 1.0
        store.save_if_due(3, state)
        clock[0] = 51.0
        store.save_if_due(4, state)
        assert saves == [2, 4]
        clock[0] = 0.0
        store.save_if_due(100, state)
        assert saves == [2, 4, 100]


def test_chunks_shrink_where_they_outlast_the_cadence(tmp_path, monkeypatch):
    sizes = []

    def run(self, num_steps, state, real=programs.Chunks.run):
        sizes.append(num_steps)
        return (*real(self, num_steps, state)[:3], 10.0 * num_steps)

    monkeypatch.setattr(programs.Chunks, "run", run)
    solved(tmp_path, num_steps=40, chunk_size=None, checkpoint_seconds=10.0)
    assert sizes[0] == 2
    assert set(sizes[1:]) == {1}


def test_a_copy_of_the_directory_goes_on_as_well(saved, whole, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    assert_equal(solved(tmp_path / "copy", record=swjko.both), whole)
