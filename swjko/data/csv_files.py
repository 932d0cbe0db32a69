"""Columns of numbers and of categories from CSV files, with all problems of a file in one error."""

import csv
import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from swjko.data.errors import DataError, listed, shortened

_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}( .*)?")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}([, ]\d{3})+(\.\d*)?")
_MOST_CATEGORIES, _SHOWN_PROBLEMS = 50, 20
# The squares of larger numbers overflow float64.
LARGEST_NUMBER = 1e100


class Choice(NamedTuple):
    """What to read of a file.

    Attributes:
      columns: Names of the columns to keep; None keeps all.
      drop_columns: Names of columns to leave out.
      drop_missing: Whether to leave out rows with a missing value.
      one_hot: Names of columns of categories.
      label: Name of a column that is returned as text; None if there is none.
    """

    columns: Sequence[str] | None = None
    drop_columns: Sequence[str] = ()
    drop_missing: bool = False
    one_hot: Sequence[str] = ()
    label: str | None = None


class Columns(NamedTuple):
    """The chosen columns of a file.

    Attributes:
      values: [n p] in float64.
      names: The p names; "column=category" for an indicator.
      labels: Texts [n] of the column of labels; empty without one.
      dropped: Number of rows that were left out.
    """

    values: Float[np.ndarray, "n p"]
    names: tuple[str, ...]
    labels: tuple[str, ...]
    dropped: int


class _Text(NamedTuple):
    """The fields of a file by column, and the line number of each row."""

    header: list[str]
    columns: dict[str, tuple[str, ...]]
    lines: list[int]


def read_columns(path: Path, choice: Choice, *, with_header: bool = True) -> Columns:
    """Read columns of numbers, and indicators of categories.

    Commas, semicolons and tabs separate fields. A column of k categories gives k - 1 indicators;
    the category that comes first in sorted order has none.

    Args:
      path: The file.
      choice: What to read of it.
      with_header: Whether the first line must be a header. Otherwise a first line of numbers is a
        row, and columns are named from 1.

    Raises:
      DataError: If the file cannot be read or used. The message lists all problems.
    """
    problems: list[str] = []
    text = _read(path, problems, with_header)
    used = _used(path, text, choice, problems)
    if choice.label is not None and not problems:
        # Raised alone, since another column of labels changes the other problems.
        written = [field for field in text.columns[choice.label] if not _is_missing(field)]
        two_classes(path, choice.label, written)
    kept, dropped = _without_missing(text, used, choice, problems)
    values, names = [], []
    for name in used:
        if name == choice.label:
            continue
        fields = [text.columns[name][row] for row in kept]
        lines = [text.lines[row] for row in kept]
        if name in choice.one_hot:
            indicators = _indicators(name, fields, problems)
        else:
            indicators = {name: _numbers(name, fields, lines, problems)}
        names += indicators
        values += indicators.values()
    _require_variation(len(kept), names, values, problems)
    if problems:
        raise DataError(_message(path, problems))
    label = text.columns[choice.label] if choice.label is not None else ()
    labels = tuple(label[row].strip() for row in kept) if label else ()
    return Columns(np.column_stack(values), tuple(names), labels, dropped)


def two_classes(path: str | Path, label: str, written: Sequence[str]) -> tuple[str, str]:
    """Return the two classes of labels, in sorted order, or raise DataError."""
    classes = sorted({field.strip() for field in written}, key=numbers_first)
    if len(classes) != 2:
        shown = ", ".join(map(repr, classes[:5]))
        raise DataError(
            f"{path}, column {label!r}: labels must have exactly two classes; "
            f"got {len(classes)}: {shown}. Use a column with two, or only the rows of two."
        )
    return classes[0], classes[1]


def _message(path: Path, problems: list[str]) -> str:
    if len(problems) == 1:
        return f"{path}: {problems[0]}"
    shown = [f"  {problem}" for problem in problems[:_SHOWN_PROBLEMS]]
    if len(problems) > _SHOWN_PROBLEMS:
        shown.append(f"  and {len(problems) - _SHOWN_PROBLEMS} more")
    return "\n".join([f"{path}: {len(problems)} problems:", *shown])


def _read(path: Path, problems: list[str], with_header: bool) -> _Text:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            # Of the three, the one that the first line has most often.
            separator = max(",;\t", key=first.count)
            reader = csv.reader(file, delimiter=separator)
            rows = [(reader.line_num, fields) for fields in reader if fields]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a text file of comma-separated values.") from error
    if not rows:
        raise DataError(f"{path}: the file is empty.")
    header = [name.strip() for name in rows[0][1]]
    if not with_header and all(_is_number(name) for name in header):
        header = [str(at + 1) for at in range(len(header))]
    else:
        rows = rows[1:]
    uneven = [number for number, fields in rows if len(fields) != len(header)]
    if uneven:
        problems.append(f"{listed('line', uneven)}: not {len(header)} fields as in the first line.")
        rows = [row for row in rows if len(row[1]) == len(header)]
    doubled = sorted(name for name, count in Counter(header).items() if count > 1)
    if doubled:
        problems.append(f"the header has {listed('column', doubled)} twice.")
    by_column = zip(*(fields for _, fields in rows), strict=True) if rows else [()] * len(header)
    columns = dict(zip(header, by_column, strict=True))
    return _Text(header, columns, [number for number, _ in rows])


