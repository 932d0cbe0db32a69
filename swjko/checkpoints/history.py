"""Reports of a run in ``history.jsonl``: one line of JSON for each step."""

import itertools
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from swjko.checkpoints.files import explained, open_regular
from swjko.checkpoints.format import (
    checkpoint_paths,
    finite_json,
    is_checkpoint,
    is_key,
    step_of,
)
from swjko.schemes.base import Info

REPORTS = "history.jsonl"
# No report of a run is longer, and a file of zeros has no end of line.
_LONGEST_LINE = 2**27
_MOST_RANGES = 8


def read_history(directory: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the reports of a run, also while it is running.

    Warns with the numbers of steps if reports are missing or doubled, and with those of lines
    that are not reports.

    Args:
      directory: The run directory, ``checkpoint_dir`` of ``solve``.

    Returns:
      One dictionary per step, in their order: the fields of ``info`` by name, and ``step``,
      counted from 1. NaN and infinities read as None. An incomplete last line is left out.

    Example:
      ``[line["energy"] for line in read_history("runs/a")]``
    """
    directory = Path(directory)
    with explained(directory, "read"):
        # Reports are on the disk before a checkpoint is. So its step is looked up first.
        reached = _last_step(directory)
        lines, repeated, foreign, is_cut = _read(directory)
    last = max(lines, default=0)
    faults = _missing(lines, last if is_cut and reached == last + 1 else max(reached, last))
    faults += [f"repeated steps {_ranges(repeated)}"] if repeated else []
    faults += [f"lines that are not reports {_ranges(foreign)}"] if foreign else []
    if faults:
        warnings.warn(f"{directory / REPORTS}: {'; '.join(faults)}", RuntimeWarning, stacklevel=2)
    return [json.loads(lines[step]) for step in sorted(lines)]


def kept_lines(directory: Path, last: int) -> tuple[list[bytes], list[str]]:
    """Return the lines of the first steps, in their order, and a notice if some are missing.

    Args:
      directory: The run directory.
      last: The last of these steps.
    """
    lines, *_ = _read(directory)
    lines = {step: lines[step] for step in sorted(lines) if step <= last}
    return list(lines.values()), [f"{directory / REPORTS}: {one}" for one in _missing(lines, last)]


def _read(directory: Path) -> tuple[dict[int, bytes], list[int], list[int], bool]:
    """Return the lines by step, repeated steps, lines that are not reports, and if the end is cut.

    A last line without an end is normal in a run that is alive.
    """
    lines, repeated, foreign = {}, [], []
    try:
        descriptor = open_regular(directory / REPORTS, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return lines, repeated, foreign, False
    with os.fdopen(descriptor, "rb") as file:
        number = 0
        while (line := file.readline(_LONGEST_LINE)).endswith(b"\n"):
            number += 1
            step = _step_of(line)
            if step is None:
                foreign.append(number)
            else:
                repeated += [step] if step in lines else []
                lines[step] = line
    is_endless = len(line) == _LONGEST_LINE
    return lines, repeated, foreign + [number + 1] * is_endless, bool(line) and not is_endless


def _step_of(line: bytes) -> int | None:
    try:
        report = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = report.get("step") if isinstance(report, dict) else None
    return step if type(step) is int and step >= 1 else None


def _last_step(directory: Path) -> int:
    """Return the step of the newest checkpoint; 0 without one."""
    try:
        paths = checkpoint_paths(directory)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return next((step_of(path) or 0 for path in paths if is_checkpoint(path)), 0)


def _missing(lines: Mapping[int, bytes], last: int) -> list[str]:
    """Return a phrase if steps up to the last are missing."""
    present = [0, *sorted(lines), last + 1]
    gaps = [(a + 1, b - 1) for a, b in itertools.pairwise(present) if b > a + 1]
    return [f"missing steps {_joined(gaps)}"] if gaps else []


def _ranges(numbers: Iterable[int]) -> str:
    """Return numbers in words, consecutive ones together."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return _joined(ranges)


def _joined(ranges: Sequence[tuple[int, int]]) -> str:
    words = [str(a) if a == b else f"{a} to {b}" for a, b in ranges[:_MOST_RANGES]]
    more = f" and {len(ranges) - len(words)} more" if len(ranges) > len(words) else ""
    return f"{', '.join(words)}{more}"


def report_lines(first_step: int, infos: Info) -> bytes:
    """Return the lines of consecutive steps; fields of ``infos.extra`` go by their own names."""
    columns = {
        jax.tree_util.keystr(path, simple=True, separator=".").removeprefix("extra."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(infos)
        if not is_key(leaf)
    }
    rows = zip(*(finite_json(np.asarray(leaf)) for leaf in columns.values()), strict=True)
    lines = (
        {"step": step} | dict(zip(columns, row, strict=True))
        for step, row in enumerate(rows, first_step)
    )
    return "".join(f"{json.dumps(line, allow_nan=False)}\n" for line in lines).encode()
