"""Bytes of checkpoints: leaves of a tree without pickling.

A frame is two lengths (64 bits, little endian), a JSON header and a payload. Packed leaves are
one frame: its header lists dtypes, shapes and key implementations, its payload holds raw bytes.
A checkpoint is a magic line, the SHA-256 of the rest, a frame for the header, and packed leaves.
"""

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

from swjko.checkpoints.files import open_regular

HISTORY = "history.bin"
_MAGIC = b"swjko checkpoint 1\n"
_BODY = len(_MAGIC) + hashlib.sha256().digest_size
_LENGTHS = struct.Struct("<QQ")
_LONGEST_HEADER = 2**26
_FIELDS = {"step", "configuration", "history"}
_MORE_FIELDS = {"counted", "names"}
_NAME = re.compile(r"step-([0-9]{10,})\.ckpt")


class Damaged(Exception):
    """Bytes differ from those that were written."""


class TooLarge(Damaged):
    """A file is larger than the state; ``run`` is the fingerprint in it, without a checksum."""

    def __init__(self, message: str, run: dict[str, str]):
        super().__init__(message)
        self.run = run


class Checkpoint(NamedTuple):
    """Content of a checkpoint, with the history up to it as bytes and their SHA-256.

    ``counted`` says whether the leaf ``state.step`` counts the steps, as it does in all schemes
    of this package. ``names`` are those of the leaves of "state" and "record", see ``naming``.
    """

    step: int
    run: dict[str, str]
    leaves: list[Any]
    history: bytes
    digest: Any
    counted: bool
    names: dict[str, Any]


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
    steps = {path: step_of(path) for path in directory.iterdir()}
    named = {path: step for path, step in steps.items() if step is not None}
    return sorted(named, key=lambda path: named[path], reverse=True)


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint after this number of steps."""
    return f"step-{step:010d}.ckpt"


def step_of(path: Path) -> int | None:
    """Return the step in the name of a checkpoint; None for other names."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match and checkpoint_name(int(match[1])) == path.name else None


