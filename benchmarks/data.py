"""Data sets for logistic regression from files: .npz, MATLAB, libsvm, covtype and CSV."""

import contextlib
import os
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_svmlight_file

from swjko.data import array_files, gate, tables
from swjko.data.errors import DataError, reason, shortened
from swjko.data.tables import Table, load_table

_LIBSVM_SUFFIXES = (".libsvm", ".libsvm.binary", ".svm", ".svmlight")
COVTYPE_ROWS, _COVTYPE_COLUMNS = 581_012, 55
# The longest line of covtype, and the most pairs "index:value" of libsvm text.
_MAX_COVTYPE_LINE, _MAX_PAIRS = 4096, 2**24
# How long a MATLAB file may take; the process that reads it limits its processor time too.
_MAX_SECONDS, _NOT_MATLAB = 20, "cannot be read as a MATLAB file: "


def load_logreg(name: str, data_dir: str | Path) -> Table:
    """Load a data set by name from a directory or its folder ``logreg``.

    Reads the first of these files: ``NAME.npz`` with arrays x [n p] and y [n]; ``benchmarks.mat``,
    G. Raetsch's collection of structs with x [n p] and t [n 1]; ``NAME.libsvm`` (or
    ``.libsvm.binary``, ``.svm``, ``.svmlight``); ``covtype.data`` or ``covtype.data.gz``, UCI text,
    class 2 against the others; ``NAME.csv`` with the labels in the last column.

    The smaller of the two labels becomes -1. Raises DataError if no file is there or usable.
    MATLAB files are read in a process of their own, since damaged ones can end it.
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
            raise DataError(f"{path}: no array {name!r}; it holds {shortened(names)}.")
    return _table_of_npz(path, path, "y")


def _table_of_npz(path: Path, archive: Path, label: str) -> Table:
    with array_files.opened_member(archive, "x") as array:
        shape, dtype, _ = array.header
        if dtype.kind not in "fiub" or len(shape) != 2 or 0 in shape:
            raise DataError(
                f"{path}: features must be real numbers [rows columns]; got {dtype} {shape}."
            )
        x = tables.as_float64(path, array)
    y = array_files.read_npz(archive, label)
    return _as_table(path, x, y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y)


def _load_raetsch(path: Path, name: str) -> Table:
    """Read a struct in a separate process, because a damaged file may crash it."""
    child = [sys.executable, "-P", str(Path(__file__).with_name("matlab_child.py"))]
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with (
        tempfile.TemporaryDirectory() as folder,
        gate.open_regular(path, gate.MAX_UNCHECKED_BYTES) as file,
    ):
        archive = Path(folder) / "struct.npz"
        try:
            with archive.open("wb") as out:
                done = subprocess.run(
                    [*child, name, str(gate.MAX_NUMBERS)],
                    stdin=file,
                    stdout=out,
                    stderr=subprocess.PIPE,
                    env=os.environ | one_thread,
                    timeout=_MAX_SECONDS,
                    check=False,
                )
        except subprocess.TimeoutExpired as error:
            raise DataError(
                f"{path}: cannot be read as a MATLAB file in {_MAX_SECONDS} seconds."
            ) from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            why = said[-1][:200].rstrip(".") if said else f"the reader ended by {done.returncode}"
            kind = "" if why.startswith(("no data set", repr(name))) else _NOT_MATLAB
            raise DataError(f"{path}: {kind}{why}.")
        return _table_of_npz(path, archive, "t")


class _SparseLines:
    """The lines of libsvm text, each checked; the last index of each counts the columns."""

    def __init__(self, path: Path, file: gate.Readable):
        self._path, self._file = path, file

    def read(self, size: int, /) -> bytes:
        """Read bytes, for scikit-learn, which tells files by this method."""
        return self._file.read(size)

    def __iter__(self) -> Iterator[bytes]:
        rows = pairs = columns = 0
        for line in gate.text_lines(self._path, self._file):
            content = line.partition("#")[0].strip()
            if content:
                index = content.rpartition(":")[0].split()[-1:]
                rows, pairs = rows + 1, pairs + content.count(":")
                columns = max(columns, int(index[0]) if index and index[0].isdecimal() else 0)
            if rows * columns > gate.MAX_NUMBERS or pairs > _MAX_PAIRS:
                raise DataError(
                    f"{self._path}: {rows} rows of {columns} columns do not fit in memory; at most "
                    f"{gate.MAX_NUMBERS} numbers and {_MAX_PAIRS} pairs do. Use fewer rows."
                )
            yield line.encode()


def _load_libsvm(path: Path) -> Table:
    try:
        with gate.open_regular(path, gate.MAX_TABLE_BYTES) as file:
            lines: Any = _SparseLines(path, file)
            features, labels = load_svmlight_file(lines, zero_based=False)  # pyright: ignore
    except DataError:
        raise
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: cannot be read as libsvm text ({reason(error)}).") from error
    rows, columns = features.shape
    if rows * columns > gate.MAX_NUMBERS:
        raise DataError(f"{path}: {rows} rows of {columns} columns do not fit in memory.")
    return _as_table(path, features.toarray(), labels)


def _load_covtype(path: Path) -> Table:
    shape = (COVTYPE_ROWS, _COVTYPE_COLUMNS)
    try:
        with gate.open_regular(path) as raw, warnings.catch_warnings():
            # NumPy warns of a file without rows.
            warnings.simplefilter("ignore")
            file, _ = gate.inflated_if_packed(raw)
            values = np.loadtxt(_covtype_lines(path, file), np.float32, delimiter=",", ndmin=2)
    except DataError:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}).") from error
    if values.shape != shape:
        raise DataError(f"{path}: must have shape {shape}; got {values.shape}.")
    if not np.max(np.abs(values)) < 2**24:
        raise DataError(f"{path}: numbers must be less than 2^24. This is not covtype.")
    classes = np.unique(values[:, -1])
    if not np.array_equal(classes, np.arange(1, 8)):
        raise DataError(f"{path}: classes must be 1 to 7; got {classes.tolist()[:9]}.")
    return _as_table(path, values[:, :-1].astype(np.float64), values[:, -1] == 2)


def _covtype_lines(path: Path, file: gate.Readable) -> Iterator[str]:
    numbers, most = 0, COVTYPE_ROWS * _COVTYPE_COLUMNS
    lines = gate.text_lines(path, file, max_line=_MAX_COVTYPE_LINE)
    for number, line in enumerate(lines, 1):
        numbers += line.count(",") + 1
        if numbers > most or number > COVTYPE_ROWS:
            raise DataError(
                f"{path}: must have shape {(COVTYPE_ROWS, _COVTYPE_COLUMNS)}; got more numbers."
            )
        yield line


def _load_csv(path: Path) -> Table:
    with (
        gate.open_regular(path, gate.MAX_TABLE_BYTES) as file,
        contextlib.closing(gate.text_lines(path, file)) as lines,
    ):
        header = next(lines, "")
    return load_table(path, header.rstrip("\r\n").split(",")[-1].strip())


def _as_table(path: Path, x: np.ndarray, y: np.ndarray) -> Table:
    if y.shape != (x.shape[0],):
        raise DataError(f"{path}: must hold {x.shape[0]} labels; got shape {y.shape}.")
    if y.dtype.kind not in "fiub":
        raise DataError(f"{path}: labels must be real numbers; got {y.dtype}.")
    tables.require_usable(path, x)
    classes = np.unique(y)
    if len(classes) != 2 or np.any(classes != classes):
        raise DataError(
            f"{path}: labels must have exactly two classes; got {classes.tolist()[:5]}."
        )
    names = tuple(str(index + 1) for index in range(x.shape[1]))
    labels = np.where(y == classes[1], 1.0, -1.0)
    return Table(x, labels, names, (str(classes[0]), str(classes[1])))
