"""Readers of the bytes of image files: IDX files, CIFAR-10's binary batches, and pictures.

Sizes are checked against the bytes in the file before memory is allocated.
"""

import gzip
import math
import struct
import warnings
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from swjko.data.errors import DataError, reason
from swjko.data.tables import require_extra

IMAGES_MAGIC, LABELS_MAGIC = 0x803, 0x801
_MAGIC_NAMES = {IMAGES_MAGIC: "images", LABELS_MAGIC: "labels"}
# The largest factor by which Deflate can compress.
_LARGEST_COMPRESSION = 1032
# A guard against damaged files that ask for all memory; no known set is as large.
MAX_BYTES = 2**32
CIFAR_SHAPE, _CIFAR_CLASSES = (3, 32, 32), 10
# Pillow's name for the pixels of a picture, and the mode they are converted to.
_MODES = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB"}


def read_idx(path: Path, magic: int) -> UInt8[np.ndarray, "..."]:
    """Read the array of an IDX file of bytes, plain or packed by gzip. Raises DataError."""
    what, rank = _MAGIC_NAMES[magic], magic & 0xFF
    try:
        held = path.stat().st_size
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                shape = _idx_shape(path, file.read(4 + 4 * rank), magic)
                size, claim = math.prod(shape), f"its header claims {as_text(shape)} {what}"
                if size > min(MAX_BYTES, held * (_LARGEST_COMPRESSION if packed else 1)):
                    raise DataError(f"{path}: cut short; {claim}, but the file has {held} bytes.")
                content = read_up_to(file, size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}).") from error
    if len(content) != size:
        wrong = "cut short" if len(content) < size else "too long"
        raise DataError(f"{path}: {wrong}; {claim}, which are {size} bytes.")
    return np.frombuffer(content, np.uint8).reshape(shape)


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


def read_up_to(file: Any, size: int) -> bytearray:
    """Read at most ``size`` bytes in pieces, so that memory grows with what the file holds."""
    content = bytearray()
    while len(content) < size and (piece := file.read(min(2**20, size - len(content)))):
        content += piece
    return content


def as_text(shape: Iterable[int]) -> str:
    """Write a shape as text, such as "28 x 28"."""
    return " x ".join(map(str, shape))


def read_cifar_batch(path: Path) -> UInt8[np.ndarray, "n 3073"]:
    """Read the records of a CIFAR-10 batch, label first. Raises DataError."""
    record = 1 + math.prod(CIFAR_SHAPE)
    try:
        held = path.stat().st_size
        if held == 0 or held % record or held > MAX_BYTES:
            raise DataError(
                f"{path}: must hold a whole number of CIFAR-10 records of {record} bytes; "
                f"got {held} bytes."
            )
        records = np.fromfile(path, np.uint8).reshape(-1, record)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}).") from error
    wrong = np.flatnonzero(records[:, 0] >= _CIFAR_CLASSES)
    if len(wrong):
        raise DataError(
            f"{path}: labels must be at most 9; got {records[wrong[0], 0]} in record "
            f"{wrong[0] + 1}. This is not a CIFAR-10 file."
        )
    return records


def read_pictures(files: Sequence[Path]) -> UInt8[np.ndarray, "n h w c"]:
    """Read pictures of one size and mode, in this order. Raises DataError.

    All headers are read first, so that a picture that does not fit is found before any decoding.
    """
    size, mode = _picture(files[0], decode=False)
    for file in files[1:]:
        other_size, other_mode = _picture(file, decode=False)
        if (other_size, other_mode) != (size, mode):
            first, other = (
                f"{as_text(sides)} pixels in {'grey' if name == 'L' else 'colour'}"
                for sides, name in ((size, mode), (other_size, other_mode))
            )
            raise DataError(f"{file}: {other}; the first picture, {files[0].name}, has {first}.")
    (width, height), channels = size, 1 if mode == "L" else 3
    if len(files) * height * width * channels > MAX_BYTES:
        raise DataError(
            f"{files[0].parent}: {len(files)} pictures of {as_text(size)} pixels do not fit in "
            "memory. Use fewer pictures."
        )
    pixels = np.empty((len(files), height, width, channels), np.uint8)
    for at, file in enumerate(files):
        pixels[at] = _picture(file, decode=True).reshape(height, width, channels)
    return pixels


def _picture(file: Path, *, decode: bool) -> Any:
    """Return the pixels of a picture, or without ``decode`` its size (width, height) and mode."""
    image_module = require_extra("PIL.Image")
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a picture that is unreasonably large.
            warnings.simplefilter("error")
            with image_module.open(file) as image:
                if image.mode not in _MODES or "transparency" in image.info:
                    raise DataError(
                        f"{file}: must be grey or RGB with 8 bits and without transparency; "
                        f"got mode {image.mode}. Save it as grey or as RGB."
                    )
                if not decode:
                    return image.size, _MODES[image.mode]
                return np.asarray(image.convert(_MODES[image.mode]))
    except DataError:
        raise
    # Decoders fail in many ways on damaged bytes.
    except Exception as error:
        kind = type(error).__name__
        why = "unknown file format" if kind == "UnidentifiedImageError" else reason(error)
        why = "unreasonably large" if kind.startswith("DecompressionBomb") else why
        raise DataError(f"{file}: cannot be read as a picture ({why}).") from error
