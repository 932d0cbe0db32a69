"""Pictures in files that Pillow reads, checked before and while they are decoded.

Pillow trusts what a file says of itself. So these are asked first: the size, the kind, the number
of scans of a JPEG, and the lengths of tags, which become Python numbers of 36 bytes each.
"""

import contextlib
import mmap
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from swjko.data import gate, image_files
from swjko.data.errors import DataError, reason
from swjko.data.image_files import as_text
from swjko.data.tables import require_extra

# Of the many formats that Pillow reads, those of load_image_folder.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MAX_PICTURE_BYTES = 2**28
# Pillow's name for the pixels of a picture, and the mode they are converted to.
_MODES = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB"}
# Memory for one pixel while a picture is decoded: Pillow's four bytes, and those of the decoder.
_WORKING_BYTES = 8
# The most pixels that are converted at once.
_STRIP_PIXELS = 2**20
# The tag of EXIF, and where Pillow finds EXIF in a PNG file without decoding it.
_ORIENTATION = 0x0112
_DEEP_MODE = re.compile(r"(?!BGR).*;(12|16|32|64)")
_PNG_EXIF = ("exif", "Raw profile type exif", "XML:com.adobe.xmp")
# Cameras write less than 64 KiB of EXIF.
_MAX_EXIF_BYTES = 2**20
# A JPEG of several scans is decoded once for each; encoders write about ten.
_SCAN, _MAX_SCANS = b"\xff\xda", 50
# How TIFF files begin: their byte order, and whether numbers have 64 bits.
_TIFF = {
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
}
# Strips or tiles are the longest tags of numbers. Tags of bytes may be long, as colour profiles.
_MAX_TAGS, _MAX_TAG_LENGTH, _BYTE_KINDS = 2**12, 2**17, (1, 2, 6, 7)


def read_pictures(files: Sequence[Path]) -> UInt8[np.ndarray, "n h w c"]:
    """Read pictures of one size and mode, in this order.

    All headers are read first, so that a picture that does not fit is found before any decoding.
    Large sets are decoded twice: the first time, nothing is kept. Pictures are turned upright as
    their EXIF orientation says.

    Args:
      files: The files; at least one.

    Raises:
      DataError: If one differs from the first, or cannot be read.
    """
    size, mode = _header(files[0])
    for file in files[1:]:
        other_size, other_mode = _header(file)
        if (other_size, other_mode) != (size, mode):
            first, other = (
                f"{as_text(sides)} pixels in {'grey' if name == 'L' else 'colour'}"
                for sides, name in ((size, mode), (other_size, other_mode))
            )
            raise DataError(f"{file}: {other}; the first picture, {files[0].name}, has {first}.")
    (width, height), channels = size, 1 if mode == "L" else 3
    total = len(files) * height * width * channels
    if total > image_files.MAX_BYTES:
        raise DataError(
            f"{files[0].parent}: {len(files)} pictures of {as_text(size)} pixels do not fit in "
            "memory. Use fewer pictures."
        )
    if total + _WORKING_BYTES * height * width > gate.MAX_UNCHECKED_BYTES:
        for file in files:
            _decode(file, size)
    pixels = np.empty((len(files), height, width, channels), np.uint8)
    for at, file in enumerate(files):
        _decode(file, size, pixels[at])
    return pixels


def _header(path: Path) -> tuple[tuple[int, int], str]:
    """Return the size (width, height) of a picture, turned upright, and its mode."""
    with _opened(path) as image:
        size = image.size[::-1] if _lies_on_its_side(image) else image.size
        return size, _MODES[image.mode]


