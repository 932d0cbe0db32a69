"""Arrays of numbers from .npy and .npz files. Pickles are never loaded.

The header is compared to the size of the file, and to a limit, before memory is allocated. Arrays
are converted piece by piece, so that a bad value is found before all is in memory.
"""

import contextlib
import io
import math
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from swjko.data import gate
from swjko.data.errors import DataError, quoted, reason, shortened

# A header of numbers has about a hundred bytes; the directory of an archive, as many for a member.
_MAX_HEADER_BYTES, _MAX_DIRECTORY_BYTES = 4096, 2**20
_PIECE_BYTES = 2**22
_ENDING = ".npy"


class Header(NamedTuple):
    """What the header of an array says.

    Attributes:
      shape: The shape.
      dtype: The type of its numbers.
      fortran: Whether the first index changes fastest in the file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool


# Converts a piece of an array, given how many numbers came before it.
Convert = Callable[[np.ndarray, int], np.ndarray]


class ArrayFile(NamedTuple):
    """An array in an open file. Only its header has been read.

    Attributes:
      source: The name for messages.
      header: The header.
      file: The file, behind the header.
    """

    source: str
    header: Header
    file: gate.Readable

    def read(self, dtype: Any = None, convert: Convert | None = None) -> np.ndarray:
        """Read the array.

        Args:
          dtype: The type of the result; None keeps that of the file.
          convert: Is applied to each piece, in the order of the file, before it is stored.

        Raises:
          DataError: If the file is cut short.
        """
        shape, stored, fortran = self.header
        count = math.prod(shape)
        values = np.empty(count, stored if dtype is None else dtype)
        most = max(1, _PIECE_BYTES // stored.itemsize)
        for start in range(0, count, most):
            piece = self._piece(min(most, count - start))
            values[start : start + len(piece)] = piece if convert is None else convert(piece, start)
        self._piece(0)
        with _one_error(f"{self.source} cannot be shaped"):
            return values.reshape(shape, order="F" if fortran else "C")

    def _piece(self, size: int) -> np.ndarray:
        """Read the next numbers; with ``size`` 0, require that the file ends here."""
        stored = self.header.dtype
        with _one_error(f"{self.source} is damaged"):
            content = gate.read_up_to(self.file, max(1, size * stored.itemsize))
            if len(content) != size * stored.itemsize:
                raise ValueError("its end is cut off" if size else "longer than its header says")
            return np.frombuffer(content, stored)

    def index(self, flat: int) -> tuple[int, ...]:
        """Return the index of a number, given how many come before it in the file."""
        order = "F" if self.header.fortran else "C"
        return tuple(map(int, np.unravel_index(flat, self.header.shape, order)))


@contextlib.contextmanager
def opened_npy(path: str | Path) -> Iterator[ArrayFile]:
    """Open a .npy file and read its header. Raises DataError."""
    with gate.open_regular(path) as file:
        with _one_error(f"{path}: not a readable .npy file of numbers"):
            if file.peek(2)[:2] == b"PK":
                raise ValueError("it is a .npz archive")
            array = _array_file(f"{path}: the array", file, gate.size_of(file))
        yield array


@contextlib.contextmanager
def opened_member(path: str | Path, name: str) -> Iterator[ArrayFile]:
    """Open an array of a .npz file and read its header. Raises DataError."""
    with _opened_npz(path) as archive, contextlib.ExitStack() as stack:
        with _one_error(f"{path}: not a readable .npz file of numbers"):
            size = archive.getinfo(f"{name}{_ENDING}").file_size
            file = stack.enter_context(archive.open(f"{name}{_ENDING}"))
            array = _array_file(f"{path}: array {quoted(name)}", file, size)
        yield array


def npz_names(path: str | Path) -> list[str]:
    """List the names of the arrays in a .npz file. Raises DataError."""
    with _opened_npz(path) as archive:
        return [name.removesuffix(_ENDING) for name in archive.namelist()]


def read_npz(path: str | Path, name: str) -> np.ndarray:
    """Read one array of a .npz file as it is stored. Raises DataError."""
    with opened_member(path, name) as array:
        require_few(array, gate.MAX_NUMBERS)
        return array.read()


def require_few(array: ArrayFile, most: int) -> None:
    """Raise DataError if an array has more than ``most`` numbers."""
    count = math.prod(array.header.shape)
    if count > most:
        raise DataError(
            f"{array.source} of shape {array.header.shape} has {count} numbers, which do not fit "
            f"in memory; at most {most} do. Use fewer rows."
        )


def _array_file(source: str, file: Any, size: int) -> ArrayFile:
    header, start = _read_header(source, file)
    shape, dtype, _ = header
    stored = math.prod(shape) * dtype.itemsize
    if start + stored != size:
        raise DataError(
            f"{source} is damaged: {dtype} of shape {shape} are {stored} bytes; the file has "
            f"{size - start}."
        )
    if stored > gate.MAX_FILE_BYTES:
        raise DataError(
            f"{source} of {stored} bytes does not fit in memory. It must have at most "
            f"{gate.MAX_FILE_BYTES}. Use fewer rows."
        )
    return ArrayFile(source, header, file)


def _read_header(source: str, file: Any) -> tuple[Header, int]:
    """Return the header and its size in bytes."""
    start = bytes(gate.read_up_to(file, 8))
    if start[:6] != b"\x93NUMPY" or len(start) < 8:
        raise ValueError("it does not begin as a .npy file")
    version = (start[6], start[7])
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{source} has the unknown .npy version {version}.")
    read = np.lib.format.read_array_header_1_0
    if version == (2, 0):
        read = np.lib.format.read_array_header_2_0
    length = bytes(gate.read_up_to(file, 2 * version[0]))
    held = struct.unpack("<H" if version == (1, 0) else "<I", length)[0]
    if held > _MAX_HEADER_BYTES:
        raise ValueError(f"its header has {held} bytes")
    content = length + gate.read_up_to(file, held)
    with warnings.catch_warnings():
        # NumPy warns of headers that Python 2 wrote.
        warnings.simplefilter("ignore")
        shape, fortran, dtype = read(io.BytesIO(content), max_header_size=_MAX_HEADER_BYTES)
    if dtype.hasobject:
        raise DataError(
            f"{source} holds pickled objects, which are never loaded; it is not a readable .npy "
            "array. Save it as numbers."
        )
    if dtype.kind not in "biufc":
        raise DataError(f"{source} must hold real numbers; got {dtype}. Save it as numbers.")
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {shape}")
    return Header(tuple(map(int, shape)), dtype, bool(fortran)), 8 + len(content)


class _ShortReads(io.RawIOBase):
    """A file that reads no large piece at once, such as the directory of a vast archive."""

    def __init__(self, file: io.BufferedReader):
        self._file = file

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1, /) -> bytes:
        most = _MAX_DIRECTORY_BYTES
        content = self._file.read(size if 0 <= size <= most else most + 1)
        if len(content) > most:
            raise ValueError(f"it has a directory of more than {most} bytes")
        return content


@contextlib.contextmanager
def _opened_npz(path: str | Path) -> Iterator[zipfile.ZipFile]:
    with gate.open_regular(path) as file, contextlib.ExitStack() as stack:
        with _one_error(f"{path}: not a readable .npz file of numbers"):
            archive = stack.enter_context(zipfile.ZipFile(_ShortReads(file)))
        _require_arrays(path, archive.infolist())
        yield archive


def _require_arrays(path: str | Path, members: list[zipfile.ZipInfo]) -> None:
    """Raise DataError unless an archive holds arrays as NumPy saves them, and nothing else."""
    cure = "Save it by numpy.savez or numpy.savez_compressed."
    names = {member.filename for member in members}
    foreign = [quoted(name) for name in sorted(names) if not name.endswith(_ENDING)]
    if foreign:
        raise DataError(f"{path}: must hold only arrays; it holds {shortened(foreign)}. {cure}")
    if len(names) < len(members):
        raise DataError(f"{path}: holds two arrays of the same name. {cure}")
    for member in members:
        if member.flag_bits & 1:
            raise DataError(f"{path}: array {quoted(member.filename)} is encrypted. {cure}")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(
                f"{path}: array {quoted(member.filename)} is packed by a method that is not "
                f"Deflate. {cure}"
            )


@contextlib.contextmanager
def _one_error(message: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    # Damaged headers and archives fail in many ways.
    except Exception as error:
        raise DataError(f"{message} ({reason(error)}).") from error
