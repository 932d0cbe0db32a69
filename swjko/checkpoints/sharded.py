"""Checkpoints of a run of several processes: the arrays by orbax, each process writing its own shards; all else by process 0.

    step-0000000012.arrays   the state after 12 steps, as orbax writes it
    step-0000000012.ckpt     as in ``swjko.checkpoints``, with the SHA-256 of each file of the arrays instead of the state

The arrays come first. Once all processes have written theirs, process 0 brings them to the disk, takes their checksums and publishes the
``.ckpt``: arrays without it do not count and are removed. Before anything is restored process 0 compares the checksums, and all go on from
the checkpoint that it finds whole. The directory must be one that all processes see. ``history.bin``, ``history.jsonl`` and the lock are
those of process 0.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from swjko.checkpoints import store as checkpoints
from swjko.checkpoints.store import CheckpointError, Saved
from swjko.schemes.base import Info, State

_SUFFIX = ".arrays"
_MESSAGE_BYTES = 4096
_BLOCK_BYTES = 1 << 20


@contextlib.contextmanager
def opened(
    directory: Path,
    run: Mapping[str, str],
    start: State,
    recorded: Any,
    *,
    resume: bool,
    every_seconds: float,
    every_steps: int | None,
) -> Iterator["Store"]:
    """As ``swjko.checkpoints.opened``, called by all processes alike; ``start`` lies where the restored state is to lie.

    Raises CheckpointError, on all processes, where that would raise it on process 0.
    """
    run = {**run, "state": f"in {_SUFFIX} of orbax"}
    cadence = {"resume": resume, "every_seconds": every_seconds, "every_steps": every_steps}
    with contextlib.ExitStack() as stack:
        own, told = None, {}
        if jax.process_index() == 0:
            try:
                own = _open(stack, directory, run, recorded, **cadence)
                told = {"step": own.saved.step}
            except CheckpointError as error:
                told = {"error": str(error)}
        told = from_process_0(told)
        if "error" in told:
            raise CheckpointError(told["error"])
        store = Store(directory, own, every_seconds, every_steps)
        store.saved = Saved(0, start, [])
        if step := told["step"]:
            store.saved = Saved(
                step,
                store._restored(step, start),
                _records(directory, step, recorded) if own is None else own.saved.records,
            )
            multihost_utils.sync_global_devices("swjko: restored")
        store._saved_step = step
        yield store


class Store:
    """The open directory of one run, made by ``opened``; every process calls each method alike."""

    saved: Saved

    def __init__(
        self,
        directory: Path,
        own: checkpoints.Store | None,
        every_seconds: float,
        every_steps: int | None,
    ):
        import orbax.checkpoint

        self._directory, self._own = directory, own
        self._every_seconds, self._every_steps = every_seconds, every_steps
        self._saved_step, self._saved_at, self._cost = 0, time.monotonic(), 0.0
        self._orbax = orbax.checkpoint
        self._checkpointer = orbax.checkpoint.Checkpointer(
            orbax.checkpoint.StandardCheckpointHandler()
        )

    def append(self, first_step: int, infos: Info, recorded: Any) -> None:
        """Streams the reports and records of a chunk of steps, numbered from ``first_step`` on; on the host, the same everywhere."""
        if self._own is not None:
            self._own.append(first_step, infos, recorded)

    def save_if_due(self, step: int, state: State) -> None:
        """Saves when the cadence says so, by the clock of process 0."""
        waited = time.monotonic() - self._saved_at
        due = waited >= max(self._every_seconds, self._cost / checkpoints._LARGEST_COST)
        due = due or (
            self._every_steps is not None and step - self._saved_step >= self._every_steps
        )
        if from_process_0({"due": due})["due"]:
            self.save(step, state)

    def save(self, step: int, state: State) -> None:
        """Saves the state after ``step`` steps, unless it is saved."""
        if step == self._saved_step:
            return
        began, path = time.monotonic(), _arrays(self._directory, step)
        with checkpoints._telling(self._directory, f"save step {step} in"):
            if self._own is not None and path.exists():
                shutil.rmtree(path)
            multihost_utils.sync_global_devices("swjko: room for arrays")
            self._checkpointer.save(
                path.absolute(), args=self._orbax.args.StandardSave(_named(state))
            )
            if self._own is not None:
                self._own.save(step, _as_bytes(_checksums(path, sync=True)))
                _remove_unpublished(self._directory)
        self._saved_step, self._saved_at = step, time.monotonic()
        self._cost = self._saved_at - began

    def _restored(self, step: int, start: State) -> State:
        like = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in _named(start).items()
        }
        with checkpoints._telling(self._directory, f"restore step {step} from"):
            saved = self._checkpointer.restore(
                _arrays(self._directory, step).absolute(),
                args=self._orbax.args.StandardRestore(like),
            )
        leaves, structure = jax.tree.flatten(start)
        return jax.tree.unflatten(
            structure,
            [_as_key_like(leaf, value) for leaf, value in zip(leaves, saved.values(), strict=True)],
        )


def from_process_0(message: Mapping[str, Any]) -> dict[str, Any]:
    """What process 0 says, told to all; the others' own message is dropped. JSON of a few kilobytes, cut in its strings where longer."""
    if jax.process_count() == 1:
        return dict(message)
    content = json.dumps(
        {name: value[:2000] if isinstance(value, str) else value for name, value in message.items()}
    ).encode()
    line = np.zeros(_MESSAGE_BYTES, np.uint8)
    if jax.process_index() == 0:
        line[: len(content)] = np.frombuffer(content, np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(line))).rstrip(b"\0"))


