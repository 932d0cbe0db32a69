"""Columns of numbers and of categories from CSV files, with all problems of a file in one error."""

import difflib
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from swjko.data import gate
from swjko.data.csv_text import Text, is_missing, is_number, loses_digits, read_text
from swjko.data.errors import DataError, listed, quoted, shortened

_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}( .*)?")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}([, ]\d{3})+(\.\d*)?")
_MOST_CATEGORIES, _SHOWN_PROBLEMS = 50, 20
# Columns to which an unknown name is compared for a hint.
_COMPARED = 1000


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
    label = choice.label
    keep_text = {*choice.one_hot, *([] if label is None else [label])}
    text = read_text(path, problems, with_header=with_header, keep_text=keep_text)
    used = _used(path, text, choice, problems)
    labels = text.columns[label].texts() if label is not None else []
    if label is not None and not problems:
        # Raised alone, since another column of labels changes the other problems.
        two_classes(path, label, [field for field in labels if not is_missing(field)])
    kept = _without_missing(text, used, choice, problems)
    found = _found(path, text, [name for name in used if name != label], kept, choice, problems)
    _require_variation(int(np.sum(kept)), found, problems)
    if problems:
        raise DataError(_message(path, problems))
    chosen = tuple(field.strip() for field in itertools.compress(labels, kept))
    return Columns(_stacked(found), tuple(found), chosen, int(np.sum(~kept)))


def _found(
    path: Path,
    text: Text,
    used: list[str],
    kept: Bool[np.ndarray, " n"],
    choice: Choice,
    problems: list[str],
) -> dict[str, np.ndarray]:
    """Return the columns of numbers and of indicators by name."""
    found: dict[str, np.ndarray] = {}
    rows, one_hot = int(np.sum(kept)), set(choice.one_hot)
    for name in used:
        if name in one_hot:
            fields = list(itertools.compress(text.columns[name].texts(), kept))
            most = min(len(set(fields)), _MOST_CATEGORIES)
            if rows * (len(found) + most) > gate.MAX_NUMBERS:
                raise DataError(
                    f"{path}: one_hot makes more than {gate.MAX_NUMBERS} numbers of it. "
                    "Use one_hot (--one-hot) for fewer columns, or fewer rows."
                )
            made = _indicators(name, fields, problems)
        else:
            values, bad = text.columns[name].numbers(kept)
            problems += [_not_usable(name, bad, text.lines)] if bad else []
            made = {name: values}
        doubled = sorted(found.keys() & made.keys())
        if doubled:
            problems.append(f"one_hot makes {listed('column', doubled)} twice. Rename the column.")
        found |= made
    return found


def _stacked(found: dict[str, np.ndarray]) -> Float[np.ndarray, "n p"]:
    """Return the columns as one matrix. Each is freed once it is copied."""
    rows = len(next(iter(found.values())))
    values = np.empty((rows, len(found)))
    for at, name in enumerate(found):
        values[:, at], found[name] = found[name], np.zeros(0)
    return values


def two_classes(path: str | Path, label: str, written: Sequence[str]) -> tuple[str, str]:
    """Return the two classes of labels, in sorted order, or raise DataError."""
    classes = sorted({field.strip() for field in written}, key=numbers_first)
    if len(classes) != 2:
        shown = ", ".join(map(quoted, classes[:5]))
        raise DataError(
            f"{path}, column {quoted(label)}: labels must have exactly two classes; "
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


def _used(path: Path, text: Text, choice: Choice, problems: list[str]) -> list[str]:
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
        beside = f" besides the labels {quoted(choice.label)}" if choice.label is not None else ""
        raise DataError(f"{path}: no column{beside}.")
    return used


def _unknown(name: str, header: list[str]) -> str:
    close = difflib.get_close_matches(name, header[:_COMPARED], 1)
    if close:
        return f"no column {quoted(name)}. Did you mean {quoted(close[0])}?"
    shown = ", ".join(quoted(name)[1:-1] for name in header[:50])
    return f"no column {quoted(name)}. The columns are {shown}."


def _without_missing(
    text: Text, used: list[str], choice: Choice, problems: list[str]
) -> Bool[np.ndarray, " n"]:
    """Return which rows to use."""
    missing, counts = np.zeros(len(text.lines), bool), []
    for name in used:
        here = text.columns[name].missing()
        if np.any(here):
            missing |= here
            counts.append(f"{quoted(name)} ({np.sum(here)} rows)")
    if counts and not choice.drop_missing:
        first = text.lines[int(np.argmax(missing))]
        problems.append(
            f"missing values in {shortened(counts)}, first in line {first}. Use drop_missing "
            "(--drop-missing) to leave out these rows, or drop_columns (--drop-columns)."
        )
    return ~missing


def _not_usable(name: str, bad: list[tuple[int, str]], lines: np.ndarray) -> str:
    """Describe the fields of a column that are not usable numbers."""
    wrong = [(at, field) for at, field in bad if not is_number(field)]
    if wrong:
        return _not_numbers(name, [field for _, field in wrong], int(lines[wrong[0][0]]))
    at, field = bad[0]
    start = f"line {lines[at]}, column {quoted(name)}: "
    if loses_digits(field):
        return (
            f"{start}{quoted(field)} is an integer that float64 cannot hold. Use smaller numbers, "
            "or drop_columns (--drop-columns)."
        )
    return f"{start}{float(field)} is not a usable finite number."


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
    first = f"line {line}, column {quoted(name)}: {quoted(fields[0])} is not a number."
    for matches, words in kinds:
        if all(matches(field.strip()) for field in fields):
            return f"{first} The column has {words}"
    values = sorted({field.strip() for field in fields})
    return (
        f"{first} The column has text ({shortened(list(map(quoted, values)))}). Use "
        "one_hot (--one-hot) for categories, or drop_columns (--drop-columns)."
    )


def _indicators(
    name: str, fields: list[str], problems: list[str]
) -> dict[str, Float[np.ndarray, " n"]]:
    written = [field.strip() for field in fields]
    categories = sorted(set(written), key=numbers_first)
    if len(categories) > _MOST_CATEGORIES:
        problems.append(
            f"column {quoted(name)}: one_hot takes at most {_MOST_CATEGORIES} categories; "
            f"got {len(categories)}."
        )
        return {}
    if len(categories) < 2:
        return {name: np.zeros(len(fields))}
    codes = {category: at for at, category in enumerate(categories)}
    coded = np.fromiter(map(codes.__getitem__, written), np.int8, len(written))
    return {
        f"{name}={one}": (coded == at).astype(np.float64) for one, at in codes.items() if at > 0
    }


def _require_variation(
    rows: int, columns: dict[str, Float[np.ndarray, " n"]], problems: list[str]
) -> None:
    if problems:  # columns with problems are zero
        return
    if rows < 2:
        problems.append(f"must hold at least two rows of data; got {rows}.")
        return
    constant = [name for name, column in columns.items() if np.ptp(column) == 0]
    if constant:
        problems.append(
            f"{listed('column', constant)}: every row has the same value. "
            "Use drop_columns (--drop-columns)."
        )


def numbers_first(name: str) -> tuple[bool, float, str]:
    """Sort key: numbers by size, then other texts."""
    found = is_number(name)
    return (not found, float(name) if found else 0.0, name)