def is_checkpoint(path: Path) -> bool:
    """Return whether a path names a regular file that starts like a checkpoint."""
    try:
        file = open_regular(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.read(file, len(_MAGIC)) == _MAGIC
    finally:
        os.close(file)


def encode(header: Mapping[str, Any], leaves: Sequence[Any]) -> bytes:
    """Return the bytes of a checkpoint with this header and these leaves."""
    body = _frame(header, b"") + pack(leaves)
    return _MAGIC + hashlib.sha256(body).digest() + body


def load(path: Path, largest: int | None = None) -> Checkpoint:
    """Read a checkpoint, and the history beside it.

    Args:
      path: Its path.
      largest: Number of bytes that its leaves may take; None for any number.

    Raises:
      Damaged: If it is not a regular file, a checksum differs, or its parts are inconsistent.
      TooLarge: Its leaves take more than ``largest`` bytes. They have not been read.
    """
    body = _read_body(path, largest)
    text, _, offset = _unframe(body, 0)
    header = _checked(text)
    if header["step"] != step_of(path):
        raise Damaged(f"its name differs from its step {header['step']}")
    leaves, end = _unpack(body, offset)
    if end != len(body):
        raise Damaged("bytes follow its leaves")
    length, history_path, history = header["history"]["bytes"], path.with_name(HISTORY), b""
    if length:
        with os.fdopen(open_regular(history_path, os.O_RDONLY), "rb") as file:
            if length <= os.fstat(file.fileno()).st_size:
                history = file.read(length)
    digest = hashlib.sha256(history)
    if len(history) != length or digest.hexdigest() != header["history"]["sha256"]:
        raise Damaged(f"the checksum of {history_path} up to it does not match")
    counted, names = header.get("counted", False), header.get("names", {})
    run = header["configuration"]
    return Checkpoint(header["step"], run, leaves, history, digest, counted, names)


def _read_body(path: Path, largest: int | None) -> bytes:
    """Return the bytes behind the checksum, which they match."""
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        start = file.read(_BODY + _LENGTHS.size)
        if not start.startswith(_MAGIC):
            raise Damaged("it does not start like a checkpoint")
        if len(start) < _BODY + _LENGTHS.size:
            raise Damaged("its checksum does not match")
        text_length, _ = _LENGTHS.unpack_from(start, _BODY)
        if text_length > _LONGEST_HEADER:
            raise Damaged("its checksum does not match: the header is too long")
        size = os.fstat(file.fileno()).st_size
        if largest is not None and size > len(start) + text_length + largest:
            header = _checked(_json(file.read(text_length)))
            raise TooLarge(f"it is too large: {size} bytes", header["configuration"])
        body = start[_BODY:] + file.read()
    if hashlib.sha256(body).digest() != start[len(_MAGIC) : _BODY]:
        raise Damaged("its checksum does not match")
    return body


def _checked(header: Any) -> dict[str, Any]:
    """Return the header of a checkpoint if each of its fields has the right type."""
    counted = header.get("counted", False) if isinstance(header, dict) else None
    if not isinstance(counted, bool) or header.keys() - _MORE_FIELDS != _FIELDS:
        raise Damaged(f"its header does not have the fields {', '.join(sorted(_FIELDS))}")
    run, history = header["configuration"], header["history"]
    if not _is_count(header["step"]):
        raise Damaged(f"its step is {header['step']!r:.60}")
    if not isinstance(run, dict) or not all(isinstance(value, str) for value in run.values()):
        raise Damaged("its configuration is not a table of texts")
    if not isinstance(history, dict) or history.keys() != {"bytes", "sha256"}:
        raise Damaged("its history has no length and checksum")
    if not _is_count(history["bytes"]) or not isinstance(history["sha256"], str):
        raise Damaged("its history has no length and checksum")
    return header


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


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
    """Unpack consecutive frames into lists of NumPy arrays and random keys.

    Args:
      content: The frames, as ``pack`` makes them.

    Raises:
      Damaged: The bytes are not such frames.
    """
    frames, offset = [], 0
    while offset < len(content):
        leaves, offset = _unpack(content, offset)
        frames.append(leaves)
    return frames


def starts_like_frames(content: bytes) -> bool:
    """Return whether a file that starts so can be a history, whole or cut by a crash.

    Args:
      content: The first bytes of the file, 32 or all it has.
    """
    lengths, text = content[: _LENGTHS.size], content[_LENGTHS.size : 32]
    is_short = len(lengths) >= 4 and not lengths[3:8].strip(b"\0")
    return not content.strip(b"\0") or (is_short and b'{"leaves": ['.startswith(text[:12]))


def is_key(leaf: Any) -> bool:
    """Return whether a leaf is an array of random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def kind_of(leaf: Any) -> tuple[str, tuple[int, ...], str | None]:
    """Return dtype, shape and key implementation of an array or its ``ShapeDtypeStruct``.

    Args:
      leaf: Array of numbers or of random keys. Those of keys are the dtype and shape of the data.
    """
    if not is_key(leaf):
        return leaf.dtype.name, tuple(leaf.shape), None
    data = jax.eval_shape(jax.random.key_data, leaf)
    return data.dtype.name, tuple(data.shape), str(leaf.dtype)


def _unpack(content: bytes, offset: int) -> tuple[list[Any], int]:
    header, payload, end = _unframe(content, offset)
    kinds = header.get("leaves") if isinstance(header, dict) else None
    if not isinstance(kinds, list):
        raise Damaged("a list of leaves is missing")
    leaves, position = [], 0
    for kind in kinds:
        leaf, position = _unpack_leaf(kind, payload, position)
        leaves.append(leaf)
    if position != len(payload):
        raise Damaged("the leaves have other sizes than their bytes")
    return leaves, end


def _unpack_leaf(kind: Any, payload: bytes, position: int) -> tuple[Any, int]:
    try:
        name, shape, implementation = kind
        if not (isinstance(name, str) and isinstance(shape, list) and all(map(_is_count, shape))):
            raise ValueError
        array = np.frombuffer(payload, jnp.dtype(name), math.prod(shape), position).reshape(shape)
        if implementation is None:
            return array, position + array.nbytes
        if array.dtype != np.uint32 or not isinstance(implementation, str):
            raise ValueError
        key = jax.random.wrap_key_data(jnp.asarray(array), impl=implementation)
        return key, position + array.nbytes
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise Damaged(f"a leaf is not an array: {kind!r:.60}") from None


def _frame(header: Mapping[str, Any], payload: bytes) -> bytes:
    text = json.dumps(header).encode()
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


def _unframe(content: bytes, offset: int) -> tuple[Any, bytes, int]:
    if len(content) < offset + _LENGTHS.size:
        raise Damaged("it ends within a frame")
    text_length, length = _LENGTHS.unpack_from(content, offset)
    begin = offset + _LENGTHS.size + text_length
    if len(content) < begin + length:
        raise Damaged("it ends within a frame")
    header = _json(content[begin - text_length : begin])
    return header, content[begin : begin + length], begin + length


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Damaged("its header is not JSON") from None
