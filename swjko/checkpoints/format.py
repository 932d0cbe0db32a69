"""Bytes of checkpoints: leaves of a tree packed without pickling, and files written atomically.

A frame is two lengths (unsigned 64-bit integers, little endian), a JSON header and a payload.
Packed leaves are one frame: the header lists their dtype, shape and key implementation, and
the payload holds their raw bytes. A checkpoint is ``MAGIC``, the SHA-256 of the rest, a frame
for its header, and the packed leaves.
"""

import contextlib
import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MAGIC = b"swjko checkpoint 1\n"
_BODY = len(MAGIC) + hashlib.sha256().digest_size
_LENGTHS = struct.Struct("<QQ")


class Damaged(Exception):
    """Bytes that differ from those that were written."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part.

    The content reaches the disk before the file gets its name, so this also holds if the
    process or the machine stops in between.

    Args:
      path: File to create or replace. Its directory must exist.
      content: Bytes of the whole file.
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
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_all(file: int, content: bytes) -> None:
    """Write all bytes to a file descriptor."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def finite_json(value: Any) -> Any:
    """Convert a value to what JSON can hold.

    Args:
      value: Nested named tuples, mappings, sequences, arrays and scalars.

    Returns:
      The value with named tuples and mappings as dictionaries, sequences and arrays as lists,
      and None in place of NaN and infinities.
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


def encode(header: Mapping[str, Any], leaves: Sequence[Any]) -> bytes:
    """Return the bytes of a checkpoint file with this header and these leaves."""
    body = _frame(header, b"") + pack(leaves)
    return MAGIC + hashlib.sha256(body).digest() + body


def decode(content: bytes) -> tuple[dict[str, Any], list[Any]]:
    """Return the header and the leaves of a checkpoint file.

    Raises:
      Damaged: The content is not a checkpoint, or its checksum does not match.
    """
    if not content.startswith(MAGIC):
        raise Damaged("it does not start with the header of a checkpoint")
    body = content[_BODY:]
    if hashlib.sha256(body).digest() != content[len(MAGIC) : _BODY]:
        raise Damaged("its checksum does not match")
    header, _, offset = _unframe(body, 0)
    return header, unpack(body, offset)[0]


def pack(leaves: Sequence[Any]) -> bytes:
    """Pack arrays and random keys into one frame."""
    kinds, payloads = [], []
    for leaf in leaves:
        implementation = str(jax.random.key_impl(leaf)) if is_key(leaf) else None
        array = np.asarray(leaf if implementation is None else jax.random.key_data(leaf))
        kinds.append([array.dtype.name, list(array.shape), implementation])
        payloads.append(array.tobytes())
    return _frame({"leaves": kinds}, b"".join(payloads))


def unpack(content: bytes, offset: int) -> tuple[list[Any], int]:
    """Unpack the frame that starts at an offset.

    Returns:
      The leaves, as NumPy arrays and random keys, and the offset of the next frame.
    """
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


def is_key(leaf: Any) -> bool:
    """Return whether a leaf is an array of random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _frame(header: Mapping[str, Any], payload: bytes) -> bytes:
    text = json.dumps(header).encode()
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


def _unframe(content: bytes, offset: int) -> tuple[dict[str, Any], bytes, int]:
    text_length, length = _LENGTHS.unpack_from(content, offset)
    begin = offset + _LENGTHS.size + text_length
    header = json.loads(content[begin - text_length : begin])
    return header, content[begin : begin + length], begin + length
