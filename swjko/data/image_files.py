"""Readers of the bytes of image files: IDX files, CIFAR-10's binary batches, and arrays.

Sizes are checked against the bytes in the file before memory is allocated.
"""

import math
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from swjko.data import array_files, gate
from swjko.data.errors import DataError, reason
from swjko.data.gate import read_up_to

IMAGES_MAGIC, LABELS_MAGIC = 0x803, 0x801
_MAGIC_NAMES = {IMAGES_MAGIC: "images", LABELS_MAGIC: "labels"}
# The largest factor by which Deflate can compress.
_LARGEST_COMPRESSION = 1032
# A guard against damaged files that ask for all memory; no known set is as large.
MAX_BYTES = 2**32
CIFAR_SHAPE, _CIFAR_CLASSES = (3, 32, 32), 10


def read_idx(path: Path, magic: int) -> UInt8[np.ndarray, "..."]:
    """Read the array of an IDX file of bytes, plain or packed by gzip. Raises DataError."""
    what, rank = _MAGIC_NAMES[magic], magic & 0xFF
    try:
        with gate.open_regular(path) as raw:
            held = gate.size_of(raw)
            file, packed = gate.inflated_if_packed(raw)
            shape = _idx_shape(path, file.read(4 + 4 * rank), magic)
            size, claim = math.prod(shape), f"its header claims {as_text(shape)} {what}"
            if size > min(MAX_BYTES, held * (_LARGEST_COMPRESSION if packed else 1)):
                raise DataError(f"{path}: cut short; {claim}, but the file has {held} bytes.")
            if packed and size > gate.MAX_UNCHECKED_BYTES:
                _require_size(path, _size_up_to(file, size + 1), size, claim)
                raw.seek(0)
                file, _ = gate.inflated_if_packed(raw)
                file.read(4 + 4 * rank)
            content = read_up_to(file, size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}).") from error
    _require_size(path, len(content), size, claim)
    return np.frombuffer(content, np.uint8).reshape(shape)


def _require_size(path: Path, found: int, size: int, claim: str) -> None:
    if found != size:
        wrong = "cut short" if found < size else "too long"
        raise DataError(f"{path}: {wrong}; {claim}, which are {size} bytes.")


def _size_up_to(file: gate.Readable, size: int) -> int:
    """Return how many bytes follow in a file, at most ``size``. None is kept."""
    found = 0
    while found < size and (piece := file.read(min(2**20, size - found))):
        found += len(piece)
    return found


def _idx_shape(path: Path, header: bytes, magic: int) -> tuple[int, ...]:
    what, found = _MAGIC_NAMES[magic], int.from_bytes(header[:4], "big")
    if found != magic:
        begins = f"begins with {header[:4].hex()}" if header else "is empty"
        kind = f", an IDX file of {_MAGIC_NAMES[found]}" if found in _MAGIC_NAMES else ""
        raise DataError(
            f"{path}: must be an IDX file of {what}, beginning with {magic:08x}; it {begins}{kind}."
        )
    rank = magic & 0xFF
    if len(header) < 4 * (1 + rank):
        raise DataError(f"{path}: cut short, within its header.")
    shape = struct.unpack(f">{rank}I", header[4:])
    if 0 in shape:
        raise DataError(f"{path}: its header claims {as_text(shape)} {what}, so it is empty.")
    return shape


def as_text(shape: Iterable[int]) -> str:
    """Write a shape as text, such as "28 x 28"."""
    return " x ".join(map(str, shape))


def read_pixels(
    path: str | Path, array: array_files.ArrayFile, most: int | None = None
) -> UInt8[np.ndarray, "n h w c"]:
    """Read an array of images: bytes, or floats in [0, 1], which are rounded to bytes.

    Args:
      path: The file, for messages.
      array: The array.
      most: The most numbers; None means ``MAX_BYTES``. Of floats there are never more than
        ``gate.MAX_UNCHECKED_BYTES``.

    Raises:
      DataError: If the array holds anything else.
    """
    shape, dtype, _ = array.header
    fits = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if not fits or 0 in shape or not (dtype == np.uint8 or dtype.kind == "f"):
        raise DataError(
            f"{path}: must hold images [n h w] or [n h w c], c = 1 or 3, as bytes or floats in "
            f"[0, 1]; got {dtype} of shape {shape}."
        )
    most = MAX_BYTES if most is None else most
    array_files.require_few(
        array, most if dtype == np.uint8 else min(most, gate.MAX_UNCHECKED_BYTES)
    )
    pixels = array.read(np.uint8, None if dtype == np.uint8 else _bytes_of_floats(path))
    return np.ascontiguousarray(pixels).reshape(*shape[:3], -1)


def _bytes_of_floats(path: str | Path) -> array_files.Convert:
    def convert(values: np.ndarray, start: int) -> np.ndarray:
        low, high = np.min(values), np.max(values)
        if not (low >= 0 and high <= 1):
            raise DataError(f"{path}: floats must lie in [0, 1]; got {low:.4g} to {high:.4g}.")
        return np.rint(255 * np.asarray(values, np.float32)).astype(np.uint8)

    return convert


def read_cifar_batch(path: Path) -> UInt8[np.ndarray, "n 3073"]:
    """Read the records of a CIFAR-10 batch, label first. Raises DataError."""
    record = 1 + math.prod(CIFAR_SHAPE)
    try:
        with gate.open_regular(path, gate.MAX_UNCHECKED_BYTES) as file:
            held = gate.size_of(file)
            if held == 0 or held % record:
                raise DataError(
                    f"{path}: must hold a whole number of CIFAR-10 records of {record} bytes; "
                    f"got {held} bytes."
                )
            content = read_up_to(file, held)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}).") from error
    if len(content) != held:
        raise DataError(f"{path}: cut short; it had {held} bytes.")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    wrong = np.flatnonzero(records[:, 0] >= _CIFAR_CLASSES)
    if len(wrong):
        raise DataError(
            f"{path}: labels must be at most 9; got {records[wrong[0], 0]} in record "
            f"{wrong[0] + 1}. This is not a CIFAR-10 file."
        )
    return records
