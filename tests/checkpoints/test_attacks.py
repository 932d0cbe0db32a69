"""Run directories under attack, and on machines that fail: nothing foreign is lost or believed."""

import dataclasses
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import struct

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import swjko
from swjko.checkpoints import format as checkpoint_format
from swjko.checkpoints import read_history
from swjko.checkpoints.files import InTheWay, write_atomically
from swjko.checkpoints.format import checkpoint_name
from swjko.checkpoints.lock import LOCK

STEPS = 6
MAGIC = b"swjko checkpoint 1\n"
POINTS = np.linspace(-1.0, 1.0, 8, dtype=np.float32).reshape(4, 2)


@functools.cache
def scheme():
    return swjko.langevin(jnp.asarray(POINTS), jnp.sum, step_size=0.1)


def solved(directory=None, **options):
    options = {"chunk_size": 2, "checkpoint_steps": 2, "record": swjko.both} | options
    key = jax.random.key(0)
    return swjko.solve(key, scheme(), STEPS, checkpoint_dir=directory, progress=False, **options)


def contents(directory):
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def assert_equal(one, other):
    chex.assert_trees_all_equal((one.state, one.history), (other.state, other.history))


@pytest.fixture(scope="module")
def uninterrupted():
    return solved()


@pytest.fixture
def saved(tmp_path):
    """The directory of a complete run with checkpoints after steps 4 and 6."""
    solved(tmp_path / "run")
    return tmp_path / "run"


# What is in the way.

OCCUPIED = [LOCK, "history.bin", "history.jsonl"]
KINDS = ["file", "link", "broken link", "hard link", "pipe", "directory"]


def occupy(path, kind, other):
    """Put something of the user at a path; return it as it must stay."""
    path.unlink(missing_ok=True)
    other.write_text("of the user")
    if kind == "file":
        path.write_text("of the user")
    elif kind == "link":
        path.symlink_to(other)
    elif kind == "broken link":
        path.symlink_to(other.with_name("nowhere"))
    elif kind == "hard link":
        os.link(other, path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    return os.lstat(path)


def assert_untouched(path, before, other):
    after = os.lstat(path)
    assert (after.st_ino, after.st_mode, after.st_size) == (
        before.st_ino,
        before.st_mode,
        before.st_size,
    )
    assert other.read_text() == "of the user"
    assert not other.with_name("nowhere").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("name", OCCUPIED)
def test_what_is_in_the_way_is_named_and_left(name, kind, is_new, tmp_path):
    directory, other = tmp_path / "run", tmp_path / "other"
    directory.mkdir()
    if not is_new:
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, 0)
            with pytest.raises(Stopped):
                solved(directory)
    is_of_ours = name == "history.jsonl" and kind in ("file", "hard link") and not is_new
    before = occupy(directory / name, kind, other)
    if is_of_ours:
        # A name of the history beside a checkpoint is ours; it is replaced and not written into.
        solved(directory)
        assert other.read_text() == "of the user"
        return
    message = "holds a history but no checkpoint" if is_new and name != LOCK else re.escape(name)
    with pytest.raises(swjko.CheckpointError, match=message):
        solved(directory)
    assert_untouched(directory / name, before, other)


class Stopped(Exception):
    """Ends a run as a kill would."""


def stop_after(patch, writes):
    left = [writes]

    def append(self, *arguments, real=swjko.checkpoints.store.Store.append):
        left[0] -= 1
        if left[0] < 0:
            raise Stopped
        real(self, *arguments)

    patch.setattr(swjko.checkpoints.store.Store, "append", append)


@pytest.mark.parametrize("content", [b"", b"\0" * 40])
def test_a_lock_left_by_a_crash_is_taken_over(content, saved, uninterrupted):
    (saved / LOCK).write_bytes(content)
    assert_equal(solved(saved), uninterrupted)
    assert not (saved / LOCK).exists()


NO_LOCKS = [b'{"pid": 1}', b'{"pid": "1", "host": "a"}', b'{"pid": 1, "host": "a", "x": 0}', b"[]"]


@pytest.mark.parametrize("content", [*NO_LOCKS, b"[" * 4000, b" " * 5000])
def test_a_file_that_is_not_a_lock_is_left(content, saved):
    (saved / LOCK).write_bytes(content)
    before = contents(saved)
    with pytest.raises(swjko.CheckpointError, match=re.escape(f"{saved / LOCK} is in the way")):
        solved(saved)
    assert contents(saved) == before


