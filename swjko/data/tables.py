"""Tables of features and labels, and points, from files or from scikit-learn.

A file that cannot be used raises ``DataError``: one line that names the file, and the line, row or
column. Pickles are never loaded, and memory is allocated only for data that the file holds.
"""

import contextlib
import csv
import importlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

_Lines = list[tuple[int, list[str]]]


class DataError(ValueError):
    """A data file that cannot be used. The message names the file, and the line or column."""


class Table(NamedTuple):
    """A table of numbers with labels of two classes.

    Attributes:
      features: [n p] in float64.
      labels: [n], each -1 or +1.
      names: The p column names.
      classes: How the file writes the labels -1 and +1.
    """

    features: Float[np.ndarray, "n p"]
    labels: Float[np.ndarray, " n"]
    names: tuple[str, ...]
    classes: tuple[str, str]
    dropped: int = 0


class Points(NamedTuple):
    """Points [n d] in float64 with the names of their coordinates, and the number of rows left out.

    Attributes:
      values: [n d] in float64.
      names: The d names.
      dropped: Number of rows that were left out.
    """

    values: Float[np.ndarray, "n d"]
    names: tuple[str, ...]
    dropped: int = 0


def load_named_points(path: str | Path) -> Points:
    """Load points with the names of their coordinates, as ``load_points``.

    Args:
      path: See ``load_points``.
    """
    values = load_points(path)
    return Points(values, tuple(f"column {at + 1}" for at in range(values.shape[1])))


def load_table(path: str | Path, label: str) -> Table:
    """Load a CSV file with a header as features and labels.

    Args:
      path: The file. All columns except ``label`` must hold finite numbers and must not be
        constant. At least two rows are needed.
      label: The column of labels. Its two values, in sorted order, become -1 and +1.

    Returns:
      The ``Table``.

    Raises:
      DataError: If the file cannot be read or used.
    """
    header, lines = _read_csv(Path(path))
    if label not in header:
        raise DataError(
            f"{path}: no column {label!r} for the labels; the columns are {', '.join(header)}."
        )
    _require_distinct(path, header)
    at = header.index(label)
    written = [fields[at].strip() for _, fields in lines]
    classes = sorted(set(written), key=_numbers_first)
    if len(classes) != 2 or {"", "nan"} & {name.lower() for name in classes}:
        shown = ", ".join(map(repr, classes[:5]))
        raise DataError(
            f"{path}, column {label!r}: labels must have exactly two classes; "
            f"got {len(classes)}: {shown}."
        )
    names = tuple(name for name in header if name != label)
    if not names:
        raise DataError(f"{path}: no column besides the labels {label!r}.")
    lines = [(number, fields[:at] + fields[at + 1 :]) for number, fields in lines]
    labels = np.where(np.asarray(written) == classes[1], 1.0, -1.0)
    return Table(_as_numbers(path, lines, names), labels, names, (classes[0], classes[1]))


def load_points(path: str | Path) -> Float[np.ndarray, "n d"]:
    """Load points from a .npy file or a CSV file of numbers.

    Args:
      path: A .npy file with an array of rank 2, or a CSV file with or without a header. At least
        two points are needed, and no coordinate may be constant.

    Returns:
      The points [n d] in float64.

    Raises:
      DataError: If the file cannot be read or used.
    """
    if Path(path).suffix != ".npy":
        header, lines = _read_csv(Path(path))
        if all(_is_number(name) for name in header):
            lines = [(1, header), *lines]
            header = [str(index + 1) for index in range(len(header))]
        _require_distinct(path, header)
        return _as_numbers(path, lines, header)
    values = mapped_npy(path)
    if values.dtype.kind not in "fiu" or values.ndim != 2 or values.size == 0:
        raise DataError(
            f"{path}: must hold real numbers of shape [points, dimension]; "
            f"got {values.dtype} of shape {values.shape}."
        )
    values = np.array(values, np.float64)
    require_usable(path, values)
    return values


def breast_cancer() -> Table:
    """Return scikit-learn's Wisconsin breast cancer table: 569 rows, 30 columns; +1 is benign."""
    data = require_extra("sklearn.datasets").load_breast_cancer()
    return _as_table(data, 1, ("malignant", "benign"))


