"""Data sets on the host: tables of features and labels from files of several kinds, points, and those that scikit-learn ships.

Whatever is wrong with a file is a ``DataError`` of one line that names the file, and the line, row or column. Nothing is unpickled, and
nothing is allocated for what a damaged header claims.
"""

import contextlib
import csv
import functools
import gzip
import importlib
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.io.matlab import MatReadError

_LIBSVM_SUFFIXES = (".libsvm", ".libsvm.binary", ".svm", ".svmlight")
_COVTYPE_ROWS, _COVTYPE_COLUMNS, _COVTYPE_CLASSES = 581_012, 55, 7
# Larger files than any of the sets, against headers that ask for all memory.
_MAX_ELEMENTS = 2**31


class DataError(ValueError):
    """A data file that cannot be used; the message names the file, and the line or the column."""


class Table(NamedTuple):
    """features [n p] float64; labels [n], -1 or +1; names of the p columns; the labels as the file writes them, of -1 and of +1."""

    features: Float[np.ndarray, "n p"]
    labels: Float[np.ndarray, " n"]
    names: tuple[str, ...]
    classes: tuple[str, str]


def load_table(path: str | Path, label: str) -> Table:
    """A CSV file with a header, as features and labels; ``label`` names the column of labels, whose two values become -1 and +1 in order.

    Raises DataError naming the file, and the line or column, when it cannot be read, misses the column, holds a field that is not a finite
    number, has a row too short or too long, fewer than two rows, a constant column, or labels of other than two classes.
    """
    header, lines = _read_csv(Path(path))
    if label not in header:
        raise DataError(
            f"{path}: no column {label!r} to take as labels; the header names {', '.join(header)}."
        )
    _require_distinct(path, header)
    at = header.index(label)
    written = [fields[at].strip() for _, fields in lines]
    classes = sorted(set(written), key=_sort_key)
    if len(classes) != 2 or {"", "nan"} & {name.lower() for name in classes}:
        shown = ", ".join(repr(name) for name in classes[:5])
        raise DataError(
            f"{path}, column {label!r}: labels must be of exactly two classes; found {len(classes)}: {shown}."
        )
    names = tuple(name for name in header if name != label)
    if not names:
        raise DataError(f"{path}: no column beside the labels {label!r}.")
    features = _numbers(
        path, [(number, fields[:at] + fields[at + 1 :]) for number, fields in lines], names
    )
    labels = np.where(np.asarray(written) == classes[1], 1.0, -1.0)
    return Table(features, labels, names, (classes[0], classes[1]))


def load_logreg(name: str, data_dir: str | Path, *, label: str | None = None) -> Table:
    """The data set ``name`` in the directory ``data_dir`` or its folder ``logreg``, from the first of these files that is there:

    - ``NAME.npz``: arrays x [n p] and y [n];
    - ``benchmarks.mat``: the collection of G. Raetsch, a MATLAB struct NAME of x [n p] and t [n 1];
    - ``NAME.libsvm``, ``NAME.libsvm.binary``, ``NAME.svm``, ``NAME.svmlight``: lines "label index:value ...", indices from 1;
    - ``NAME.data`` or ``NAME.data.gz``, for covtype alone: the UCI text of 581012 rows, its second class against the others;
    - ``NAME.csv``: see ``load_table``.

    Args:
      label: the column of labels in a CSV file; None takes its last one.

    The smaller of two labels becomes -1 and the larger +1. Raises DataError when no file is there, when it is cut short or of another kind
    than its name says, and as ``load_table`` does. Example: ``load_logreg("german", "data")``.
    """
    directory = Path(data_dir)
    readers: list[tuple[str, Callable[[Path], Table]]] = [
        (f"{name}.npz", _load_npz),
        ("benchmarks.mat", lambda path: _load_raetsch(path, name)),
        *((f"{name}{suffix}", _load_libsvm) for suffix in _LIBSVM_SUFFIXES),
        *(
            (f"{name}{suffix}", _load_covtype)
            for suffix in (".data", ".data.gz")
            if name == "covtype"
        ),
        (
            f"{name}.csv",
            lambda path: load_table(path, _last_column(path) if label is None else label),
        ),
    ]
    for folder in (directory, directory / "logreg"):
        for file, reader in readers:
            if (folder / file).is_file():
                return reader(folder / file)
    raise DataError(
        f"{directory}: no data set {name!r}; looked here and in its folder logreg for {', '.join(file for file, _ in readers)}."
    )


