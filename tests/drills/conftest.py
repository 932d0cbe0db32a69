"""Drills of failures, as slow tests with a report: ``pytest -n0 -m slow tests/drills``.

Each drill counts what went wrong. With ``SWJKO_DRILL_REPORT=benchmarks/results/reliability.json``
the counts replace those of the same drills in that file, which the tables of the pages read.
"""

import contextlib
import json
import os
import time
from pathlib import Path

import pytest


@pytest.fixture
def drill(record_property):
    """Report what was measured, and fail unless it is as required."""
    began = time.perf_counter()

    def report(name, what, required, measured, met):
        row = {"what": what, "required": required, "measured": measured, "met": bool(met)}
        row |= {"seconds": time.perf_counter() - began, "load": os.getloadavg()[0]}
        row["date"] = time.strftime("%Y-%m-%d", time.gmtime())
        record_property("drill", json.dumps([name, row]))
        assert met, measured

    return report


def pytest_terminal_summary(terminalreporter):
    reports = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]
    rows = dict(
        json.loads(value)
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == "drill"
    )
    if not rows:
        return
    terminalreporter.section("drills")
    for row in rows.values():
        verdict = "met" if row["met"] else "NOT MET"
        terminalreporter.line(
            f"{verdict:8}{row['seconds']:5.0f} s  {row['what']}: {row['required']}"
        )
    if path := os.environ.get("SWJKO_DRILL_REPORT"):
        from benchmarks import common

        saved = {}
        with contextlib.suppress(FileNotFoundError):
            saved = json.loads(Path(path).read_text())["rows"]
        common.write_results("reliability", {"rows": {**saved, **rows}}, Path(path).parent)