def _open(
    stack: contextlib.ExitStack,
    directory: Path,
    run: Mapping[str, str],
    recorded: Any,
    **cadence: Any,
) -> checkpoints.Store:
    """On process 0: the directory at its newest checkpoint whose arrays are whole; those after it are renamed, under the lock."""
    while True:
        with contextlib.ExitStack() as attempt:
            store = attempt.enter_context(
                checkpoints.opened(directory, run, _as_bytes({}), recorded, **cadence)
            )
            damaged = []
            for path in checkpoints._checkpoints(directory):
                if not (reason := _damage(directory, path)):
                    break
                damaged.append((path, reason))
            else:
                listed = "; ".join(f"{path}: {reason}" for path, reason in damaged)
                raise CheckpointError(
                    f"checkpoint_dir {directory} has no checkpoint that is whole: {listed}. Nothing was changed."
                )
            if not damaged:
                _remove_unpublished(directory)
                stack.enter_context(attempt.pop_all())
                return store
            for path, reason in damaged:
                warnings.warn(
                    f"the checkpoint {path} is damaged ({reason}); going on from the one before it",
                    RuntimeWarning,
                    stacklevel=6,
                )
                path.replace(path.with_name(f"{path.name}.damaged"))


def _damage(directory: Path, path: Path) -> str:
    """What is wrong with a checkpoint, in words; nothing where it is whole."""
    try:
        found = checkpoints._load(path, directory / "history.bin", [])
    except (checkpoints._Damaged, OSError) as error:
        return str(error)
    expected = json.loads(bytes(found.leaves[0]))
    if not expected:  # of the start, which has no arrays
        return ""
    arrays = _arrays(directory, found.step)
    try:
        present = _checksums(arrays)
    except OSError as error:
        return f"{arrays} cannot be read: {error.strerror}"
    differing = sorted(
        name for name in {**expected, **present} if expected.get(name) != present.get(name)
    )
    return f"the checksum of {arrays / differing[0]} does not agree" if differing else ""


def _records(directory: Path, step: int, recorded: Any) -> list[Any]:
    """Of the steps before a checkpoint, as a process that does not hold the directory reads them."""
    with checkpoints._telling(directory, "read the history in"):
        found = checkpoints._load(
            directory / f"step-{step:010d}.ckpt", directory / "history.bin", []
        )
    return [jax.tree.unflatten(jax.tree.structure(recorded), leaves) for leaves in found.history]


def _checksums(path: Path, *, sync: bool = False) -> dict[str, str]:
    """SHA-256 of each file under the path, by its name there; ``sync`` has them on the disk first."""
    if not path.is_dir():
        raise FileNotFoundError(2, os.strerror(2))
    found = {}
    for file in sorted(path.rglob("*")):
        if sync or not file.is_dir():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                if sync:
                    os.fsync(descriptor)
                if not file.is_dir():
                    digest = hashlib.sha256()
                    while block := os.read(descriptor, _BLOCK_BYTES):
                        digest.update(block)
                    found[str(file.relative_to(path))] = digest.hexdigest()
            finally:
                os.close(descriptor)
    return found


def _remove_unpublished(directory: Path) -> None:
    """Arrays whose checkpoint is gone or never came, and what orbax left half written."""
    published = {path.stem for path in checkpoints._checkpoints(directory)}
    for path in directory.glob(f"step-*{_SUFFIX}*"):
        if path.name.removesuffix(_SUFFIX) not in published:
            shutil.rmtree(path, ignore_errors=True)


def _arrays(directory: Path, step: int) -> Path:
    return directory / f"step-{step:010d}{_SUFFIX}"


def _as_bytes(message: Mapping[str, str]) -> Any:
    return jnp.asarray(np.frombuffer(json.dumps(message).encode(), np.uint8))


def _named(state: State) -> dict[str, Any]:
    """The leaves by names that sort as they stand; keys as the numbers they are."""
    leaves = [
        jax.random.key_data(leaf) if checkpoints._is_key(leaf) else leaf
        for leaf in jax.tree.leaves(state)
    ]
    return {f"leaf {index:05d}": leaf for index, leaf in enumerate(leaves)}


def _as_key_like(leaf: Any, value: Any) -> Any:
    return (
        jax.random.wrap_key_data(value, impl=str(jax.random.key_impl(leaf)))
        if checkpoints._is_key(leaf)
        else value
    )
