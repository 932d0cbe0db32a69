"""Tables of features and labels, and points, from files or from scikit-learn.

A file that cannot be used raises ``DataError``, which names the file, and the line, row or column.
Pickles are never loaded, and memory is allocated only for data that the file holds, within the
limits of ``gate``.
"""

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from swjko.data import gate
from swjko.data.array_files import ArrayFile, opened_npy, require_few
from swjko.data.csv_files import Choice, read_columns, two_classes
from swjko.data.csv_text import LARGEST_NUMBER
from swjko.data.errors import DataError


class Table(NamedTuple):
    """A table of numbers with labels of two classes.

    Attributes:
      features: [n p] in float64.
      labels: [n], each -1 or +1.
      names: The p column names.
      classes: How the file writes the labels -1 and +1.
      dropped: Number of rows that were left out for missing values.
    """

    features: Float[np.ndarray, "n p"]
    labels: Float[np.ndarray, " n"]
    names: tuple[str, ...]
    classes: tuple[str, str]
    dropped: int = 0


class Points(NamedTuple):
    """Points with the names of their coordinates.

    Attributes:
      values: [n d] in float64.
      names: The d names.
      dropped: Number of rows that were left out.
    """

    values: Float[np.ndarray, "n d"]
    names: tuple[str, ...]
    dropped: int = 0


def load_table(
    path: str | Path,
    label: str,
    *,
    columns: Sequence[str] | None = None,
    drop_columns: Sequence[str] = (),
    drop_missing: bool = False,
    one_hot: Sequence[str] = (),
) -> Table:
    """Load a CSV file with a header as features and labels.

    Commas, semicolons and tabs separate fields.

    Args:
      path: The file. Columns must hold finite numbers and must not be constant. At least two rows
        are needed.
      label: The column of labels. Its two values, in sorted order, become -1 and +1.
      columns: Names of the columns to use; None uses all.
      drop_columns: Names of columns to leave out.
      drop_missing: Whether to leave out rows with a missing value (an empty field, NA, N/A, NaN,
        null, None or ?) in a column that is used.
      one_hot: Names of columns of categories. Each gives an indicator "column=category" for every
        category but the first in sorted order.

    Returns:
      The ``Table``.

    Raises:
      DataError: If the file cannot be read or used. The message lists all problems.
    """
    choice = Choice(columns, drop_columns, drop_missing, one_hot, label)
    found = read_columns(Path(path), choice)
    classes = two_classes(path, label, found.labels)
    labels = np.where(np.asarray(found.labels) == classes[1], 1.0, -1.0)
    return Table(found.values, labels, found.names, classes, found.dropped)


def load_points(path: str | Path) -> Float[np.ndarray, "n d"]:
    """Load points from a .npy file or a CSV file of numbers.

    Args:
      path: A .npy file with an array of rank 2, or a CSV file with or without a header. At least
        two points are needed, and no coordinate may be constant. Integers that float64 cannot hold
        are refused; longer floats are rounded.

    Returns:
      The points [n d] in float64.

    Raises:
      DataError: If the file cannot be read or used.
    """
    return load_named_points(path).values


def load_named_points(
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    drop_columns: Sequence[str] = (),
    drop_missing: bool = False,
) -> Points:
    """Load points with the names of their coordinates.

    Args:
      path: As in ``load_points``. Without a header, columns are named "1", "2" and so on.
      columns: Names of the columns to use; None uses all.
      drop_columns: Names of columns to leave out.
      drop_missing: Whether to leave out rows with a missing value, as in ``load_table``.

    Returns:
      The ``Points``.

    Raises:
      DataError: If the file cannot be read or used. The message lists all problems.
    """
    if Path(path).suffix != ".npy":
        choice = Choice(columns, drop_columns, drop_missing)
        found = read_columns(Path(path), choice, with_header=False)
        return Points(found.values, found.names, found.dropped)
    if columns is not None or drop_columns or drop_missing:
        raise DataError(
            f"{path}: a .npy file has no names and no missing values. Omit columns, drop_columns "
            "and drop_missing, or use a CSV file."
        )
    with opened_npy(path) as array:
        shape, dtype, _ = array.header
        if dtype.kind not in "fiu" or len(shape) != 2 or 0 in shape:
            raise DataError(
                f"{path}: must hold real numbers of shape [points, dimension]; "
                f"got {dtype} of shape {shape}."
            )
        values = as_float64(path, array)
    require_usable(path, values)
    return Points(values, tuple(str(at + 1) for at in range(values.shape[1])))


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


def as_float64(path: str | Path, array: ArrayFile) -> np.ndarray:
    """Read an array as float64; longer floats are rounded.

    Args:
      path: The file, for messages.
      array: The array, of rank 1 or 2.

    Raises:
      DataError: If there are too many numbers or columns, or an integer that float64 cannot hold.
    """

    def convert(piece: np.ndarray, start: int) -> np.ndarray:
        with np.errstate(over="ignore"):
            values = piece.astype(np.float64)
        if piece.dtype.kind in "iu":
            for at in np.flatnonzero(np.abs(values) >= 2.0**53):
                if int(piece[at]) != int(values[at]):
                    row, column = (*array.index(start + int(at)), 0)[:2]
                    raise DataError(
                        f"{path}, row {row + 1}, column '{column + 1}': {piece[at]} is an integer "
                        "that float64 cannot hold. Use smaller numbers."
                    )
        return values

    require_few(array, gate.MAX_NUMBERS)
    columns = math.prod(array.header.shape[1:])
    if columns > gate.MAX_COLUMNS:
        raise DataError(
            f"{path}: must have at most {gate.MAX_COLUMNS} columns; got {columns}. "
            "Use fewer columns."
        )
    return array.read(np.float64, convert)


def require_narrow(source: str, columns: int, cure: str) -> None:
    """Raise DataError if a table is too wide for a square matrix of its columns.

    Args:
      source: The table, for the message.
      columns: Its number of columns.
      cure: What to do, a sentence.
    """
    if columns > gate.MAX_SQUARE_COLUMNS:
        raise DataError(
            f"{source}: must have at most {gate.MAX_SQUARE_COLUMNS} columns; got {columns}. {cure}"
        )


def require_usable(path: str | Path, values: Float[np.ndarray, "n p"]) -> None:
    """Raise DataError on fewer than two rows, on unusable numbers and on constant columns.

    Columns and rows are numbered from 1.
    """
    if len(values) < 2:
        raise DataError(f"{path}: must hold at least two rows of data; got {len(values)}.")
    # In blocks of rows, so that little memory is used besides the values.
    block = max(1, 2**20 // values.shape[1])
    for start in range(0, len(values), block):
        bad = np.argwhere(~(np.abs(values[start : start + block]) < LARGEST_NUMBER))
        if len(bad):
            row, column = start + bad[0][0], bad[0][1]
            raise DataError(
                f"{path}, row {row + 1}, column '{column + 1}': "
                f"{values[row, column]} is not a usable finite number."
            )
    constant = np.flatnonzero(np.ptp(values, axis=0) == 0)
    if len(constant):
        raise DataError(
            f"{path}, column '{constant[0] + 1}': every row has the same value. Remove the column."
        )


def _as_table(data: Any, positive: int, classes: tuple[str, str]) -> Table:
    labels = np.where(data.target == positive, 1.0, -1.0)
    names = tuple(map(str, data.feature_names))
    return Table(np.asarray(data.data, np.float64), labels, names, classes)
