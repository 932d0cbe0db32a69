"""Reports of a run in ``history.jsonl``: one line of JSON for each step."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from swjko.checkpoints.format import finite_json, is_key
from swjko.schemes.base import Info

REPORTS = "history.jsonl"


def read_history(directory: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the reports of a run, also while it is running.

    Args:
      directory: The run directory, ``checkpoint_dir`` of ``solve``.

    Returns:
      One dictionary per step: the fields of ``info`` by name, and ``step``, counted from 1. NaN
      and infinities read as None. An incomplete last line is left out.

    Example:
      ``[line["energy"] for line in read_history("runs/a")]``
    """
    return [json.loads(line) for line in complete_lines(Path(directory))]


def complete_lines(directory: Path) -> list[bytes]:
    """Return the lines before the first that is cut or is not the report of a step."""
    path, complete = directory / REPORTS, []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            is_report = line.endswith(b"\n") and isinstance(json.loads(line)["step"], int)
        except (ValueError, TypeError, KeyError):
            is_report = False
        if not is_report:
            break
        complete.append(line)
    return complete


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
