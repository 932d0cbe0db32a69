"""Checkpoints of a run in its own directory, from which ``swjko.solve`` resumes bit for bit.

    step-0000000012.ckpt  the state after 12 steps and the run's fingerprint; the last two stay
    history.bin           what ``record`` kept of each chunk of steps
    history.jsonl         the reports, one line per step, readable at any time (``read_history``)
    lock                  held while a process writes here; names that process

Writes are atomic: a checkpoint gets its name when its bytes and those of the history are on the
disk. It holds the SHA-256 of its own bytes and of the history up to it. Both are compared before
anything is read from it. A resumed run cuts off the history beyond its checkpoint.

In a run of several processes, process 0 writes these files, and the state is in sharded arrays
beside them (``swjko.checkpoints.sharded``).
"""

import contextlib
import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from swjko.checkpoints import fingerprint
from swjko.checkpoints.format import (
    Damaged,
    decode,
    encode,
    finite_json,
    is_key,
    pack,
    unpack,
    write_all,
    write_atomically,
)
from swjko.checkpoints.sharded import ShardedArrays
from swjko.schemes.base import Info, State

_NAME = re.compile(r"step-(\d+)\.ckpt")
_KEPT = 2
# However large the state, saving takes at most this fraction of the time between two saves.
_LARGEST_COST = 0.02


class CheckpointError(RuntimeError):
    """A directory cannot be used or written. Existing checkpoints are never modified."""


class Saved(NamedTuple):
    """Where a run stands.

    Attributes:
      step: Number of steps taken.
      state: State after them.
      records: What was recorded of them, a list of chunks with a leading axis of steps.
    """

    step: int
    state: State
    records: list[Any]


def open_store(
    directory: Path,
    run: Mapping[str, str],
    start: State,
    recorded: Any,
    *,
    resume: bool,
    every_seconds: float,
    every_steps: int | None,
    together: bool,
) -> "Store":
    """Open, and lock, the directory of a run; create it if it does not exist.

    Args:
      directory: Directory of this run alone.
      run: Fingerprint of the run, from ``fingerprint.describe``.
      start: State at step 0. A restored state has its structure and its placement on devices.
      recorded: Tree with the structure of what will be recorded.
      resume: Resume from the newest intact checkpoint. If False, a directory with checkpoints
        is refused.
      every_seconds: Time after which ``save_if_due`` saves.
      every_steps: Number of steps after which it saves; None for no such limit.
      together: Whether several processes share the run. All of them make the same calls.

    Returns:
      The store, a context manager. ``store.saved`` says where the run stands.

    Raises:
      CheckpointError: The directory is locked, cannot be written, or holds another run or only
        damaged checkpoints. It is raised on all processes.
    """
    back_end = ShardedArrays(directory) if together else SingleFile()
    with contextlib.ExitStack() as stack:
        store = Store(directory, run, back_end, every_seconds, every_steps)
        stack.callback(store.close)
        found, notices, failure = None, [], None
        try:
            if back_end.is_writer:
                found, notices = store._open(start, resume)
        except CheckpointError as error:
            failure = error
        told = back_end.agree({"error": str(failure)} if failure else {"step": store._saved_step})
        if "error" in told:
            raise failure or CheckpointError(told["error"])
        for notice in notices:
            warnings.warn(notice, RuntimeWarning, stacklevel=3)
        store._restore(told["step"], found, start, recorded)
        stack.pop_all()
    return store


