"""The text of a CSV file by columns, in blocks of numbers or of packed text.

A block of usable numbers takes eight bytes for each field, and other blocks as many bytes as in the
file, where a Python string for each field would take about seventy.
"""

import csv
import itertools
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from swjko.data import gate
from swjko.data.errors import DataError, listed, reason

_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
_INTEGER = re.compile(r"[-+]?\d{16,}")
# The squares of larger numbers overflow float64.
LARGEST_NUMBER = 1e100
# Least numbers of rows and of fields of a block; one of them is reached.
_BLOCK_ROWS, _BLOCK_FIELDS = 32, 2**18
# Unusable fields of a column, and blocks with some, after which further ones are not searched.
_MOST_BAD, _MOST_SEARCHED = 10_000, 4


class Column:
    """The fields of one column.

    Args:
      keep_text: Whether to keep the text of numbers too.
    """

    def __init__(self, keep_text: bool):
        self._keep_text = keep_text
        # Usable numbers, NaN where one is missing; or the number of fields and their text, joined
        # by zero bytes.
        self._blocks: list[np.ndarray | tuple[int, bytes]] = []

    def append(self, fields: Sequence[str]) -> None:
        """Append a block of fields."""
        numbers = None if self._keep_text else _numbers_or_missing(fields)
        if numbers is None:
            self._blocks.append((len(fields), "\0".join(fields).encode()))
        else:
            self._blocks.append(numbers)

    def missing(self) -> Bool[np.ndarray, " n"]:
        """Return whether each field is a missing value."""
        parts = [
            np.isnan(block) if isinstance(block, np.ndarray) else _are_missing(_unpacked(block))
            for block in self._blocks
        ]
        return np.concatenate([np.zeros(0, bool), *parts])

    def texts(self) -> list[str]:
        """Return the fields of a column whose text was kept."""
        packed = [block for block in self._blocks if not isinstance(block, np.ndarray)]
        return [field for block in packed for field in _unpacked(block)]

    def numbers(
        self, kept: Bool[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, " k"], list[tuple[int, str]]]:
        """Return the numbers of the kept rows, and the row and text of each unusable field.

        No kept row has a missing value. The search for unusable fields ends when there are many.
        """
        values, bad, start, searched = [np.zeros(0)], [], 0, 0
        for block in self._blocks:
            size = len(block) if isinstance(block, np.ndarray) else block[0]
            chosen = kept[start : start + size]
            if isinstance(block, np.ndarray):
                values.append(block[chosen])
            elif len(bad) >= _MOST_BAD or searched == _MOST_SEARCHED:
                values.append(np.zeros(int(np.sum(chosen))))
            else:
                fields = list(itertools.compress(_unpacked(block), chosen))
                parsed = usable_numbers(fields)
                if parsed is None:
                    searched += 1
                    rows = start + np.flatnonzero(chosen)
                    unusable = [not _is_usable(field) for field in fields]
                    bad += itertools.compress(zip(rows.tolist(), fields, strict=True), unusable)
                values.append(np.zeros(len(fields)) if parsed is None else parsed)
            start += size
        return np.concatenate(values), bad


class Text(NamedTuple):
    """The columns of a file, and the line number of each row."""

    header: list[str]
    columns: dict[str, Column]
    lines: np.ndarray


def read_text(
    path: Path, problems: list[str], *, with_header: bool, keep_text: Collection[str] = ()
) -> Text:
    """Read the columns of a file of comma-separated values.

    Args:
      path: The file.
      problems: List to which faults of the rows and the header are appended.
      with_header: Whether the first line must be a header. Otherwise a first line of numbers is a
        row, and columns are named from 1.
      keep_text: Names of the columns whose text is needed even if they hold numbers.

    Raises:
      DataError: If the file cannot be read, or is larger than the limits of ``gate``.
    """
    try:
        with (
            gate.open_regular(path, gate.MAX_TABLE_BYTES) as file,
            closing(gate.text_lines(path, file)) as lines,
        ):
            rows = _rows(path, lines)
            first = next(rows, None)
            if first is None:
                raise DataError(f"{path}: the file is empty.")
            header = [name.strip() for name in first[1]]
            if not with_header and all(is_number(name) for name in header):
                header = [str(at + 1) for at in range(len(header))]
                rows = itertools.chain([first], rows)
            return _by_column(header, rows, problems, set(keep_text))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}).") from error
    except csv.Error as error:
        raise DataError(
            f"{path}: not a text file of comma-separated values ({reason(error)})."
        ) from error