def load_points(path: str | Path) -> Float[np.ndarray, "n d"]:
    """Points [n d] as float64, from a .npy file of rank 2 (never a pickle) or a CSV file of numbers, with a header or without one.

    Raises DataError as ``load_table`` does.
    """
    if Path(path).suffix != ".npy":
        header, lines = _read_csv(Path(path))
        if all(_is_number(name) for name in header):
            lines = [(1, header), *lines]
            header = [str(index + 1) for index in range(len(header))]
        _require_distinct(path, header)
        return _numbers(path, lines, tuple(header))
    values = mapped_npy(path)
    if (
        not isinstance(values, np.ndarray)
        or values.dtype.kind not in "fiu"
        or values.ndim != 2
        or values.size == 0
    ):
        received = (
            f"{values.dtype} of shape {values.shape}"
            if isinstance(values, np.ndarray)
            else type(values).__name__
        )
        raise DataError(
            f"{path}: must hold real numbers of shape [points, dimension]; it holds {received}."
        )
    values = np.array(values, np.float64)
    _require_usable(
        path,
        values,
        tuple(str(index + 1) for index in range(values.shape[1])),
        range(1, len(values) + 1),
        "row",
    )
    return values


def breast_cancer() -> Table:
    """scikit-learn's Wisconsin breast cancer table, 569 x 30; +1 is benign."""
    data = require_extra("sklearn.datasets").load_breast_cancer()
    labels = np.where(data.target == 1, 1.0, -1.0)
    return Table(
        np.asarray(data.data, np.float64),
        labels,
        tuple(str(name) for name in data.feature_names),
        ("malignant", "benign"),
    )


def wine(cultivar: int = 0) -> Table:
    """scikit-learn's wine table, 178 x 13; +1 is one of its cultivars 0, 1 and 2, and -1 the two others."""
    if cultivar not in (0, 1, 2):
        raise ValueError(f"cultivar must be 0, 1 or 2; received {cultivar!r}.")
    data = require_extra("sklearn.datasets").load_wine()
    names = tuple(str(name) for name in data.feature_names)
    return Table(
        np.asarray(data.data, np.float64),
        np.where(data.target == cultivar, 1.0, -1.0),
        names,
        ("others", f"cultivar {cultivar}"),
    )


def digits() -> Float[np.ndarray, "n 64"]:
    """scikit-learn's 1797 images of digits, 8 x 8, as rows of grey levels 0 to 16."""
    return np.asarray(require_extra("sklearn.datasets").load_digits().data, np.float64)


def require_extra(module: str) -> ModuleType:
    """The module, or an ImportError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module.split('.')[0]} is not installed; get it with: pip install 'swjko[cli]'"
        ) from error


def mapped_npy(path: str | Path) -> Any:
    """What a .npy file holds, as a memory map, which allocates nothing, whatever size a damaged header claims. Raises DataError."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise DataError(
            f"{path}: not a readable .npy file of numbers ({str(error) or type(error).__name__})."
        ) from error


@contextlib.contextmanager
def opened_npz(path: Path) -> Iterator[tuple[list[str], Callable[[str], np.ndarray]]]:
    """The names in a .npz file, such as "x.npy", and a reader of the array "x". Raises DataError, at whatever is read under it too."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive.namelist(), functools.partial(_read_member, path, archive)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: not a readable .npz file of numbers ({reason(error)})."
        ) from error


def reason(error: BaseException) -> str:
    """What an error says, in a part of a line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and the rows under it, each with its line number; blank lines are skipped."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, fields) for fields in reader if fields]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = (
            error.strerror
            if isinstance(error, OSError)
            else "not a text file of comma-separated values"
        )
        raise DataError(f"{path}: cannot be read ({reason}).") from error
    if not lines:
        raise DataError(f"{path}: the file is empty.")
    header = [name.strip() for name in lines[0][1]]
    for number, fields in lines[1:]:
        if len(fields) != len(header):
            raise DataError(
                f"{path}, line {number}: {len(fields)} fields, and the first line has {len(header)}."
            )
    return header, lines[1:]


