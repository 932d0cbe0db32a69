"""Checkpoints of a run in a directory of its own, from which ``swjko.solve`` goes on bit for bit.

    step-0000000012.ckpt  the state after 12 steps and the run's configuration; the last two are kept
    history.bin           what ``record`` kept of each chunk of steps, one after the other
    history.jsonl         the reports, one line for each step, to read while the run goes on or after it was killed (``read_history``)
    lock                  held while a process writes here; it says which

A checkpoint appears under its name by a rename, after its bytes and those of the history are on the disk, so it is whole or absent. It
holds the SHA-256 of its own bytes and of the history up to it, and both are compared before anything of it is used. What stands in the
history beyond the checkpoint that a run goes on from is cut off. Nothing is pickled: headers are JSON, arrays raw bytes.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import struct
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from swjko.checkpoints import fingerprint as configuration
from swjko.schemes.base import Info, State

_MAGIC = b"swjko checkpoint 1\n"
_NAME = re.compile(r"step-(\d+)\.ckpt")
_KEPT = 2
_DIGEST_BYTES = 32
_LENGTHS = struct.Struct("<QQ")
# Saving takes no more than this part of the time between two saves, however large the state.
_LARGEST_COST = 0.02


class CheckpointError(RuntimeError):
    """A directory whose checkpoints cannot be used, or that cannot be written. Whatever was saved there is untouched."""


class Saved(NamedTuple):
    """Where a run stands.

    Attributes:
      step: number of steps made.
      state: after them.
      records: what was recorded of them, in chunks along a leading axis.
    """

    step: int
    state: State
    records: list[Any]


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
    """The directory, locked and made where it is absent; ``store.saved`` says where the run in it stands.

    Args:
      directory: of this run alone.
      run: its configuration, as ``fingerprint.describe`` gives it.
      start: the state at step 0; restored ones have its structure and lie where its leaves lie.
      recorded: a tree with the structure of what will be recorded.
      resume: go on from the newest checkpoint that is whole; False takes none, and refuses a directory that has some.
      every_seconds, every_steps: cadence of ``save_if_due``, whichever comes first.

    Raises CheckpointError on a directory that is locked, cannot be written, holds another run or only damaged checkpoints.
    """
    # Checkpoints need a POSIX system for their lock; the rest of the package does not.
    from swjko.checkpoints.lock import Locked, lock

    with contextlib.ExitStack() as stack:
        with _telling(directory, "use"):
            directory.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(lock(directory / "lock"))
            except Locked as error:
                raise CheckpointError(f"checkpoint_dir {directory} {error}") from None
        found = _newest(directory, resume)
        if found is not None and (
            listed := configuration.differences(found.header["configuration"], run)
        ):
            raise CheckpointError(
                f"checkpoint_dir {directory} holds another run ({'; '.join(listed)}). Take another directory, or what that run was "
                "started with. Nothing was changed."
            )
        store = Store(directory, run, every_seconds, every_steps)
        stack.callback(store.close)
        with _telling(directory, "write in"):
            store._begin(found, start, recorded)
        yield store


def read_history(directory: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The reports of each step so far, from ``history.jsonl``: what ``info`` held, by name, and ``step``, from 1 on.

    May be read while the run goes on. A last line that a kill left half is left out; NaN and infinities read as None.

    Example: ``[line["energy"] for line in read_history("runs/a")]``.
    """
    return [json.loads(line) for line in _whole_lines(Path(directory) / "history.jsonl")]


