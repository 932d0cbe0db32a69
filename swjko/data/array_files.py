"""Arrays of numbers from .npy and .npz files. Pickles are never loaded."""

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from swjko.data.errors import DataError, reason


def mapped_npy(path: str | Path) -> np.ndarray:
    """Map the array of a .npy file into memory; this allocates nothing. Raises DataError."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(values, np.ndarray):
            return values
        raise ValueError("it is a .npz archive")
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise DataError(
            f"{path}: not a readable .npy file of numbers ({reason(error)})."
        ) from error


def npz_names(path: Path) -> list[str]:
    """List the names of the arrays in a .npz file. Raises DataError."""
    with _opened_npz(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_npz(path: Path, name: str) -> np.ndarray:
    """Read one array of a .npz file, its header checked against its size. Raises DataError."""
    with _opened_npz(path) as archive:
        size = archive.getinfo(f"{name}.npy").file_size
        with archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            if version[0] not in (1, 2):
                raise DataError(f"{path}: array {name!r} has the unknown .npy version {version}.")
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, _, dtype = read_header(file)
            if dtype.hasobject:
                raise DataError(
                    f"{path}: array {name!r} holds pickled objects, which are never loaded. "
                    "Save it as numbers."
                )
            if math.prod(shape) * dtype.itemsize + file.tell() != size:
                raise DataError(
                    f"{path}: array {name!r} is damaged: {dtype} of shape {shape} in {size} bytes."
                )
        with archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)


@contextlib.contextmanager
def _opened_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DataError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: not a readable .npz file of numbers ({reason(error)})."
        ) from error
