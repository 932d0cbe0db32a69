"""What a run of the command line leaves behind: ``report.json`` and figures in a directory, lines and a table on the terminal."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from swjko.running.solve import Solution
from swjko.schemes.base import Info
from swjko.types import Estimate


class Outcome(NamedTuple):
    """A problem solved.

    Attributes:
      problem, dim: its name and dimension.
      config: every number the run depends on, so that it can be repeated.
      solution: from ``solve``, with ``swjko.both`` recorded, or ``infos`` alone.
      energy_start, energy_end: F at mu_0 and at the end, by ``evaluate``.
      reference: what energy_end is compared with; reference_name: what that is.
      figures: further measured numbers, by name.
      plots: matplotlib figures, by file stem.
    """

    problem: str
    dim: int
    config: dict[str, Any]
    solution: Solution
    energy_start: Estimate
    energy_end: Estimate
    reference: float
    reference_name: str
    figures: dict[str, Any]
    plots: dict[str, Any]

    @property
    def error(self) -> float:
        """energy_end minus the reference."""
        return float(self.energy_end.value) - self.reference


def write(outcome: Outcome, directory: Path) -> None:
    """The figures as PNG and ``report.json``, the last by a rename, so that a report that exists is whole."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, figure in outcome.plots.items():
        figure.savefig(directory / f"{name}.png")
    partial = directory / "report.json.partial"
    partial.write_text(
        json.dumps(as_dict(outcome), indent=2, allow_nan=False) + "\n", encoding="utf-8"
    )
    os.replace(partial, directory / "report.json")


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """The outcome as numbers, strings, lists and dictionaries; a number that is not finite becomes None."""
    history = outcome.solution.history
    infos = history if isinstance(history, Info) else history[1]
    timing = outcome.solution.timing
    return _plain(
        {
            "problem": outcome.problem,
            "dim": outcome.dim,
            "config": outcome.config,
            "versions": versions(),
            "device": jax.devices()[0].device_kind,
            "result": outcome.solution.result.name,
            "seconds": {"compile": timing.compile_seconds, "run": timing.run_seconds},
            "energy_start": outcome.energy_start._asdict(),
            "energy_end": outcome.energy_end._asdict(),
            "reference": {"value": outcome.reference, "name": outcome.reference_name},
            "error": outcome.error,
            "figures": outcome.figures,
            "history": {
                name: getattr(infos, name)
                for name in ("time", "energy", "proximity", "objective", "gradient_norm")
            },
        }
    )


def versions() -> dict[str, str]:
    import swjko

    return {"swjko": swjko.__version__, "jax": jax.__version__, "python": platform.python_version()}


def summary(outcome: Outcome, directory: Path) -> str:
    """The outcome in lines for the terminal."""
    lines = [
        f"{outcome.problem} in dimension {outcome.dim}, {outcome.solution.result.name}, written to {directory}"
    ]
    lines += [
        f"  {name}: {_shown(value)}"
        for name, value in outcome.figures.items()
        if not isinstance(value, dict)
    ]
    for name, rows in outcome.figures.items():
        if isinstance(rows, dict):
            lines += [f"  {name}:", *(f"    {row}: {_shown(value)}" for row, value in rows.items())]
    return "\n".join(lines)


def table(outcomes: Sequence[Outcome]) -> str:
    """One line for each outcome: problem, dimension, steps, seconds, energies, reference and error."""
    rows = [
        (
            "problem",
            "dim",
            "steps",
            "compile s",
            "run s",
            "energy start",
            "energy end",
            "reference",
            "error",
            "the reference is",
        )
    ]
    for outcome in outcomes:
        timing = outcome.solution.timing
        rows.append(
            (
                outcome.problem,
                str(outcome.dim),
                str(int(outcome.solution.state.step)),
                f"{timing.compile_seconds:.1f}",
                f"{timing.run_seconds:.1f}",
                _estimate(outcome.energy_start),
                _estimate(outcome.energy_end),
                f"{outcome.reference:.5g}",
                f"{outcome.error:+.2g}",
                outcome.reference_name,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = (0, len(widths) - 1)
    return "\n".join(
        "  ".join(
            text.ljust(width) if at in left else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _estimate(estimate: Estimate) -> str:
    return f"{float(estimate.value):.5g} +- {float(estimate.standard_error):.1g}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Estimate):
        return f"{float(value.value):.4g} +- {float(value.standard_error):.2g}"
    return (
        ", ".join(f"{name} {_shown(part)}" for name, part in value._asdict().items())
        if hasattr(value, "_asdict")
        else str(value)
    )


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