class Store:
    """The open directory of one run, made by ``opened``."""

    saved: Saved

    def __init__(
        self, directory: Path, run: Mapping[str, str], every_seconds: float, every_steps: int | None
    ):
        self._directory, self._run = directory, dict(run)
        self._every_seconds, self._every_steps = every_seconds, every_steps
        self._files: list[int] = []
        self._saved_step = -1
        self._cost = 0.0

    def _begin(self, found: "_Found | None", start: State, recorded: Any) -> None:
        self._saved_at = time.monotonic()
        if found is None:
            self.saved = Saved(0, start, [])
        else:
            structure = jax.tree.structure(recorded)
            records = [jax.tree.unflatten(structure, leaves) for leaves in found.history]
            self.saved = Saved(found.step, _like(start, found.leaves), records)
            self._saved_step = found.step
            for path in found.damaged:
                path.replace(path.with_name(f"{path.name}.damaged"))
        for name in ("step-*.ckpt.tmp", "history.jsonl.tmp"):
            for path in self._directory.glob(name):
                path.unlink()
        length, digest = (
            (0, hashlib.sha256()) if found is None else (found.history_bytes, found.history_hash)
        )
        self._history_bytes, self._history_hash = length, digest
        if found is None:
            self.save(0, start)
        lines = _whole_lines(self._directory / "history.jsonl")
        lines = [line for line in lines if json.loads(line)["step"] <= self.saved.step]
        _publish(self._directory / "history.jsonl", b"".join(lines))
        for name in ("history.bin", "history.jsonl"):
            self._files.append(
                os.open(self._directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            )
        os.ftruncate(self._files[0], length)

    def append(self, first_step: int, infos: Info, recorded: Any) -> None:
        """Streams the reports and records of a chunk of steps, numbered from ``first_step`` on."""
        frame = _pack(jax.tree.leaves(recorded))
        with _telling(self._directory, "write the history in"):
            _write(self._files[0], frame)
            _write(self._files[1], _json_lines(first_step, infos))
        self._history_bytes += len(frame)
        self._history_hash.update(frame)

    def save_if_due(self, step: int, state: State) -> None:
        """Saves when the cadence says so."""
        waited = time.monotonic() - self._saved_at
        due = waited >= max(self._every_seconds, self._cost / _LARGEST_COST)
        if due or (self._every_steps is not None and step - self._saved_step >= self._every_steps):
            self.save(step, state)

    def save(self, step: int, state: State) -> None:
        """Saves the state after ``step`` steps, unless it is saved."""
        if step == self._saved_step:
            return
        began = time.monotonic()
        history = {"bytes": self._history_bytes, "sha256": self._history_hash.hexdigest()}
        header = {"step": step, "configuration": self._run, "history": history}
        body = _frame(header, b"") + _pack(jax.tree.leaves(state))
        with _telling(self._directory, f"save step {step} in"):
            for file in self._files:
                os.fsync(file)
            _publish(
                self._directory / f"step-{step:010d}.ckpt",
                _MAGIC + hashlib.sha256(body).digest() + body,
            )
            for path in _checkpoints(self._directory)[_KEPT:]:
                path.unlink()
        self._saved_step, self._saved_at = step, time.monotonic()
        self._cost = self._saved_at - began

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop())


class _Damaged(Exception):
    """Bytes that are not those that were written."""


class _Found(NamedTuple):
    step: int
    header: dict[str, Any]
    leaves: list[Any]
    history: list[list[Any]]
    history_bytes: int
    history_hash: Any
    damaged: list[Path]


def _newest(directory: Path, resume: bool) -> _Found | None:
    """The newest checkpoint that is whole, with the history up to it; None in a directory without any."""
    paths = _checkpoints(directory)
    if not paths:
        if any((directory / name).exists() for name in ("history.bin", "history.jsonl")):
            raise CheckpointError(
                f"checkpoint_dir {directory} holds a history but no checkpoint. Take another directory, or remove it."
            )
        return None
    if not resume:
        raise CheckpointError(
            f"checkpoint_dir {directory} holds checkpoints. Go on from them with resume=True, or take another directory."
        )
    damaged: list[Path] = []
    for path in paths:
        try:
            found = _load(path, directory / "history.bin", damaged)
        except (_Damaged, OSError) as error:
            warnings.warn(
                f"the checkpoint {path} is damaged ({error}); looking for the one before it",
                RuntimeWarning,
                stacklevel=6,
            )
            damaged.append(path)
        else:
            return found
    raise CheckpointError(
        f"checkpoint_dir {directory} has no checkpoint that is whole: {', '.join(map(str, paths))}. Nothing was changed."
    )