def read_history(directory: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the reports of a run, also while it is running.

    Args:
      directory: Directory that was given to ``solve`` as ``checkpoint_dir``.

    Returns:
      One dictionary per step: the fields of ``info`` by name, and ``step``, counted from 1. NaN
      and infinities read as None. An incomplete last line is left out.

    Example:
      ``[line["energy"] for line in read_history("runs/a")]``
    """
    return [json.loads(line) for line in _complete_lines(Path(directory) / "history.jsonl")]


class Store:
    """The open directory of one run; made by ``open_store``, closed by ``close`` or ``with``.

    Attributes:
      saved: Where the run stood when it was opened.
    """

    saved: Saved

    def __init__(
        self,
        directory: Path,
        run: Mapping[str, str],
        back_end: "SingleFile | ShardedArrays",
        every_seconds: float,
        every_steps: int | None,
    ):
        self._directory, self._run, self._back_end = (
            directory,
            {**run, **back_end.entries},
            back_end,
        )
        self._every_seconds, self._every_steps = every_seconds, every_steps
        self._saved_step, self._saved_at, self._cost = 0, time.monotonic(), 0.0
        self._history_bytes, self._history_hash = 0, hashlib.sha256()
        self._files: list[int] = []
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files and release the lock."""
        self._resources.close()

    def append(self, first_step: int, infos: Info, recorded: Any) -> None:
        """Append the reports and records of a chunk of steps to the history.

        Args:
          first_step: Number of the first of these steps, counted from 1.
          infos: Reports, with a leading axis of steps; equal on all processes.
          recorded: What was recorded; equal on all processes.
        """
        if not self._back_end.is_writer:
            return
        frame = pack(jax.tree.leaves(recorded))
        with _explained(self._directory, "write the history in"):
            write_all(self._files[0], frame)
            write_all(self._files[1], _json_lines(first_step, infos))
        self._history_bytes += len(frame)
        self._history_hash.update(frame)

    def save_if_due(self, step: int, state: State) -> None:
        """Save the state if enough seconds or steps have passed since the last save."""
        waited = time.monotonic() - self._saved_at
        is_due = waited >= max(self._every_seconds, self._cost / _LARGEST_COST) or (
            self._every_steps is not None and step - self._saved_step >= self._every_steps
        )
        if self._back_end.agree({"is_due": is_due})["is_due"]:
            self.save(step, state)

    def save(self, step: int, state: State) -> None:
        """Save the state after this number of steps, unless it is saved already."""
        if step == self._saved_step:
            return
        began = time.monotonic()
        with _explained(self._directory, f"save step {step} in"):
            self._publish(step, state)
        self._saved_step, self._saved_at = step, time.monotonic()
        self._cost = self._saved_at - began

    def _publish(self, step: int, state: State) -> None:
        leaves = self._back_end.write(step, state)
        if not self._back_end.is_writer:
            return
        for file in self._files:
            os.fsync(file)
        history = {"bytes": self._history_bytes, "sha256": self._history_hash.hexdigest()}
        header = {"step": step, "configuration": self._run, "history": history}
        write_atomically(self._path(step), encode(header, leaves))
        for path in _checkpoints(self._directory)[_KEPT:]:
            path.unlink()
        self._back_end.prune({path.stem for path in _checkpoints(self._directory)})

    def _open(self, start: State, resume: bool) -> tuple["_Found | None", list[str]]:
        """Lock the directory and prepare its files; return the newest checkpoint and warnings."""
        # The lock needs a POSIX system; the rest of the package does not.
        from swjko.checkpoints.lock import Locked, lock

        notices = []
        with _explained(self._directory, "use"):
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / "lock"
            try:
                owner = self._resources.enter_context(lock(path))
            except Locked as error:
                raise CheckpointError(f"checkpoint_dir {self._directory} {error}") from None
            if owner:
                notices.append(f"{path} was left by {owner}, which has ended; it is taken over")
            found, damaged = self._newest(resume)
        for path, reason in damaged.items():
            notices.append(f"the checkpoint {path} is damaged ({reason}); resuming from one before")
        with _explained(self._directory, "write in"):
            for path in damaged:
                path.replace(path.with_name(f"{path.name}.damaged"))
            self._begin(found, start)
        return found, notices

    def _newest(self, resume: bool) -> tuple["_Found | None", dict[Path, str]]:
        """Return the newest intact checkpoint, and why newer ones are damaged."""
        directory, damaged = self._directory, {}
        paths = _checkpoints(directory)
        if not paths and any((directory / name).exists() for name in _HISTORY):
            raise CheckpointError(
                f"checkpoint_dir {directory} holds a history but no checkpoint. "
                "Use another directory, or remove the history."
            )
        if paths and not resume:
            raise CheckpointError(
                f"checkpoint_dir {directory} holds checkpoints. "
                "Resume from them with resume=True, or use another directory."
            )
        for path in paths:
            try:
                found = _load(path)
                self._require_same_run(found)
                self._back_end.check(found.step, found.leaves)
            except (Damaged, OSError) as error:
                damaged[path] = str(error)
            else:
                return found, damaged
        if damaged:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in damaged.items())
            raise CheckpointError(
                f"checkpoint_dir {directory} has no intact checkpoint: {reasons}. "
                "Nothing was changed."
            )
        return None, {}

    def _require_same_run(self, found: "_Found") -> None:
        if listed := fingerprint.differences(found.run, self._run):
            raise CheckpointError(
                f"checkpoint_dir {self._directory} holds another run ({'; '.join(listed)}). Use "
                "another directory, or what that run was started with. Nothing was changed."
            )

    def _begin(self, found: "_Found | None", start: State) -> None:
        """Cut the history to the checkpoint, or write the first one, and open the history."""
        for pattern in ("step-*.ckpt.tmp", "history.jsonl.tmp"):
            for path in self._directory.glob(pattern):
                path.unlink()
        if found is None:
            self._publish(0, start)
        else:
            self._saved_step = found.step
            self._history_bytes, self._history_hash = found.history_bytes, found.history_hash
            self._back_end.prune({path.stem for path in _checkpoints(self._directory)})
        lines = _complete_lines(self._directory / "history.jsonl")
        lines = [line for line in lines if json.loads(line)["step"] <= self._saved_step]
        write_atomically(self._directory / "history.jsonl", b"".join(lines))
        for name in _HISTORY:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._files.append(os.open(self._directory / name, flags, 0o666))
            self._resources.callback(os.close, self._files[-1])
        os.ftruncate(self._files[0], self._history_bytes)

    def _restore(self, step: int, found: "_Found | None", start: State, recorded: Any) -> None:
        """Set ``saved`` from the checkpoint that process 0 has found."""
        self._saved_step, self.saved = step, Saved(0, start, [])
        with _explained(self._directory, f"restore step {step} from"):
            if found is None and step:
                found = _load(self._path(step))
            if found is not None:
                structure = jax.tree.structure(recorded)
                records = [jax.tree.unflatten(structure, leaves) for leaves in found.history]
                state = self._back_end.restore(step, found.leaves, start)
                self.saved = Saved(step, state, records)

    def _path(self, step: int) -> Path:
        return self._directory / f"step-{step:010d}.ckpt"


