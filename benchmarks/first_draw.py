"""Seconds from ``import`` to a first result, compilation included.

Two problems in processes of their own: eight schools of the guide "Use your model" as a NumPyro
model, up to its draws, and a short run of a coupling flow towards a Gaussian in ten dimensions.
Each runs first without a compilation cache, then with JAX's cache on disk, filled by a run before.
The phases are the median over processes; trace, lower and compile are the seconds that JAX's
monitoring reports for them.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterable
from typing import Any

from matplotlib.figure import Figure

from benchmarks import common

FLAGS = common.Flags(quick="one process", seeds="processes of each kind (default 3)")
_PARTS = ("trace", "lower", "compile")
_PROBLEMS = ("eight_schools", "gaussian")


def main(args: argparse.Namespace) -> None:
    if common.optional("numpyro") is None:
        raise SystemExit('first_draw needs numpyro: pip install "swjko[interop]"')
    count = args.seeds or (1 if args.quick else 3)
    rows = [row for problem in _PROBLEMS for row in _rows(problem, count, cached=not args.quick)]
    for row in rows:
        common.show(f"{row['problem']}, {row['kind']}", row["total"])
    content = {"quick": args.quick, "cores": len(os.sched_getaffinity(0)), "rows": rows}
    common.finish(args, content, ("", _figure(rows)))


def _rows(problem: str, count: int, *, cached: bool) -> list[dict[str, Any]]:
    """The row without a cache and, if ``cached``, the one with it."""
    rows = [_row(problem, "no cache", [_child(problem, {}) for _ in range(count)])]
    if cached:
        with tempfile.TemporaryDirectory() as directory:
            cache = {
                "JAX_ENABLE_COMPILATION_CACHE": "true",
                "JAX_COMPILATION_CACHE_DIR": directory,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            }
            _child(problem, cache)
            rows.append(
                _row(problem, "cache on disk", [_child(problem, cache) for _ in range(count)])
            )
    return rows


def _child(problem: str, settings: dict[str, str]) -> dict[str, Any]:
    settings = {"JAX_ENABLE_COMPILATION_CACHE": "false", **settings}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        return json.loads(common.run_child(["-m", "benchmarks.first_draw_child", problem]))
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _row(problem: str, kind: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians of processes of one kind."""

    def median(values: Iterable[float]) -> float:
        return statistics.median(values)

    phases = {
        phase: {
            part: median(run["phases"][phase].get(part, 0.0) for run in runs)
            for part in ("seconds", *_PARTS)
        }
        for phase in runs[0]["phases"]
    }
    totals = [run["total"] for run in runs]
    return {
        "problem": problem,
        "kind": kind,
        "processes": len(runs),
        "total": median(totals),
        "totals": totals,
        "phases": phases,
        "verdict": runs[0]["verdict"],
    }


def _figure(rows: list[dict[str, Any]]) -> Figure:
    """The phases of each row, one after another."""
    figure, ((axis,),) = common.new_figure(8.0, 1.5 + 0.6 * len(rows))
    phases = dict.fromkeys(phase for row in rows for phase in row["phases"])
    colors = {phase: f"C{index}" for index, phase in enumerate(phases)}
    bars: dict[str, Any] = {}
    for at, row in enumerate(rows):
        left = 0.0
        for phase, found in row["phases"].items():
            bars[phase] = axis.barh(at, found["seconds"], left=left, color=colors[phase])
            left += found["seconds"]
    labels = [f"{row['problem'].replace('_', ' ')}, {row['kind']}" for row in rows]
    axis.set(yticks=range(len(rows)), yticklabels=labels, xlabel="seconds")
    axis.invert_yaxis()
    options = {"ncols": len(bars), "fontsize": "small", "loc": "outside lower center"}
    figure.legend(bars.values(), bars.keys(), **options)
    return figure