def _rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """Iterate over line numbers and fields; empty lines are left out. Limits are asked."""
    first = next(lines, None)
    if first is None:
        return
    # Of the three, the one that the first line has most often.
    separator = max(",;\t", key=first.count)
    reader = csv.reader(itertools.chain([first], lines), delimiter=separator)
    count = held = 0
    for fields in reader:
        if not fields:
            continue
        count, held = count + 1, held + len(fields)
        if len(fields) > gate.MAX_COLUMNS:
            raise DataError(
                f"{path}, line {reader.line_num}: must have at most {gate.MAX_COLUMNS} columns; "
                f"got {len(fields)}. Use fewer columns."
            )
        if count > gate.MAX_ROWS or held > gate.MAX_FIELDS:
            raise DataError(
                f"{path}: must hold at most {gate.MAX_ROWS} rows and {gate.MAX_FIELDS} fields. "
                "Use fewer rows or columns."
            )
        yield reader.line_num, fields


def _by_column(
    header: list[str],
    rows: Iterator[tuple[int, list[str]]],
    problems: list[str],
    keep_text: set[str],
) -> Text:
    columns = {name: Column(name in keep_text) for name in header}
    # Of columns with the same name, the last.
    positions = {name: at for at, name in enumerate(header)}
    doubled = sorted(name for name, count in Counter(header).items() if count > 1)
    lines, uneven, block = [np.zeros(0, np.int64)], [], []
    most = max(_BLOCK_ROWS, _BLOCK_FIELDS // len(header))

    def append() -> None:
        if block:
            by_column = list(zip(*(row for _, row in block), strict=True))
            for name, at in positions.items():
                columns[name].append(by_column[at])
            lines.append(np.array([number for number, _ in block], np.int64))
            block.clear()

    for number, fields in rows:
        if len(fields) != len(header):
            uneven.append(number)
            continue
        block.append((number, fields))
        if len(block) == most:
            append()
    append()
    if uneven:
        problems.append(f"{listed('line', uneven)}: not {len(header)} fields as in the first line.")
    if doubled:
        problems.append(f"the header has {listed('column', doubled)} twice.")
    return Text(header, columns, np.concatenate(lines))


def _unpacked(block: tuple[int, bytes]) -> list[str]:
    return block[1].decode().split("\0") if block[0] else []


def _are_missing(fields: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Say of many fields what ``is_missing`` says of one, asking once for equal fields."""
    missing = set(filter(is_missing, set(fields)))
    return np.fromiter(map(missing.__contains__, fields), bool, len(fields))


def usable_numbers(fields: Sequence[str]) -> Float[np.ndarray, " n"] | None:
    """Return the fields as numbers, or None if one is not a finite number.

    Python reads "1_000" as a number, which is refused. So is an integer that float64 cannot hold.
    """
    try:
        if "_" in "".join(fields):
            return None
        values = np.fromiter(map(float, fields), np.float64, len(fields))
    except ValueError:
        return None
    if not np.all(np.abs(values) < LARGEST_NUMBER):
        return None
    large = np.flatnonzero(np.abs(values) >= 2.0**53)
    return None if any(loses_digits(fields[int(at)]) for at in large) else values


def _numbers_or_missing(fields: Sequence[str]) -> Float[np.ndarray, " n"] | None:
    """Return the fields as numbers, with NaN for missing values, or None as ``usable_numbers``."""
    numbers = usable_numbers(fields)
    if numbers is None and np.any(missing := _are_missing(fields)):
        numbers = usable_numbers(
            ["0" if is_gone else field for field, is_gone in zip(fields, missing, strict=True)]
        )
        if numbers is not None:
            numbers[missing] = np.nan
    return numbers


def _is_usable(field: str) -> bool:
    """Say of one field what ``usable_numbers`` says of many."""
    if not is_number(field) or not abs(float(field)) < LARGEST_NUMBER:
        return False
    return abs(float(field)) < 2.0**53 or not loses_digits(field)


def loses_digits(field: str) -> bool:
    """Whether a field is an integer that float64 cannot hold."""
    field = field.strip()
    if not is_number(field) or not _INTEGER.fullmatch(field):
        return False
    digits, value = field.lstrip("+-0"), abs(float(field))
    return value < LARGEST_NUMBER and int(digits or "0") != int(value)


def is_missing(field: str) -> bool:
    """Whether a field means that the value is missing."""
    return len(field) < 8 and field.strip().lower() in _MISSING


def is_number(field: str) -> bool:
    """Whether a field is a number, infinity included."""
    try:
        return "_" not in field and not math.isnan(float(field))
    except ValueError:
        return False