def test_a_file_named_lock_is_of_the_user(tmp_path, uninterrupted):
    (tmp_path / "lock").write_text("of the user")
    assert_equal(solved(tmp_path), uninterrupted)
    assert (tmp_path / "lock").read_text() == "of the user"


def test_names_like_those_of_a_run_are_left(saved, uninterrupted):
    users = ["step-1.ckpt", "step-one.ckpt.tmp", "step-0000000001.ckpt.tmp", "history.jsonl.tmp"]
    for name in users:
        (saved / name).write_text("of the user")
    (saved / "step-0000000002.ckpt").write_text("of the user")
    (saved / f"{checkpoint_name(4)}.01234567.tmp").write_text("left by a kill")
    os.mkfifo(saved / f"{checkpoint_name(4)}.89abcdef.tmp")
    (saved / "step-by-step.arrays").mkdir()
    (saved / checkpoint_name(STEPS)).unlink()
    assert_equal(solved(saved), uninterrupted)
    for name in [*users, "step-0000000002.ckpt"]:
        assert (saved / name).read_text() == "of the user"
    assert not (saved / f"{checkpoint_name(4)}.01234567.tmp").exists()
    assert (saved / f"{checkpoint_name(4)}.89abcdef.tmp").exists()


def test_a_file_that_appears_at_the_name_of_a_checkpoint_is_left(tmp_path, monkeypatch):
    path, real = tmp_path / checkpoint_name(4), checkpoint_format.encode

    def encode(header, leaves):
        if header["step"] == 4:
            path.write_text("of the user")
        return real(header, leaves)

    monkeypatch.setattr("swjko.checkpoints.store.encode", encode)
    with pytest.raises(swjko.CheckpointError, match=re.escape(f"{path} is in the way")):
        solved(tmp_path)
    assert path.read_text() == "of the user"


def test_damaged_files_that_were_set_aside_are_kept(saved):
    newest = saved / checkpoint_name(STEPS)
    for name in (f"{newest.name}.damaged", f"{newest.name}.damaged-2"):
        (saved / name).write_text("before")
    newest.write_bytes(b"third")
    with pytest.warns(RuntimeWarning, match="is damaged"):
        solved(saved)
    assert (saved / f"{newest.name}.damaged").read_text() == "before"
    assert (saved / f"{newest.name}.damaged-2").read_text() == "before"
    assert (saved / f"{newest.name}.damaged-1").read_bytes() == b"third"


def test_an_atomic_write_does_not_follow_a_link_at_its_name(tmp_path):
    (tmp_path / "other").write_text("of the user")
    (tmp_path / "report").symlink_to(tmp_path / "other")
    with pytest.raises(InTheWay, match=r"report is in the way"):
        write_atomically(tmp_path / "report", b"new", replace=False)
    write_atomically(tmp_path / "report", b"new")
    assert (tmp_path / "other").read_text() == "of the user"
    assert (tmp_path / "report").read_bytes() == b"new"
    assert not (tmp_path / "report").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "report"]


# Right checksums, wrong content.


def taken_apart(path):
    """Return header, kinds of leaves and their bytes, read without the package."""
    body, start = path.read_bytes()[len(MAGIC) + 32 :], 0
    parts = []
    while start < len(body):
        text, payload = struct.unpack_from("<QQ", body, start)
        begin = start + 16 + text
        parts += [json.loads(body[start + 16 : begin]), body[begin : begin + payload]]
        start = begin + payload
    return parts[0], parts[2]["leaves"], parts[3]