def _load(path: Path, history_path: Path, damaged: list[Path]) -> _Found:
    content = path.read_bytes()
    body = content[len(_MAGIC) + _DIGEST_BYTES :]
    if not content.startswith(_MAGIC):
        raise _Damaged("it does not start as a checkpoint does")
    if hashlib.sha256(body).digest() != content[len(_MAGIC) : len(_MAGIC) + _DIGEST_BYTES]:
        raise _Damaged("its checksum does not agree")
    header, _, offset = _unframe(body, 0)
    leaves, _ = _unpack(body, offset)
    length = header["history"]["bytes"]
    history = b""
    if length:
        with history_path.open("rb") as file:
            history = file.read(length)
    digest = hashlib.sha256(history)
    if len(history) != length or digest.hexdigest() != header["history"]["sha256"]:
        raise _Damaged(f"the checksum of {history_path} up to it does not agree")
    chunks, offset = [], 0
    while offset < length:
        chunk, offset = _unpack(history, offset)
        chunks.append(chunk)
    return _Found(header["step"], header, leaves, chunks, length, digest, list(damaged))


def _checkpoints(directory: Path) -> list[Path]:
    """Newest first."""
    with _telling(directory, "read"):
        steps = {
            path: int(match[1])
            for path in directory.iterdir()
            if (match := _NAME.fullmatch(path.name))
        }
    return sorted(steps, key=lambda path: steps[path], reverse=True)


def _like(start: State, leaves: Sequence[Any]) -> State:
    """The leaves in the structure of the start, placed as its leaves are."""
    places, structure = jax.tree.flatten(start)
    return jax.tree.unflatten(
        structure,
        [
            jax.device_put(leaf, place.sharding if place.committed else None)
            for leaf, place in zip(leaves, places, strict=True)
        ],
    )


def _pack(leaves: Sequence[Any]) -> bytes:
    kinds, payloads = [], []
    for leaf in leaves:
        implementation = str(jax.random.key_impl(leaf)) if _is_key(leaf) else None
        array = np.asarray(leaf if implementation is None else jax.random.key_data(leaf))
        kinds.append([array.dtype.name, list(array.shape), implementation])
        payloads.append(array.tobytes())
    return _frame({"leaves": kinds}, b"".join(payloads))


def _unpack(content: bytes, offset: int) -> tuple[list[Any], int]:
    header, payload, end = _unframe(content, offset)
    leaves, position = [], 0
    for name, shape, implementation in header["leaves"]:
        array = np.frombuffer(payload, jnp.dtype(name), math.prod(shape), position).reshape(shape)
        position += array.nbytes
        leaves.append(
            array
            if implementation is None
            else jax.random.wrap_key_data(jnp.asarray(array), impl=implementation)
        )
    return leaves, end


def _frame(header: dict[str, Any], payload: bytes) -> bytes:
    text = json.dumps(header).encode()
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


def _unframe(content: bytes, offset: int) -> tuple[dict[str, Any], bytes, int]:
    text_length, length = _LENGTHS.unpack_from(content, offset)
    begin = offset + _LENGTHS.size + text_length
    return (
        json.loads(content[begin - text_length : begin]),
        content[begin : begin + length],
        begin + length,
    )


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _json_lines(first_step: int, infos: Info) -> bytes:
    columns = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf).tolist()
        for path, leaf in jax.tree_util.tree_leaves_with_path(infos)
        if not _is_key(leaf)
    }
    rows = zip(*columns.values(), strict=True)
    lines = (
        {"step": first_step + index} | dict(zip(columns, map(_finite, row), strict=True))
        for index, row in enumerate(rows)
    )
    return "".join(f"{json.dumps(line, allow_nan=False)}\n" for line in lines).encode()


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity."""
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _whole_lines(path: Path) -> list[bytes]:
    """Lines up to the first that is cut or no record of a step."""
    whole = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            good = line.endswith(b"\n") and isinstance(json.loads(line)["step"], int)
        except (ValueError, TypeError, KeyError):
            good = False
        if not good:
            break
        whole.append(line)
    return whole


def _publish(path: Path, content: bytes) -> None:
    """The file with this content, or as it was before: never a part of it, whenever the process or the machine stops."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            _write(file, content)
            os.fsync(file)
        finally:
            os.close(file)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write(file: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


@contextlib.contextmanager
def _telling(directory: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot {what} checkpoint_dir {directory}: {error.strerror or error}. What was saved there before is intact; "
            "once that is put right, solve again with resume=True."
        ) from error
