"""The gate of untrusted files: regular files only, and every limit asked before memory is used.

A refused file costs little: nothing is allocated on the word of a header alone, packed data are
counted while they are unpacked, and no line is read without end.
"""

import contextlib
import io
import os
import stat
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from swjko.data.errors import DataError, reason

# The largest file of any kind, and the most bytes of an array as it is stored.
MAX_FILE_BYTES = 2**31
# The largest text file, and the most fields of one. Parsing takes seconds.
MAX_TABLE_BYTES, MAX_FIELDS = 200_000_000, 12_000_000
# The longest line, and the most rows, columns and numbers of a table: 2^25 numbers are 256 MiB.
MAX_LINE_BYTES, MAX_ROWS, MAX_COLUMNS, MAX_NUMBERS = 2**24, 2**20, 2**15, 2**25
# Most columns for a square matrix with a row and a column for each: 128 MiB.
MAX_SQUARE_COLUMNS = 2**12
# The most bytes that are kept of a file before all of it has been checked.
MAX_UNCHECKED_BYTES = 2**28
# The largest picture: Pillow holds four bytes for each pixel, and a copy while it converts.
MAX_PICTURE_PIXELS = 2**25
_PIECE_BYTES = 2**18
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISSOCK, "a socket"),
)


@runtime_checkable
class Readable(Protocol):
    """What has a method ``read``."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes; nothing at the end."""
        ...


def open_regular(path: str | Path, max_bytes: int = MAX_FILE_BYTES) -> io.BufferedReader:
    """Open a regular file for reading in binary, or a link to one.

    FIFOs, devices and directories are refused without waiting for them.

    Args:
      path: The file.
      max_bytes: The largest size in bytes.

    Raises:
      DataError: If the file is of another kind, larger, or cannot be opened.
    """
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        # Opening some devices has effects, so the kind is asked before and after.
        _require_regular(path, os.stat(path), max_bytes)
        descriptor = os.open(path, flags)
        try:
            _require_regular(path, os.fstat(descriptor), max_bytes)
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except DataError:
        raise
    # ValueError: a path with a zero byte.
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}).") from error


def _require_regular(path: str | Path, found: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "something else")
        raise DataError(
            f"{path}: cannot be read (it must be a regular file; got {kind}). "
            "Copy its content to a file."
        )
    if found.st_size > max_bytes:
        raise DataError(
            f"{path}: must have at most {max_bytes} bytes; got {found.st_size}. "
            "Use fewer rows or split the file."
        )


def size_of(file: io.BufferedReader) -> int:
    """Return the size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def read_up_to(file: Readable, size: int) -> bytearray:
    """Read at most ``size`` bytes in pieces, so that memory grows with what the file holds."""
    content = bytearray()
    while len(content) < size and (piece := file.read(min(_PIECE_BYTES, size - len(content)))):
        content += piece
    return content


def text_lines(
    path: str | Path,
    file: Any,
    *,
    max_bytes: int = MAX_TABLE_BYTES,
    max_line: int = MAX_LINE_BYTES,
) -> Generator[str, None, None]:
    """Iterate over the lines of a binary file as text, with their ends.

    Args:
      path: The file's name, for messages.
      file: The file, opened in binary; plain or ``Inflated``.
      max_bytes: The most characters in all.
      max_line: The longest line.

    Raises:
      DataError: If a limit is passed, or the file is not text in UTF-8.
    """
    total = number = 0
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        while line := text.readline(max_line + 1):
            number, total = number + 1, total + len(line)
            if len(line) > max_line:
                raise DataError(
                    f"{path}, line {number}: must have at most {max_line} characters. "
                    "Check that the file is a table in text."
                )
            if total > max_bytes:
                raise DataError(
                    f"{path}: must hold at most {max_bytes} characters. Use fewer rows."
                )
            if "\0" in line:
                raise DataError(f"{path}, line {number}: not text (it holds a zero byte).")
            yield line
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8.") from error
    finally:
        # Whoever opened the file closes it, maybe before this generator ends.
        with contextlib.suppress(ValueError):
            text.detach()


class Inflated(io.RawIOBase):
    """The content of a gzip file, unpacked while it is read.

    A header of any length is passed over at the speed of zlib, and checksums are compared.

    Args:
      file: The packed file, opened in binary.
    """

    def __init__(self, file: Readable):
        self._file, self._packed = file, b""
        self._engine = zlib.decompressobj(31)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer and return the number of bytes; 0 at the end."""
        while True:
            if self._engine.eof and not self._next_member():
                return 0
            if not self._packed:
                self._packed = self._file.read(_PIECE_BYTES)
                if not self._packed:
                    raise EOFError("the compressed file ended before its end mark")
            piece = self._inflate(len(buffer))
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)

    def _inflate(self, size: int) -> bytes:
        try:
            piece = self._engine.decompress(self._packed, size)
        except zlib.error as error:
            failed = "incorrect data check" in str(error) or "incorrect length" in str(error)
            raise OSError("CRC check failed" if failed else reason(error)) from error
        self._packed = self._engine.unconsumed_tail
        return piece

    def _next_member(self) -> bool:
        """Begin the next member, if there is one. Zeros may follow the last."""
        rest = self._engine.unused_data.lstrip(b"\0")
        while not rest and (piece := self._file.read(_PIECE_BYTES)):
            rest = piece.lstrip(b"\0")
        if rest:
            self._engine, self._packed = zlib.decompressobj(31), rest
        return bool(rest)


def inflated_if_packed(file: io.BufferedReader) -> tuple[io.BufferedReader, bool]:
    """Return a reader of the content and whether the file is packed by gzip."""
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return (io.BufferedReader(Inflated(file), _PIECE_BYTES) if packed else file), packed