def _require_distinct(path, header: list[str]) -> None:
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{path}: the header names column {name!r} twice.")


def _numbers(
    path, lines: list[tuple[int, list[str]]], names: tuple[str, ...]
) -> Float[np.ndarray, "n p"]:
    for number, fields in lines:
        for name, field in zip(names, fields, strict=True):
            if not _is_number(field):
                raise DataError(
                    f"{path}, line {number}, column {name!r}: {field!r} is not a number."
                )
    values = np.array(
        [[float(field) for field in fields] for _, fields in lines], np.float64
    ).reshape(len(lines), len(names))
    _require_usable(path, values, names, [number for number, _ in lines], "line")
    return values


def _require_usable(
    path, values: np.ndarray, names: tuple[str, ...], numbers: Any, unit: str
) -> None:
    if len(values) < 2:
        raise DataError(f"{path}: at least two rows of data are needed; found {len(values)}.")
    # Squares of larger numbers leave float64.
    bad = np.argwhere(~(np.abs(values) < 1e100))
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"{path}, {unit} {numbers[row]}, column {names[column]!r}: {values[row, column]} is not a usable finite number."
        )
    constant = np.flatnonzero(np.ptp(values, axis=0) == 0)
    if len(constant):
        raise DataError(
            f"{path}, column {names[constant[0]]!r}: every row has the same value; remove the column."
        )


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _sort_key(name: str) -> tuple[bool, float, str]:
    return (not _is_number(name), float(name) if _is_number(name) else 0.0, name)


def _load_npz(path: Path) -> Table:
    with opened_npz(path) as (names, read):
        for name in ("x", "y"):
            if f"{name}.npy" not in names:
                raise DataError(f"{path}: no array {name!r}; it holds {', '.join(names)}.")
        return _as_table(path, read("x"), read("y"))


