"""Arrays of a run of several processes: each process writes its own shards through orbax.

    step-0000000012.arrays   the state after 12 steps, as orbax writes it
    step-0000000012.ckpt     as for one process, with checksums in place of the state

The arrays are written first. When all processes have written theirs, process 0 flushes them to
the disk, computes the SHA-256 of each file and publishes the ``.ckpt``. Arrays without a
``.ckpt`` are incomplete; they are ignored and removed. Before a state is restored, process 0
compares the checksums, the shapes, and the steps and result codes in the arrays. All processes must
see the same directory.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from swjko.checkpoints.files import CheckpointError, flush, open_regular
from swjko.checkpoints.format import Checkpoint, Damaged, is_key
from swjko.checkpoints.single import check_progress, is_counted
from swjko.schemes.base import State

_SUFFIX = ".arrays"
_NAME = re.compile(r"(step-[0-9]{10,})\.arrays(\.orbax-checkpoint-tmp.*)?")
# A line for each file of the arrays.
_LARGEST_CHECKSUMS = 2**26
_MESSAGE_BYTES = 4096


class ShardedArrays:
    """Back end of a store for several processes. Every process calls each method alike."""

    entries: Mapping[str, str] = {"state": f"in {_SUFFIX} of orbax"}

    def __init__(self, directory: Path):
        self._directory = directory
        self.is_writer = jax.process_index() == 0
        self._is_counted = False

    def write(self, step: int, state: State) -> list[Any]:
        """Write the arrays of a state.

        Returns:
          What belongs into the ``.ckpt``: the checksums. They are empty for step 0, whose state
          is the start of the run and needs no arrays.
        """
        if step == 0:
            return [_as_array({})]
        from orbax.checkpoint import v1 as orbax

        path = self._arrays(step)
        if self.is_writer and path.exists():
            shutil.rmtree(path)
        multihost_utils.sync_global_devices("swjko: nothing in the way of the arrays")
        orbax.save(str(path.absolute()), _named_leaves(state))
        self._is_counted = is_counted(step, *map(_on_host, (state.step, state.result)))
        return [_as_array(_checksums(path, sync=True))] if self.is_writer else []

    def largest(self, start: State) -> int:
        """Return the number of bytes that the checksums in a ``.ckpt`` may take."""
        del start
        return _LARGEST_CHECKSUMS

    def counts(self, step: int, state: State) -> bool:
        """Return whether ``state.step`` counted the steps when this state was written."""
        del step, state
        return self._is_counted

    def check(self, found: Checkpoint, start: State | None = None) -> None:
        """Compare a ``.ckpt`` with the files of its arrays, and these with a state.

        Args:
          found: Content of the ``.ckpt``.
          start: State at the start of the run; None compares the checksums alone.

        Raises:
          Damaged: A file is missing, unreadable, changed or was not written by this run, or the
            arrays are not those of such a state after that number of steps.
        """
        expected = _as_checksums(found.leaves)
        if not expected and found.step == 0:
            return
        arrays = self._arrays(found.step)
        try:
            present = _checksums(arrays)
        except OSError as error:
            raise Damaged(f"{arrays} cannot be read: {error.strerror}") from None
        names = sorted(expected.keys() | present.keys())
        if differing := [name for name in names if expected.get(name) != present.get(name)]:
            raise Damaged(f"the checksum of {arrays / differing[0]} does not match")
        if not expected:
            raise Damaged("it has no checksums")
        if start is not None:
            self._check_arrays(found, arrays, start)

    def _check_arrays(self, found: Checkpoint, arrays: Path, start: State) -> None:
        from orbax.checkpoint import v1 as orbax

        like = _named_leaves(start)
        names = jax.tree.unflatten(jax.tree.structure(start), list(like))
        wanted = (names.step, names.result)
        try:
            saved = orbax.metadata(str(arrays.absolute())).metadata
            kinds = {name: (tuple(leaf.shape), leaf.dtype) for name, leaf in saved.items()}
            if kinds != {name: (leaf.shape, leaf.dtype) for name, leaf in like.items()}:
                raise Damaged(f"{arrays} holds arrays of other names, shapes or dtypes")
            read = _read_alone(arrays, wanted)
        except Damaged:
            raise
        # Forged metadata fails in many ways.
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise Damaged(f"{arrays} cannot be read: {reason}") from error
        check_progress(found, *(read[name] for name in wanted))

    def restore(self, step: int, leaves: Sequence[Any], start: State) -> State:
        """Read the arrays of a step, placed on the devices as the leaves of ``start`` are."""
        del leaves
        if step == 0:
            return start
        from orbax.checkpoint import v1 as orbax

        like = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in _named_leaves(start).items()
        }
        try:
            saved = orbax.load(str(self._arrays(step).absolute()), like)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self._arrays(step)} does not hold the state of this run: "
                f"{str(error).splitlines()[0]}. Use another directory."
            ) from error
        multihost_utils.sync_global_devices("swjko: all processes have restored")
        leaves, structure = jax.tree.flatten(start)
        values = [
            jax.random.wrap_key_data(saved[name], impl=str(jax.random.key_impl(leaf)))
            if is_key(leaf)
            else saved[name]
            for name, leaf in zip(like, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, values)

    def read(self, step: int) -> list[np.ndarray]:
        """Read the leaves of a step on the host, random keys as numbers."""
        from orbax.checkpoint import v1 as orbax

        if step == 0:
            raise Damaged("the state at step 0 is not saved in a run of several processes")
        saved = orbax.load(str(self._arrays(step).absolute()))
        return [np.asarray(saved[name]) for name in sorted(saved)]

    def prune(self, names: set[str]) -> None:
        """Remove arrays without a checkpoint among ``names``, and unfinished ones of orbax."""
        for path in self._directory.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and (match[2] or match[1] not in names) and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)

    def agree(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return the message of process 0."""
        return from_process_0(message)

    def _arrays(self, step: int) -> Path:
        return self._directory / f"step-{step:010d}{_SUFFIX}"


