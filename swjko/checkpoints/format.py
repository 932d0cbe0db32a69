"""Bytes of checkpoints: leaves of a tree without pickling, and atomic writes of files.

A frame is two lengths (64 bits, little endian), a JSON header and a payload. Packed leaves are
one frame: its header lists dtypes, shapes and key implementations, its payload holds raw bytes.
A checkpoint is a magic line, the SHA-256 of the rest, a frame for the header, and packed leaves.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from swjko.schemes.base import State

HISTORY = "history.bin"
_MAGIC = b"swjko checkpoint 1\n"
_BODY = len(_MAGIC) + hashlib.sha256().digest_size
_LENGTHS = struct.Struct("<QQ")
_NAME = re.compile(r"step-(\d+)\.ckpt")


class Damaged(Exception):
    """Bytes differ from those that were written."""


class Checkpoint(NamedTuple):
    """Content of a checkpoint, with the history up to it as bytes and their SHA-256."""

    step: int
    run: dict[str, str]
    leaves: list[Any]
    history: bytes
    digest: Any


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that its readers see the old content or the new, never a part.

    This holds even if the process or the machine stops: the content is on the disk before the
    file gets its name.

    Args:
      path: File to create or replace, in an existing directory.
      content: All bytes of the file.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            write_all(file, content)
            os.fsync(file)
        finally:
            os.close(file)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


def write_all(file: int, content: bytes) -> None:
    """Write all bytes to a file descriptor."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def flush(path: Path) -> None:
    """Wait until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def finite_json(value: Any) -> Any:
    """Convert a value to what JSON can hold, with None for NaN and infinities.

    Args:
      value: Nested named tuples, mappings, sequences, arrays and scalars.

    Returns:
      Named tuples and mappings as dictionaries, sequences and arrays as lists.
    """
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(name): finite_json(part) for name, part in value.items()}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        value = np.asarray(value).tolist()
    if isinstance(value, list | tuple):
        return [finite_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def checkpoint_paths(directory: Path) -> list[Path]:
    """Return the paths of the checkpoints in a directory, newest first."""
    matches = {path: _NAME.fullmatch(path.name) for path in directory.iterdir()}
    steps = {path: int(match[1]) for path, match in matches.items() if match}
    return sorted(steps, key=lambda path: steps[path], reverse=True)


def encode(header: Mapping[str, Any], leaves: Sequence[Any]) -> bytes:
    """Return the bytes of a checkpoint with this header and these leaves."""
    body = _frame(header, b"") + pack(leaves)
    return _MAGIC + hashlib.sha256(body).digest() + body


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, and the history beside it; raise Damaged if a checksum differs."""
    content = path.read_bytes()
    body = content[_BODY:]
    if not content.startswith(_MAGIC):
        raise Damaged("it does not start like a checkpoint")
    if hashlib.sha256(body).digest() != content[len(_MAGIC) : _BODY]:
        raise Damaged("its checksum does not match")
    header, _, offset = _unframe(body, 0)
    leaves, _ = _unpack(body, offset)
    length, history_path, history = header["history"]["bytes"], path.with_name(HISTORY), b""
    if length:
        with history_path.open("rb") as file:
            history = file.read(length)
    digest = hashlib.sha256(history)
    if len(history) != length or digest.hexdigest() != header["history"]["sha256"]:
        raise Damaged(f"the checksum of {history_path} up to it does not match")
    return Checkpoint(header["step"], header["configuration"], leaves, history, digest)


def pack(leaves: Sequence[Any]) -> bytes:
    """Pack arrays and random keys into one frame."""
    kinds, payloads = [], []
    for leaf in leaves:
        implementation = str(jax.random.key_impl(leaf)) if is_key(leaf) else None
        array = np.asarray(leaf if implementation is None else jax.random.key_data(leaf))
        kinds.append([array.dtype.name, list(array.shape), implementation])
        payloads.append(array.tobytes())
    return _frame({"leaves": kinds}, b"".join(payloads))


def unpack_all(content: bytes) -> list[list[Any]]:
    """Unpack consecutive frames into lists of NumPy arrays and random keys."""
    frames, offset = [], 0
    while offset < len(content):
        leaves, offset = _unpack(content, offset)
        frames.append(leaves)
    return frames


def is_key(leaf: Any) -> bool:
    """Return whether a leaf is an array of random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


class SingleFile:
    """Back end of a store for one process: the checkpoint file itself holds the state."""

    entries: Mapping[str, str] = {}
    is_writer = True

    def write(self, step: int, state: State) -> list[Any]:
        """Return what belongs into the checkpoint file: the leaves of the state."""
        return jax.tree.leaves(state)

    def check(self, step: int, leaves: Sequence[Any]) -> None:
        """Accept any leaves: the checksum of the file covers them."""

    def restore(self, step: int, leaves: Sequence[Any], start: State) -> State:
        """Put the leaves into the structure of ``start``, placed as its leaves are."""
        places, structure = jax.tree.flatten(start)
        placed = [
            jax.device_put(leaf, place.sharding if place.committed else None)
            for leaf, place in zip(leaves, places, strict=True)
        ]
        return structure.unflatten(placed)

    def prune(self, names: set[str]) -> None:
        """Do nothing: there are no files beside the checkpoints."""

    def agree(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the message: there is no other process."""
        return message


def _unpack(content: bytes, offset: int) -> tuple[list[Any], int]:
    header, payload, end = _unframe(content, offset)
    leaves, position = [], 0
    for name, shape, implementation in header["leaves"]:
        array = np.frombuffer(payload, jnp.dtype(name), math.prod(shape), position).reshape(shape)
        position += array.nbytes
        if implementation is None:
            leaves.append(array)
        else:
            leaves.append(jax.random.wrap_key_data(jnp.asarray(array), impl=implementation))
    return leaves, end


def _frame(header: Mapping[str, Any], payload: bytes) -> bytes:
    text = json.dumps(header).encode()
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


def _unframe(content: bytes, offset: int) -> tuple[dict[str, Any], bytes, int]:
    text_length, length = _LENGTHS.unpack_from(content, offset)
    begin = offset + _LENGTHS.size + text_length
    header = json.loads(content[begin - text_length : begin])
    return header, content[begin : begin + length], begin + length