def framed(header, payload=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<QQ", len(text), len(payload)) + text + payload


def forge(path, header, kinds, payload, tail=b""):
    body = framed(header) + framed(
        kinds if isinstance(kinds, bytes) else {"leaves": kinds}, payload
    )
    path.write_bytes(MAGIC + hashlib.sha256(body + tail).digest() + body + tail)


def with_field(name, value):
    return lambda header, kinds, payload: (header | {name: value}, kinds, payload)


def with_leaf(index, kind):
    def change(header, kinds, payload):
        return header, [*kinds[:index], kind, *kinds[index + 1 :]], payload

    return change


def with_payload(change):
    return lambda header, kinds, payload: (header, kinds, change(payload))


def without_field(name):
    def change(header, kinds, payload):
        return {key: value for key, value in header.items() if key != name}, kinds, payload

    return change


HUGE = {"bytes": 10**18, "sha256": "0" * 64}
# The leaves of the state: points [4 2], time, step, result.
FORGED = {
    "another step": with_field("step", 390),
    "a negative step": with_field("step", -6),
    "a step as text": with_field("step", "6"),
    "a step as a float": with_field("step", 6.0),
    "a step as a bool": with_field("step", True),
    "no step": without_field("step"),
    "no configuration": without_field("configuration"),
    "no history": without_field("history"),
    "a list of configurations": with_field("configuration", []),
    "numbers in the configuration": with_field("configuration", {"key": 1}),
    "an empty history": with_field("history", {}),
    "history as a number": with_field("history", 0),
    "a huge history": with_field("history", HUGE),
    "a negative history": with_field("history", HUGE | {"bytes": -1}),
    "history bytes as text": with_field("history", HUGE | {"bytes": "1"}),
    "no records": with_field("history", {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}),
    "another field": with_field("more", 1),
    "counted as a number": with_field("counted", 1),
    "a header that is a list": lambda header, kinds, payload: ([], kinds, payload),
    "a header that is null": lambda header, kinds, payload: (None, kinds, payload),
    "a deep header": lambda header, kinds, payload: (b"[" * 100_000, kinds, payload),
    "a header of other bytes": lambda header, kinds, payload: (b"\xff\xfe", kinds, payload),
    "a long number": lambda header, kinds, payload: (b'{"step": 1' + b"0" * 5000, kinds, payload),
    "no leaves": lambda header, kinds, payload: (header, [], b""),
    "leaves as a number": lambda header, kinds, payload: (header, 3, payload),
    "deep leaves": lambda header, kinds, payload: (header, b"[" * 100_000, payload),
    "a leaf less": lambda header, kinds, payload: (header, kinds[:-1], payload[:-4]),
    "a leaf more": lambda header, kinds, payload: (
        header,
        [*kinds, kinds[-1]],
        payload + b"\0" * 4,
    ),
    "another shape": with_leaf(0, ["float32", [2, 4], None]),
    "a flat shape": with_leaf(0, ["float32", [8], None]),
    "a negative shape": with_leaf(0, ["float32", [-1], None]),
    "a huge shape": with_leaf(0, ["float32", [10**30], None]),
    "an empty huge shape": with_leaf(0, ["float32", [0, 10**30], None]),
    "a shape of floats": with_leaf(0, ["float32", [4.0, 2.0], None]),
    "a shape that is text": with_leaf(1, ["float32", "", None]),
    "another dtype": with_leaf(0, ["int32", [4, 2], None]),
    "a dtype of objects": with_leaf(0, ["object", [4], None]),
    "an unknown dtype": with_leaf(0, ["float33", [4, 2], None]),
    "a dtype as a number": with_leaf(0, [1, [4, 2], None]),
    "a key": with_leaf(0, ["float32", [4, 2], "threefry2x32"]),
    "an unknown key": with_leaf(0, ["uint32", [4, 2], "mine"]),
    "a leaf of two parts": with_leaf(0, ["float32", [4, 2]]),
    "a leaf that is null": with_leaf(0, None),
    "a short payload": with_payload(lambda payload: payload[:-1]),
    "a long payload": with_payload(lambda payload: payload + b"\0"),
    "no payload": with_payload(lambda payload: b""),
    "the state of another step": with_payload(
        lambda payload: payload[:-8] + struct.pack("<i", 4) + payload[-4:]
    ),
    "an unknown result": with_payload(lambda payload: payload[:-4] + struct.pack("<i", 77)),
    "a negative result": with_payload(lambda payload: payload[:-4] + struct.pack("<i", -1)),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_content_is_damage(name, saved, uninterrupted):
    path = saved / checkpoint_name(STEPS)
    header, kinds, payload = taken_apart(path)
    forge(path, *FORGED[name](header, kinds, payload))
    with pytest.warns(RuntimeWarning, match=re.escape(f"{path} is damaged")):
        assert_equal(solved(saved), uninterrupted)


def test_bytes_behind_the_leaves_are_damage(saved, uninterrupted):
    path = saved / checkpoint_name(STEPS)
    forge(path, *taken_apart(path), tail=framed({"leaves": []}))
    with pytest.warns(RuntimeWarning, match="bytes follow its leaves"):
        assert_equal(solved(saved), uninterrupted)


def test_a_checkpoint_under_another_name_is_damage(saved):
    (saved / checkpoint_name(STEPS)).rename(saved / checkpoint_name(9))
    with pytest.warns(RuntimeWarning, match="its name differs from its step 6"):
        solved(saved)


@pytest.mark.parametrize("kind", ["pipe", "directory", "link", "sparse", "sparse with a header"])
def test_only_a_regular_file_of_the_right_size_is_read(kind, saved, uninterrupted):
    path = saved / checkpoint_name(STEPS)
    if kind == "link":
        path.rename(saved / "elsewhere")
        path.symlink_to(saved / "elsewhere")
    elif kind == "sparse with a header":
        os.truncate(path, 2**40)
    else:
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        else:
            path.touch()
            os.truncate(path, 2**40)
    with pytest.warns(RuntimeWarning, match=re.escape(f"{path} is damaged")):
        assert_equal(solved(saved), uninterrupted)


def test_a_larger_state_is_another_run(saved):
    points, key = jnp.zeros((1, 2)), jax.random.key(0)
    small = swjko.langevin(points, jnp.sum, step_size=0.1)
    path = saved / checkpoint_name(STEPS)
    os.truncate(path, 2**24)
    with pytest.raises(swjko.CheckpointError, match=r"holds another run \(.*scheme"):
        swjko.solve(key, small, STEPS, checkpoint_dir=saved, progress=False, record=swjko.both)


@pytest.mark.parametrize("kind", ["pipe", "sparse"])
def test_a_history_that_cannot_be_read_is_refused_at_once(kind, saved):
    path = saved / "history.bin"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, 2**40)
    with pytest.raises(swjko.CheckpointError, match=r"history\.bin"):
        solved(saved)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Uncounted:
    """A scheme of a user that counts its steps in twos."""

    one: swjko.Scheme

    @property
    def family(self):
        return self.one.family

    def init(self, key):
        return self.one.init(key)

    def step(self, key, state):
        moved, info = self.one.step(key, state)
        return moved._replace(step=state.step + 2), info


def test_a_scheme_that_counts_otherwise_resumes(tmp_path):
    key, options = jax.random.key(0), {"progress": False, "checkpoint_dir": tmp_path}
    first = swjko.solve(key, Uncounted(scheme()), 3, **options)
    again = swjko.solve(key, Uncounted(scheme()), 3, **options)
    assert int(again.state.step) == 6
    assert_equal(first, again)


# The history of reports.


def lines_of(directory):
    return (directory / "history.jsonl").read_bytes().splitlines(keepends=True)


LINES = {
    "lost": (lambda lines: [], "missing steps 1 to 6", []),
    "gaps": (lambda lines: [lines[0], lines[3], lines[5]], "missing steps 2 to 3, 5", [1, 4, 6]),
    "the end": (lambda lines: lines[:4], "missing steps 5 to 6", [1, 2, 3, 4]),
    "the start": (lambda lines: lines[2:], "missing steps 1 to 2", [3, 4, 5, 6]),
    "doubled": (lambda lines: 2 * lines, "repeated steps 1 to 6", [1, 2, 3, 4, 5, 6]),
    "garbage": (
        lambda lines: [*lines[:2], b"\0\0\n", b"[1]\n", *lines[2:]],
        "lines that are not reports 3 to 4",
        [1, 2, 3, 4, 5, 6],
    ),
    "deep": (
        lambda lines: [*lines, b"[" * 100_000 + b"\n"],
        "lines that are not reports 7",
        [1, 2, 3, 4, 5, 6],
    ),
    "a step as text": (
        lambda lines: [*lines[:5], b'{"step": "6"}\n'],
        "missing steps 6; lines that are not reports 6",
        [1, 2, 3, 4, 5],
    ),
    "a step as a bool": (
        lambda lines: [b'{"step": true}\n', *lines],
        "lines that are not reports 1",
        [1, 2, 3, 4, 5, 6],
    ),
    "a step of long ago": (
        lambda lines: [*lines, b'{"step": 1000000000000}\n'],
        "missing steps 7 to 999999999999",
        [1, 2, 3, 4, 5, 6, 10**12],
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_faults_of_the_reports_are_told_with_their_steps(name, saved):
    change, told, steps = LINES[name]
    path = saved / "history.jsonl"
    path.write_bytes(b"".join(change(lines_of(saved))))
    with pytest.warns(RuntimeWarning, match=f"^{re.escape(f'{path}: {told}')}$"):
        assert [report["step"] for report in read_history(saved)] == steps


def test_lost_reports_are_told_when_the_run_resumes(saved, uninterrupted):
    path = saved / "history.jsonl"
    path.unlink()
    with pytest.warns(RuntimeWarning, match=re.escape(f"{path}: missing steps 1 to 6")):
        assert_equal(solved(saved), uninterrupted)


def test_doubled_reports_are_repaired_when_the_run_resumes(saved, uninterrupted):
    lines = lines_of(saved)
    (saved / "history.jsonl").write_bytes(b"".join([*lines[3:], b"garbage\n", *lines]))
    assert_equal(solved(saved), uninterrupted)
    assert lines_of(saved) == lines


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_reports_are_read_from_a_regular_file(kind, saved, tmp_path):
    occupy(saved / "history.jsonl", kind, tmp_path / "other")
    with pytest.raises(swjko.CheckpointError, match=r"cannot read .*history\.jsonl is in the way"):
        read_history(saved)


def test_a_directory_without_a_run_has_no_reports(tmp_path):
    assert read_history(tmp_path) == read_history(tmp_path / "nowhere") == []


# System calls that fail.

FIRST, LATER = checkpoint_name(0), checkpoint_name(4)
CALLS = {
    "the directory is made": ("mkdir", "run"),
    "the lock is opened": ("open", LOCK),
    "the lock is locked": ("flock", LOCK),
    "the lock is emptied": ("ftruncate", LOCK),
    "the lock is written": ("pwrite", LOCK),
    "the first checkpoint is created": ("open", f"{FIRST}."),
    "the first checkpoint is written": ("write", f"{FIRST}."),
    "the first checkpoint is flushed": ("fsync", f"{FIRST}."),
    "the first checkpoint is published": ("link", f"{FIRST}."),
    "the reports are replaced": ("replace", "history.jsonl."),
    "the history is created": ("open", "history.bin"),
    "the history is cut": ("ftruncate", "history.bin"),
    "the history is appended": ("write", "history.bin"),
    "the reports are appended": ("write", "history.jsonl"),
    "the history is flushed": ("fsync", "history.bin"),
    "the reports are flushed": ("fsync", "history.jsonl"),
    "a later checkpoint is created": ("open", f"{LATER}."),
    "a later checkpoint is written": ("write", f"{LATER}."),
    "a later checkpoint is flushed": ("fsync", f"{LATER}."),
    "a later checkpoint is published": ("link", f"{LATER}."),
    "a temporary name is removed": ("unlink", f"{LATER}."),
    "an old checkpoint is removed": ("unlink", FIRST),
    "the directory is flushed": ("fsync", "run"),
    "the directory is listed": ("listdir", "run"),
}
CODES = [errno.EIO, errno.ENOSPC, errno.EACCES, errno.ESTALE]
# Each call fails in one way quickly, and in each way among the slow tests.
FAILURES = [
    pytest.param(call, code, marks=[] if index % 4 == number else pytest.mark.slow)
    for index, call in enumerate(CALLS)
    for number, code in enumerate(CODES)
]


def failing(function, name, code):
    """The function, failing for files whose name starts so; a dot stands for the temporary ones."""

    def call(target, *arguments, **options):
        path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else target
        found = os.path.basename(os.fspath(path))
        if found == name or (name.endswith(".") and found.startswith(name)):
            raise OSError(code, os.strerror(code))
        return function(target, *arguments, **options)

    return call


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names of open files are needed")
@pytest.mark.parametrize(("call", "code"), FAILURES)
def test_a_system_call_that_fails_loses_nothing(call, code, uninterrupted, tmp_path, monkeypatch):
    directory, (name, target) = tmp_path / "run", CALLS[call]
    module = fcntl if name == "flock" else os
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing(getattr(module, name), target, code))
        message = rf"checkpoint_dir {re.escape(str(directory))}.*{os.strerror(code)}"
        with pytest.raises(swjko.CheckpointError, match=message):
            solved(directory)
    for path in directory.glob("*.ckpt") if directory.exists() else ():
        assert checkpoint_format.load(path).step == checkpoint_format.step_of(path)
    assert_equal(solved(directory), uninterrupted)
    names = ["history.bin", "history.jsonl", checkpoint_name(4), checkpoint_name(STEPS)]
    assert sorted(path.name for path in directory.iterdir()) == names


@pytest.mark.parametrize("code", [errno.EACCES, errno.ESTALE])
def test_a_checkpoint_that_cannot_be_opened_is_not_set_aside(code, saved, monkeypatch):
    before, newest = contents(saved), checkpoint_name(STEPS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(os.open, newest, code))
        with pytest.raises(swjko.CheckpointError, match=os.strerror(code)):
            solved(saved)
    assert contents(saved) == before