def _used(path: Path, text: _Text, choice: Choice, problems: list[str]) -> list[str]:
    """Return the names of the chosen columns, the label included, in the order of the file."""
    wanted = [choice.label] if choice.label is not None else []
    for option in ("columns", "drop_columns", "one_hot"):
        names = getattr(choice, option) or ()
        problems += [
            f"{option}: {_unknown(name, text.header)}" for name in names if name not in text.columns
        ]
    if not text.columns.keys() >= set(wanted):
        raise DataError(f"{path}: {_unknown(wanted[0], text.header)}")
    kept = set(text.header if choice.columns is None else choice.columns)
    kept = (kept - set(choice.drop_columns)) | set(wanted)
    used = [name for name in dict.fromkeys(text.header) if name in kept]
    if used == wanted or not used:
        beside = f" besides the labels {choice.label!r}" if choice.label is not None else ""
        raise DataError(f"{path}: no column{beside}.")
    return used


def _unknown(name: str, header: list[str]) -> str:
    close = difflib.get_close_matches(name, header, 1)
    hint = f"Did you mean {close[0]!r}?" if close else f"The columns are {', '.join(header[:50])}."
    return f"no column {name!r}. {hint}"


def _without_missing(
    text: _Text, used: list[str], choice: Choice, problems: list[str]
) -> tuple[list[int], int]:
    """Return the rows to use and the number of those left out."""
    missing = {
        name: {at for at, field in enumerate(text.columns[name]) if _is_missing(field)}
        for name in used
    }
    missing = {name: rows for name, rows in missing.items() if rows}
    rows = set().union(*missing.values())
    kept = [at for at in range(len(text.lines)) if at not in rows]
    if rows and not choice.drop_missing:
        counts = [f"{name!r} ({len(at)} rows)" for name, at in missing.items()]
        first = text.lines[min(rows)]
        problems.append(
            f"missing values in {shortened(counts)}, first in line {first}. Use drop_missing "
            "(--drop-missing) to leave out these rows, or drop_columns (--drop-columns)."
        )
    return kept, len(rows)


def _is_missing(field: str) -> bool:
    return len(field) < 8 and field.strip().lower() in _MISSING


def _numbers(
    name: str, fields: list[str], lines: list[int], problems: list[str]
) -> Float[np.ndarray, " n"]:
    try:
        if any("_" in field for field in fields):
            raise ValueError("Python reads 1_000 as a number")
        values = np.fromiter(map(float, fields), np.float64, len(fields))
    except ValueError:
        bad = [at for at, field in enumerate(fields) if not _is_number(field)]
        problems.append(_not_numbers(name, [fields[at] for at in bad], lines[bad[0]]))
        return np.zeros(len(fields))
    large = np.flatnonzero(~(np.abs(values) < LARGEST_NUMBER))
    if len(large):
        at = large[0]
        problems.append(
            f"line {lines[at]}, column {name!r}: {values[at]} is not a usable finite number."
        )
        return np.zeros(len(fields))
    return values


def _not_numbers(name: str, fields: list[str], line: int) -> str:
    """Say what the fields that are not numbers look like, and what to do."""
    kinds: tuple[tuple[Callable[[str], object], str], ...] = (
        (
            _DATE.fullmatch,
            "dates. Use numbers, such as days since a date, or drop_columns (--drop-columns).",
        ),
        (_DECIMAL_COMMA.fullmatch, "numbers with a decimal comma. Use points: 1.5, not 1,5."),
        (_THOUSANDS.fullmatch, "numbers with separators. Use 1234.5, not 1,234.5."),
    )
    first = f"line {line}, column {name!r}: {fields[0]!r} is not a number."
    for matches, words in kinds:
        if all(matches(field.strip()) for field in fields):
            return f"{first} The column has {words}"
    values = sorted({field.strip() for field in fields})
    return (
        f"{first} The column has text ({shortened([repr(value) for value in values])}). Use "
        "one_hot (--one-hot) for categories, or drop_columns (--drop-columns)."
    )


def _indicators(
    name: str, fields: list[str], problems: list[str]
) -> dict[str, Float[np.ndarray, " n"]]:
    written = np.array([field.strip() for field in fields])
    categories = sorted(set(written.tolist()), key=numbers_first)
    if len(categories) > _MOST_CATEGORIES:
        problems.append(
            f"column {name!r}: one_hot takes at most {_MOST_CATEGORIES} categories; "
            f"got {len(categories)}."
        )
        return {}
    if len(categories) < 2:
        return {name: np.zeros(len(fields))}
    return {f"{name}={one}": (written == one).astype(np.float64) for one in categories[1:]}


def _require_variation(
    rows: int, names: list[str], values: list[Float[np.ndarray, " n"]], problems: list[str]
) -> None:
    if problems:  # columns with problems are zero
        return
    if rows < 2:
        problems.append(f"must hold at least two rows of data; got {rows}.")
        return
    constant = [name for name, column in zip(names, values, strict=True) if np.ptp(column) == 0]
    if constant:
        problems.append(
            f"{listed('column', constant)}: every row has the same value. "
            "Use drop_columns (--drop-columns)."
        )


def _is_number(field: str) -> bool:
    try:
        return "_" not in field and not math.isnan(float(field))
    except ValueError:
        return False


def numbers_first(name: str) -> tuple[bool, float, str]:
    """Sort key: numbers by size, then other texts."""
    is_number = _is_number(name)
    return (not is_number, float(name) if is_number else 0.0, name)
