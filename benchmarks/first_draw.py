"""Seconds from ``import`` to the first draws of a NumPyro model, compilation included.

Eight schools as in the guide "Use your model", in processes of their own: first without a
compilation cache, then with JAX's cache on disk, filled by a run before. The phases are the median
over processes; trace, lower and compile are the seconds that JAX's monitoring reports for them.
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


def main(args: argparse.Namespace) -> None:
    if common.optional("numpyro") is None:
        raise SystemExit('first_draw needs numpyro: pip install "swjko[interop]"')
    count = args.seeds or (1 if args.quick else 3)
    rows = [_row("no cache", [_child({}) for _ in range(count)])]
    if not args.quick:
        with tempfile.TemporaryDirectory() as directory:
            cache = {
                "JAX_ENABLE_COMPILATION_CACHE": "true",
                "JAX_COMPILATION_CACHE_DIR": directory,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            }
            _child(cache)
            rows.append(_row("cache on disk", [_child(cache) for _ in range(count)]))
    for row in rows:
        common.show(row["kind"], row["total"])
    content = {"quick": args.quick, "cores": len(os.sched_getaffinity(0)), "rows": rows}
    common.finish(args, content, ("", _figure(rows)))


def _child(settings: dict[str, str]) -> dict[str, Any]:
    settings = {"JAX_ENABLE_COMPILATION_CACHE": "false", **settings}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        return json.loads(common.run_child(["-m", "benchmarks.first_draw_child"]))
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _row(kind: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
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
        "kind": kind,
        "processes": len(runs),
        "total": median(totals),
        "totals": totals,
        "phases": phases,
        "verdict": runs[0]["verdict"],
    }


def _figure(rows: list[dict[str, Any]]) -> Figure:
    """The phases of each kind, one after another."""
    figure, ((axis,),) = common.new_figure(8.0, 1.5 + 0.6 * len(rows))
    for at, row in enumerate(rows):
        left = 0.0
        for index, (phase, found) in enumerate(row["phases"].items()):
            label = phase if at == 0 else None
            axis.barh(at, found["seconds"], left=left, color=f"C{index}", label=label)
            left += found["seconds"]
    axis.set(yticks=range(len(rows)), yticklabels=[row["kind"] for row in rows], xlabel="seconds")
    figure.legend(ncols=len(rows[0]["phases"]), fontsize="small", loc="outside lower center")
    return figure
