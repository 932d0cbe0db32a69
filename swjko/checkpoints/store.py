"""Checkpoints of a run in its own directory, from which ``swjko.solve`` resumes bit for bit.

    step-0000000012.ckpt  the state after 12 steps and the run's fingerprint; the last two stay
    history.bin           what ``record`` kept of each chunk of steps
    history.jsonl         the reports, one line per step, readable at any time (``read_history``)
    .swjko.lock           held while a process writes here; names that process

Writes are atomic. A checkpoint gets its name when its bytes and those of the history are on the
disk. It holds the SHA-256 of its own bytes and of the history up to it, and both are compared
when it is read. Its leaves are compared with the start of the run. A run that resumes cuts off
the history beyond its checkpoint.

Only regular files are opened, never through a link. A file that is not ours is neither changed
nor removed: if it has the name of one of these files, the directory is refused.

In a run of several processes, process 0 writes these files, and the state is in sharded arrays
beside them (``swjko.checkpoints.sharded``).
"""

import contextlib
import hashlib
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from swjko.checkpoints.files import (
    CheckpointError,
    explained,
    open_regular,
    remove_temporaries,
    set_aside,
    write_all,
    write_atomically,
)
from swjko.checkpoints.format import (
    HISTORY,
    Checkpoint,
    Damaged,
    checkpoint_name,
    checkpoint_paths,
    encode,
    is_checkpoint,
    load,
    pack,
    unpack_all,
)
from swjko.checkpoints.history import REPORTS, kept_lines, report_lines
from swjko.checkpoints.naming import leaf_names
from swjko.checkpoints.newest import newest_checkpoint, require_own_history
from swjko.checkpoints.sharded import ShardedArrays
from swjko.checkpoints.single import SingleFile
from swjko.schemes.base import Info, State

_KEPT = 2
# However large the state, saving takes at most this fraction of the time between two saves.
_LARGEST_COST = 0.02