def wine(cultivar: int = 0) -> Table:
    """Return scikit-learn's wine table, one cultivar against the two others.

    Args:
      cultivar: 0, 1 or 2. Its rows have the label +1, all others -1.

    Returns:
      A ``Table`` of 178 rows and 13 columns.
    """
    if cultivar not in (0, 1, 2):
        raise ValueError(f"cultivar must be 0, 1 or 2; got {cultivar!r}.")
    data = require_extra("sklearn.datasets").load_wine()
    return _as_table(data, cultivar, ("others", f"cultivar {cultivar}"))


def digits() -> Float[np.ndarray, "n 64"]:
    """Return scikit-learn's 1797 images of digits as rows.

    Returns:
      [1797 64]: images of 8 x 8 pixels with grey levels from 0 to 16.
    """
    return np.asarray(require_extra("sklearn.datasets").load_digits().data, np.float64)


def require_extra(module: str) -> ModuleType:
    """Import an optional module, or raise an ImportError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module.split('.')[0]} is not installed. Run: pip install 'swjko[cli]'"
        ) from error


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


def reason(error: BaseException) -> str:
    """Return the first line of an error's text, for use inside another message."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def require_usable(
    path: str | Path,
    values: Float[np.ndarray, "n p"],
    names: Sequence[str] | None = None,
    lines: Sequence[int] | None = None,
) -> None:
    """Raise DataError on fewer than two rows, on unusable numbers and on constant columns.

    Columns without ``names`` and rows without ``lines`` are numbered from 1.
    """
    names = [str(index + 1) for index in range(values.shape[1])] if names is None else names
    if len(values) < 2:
        raise DataError(f"{path}: must hold at least two rows of data; got {len(values)}.")
    # The squares of larger numbers overflow float64.
    bad = np.argwhere(~(np.abs(values) < 1e100))
    if len(bad):
        row, column = bad[0]
        where = f"row {row + 1}" if lines is None else f"line {lines[row]}"
        raise DataError(
            f"{path}, {where}, column {names[column]!r}: "
            f"{values[row, column]} is not a usable finite number."
        )
    constant = np.flatnonzero(np.ptp(values, axis=0) == 0)
    if len(constant):
        raise DataError(
            f"{path}, column {names[constant[0]]!r}: every row has the same value. "
            "Remove the column."
        )


def _as_table(data: Any, positive: int, classes: tuple[str, str]) -> Table:
    labels = np.where(data.target == positive, 1.0, -1.0)
    names = tuple(map(str, data.feature_names))
    return Table(np.asarray(data.data, np.float64), labels, names, classes)


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


def _read_csv(path: Path) -> tuple[list[str], _Lines]:
    """Return the header and the rows with their line numbers, without blank lines."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, fields) for fields in reader if fields]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a text file of comma-separated values.") from error
    if not lines:
        raise DataError(f"{path}: the file is empty.")
    header = [name.strip() for name in lines[0][1]]
    for number, fields in lines[1:]:
        if len(fields) != len(header):
            raise DataError(
                f"{path}, line {number}: has {len(fields)} fields; "
                f"the first line has {len(header)}."
            )
    return header, lines[1:]


def _require_distinct(path: str | Path, header: list[str]) -> None:
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{path}: the header has column {name!r} twice.")


def _as_numbers(path: str | Path, lines: _Lines, names: Sequence[str]) -> Float[np.ndarray, "n p"]:
    for number, fields in lines:
        for name, field in zip(names, fields, strict=True):
            if not _is_number(field):
                raise DataError(
                    f"{path}, line {number}, column {name!r}: {field!r} is not a number."
                )
    rows = [[float(field) for field in fields] for _, fields in lines]
    values = np.array(rows, np.float64).reshape(len(lines), len(names))
    require_usable(path, values, names, [number for number, _ in lines])
    return values


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _numbers_first(name: str) -> tuple[bool, float, str]:
    return (not _is_number(name), float(name) if _is_number(name) else 0.0, name)