def _read_member(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of an .npz file, after its header has been held against the bytes there are."""
    size = archive.getinfo(f"{name}.npy").file_size
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version[0] not in (1, 2):
            raise DataError(f"{path}: array {name!r} is of an unknown .npy version {version}.")
        read_header = (
            np.lib.format.read_array_header_1_0
            if version[0] == 1
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            raise DataError(
                f"{path}: array {name!r} holds pickled objects, which are never loaded; save it as numbers."
            )
        if math.prod(shape) * dtype.itemsize + file.tell() != size:
            raise DataError(
                f"{path}: array {name!r} is damaged, {dtype} of shape {shape} in {size} bytes."
            )
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _load_raetsch(path: Path, name: str) -> Table:
    import scipy.io

    try:
        with path.open("rb") as file:
            magic = file.read(10)
        if magic != b"MATLAB 5.0":
            raise DataError(
                f"{path}: not a MATLAB 5.0 file, which begins otherwise; save it with -v7 and not with -v7.3."
            )
        names = [entry[0] for entry in scipy.io.whosmat(path)]
        if name not in names:
            raise DataError(f"{path}: no data set {name!r}; it holds {', '.join(names)}.")
        struct = scipy.io.loadmat(path, variable_names=[name])[name]
    # The reader fails in many ways on bytes that were damaged.
    except (
        OSError,
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        NotImplementedError,
        zlib.error,
        MatReadError,
    ) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read as a MATLAB file ({reason(error)}).") from error
    if not {"x", "t"} <= set(struct.dtype.names or ()) or struct.size != 1:
        raise DataError(
            f"{path}: {name!r} must be a struct with fields x and t; it has {', '.join(struct.dtype.names or ('none',))}."
        )
    x, t = struct["x"].item(), struct["t"].item()
    return _as_table(path, x, t[:, 0] if t.ndim == 2 and t.shape[1] == 1 else t)


def _load_libsvm(path: Path) -> Table:
    labels, rows, columns, values = [], [], [], []
    for number, line in _lines(path):
        fields = line.split("#", 1)[0].split()
        if not fields:
            continue
        before = 0
        for field in fields[1:]:
            index, _, value = field.partition(":")
            if not index.isdigit() or not _is_number(value):
                raise DataError(
                    f"{path}, line {number}: {field!r} is no index:value pair of numbers."
                )
            if int(index) <= before:
                raise DataError(
                    f"{path}, line {number}: index {index} must be above {before}, the one before; they start at 1 and rise."
                )
            before = int(index)
            rows.append(len(labels))
            columns.append(before - 1)
            values.append(float(value))
        labels.append(fields[0])
    if not values:
        raise DataError(f"{path}: the file is empty.")
    if len(labels) * (max(columns) + 1) > _MAX_ELEMENTS:
        raise DataError(
            f"{path}: {len(labels)} rows of {max(columns) + 1} columns are too many for a table; drop columns."
        )
    features = np.zeros((len(labels), max(columns) + 1))
    features[rows, columns] = values
    return _as_table(path, features, np.asarray(labels))


def _load_covtype(path: Path) -> Table:
    rows = []
    for number, line in _lines(path):
        fields = line.split(",")
        if len(fields) != _COVTYPE_COLUMNS:
            raise DataError(
                f"{path}, line {number}: {len(fields)} fields, and covtype has {_COVTYPE_COLUMNS}."
            )
        try:
            rows.append(np.array(fields, np.float32))
        except ValueError as error:
            at = next(index for index, field in enumerate(fields) if not _is_number(field))
            raise DataError(
                f"{path}, line {number}, column '{at + 1}': {fields[at].strip()!r} is not a number."
            ) from error
    if len(rows) != _COVTYPE_ROWS:
        raise DataError(
            f"{path}: {len(rows)} rows, and covtype has {_COVTYPE_ROWS}; the file was cut short or is another one."
        )
    values = np.stack(rows)
    classes = np.unique(values[:, -1])
    if not np.array_equal(classes, np.arange(1, _COVTYPE_CLASSES + 1)):
        raise DataError(
            f"{path}, column '{_COVTYPE_COLUMNS}': classes must be 1 to {_COVTYPE_CLASSES}; found {_shown(classes)}."
        )
    return _as_table(path, values[:, :-1], values[:, -1] == 2)


def _as_table(path: Path, x: Any, y: Any) -> Table:
    """Arrays of a file as a Table, its labels in order."""
    x, y = (np.asarray(x), np.asarray(y))
    if x.dtype.kind not in "fiub" or x.ndim != 2 or 0 in x.shape:
        raise DataError(
            f"{path}: features must be real numbers of shape [rows, columns]; they are {x.dtype} of shape {x.shape}."
        )
    if y.shape != (x.shape[0],):
        raise DataError(
            f"{path}: one label is needed for each of {x.shape[0]} rows; the labels are of shape {y.shape}."
        )
    names = tuple(str(index + 1) for index in range(x.shape[1]))
    values = x.astype(np.float64)
    _require_usable(path, values, names, range(1, len(values) + 1), "row")
    missing = np.flatnonzero(y != y)
    if len(missing):
        raise DataError(f"{path}, row {missing[0] + 1}: the label is missing.")
    classes = sorted(np.unique(y).tolist(), key=lambda value: _sort_key(str(value)))
    if len(classes) != 2:
        raise DataError(
            f"{path}: labels must be of exactly two classes; found {len(classes)}: {_shown(classes)}."
        )
    return Table(
        values, np.where(y == classes[1], 1.0, -1.0), names, (str(classes[0]), str(classes[1]))
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers, unpacked where the name ends in .gz."""
    try:
        with (
            gzip.open(path, "rt", encoding="ascii")
            if path.suffix == ".gz"
            else path.open(encoding="ascii") as file
        ):
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}).") from error


def _last_column(path: Path) -> str:
    return _read_csv(path)[0][-1]


def _shown(classes: Any) -> str:
    shown = [repr(value) for value in np.asarray(classes).tolist()]
    return ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")