class SingleFile:
    """Back end of a store for one process: the state is in the checkpoint file itself."""

    entries: Mapping[str, str] = {}
    is_writer = True

    def write(self, step: int, state: State) -> list[Any]:
        """Return what belongs into the checkpoint file: the leaves of the state."""
        del step
        return jax.tree.leaves(state)

    def check(self, step: int, leaves: Sequence[Any]) -> None:
        """Accept any leaves: the checksum of the file covers them."""

    def restore(self, step: int, leaves: Sequence[Any], start: State) -> State:
        """Put the leaves into the structure of ``start``, placed on devices as its leaves are."""
        del step
        places, structure = jax.tree.flatten(start)
        values = [
            jax.device_put(leaf, place.sharding if place.committed else None)
            for leaf, place in zip(leaves, places, strict=True)
        ]
        return jax.tree.unflatten(structure, values)

    def prune(self, names: set[str]) -> None:
        """Do nothing: there are no files beside the checkpoints."""

    def agree(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the message: there is no other process."""
        return message


_HISTORY = ("history.bin", "history.jsonl")


class _Found(NamedTuple):
    step: int
    run: dict[str, str]
    leaves: list[Any]
    history: list[list[Any]]
    history_bytes: int
    history_hash: Any


def _load(path: Path) -> _Found:
    """Read a checkpoint and the history up to it. Raise Damaged if a checksum differs."""
    header, leaves = decode(path.read_bytes())
    length, history, history_path = header["history"]["bytes"], b"", path.with_name(_HISTORY[0])
    if length:
        with history_path.open("rb") as file:
            history = file.read(length)
    digest = hashlib.sha256(history)
    if len(history) != length or digest.hexdigest() != header["history"]["sha256"]:
        raise Damaged(f"the checksum of {history_path} up to it does not match")
    chunks, offset = [], 0
    while offset < length:
        chunk, offset = unpack(history, offset)
        chunks.append(chunk)
    return _Found(header["step"], header["configuration"], leaves, chunks, length, digest)


def _checkpoints(directory: Path) -> list[Path]:
    """Return the paths of the checkpoints, newest first."""
    matches = {path: _NAME.fullmatch(path.name) for path in directory.iterdir()}
    steps = {path: int(match[1]) for path, match in matches.items() if match}
    return sorted(steps, key=lambda path: steps[path], reverse=True)


def _json_lines(first_step: int, infos: Info) -> bytes:
    """Return one line of JSON per step. Fields of ``infos.extra`` stand beside the others."""
    columns = {
        jax.tree_util.keystr(path, simple=True, separator=".").removeprefix("extra."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(infos)
        if not is_key(leaf)
    }
    rows = zip(*(finite_json(np.asarray(leaf)) for leaf in columns.values()), strict=True)
    lines = (
        {"step": step} | dict(zip(columns, row, strict=True))
        for step, row in enumerate(rows, first_step)
    )
    return "".join(f"{json.dumps(line, allow_nan=False)}\n" for line in lines).encode()


def _complete_lines(path: Path) -> list[bytes]:
    """Return the lines before the first that is cut or is not the report of a step."""
    complete = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            is_report = line.endswith(b"\n") and isinstance(json.loads(line)["step"], int)
        except (ValueError, TypeError, KeyError):
            is_report = False
        if not is_report:
            break
        complete.append(line)
    return complete


@contextlib.contextmanager
def _explained(directory: Path, what: str) -> Iterator[None]:
    """Turn errors of the file system into a CheckpointError that says what failed."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot {what} checkpoint_dir {directory}: {error.strerror or error}. Checkpoints "
            "saved before are intact. Fix the cause, then solve again with resume=True."
        ) from error


def opened(directory: Path, run, start, recorded, **cadence: Any) -> Store:  # until solve moves
    return open_store(directory, run, start, recorded, together=False, **cadence)

