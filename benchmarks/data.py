"""Data sets for logistic regression from files: .npz, MATLAB, libsvm, covtype and CSV."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io.matlab import MatReadError, loadmat, whosmat
from sklearn.datasets import load_svmlight_file

from swjko.data import array_files, tables
from swjko.data.errors import DataError, reason
from swjko.data.tables import Table, load_table

_LIBSVM_SUFFIXES = (".libsvm", ".libsvm.binary", ".svm", ".svmlight")
COVTYPE_ROWS, _COVTYPE_COLUMNS = 581_012, 55
# A guard against damaged files that ask for all memory; no known data set is as large.
_MAX_ELEMENTS = 2**31


def load_logreg(name: str, data_dir: str | Path) -> Table:
    """Load a data set by name from a directory or its folder ``logreg``.

    Reads the first of these files: ``NAME.npz`` with arrays x [n p] and y [n]; ``benchmarks.mat``,
    G. Raetsch's collection of structs with x [n p] and t [n 1]; ``NAME.libsvm`` (or
    ``.libsvm.binary``, ``.svm``, ``.svmlight``); ``covtype.data`` or ``covtype.data.gz``, UCI text,
    class 2 against the others; ``NAME.csv`` with the labels in the last column.

    The smaller of the two labels becomes -1. Raises DataError if no file is there or usable.
    """
    readers: dict[str, Callable[[Path], Table]] = {
        f"{name}.npz": _load_npz,
        "benchmarks.mat": lambda path: _load_raetsch(path, name),
        **{f"{name}{suffix}": _load_libsvm for suffix in _LIBSVM_SUFFIXES},
    }
    if name == "covtype":
        readers |= {"covtype.data": _load_covtype, "covtype.data.gz": _load_covtype}
    readers[f"{name}.csv"] = _load_csv
    for folder in (Path(data_dir), Path(data_dir) / "logreg"):
        for file, reader in readers.items():
            if (folder / file).is_file():
                return reader(folder / file)
    raise DataError(
        f"{data_dir}: no data set {name!r}; no file {', '.join(readers)}, here or in logreg."
    )


def _load_npz(path: Path) -> Table:
    names = array_files.npz_names(path)
    for name in ("x", "y"):
        if name not in names:
            raise DataError(f"{path}: no array {name!r}; it holds {', '.join(names)}.")
    return _as_table(path, array_files.read_npz(path, "x"), array_files.read_npz(path, "y"))


def _load_raetsch(path: Path, name: str) -> Table:
    try:
        names = [entry[0] for entry in whosmat(path)]
        struct = loadmat(path, variable_names=[name]).get(name)
    # SciPy's reader fails in many ways on damaged bytes.
    except (
        OSError, ValueError, TypeError, IndexError, KeyError, NotImplementedError, zlib.error,
        MatReadError,
    ) as error:  # fmt: skip
        raise DataError(f"{path}: cannot be read as a MATLAB file ({reason(error)}).") from error
    if struct is None:
        raise DataError(f"{path}: no data set {name!r}; it holds {', '.join(names)}.")
    if not {"x", "t"} <= set(struct.dtype.names or ()) or struct.size != 1:
        raise DataError(f"{path}: {name!r} must be a struct with fields x and t.")
    x, t = struct["x"].item(), struct["t"].item()
    return _as_table(path, x, t[:, 0] if t.ndim == 2 and t.shape[1] == 1 else t)


def _load_libsvm(path: Path) -> Table:
    try:
        features, labels = load_svmlight_file(str(path), zero_based=False)  # pyright: ignore
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: cannot be read as libsvm text ({reason(error)}).") from error
    rows, columns = features.shape
    if rows * columns > _MAX_ELEMENTS:
        raise DataError(f"{path}: {rows} rows of {columns} columns do not fit in memory.")
    return _as_table(path, features.toarray(), labels)


def _load_covtype(path: Path) -> Table:
    try:
        values = np.loadtxt(path, np.float32, delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}).") from error
    if values.shape != (COVTYPE_ROWS, _COVTYPE_COLUMNS):
        raise DataError(
            f"{path}: must have shape {(COVTYPE_ROWS, _COVTYPE_COLUMNS)}; got {values.shape}."
        )
    classes = np.unique(values[:, -1])
    if not np.array_equal(classes, np.arange(1, 8)):
        raise DataError(f"{path}: classes must be 1 to 7; got {classes.tolist()[:9]}.")
    return _as_table(path, values[:, :-1], values[:, -1] == 2)


def _load_csv(path: Path) -> Table:
    with path.open(encoding="utf-8-sig") as file:
        return load_table(path, file.readline().rstrip("\n").split(",")[-1].strip())


def _as_table(path: Path, x: Any, y: Any) -> Table:
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind not in "fiub" or x.ndim != 2 or 0 in x.shape:
        raise DataError(
            f"{path}: features must be real numbers [rows columns]; got {x.dtype} {x.shape}."
        )
    if y.shape != (x.shape[0],):
        raise DataError(f"{path}: must hold {x.shape[0]} labels; got shape {y.shape}.")
    tables.require_usable(path, values := x.astype(np.float64))
    classes = np.unique(y)
    if len(classes) != 2 or np.any(classes != classes):
        raise DataError(
            f"{path}: labels must have exactly two classes; got {classes.tolist()[:5]}."
        )
    names = tuple(str(index + 1) for index in range(x.shape[1]))
    labels = np.where(y == classes[1], 1.0, -1.0)
    return Table(values, labels, names, (str(classes[0]), str(classes[1])))