class Saved(NamedTuple):
    """Where a run stands.

    Attributes:
      step: Number of steps taken.
      state: State after them.
      records: What was recorded, a list of chunks with a leading axis of steps.
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
    """Open and lock the directory of a run; create it if it does not exist.

    Args:
      directory: Directory of this run alone.
      run: Fingerprint of the run, from ``fingerprint.describe``.
      start: State at step 0. A restored state has its structure and placement on devices.
      recorded: Tree with the structure of what will be recorded.
      resume: Resume from the newest intact checkpoint; False refuses a directory that has any.
      every_seconds: Seconds after which ``save_if_due`` saves.
      every_steps: Steps after which it saves, if the seconds have not passed; None for no limit.
      together: Whether several processes share the run. All of them make the same calls.

    Returns:
      The store, a context manager. ``store.saved`` says where the run stands.

    Raises:
      CheckpointError: The directory is locked, cannot be written, or holds another run or only
        damaged checkpoints. All processes raise it.
    """
    back_end = ShardedArrays(directory) if together else SingleFile()
    with contextlib.ExitStack() as stack:
        names = {"state": leaf_names(start), "record": leaf_names(recorded)}
        store = Store(directory, run, names, back_end, every_seconds, every_steps)
        stack.callback(store.close)
        found, notices, failure = None, [], None
        try:
            if back_end.is_writer:
                found, notices = store._open(start, recorded, resume)
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


class Store:
    """The open directory of one run, made by ``open_store``; leaving ``with`` closes it.

    Attributes:
      saved: Where the run stood when the directory was opened.
    """

    saved: Saved

    def __init__(
        self,
        directory: Path,
        run: Mapping[str, str],
        names: Mapping[str, Any],
        back_end: SingleFile | ShardedArrays,
        every_seconds: float,
        every_steps: int | None,
    ):
        self._directory, self._run = directory, {**run, **back_end.entries}
        self._names = names
        self._back_end, self._resources = back_end, contextlib.ExitStack()
        self._every_seconds, self._every_steps = every_seconds, every_steps
        self._saved_step, self._saved_at, self._cost = 0, time.monotonic(), 0.0
        self._history_bytes, self._history_hash = 0, hashlib.sha256()
        self._files: list[int] = []

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
        if self._back_end.is_writer:
            frame = pack(jax.tree.leaves(recorded))
            with explained(self._directory, "write the history in"):
                write_all(self._files[0], frame)
                write_all(self._files[1], report_lines(first_step, infos))
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
        with explained(self._directory, f"save step {step} in"):
            self._publish(step, state)
        self._saved_step, self._saved_at = step, time.monotonic()
        self._cost = self._saved_at - began

    def _publish(self, step: int, state: State) -> None:
        leaves = self._back_end.write(step, state)
        if self._back_end.is_writer:
            for file in self._files:
                os.fsync(file)
            history = {"bytes": self._history_bytes, "sha256": self._history_hash.hexdigest()}
            header = {"step": step, "configuration": self._run, "history": history}
            header |= {"counted": self._back_end.counts(step, state), "names": self._names}
            # A file with this name appeared meanwhile, and is not ours.
            write_atomically(self._path(step), encode(header, leaves), replace=False)
            ours = [path for path in checkpoint_paths(self._directory) if is_checkpoint(path)]
            for path in ours[_KEPT:]:
                os.unlink(path)
            self._back_end.prune({path.stem for path in ours[:_KEPT]})

    def _open(
        self, start: State, recorded: Any, resume: bool
    ) -> tuple[Checkpoint | None, list[str]]:
        """Lock the directory and prepare its files; return what it holds, and warnings."""
        # The lock needs a POSIX system; the rest of the package does not.
        from swjko.checkpoints.lock import LOCK, Locked, lock

        directory, notices, path = self._directory, [], self._directory / LOCK
        with explained(directory, "use"):
            os.makedirs(directory, exist_ok=True)
            try:
                owner = self._resources.enter_context(lock(path))
            except Locked as error:
                raise CheckpointError(f"checkpoint_dir {directory} {error}") from None
            if owner:
                notices.append(f"{path} was left by {owner}, which has ended; it is taken over")
            found, damaged, versions = newest_checkpoint(
                directory, self._run, start, recorded, self._back_end, resume=resume
            )
            require_own_history(directory / HISTORY, found)
        if found:
            resumed = [f"{one}, after step {found.step}" for one in versions]
            notices += [f"{directory}: {one}; results may differ in bits" for one in resumed]
            resumed = [*filter(None, [found.run.get("resumed", "")]), *resumed]
            self._run |= {"resumed": "; ".join(resumed)} if resumed else {}
        with explained(directory, "write in"):
            for path, reason in damaged.items():
                notices.append(f"the checkpoint {path} is damaged ({reason}); using an older one")
                set_aside(path)
            notices += self._begin(found, start)
        return found, notices

    def _begin(self, found: Checkpoint | None, start: State) -> list[str]:
        """Write the first checkpoint, or cut the history to the one found, and open the history."""
        remove_temporaries(self._directory)
        if found is None:
            self._publish(0, start)
        else:
            self._saved_step = found.step
            self._history_bytes, self._history_hash = len(found.history), found.digest
            self._back_end.prune({path.stem for path in checkpoint_paths(self._directory)})
        lines, notices = kept_lines(self._directory, self._saved_step)
        write_atomically(self._directory / REPORTS, b"".join(lines))
        for name in (HISTORY, REPORTS):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._files.append(open_regular(self._directory / name, flags))
            self._resources.callback(_close, self._files[-1])
        os.ftruncate(self._files[0], self._history_bytes)
        return notices

    def _restore(self, step: int, found: Checkpoint | None, start: State, recorded: Any) -> None:
        """Set ``saved`` from the checkpoint that process 0 has found."""
        self._saved_step, self.saved = step, Saved(0, start, [])
        with explained(self._directory, f"restore step {step} from"):
            try:
                found = load(self._path(step)) if found is None and step else found
            except Damaged as error:
                raise CheckpointError(f"{self._path(step)} is damaged: {error}.") from None
            if found is not None:
                structure = jax.tree.structure(recorded)
                records = [structure.unflatten(leaves) for leaves in unpack_all(found.history)]
                state = self._back_end.restore(step, found.leaves, start)
                self.saved = Saved(step, state, records)

    def _path(self, step: int) -> Path:
        return self._directory / checkpoint_name(step)


def _close(file: int) -> None:
    """Close a file of the history. What a checkpoint needs of it is on the disk already."""
    with contextlib.suppress(OSError):
        os.close(file)
