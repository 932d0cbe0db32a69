"""The bytes of image files: IDX, CIFAR-10's binary batches and pictures, as arrays.

Sizes are held against the bytes there are before anything is allocated. ``swjko.images`` makes data sets of them.
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

from swjko.data.tables import DataError, reason, require_extra

IMAGES_MAGIC, LABELS_MAGIC = 0x803, 0x801
# Deflate makes nothing smaller than by this factor.
_LARGEST_COMPRESSION = 1032
# More than any of the sets, against files that ask for all memory.
MAX_BYTES = 2**32
CIFAR_SHAPE, _CIFAR_CLASSES = (3, 32, 32), 10
# What Pillow calls a picture's pixels, and what they are turned into.
_MODES = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB"}


def read_idx(path: Path, magic: int, what: str) -> UInt8[np.ndarray, "..."]:
    """The array of an IDX file of bytes, packed by gzip or not: big-endian magic number and sizes, then the bytes. Raises DataError."""
    rank = magic & 0xFF
    try:
        held = path.stat().st_size
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                header = file.read(4 + 4 * rank)
                shape = _idx_shape(path, header, magic, what)
                size = math.prod(shape)
                if size > min(MAX_BYTES, held * (_LARGEST_COMPRESSION if packed else 1)):
                    raise DataError(
                        f"{path}: cut short; its header announces {as_text(shape)} {what}, and the file has {held} bytes."
                    )
                content = _read_up_to(file, size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}).") from error
    if len(content) != size:
        wrong = "cut short" if len(content) < size else "longer than it says"
        raise DataError(
            f"{path}: {wrong}; its header announces {as_text(shape)} {what}, and {size} bytes do not follow."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _idx_shape(path: Path, header: bytes, magic: int, what: str) -> tuple[int, ...]:
    found = struct.unpack(">I", header[:4])[0] if len(header) >= 4 else None
    if found in (IMAGES_MAGIC, LABELS_MAGIC) and found != magic:
        other = {IMAGES_MAGIC: "images", LABELS_MAGIC: "labels"}[found]
        raise DataError(
            f"{path}: a file of {other} (magic number {found:#x}), taken for one of {what} ({magic:#x})."
        )
    if found != magic:
        begins = "is empty" if not header else f"begins with {header[:4].hex()}"
        raise DataError(
            f"{path}: no IDX file of {what}, which begins with {magic:08x}; it {begins}."
        )
    if len(header) < 4 * (1 + (magic & 0xFF)):
        raise DataError(f"{path}: cut short, within its header.")
    shape = struct.unpack(f">{magic & 0xFF}I", header[4:])
    if 0 in shape:
        raise DataError(f"{path}: its header announces {as_text(shape)} {what}, which is none.")
    return shape


def _read_up_to(file: Any, size: int) -> bytearray:
    """As many bytes, or those that are there: in pieces, so that only these are allocated."""
    content = bytearray()
    while len(content) < size and (piece := file.read(min(2**20, size - len(content)))):
        content += piece
    return content


def as_text(shape: Iterable[int]) -> str:
    """Such as "28 x 28"."""
    return " x ".join(map(str, shape))


def read_cifar_batch(path: Path) -> UInt8[np.ndarray, "n 3073"]:
    """The records of a file, label first. Raises DataError."""
    record = 1 + math.prod(CIFAR_SHAPE)
    try:
        held = path.stat().st_size
        if held == 0 or held % record or held > MAX_BYTES:
            raise DataError(
                f"{path}: {held} bytes are no whole number of CIFAR-10's records of {record}; cut short, or of another kind."
            )
        records = np.fromfile(path, np.uint8).reshape(-1, record)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}).") from error
    if records[:, 0].max() >= _CIFAR_CLASSES:
        at = int(np.argmax(records[:, 0] >= _CIFAR_CLASSES))
        raise DataError(
            f"{path}: label {records[at, 0]} of record {at + 1} is above 9; no file of CIFAR-10."
        )
    return records


def read_pictures(files: Sequence[Path]) -> UInt8[np.ndarray, "n h w c"]:
    """Pictures of one size and mode, in this order. All headers are read first: what does not fit is refused before any pixel is decoded.
    Raises DataError."""
    first_size, first_mode = _picture(files[0], decode=False)
    for file in files[1:]:
        size, mode = _picture(file, decode=False)
        if size != first_size:
            raise DataError(
                f"{file}: {as_text(size)} pixels, and the first picture, {files[0].name}, has {as_text(first_size)}."
            )
        if mode != first_mode:
            kinds = {"L": "grey", "RGB": "in colours"}
            raise DataError(
                f"{file}: {kinds[mode]}, and the first picture, {files[0].name}, is {kinds[first_mode]}."
            )
    width, height = first_size
    channels = 1 if first_mode == "L" else 3
    if len(files) * height * width * channels > MAX_BYTES:
        raise DataError(
            f"{files[0].parent}: {len(files)} pictures of {as_text(first_size)} are too many for memory; take fewer."
        )
    pixels = np.empty((len(files), height, width, channels), np.uint8)
    for at, file in enumerate(files):
        pixels[at] = _picture(file, decode=True).reshape(height, width, channels)
    return pixels


def _picture(file: Path, *, decode: bool) -> Any:
    """Of a picture, its size (width, height) and mode; or its pixels."""
    image_module = require_extra("PIL.Image")
    try:
        with warnings.catch_warnings():
            # Among them that a picture is large beyond reason.
            warnings.simplefilter("error")
            with image_module.open(file) as image:
                if image.mode not in _MODES or "transparency" in image.info:
                    raise DataError(
                        f"{file}: pixels of mode {image.mode}, with transparency or of other bits; save it as grey or as RGB."
                    )
                if not decode:
                    return image.size, _MODES[image.mode]
                return np.asarray(image.convert(_MODES[image.mode]))
    # Decoders fail in many ways on bytes that were damaged.
    except Exception as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{file}: cannot be read as a picture ({_plain_reason(error, file)})."
        ) from error


def _plain_reason(error: Exception, file: Path) -> str:
    kind = type(error).__name__
    if kind == "UnidentifiedImageError":
        return "its bytes are those of no known kind"
    if kind.startswith("DecompressionBomb"):
        return "larger than any picture should be"
    return reason(error)