def _decode(
    path: Path, size: tuple[int, int], pixels: UInt8[np.ndarray, "h w c"] | None = None
) -> None:
    """Decode a picture; store it in ``pixels``, if given."""
    with _opened(path) as image:
        require_extra("PIL.ImageOps").exif_transpose(image, in_place=True)
        if image.size != size:
            raise DataError(f"{path}: cannot be read as a picture (its orientation is unclear).")
        if pixels is None:
            return
        height, width, channels = pixels.shape
        rows = max(1, _STRIP_PIXELS // width)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            strip = image.crop((0, top, width, bottom)).convert(_MODES[image.mode])
            pixels[top:bottom] = np.asarray(strip).reshape(bottom - top, width, channels)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a picture whose pixels can be read without loss, and explain errors."""
    image_module = require_extra("PIL.Image")
    try:
        with warnings.catch_warnings(), gate.open_regular(path, MAX_PICTURE_BYTES) as file:
            # Pillow only warns of a picture that is unreasonably large.
            warnings.simplefilter("error")
            _require_short_tags(file)
            # Pillow tells formats by content, and has programs run some, such as PostScript.
            with image_module.open(file, formats=_FORMATS) as image:
                _require_plain(path, image)
                _require_few_scans(file, image)
                yield image
    except DataError:
        raise
    # Decoders fail in many ways on damaged bytes.
    except Exception as error:
        kind = type(error).__name__
        why = "unknown file format" if kind == "UnidentifiedImageError" else reason(error)
        why = "unreasonably large" if kind.startswith("DecompressionBomb") else why
        raise DataError(f"{path}: cannot be read as a picture ({why}).") from error


def _require_plain(path: Path, image: Any) -> None:
    """Raise DataError unless a picture can be read as bytes without loss."""
    if image.mode not in _MODES or "transparency" in image.info or _is_deep(image):
        deep = " with more than 8 bits" if _is_deep(image) else ""
        raise DataError(
            f"{path}: must be grey or RGB with 8 bits and without transparency; "
            f"got mode {image.mode}{deep}. Save it as grey or as RGB."
        )
    if image.width * image.height > gate.MAX_PICTURE_PIXELS:
        raise DataError(
            f"{path}: cannot be read as a picture (unreasonably large: {as_text(image.size)} "
            f"pixels; at most {gate.MAX_PICTURE_PIXELS} in all). Make it smaller."
        )
    # The further pictures of a camera's MPO file are previews and depths of the first.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise DataError(f"{path}: must hold one picture; got several frames. Save each as a file.")
    if any(len(image.info.get(name) or "") > _MAX_EXIF_BYTES for name in _PNG_EXIF):
        raise ValueError(f"more than {_MAX_EXIF_BYTES} bytes of EXIF or XMP")


def _require_few_scans(file: Any, image: Any) -> None:
    """Raise ValueError if a JPEG has scans without end, each as costly as a picture."""
    if image.format in ("JPEG", "MPO"):
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = 0
            for _ in range(_MAX_SCANS + 1):
                found = content.find(_SCAN, found) + len(_SCAN)
                if found < len(_SCAN):
                    return
        raise ValueError(f"more than {_MAX_SCANS} scans")


def _require_short_tags(file: Any) -> None:
    """Raise ValueError if a TIFF file has a tag of very many numbers; return to the start."""
    start = file.read(16)
    if start[:4] in _TIFF:
        order, is_big = _TIFF[start[:4]]
        offset, count, entry = ("8xQ", "Q", "HHQ8x") if is_big else ("4xI8x", "H", "HHI4x")
        file.seek(struct.unpack(order + offset, start)[0])
        (number,) = _next(file, order + count)
        if number > _MAX_TAGS:
            raise ValueError(f"{number} tags")
        for _ in range(number):
            _, kind, length = _next(file, order + entry)
            if length > _MAX_TAG_LENGTH and kind not in _BYTE_KINDS:
                raise ValueError(f"a tag of {length} numbers")
    file.seek(0)


def _next(file: Any, form: str) -> tuple[int, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _is_deep(image: Any) -> bool:
    """Whether the file has more than eight bits a channel, which Pillow cuts to eight."""
    for tile in image.tile:
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        for argument in arguments:
            # A raw mode such as "RGB;16B"; "BGR;16" are two bytes for a pixel.
            if isinstance(argument, str) and _DEEP_MODE.match(argument):
                return True
        # The largest level of a PPM file.
        if tile[0].startswith("ppm") and arguments[-1] > 255:
            return True
    return False


def _lies_on_its_side(image: Any) -> bool:
    """Whether the EXIF orientation, if one stands before the pixels, swaps width and height."""
    if image.format == "TIFF" or (image.format == "PNG" and not {*_PNG_EXIF} & image.info.keys()):
        return False
    return image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