def _read_alone(arrays: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read some arrays on this process alone.

    ``orbax.load`` would count the read, and the next load of all processes then waits for ever:
    orbax waits at barriers that are named by this count.
    """
    from etils import epath
    from orbax import checkpoint as orbax

    (metadata,) = arrays.absolute().glob("*/_METADATA")
    alone = orbax.options.MultiprocessingOptions(primary_host=None, active_processes={0})
    handler = orbax.PyTreeCheckpointHandler(multiprocessing_options=alone)
    kinds = {name: orbax.RestoreArgs(restore_type=np.ndarray) for name in names}
    wanted = orbax.args.PyTreeRestore(
        item=dict.fromkeys(names, 0), restore_args=kinds, partial_restore=True
    )
    return handler.restore(epath.Path(metadata.parent), args=wanted)


def from_process_0(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the message of process 0 on all processes.

    Args:
      message: Values that JSON can hold, a few kilobytes in all; ignored on other processes.
        Strings are cut after 2000 characters.
    """
    if jax.process_count() == 1:
        return dict(message)
    short = {
        name: value[:2000] if isinstance(value, str) else value for name, value in message.items()
    }
    content = json.dumps(short).encode()
    line = np.zeros(_MESSAGE_BYTES, np.uint8)
    if jax.process_index() == 0:
        line[: len(content)] = np.frombuffer(content, np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(line))).rstrip(b"\0"))


def _checksums(path: Path, *, sync: bool = False) -> dict[str, str]:
    """Return the SHA-256 of each file below a directory; with ``sync``, flush all files first."""
    if not path.is_dir():
        raise FileNotFoundError(2, os.strerror(2))
    found = {}
    for entry in sorted(path.rglob("*")):
        if sync:
            flush(entry)
        if entry.is_symlink() or not entry.is_dir():
            with os.fdopen(open_regular(entry, os.O_RDONLY), "rb") as file:
                found[str(entry.relative_to(path))] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return found


def _as_checksums(leaves: Sequence[Any]) -> dict[str, str]:
    """Return the checksums that a ``.ckpt`` holds in place of leaves."""
    try:
        (leaf,) = leaves
        found = json.loads(bytes(np.asarray(leaf)))
    except (TypeError, ValueError, RecursionError):
        raise Damaged("its checksums are not JSON") from None
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise Damaged("its checksums must be a table of strings")
    return found


def _as_array(message: Mapping[str, str]) -> np.ndarray:
    return np.frombuffer(json.dumps(message).encode(), np.uint8)


def _on_host(leaf: jax.Array) -> np.ndarray:
    """Return an array with the shards of other processes. All processes call it."""
    if getattr(leaf, "is_fully_addressable", True):
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def _named_leaves(state: State) -> dict[str, jax.Array]:
    """Return the leaves under names that sort in their order, random keys as numbers."""
    return {
        f"leaf {index:05d}": jax.random.key_data(leaf) if is_key(leaf) else leaf
        for index, leaf in enumerate(jax.tree.leaves(state))
    }
