"""The report of a command-line run: ``report.json``, figures, and text for the terminal."""

import io
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.table import Table

from swjko._names import __version__
from swjko.checkpoints.files import write_atomically
from swjko.checkpoints.format import finite_json
from swjko.cli.verdict import Verdict
from swjko.running.solution import Solution
from swjko.schemes.base import Info
from swjko.types import Estimate

_COLUMNS = (
    *("problem", "dim", "steps", "compile s", "run s", "energy start", "energy end"),
    *("reference", "the reference is", "fit"),
)
_LEFT = ("problem", "the reference is", "fit")


class Outcome(NamedTuple):
    """The result of one problem.

    Attributes:
      problem: Name of the problem.
      dim: Dimension of the flow.
      config: All numbers that the run depends on, so that it can be repeated.
      solution: From ``solve``; its history is an ``Info``, or states and infos.
      energy_start: F at mu_0, by ``evaluate``.
      energy_end: F at the end, by ``evaluate``.
      reference: The value that energy_end is compared with.
      reference_name: What the reference is.
      figures: Further measured numbers, by name.
      plots: matplotlib figures, by file stem.
      verdict: Whether the result can be used.
      files: Further files of the run, by name.
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
    verdict: Verdict
    files: Mapping[str, bytes] = MappingProxyType({})

    @property
    def error(self) -> float:
        """energy_end minus the reference."""
        return float(self.energy_end.value) - self.reference


def write(outcome: Outcome, directory: Path, *, overwrite: bool = True) -> None:
    """Write the files and the plots as PNG files, then ``report.json``; each atomically.

    Args:
      outcome: The result of one problem.
      directory: Where to write; created if it does not exist.
      overwrite: Whether to replace files, also those that appeared during the run.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in outcome.files.items():
        write_atomically(directory / name, content, replace=overwrite)
    for name, figure in outcome.plots.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        write_atomically(directory / f"{name}.png", buffer.getvalue(), replace=overwrite)
    write_json(as_dict(outcome), directory, overwrite=overwrite)


def write_json(content: Mapping[str, object], directory: Path, *, overwrite: bool = True) -> None:
    """Write ``report.json`` atomically, with None for numbers that are not finite.

    Args:
      content: What to write.
      directory: Where to write; created if it does not exist.
      overwrite: Whether to replace a file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(finite_json(content), indent=2, allow_nan=False) + "\n"
    write_atomically(directory / "report.json", text.encode(), replace=overwrite)


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """Convert an outcome to what JSON can hold."""
    history = outcome.solution.history
    infos = history if isinstance(history, Info) else history[1]
    fields = ("time", "energy", "proximity", "objective", "gradient_norm")
    content = {
        "problem": outcome.problem,
        "dim": outcome.dim,
        "config": outcome.config,
        **provenance(outcome.solution),
        "result": outcome.solution.result.name,
        "energy_start": outcome.energy_start,
        "energy_end": outcome.energy_end,
        "reference": {"value": outcome.reference, "name": outcome.reference_name},
        "error": outcome.error,
        "verdict": outcome.verdict._asdict(),
        "figures": outcome.figures,
        "history": {name: getattr(infos, name) for name in fields},
    }
    return finite_json(content)


def provenance(solution: Solution) -> dict[str, Any]:
    """Return the versions, the device and the seconds of a run."""
    timing = solution.timing
    return {
        "versions": {
            "swjko": __version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
        "device": jax.devices()[0].device_kind,
        "seconds": {"compile": timing.compile_seconds, "run": timing.run_seconds},
    }


def summary(outcome: Outcome, path: Path) -> str:
    """Return the outcome as lines for the terminal; ``path`` is where it was written."""
    result = outcome.solution.result.name
    lines = [f"{outcome.problem} in dimension {outcome.dim}, steps {result}, written to {path}"]
    plain = {k: v for k, v in outcome.figures.items() if not isinstance(v, dict)}
    lines += [f"  {name}: {_as_text(value)}" for name, value in plain.items()]
    for name, rows in outcome.figures.items():
        if isinstance(rows, dict):
            lines += [f"  {name}:", *(f"    {k}: {_as_text(v)}" for k, v in rows.items())]
    verdict = outcome.verdict
    lines += [f"  fit: {verdict.fit} ({verdict.rule})", *(f"    {one}" for one in verdict.reasons)]
    return "\n".join(lines)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a table for the terminal with one row for each outcome."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for name in _COLUMNS:
        justify = "left" if name in _LEFT else "right"
        drawn.add_column(name, justify=justify, no_wrap=True)
    for outcome in outcomes:
        timing = outcome.solution.timing
        drawn.add_row(
            outcome.problem,
            str(outcome.dim),
            str(int(outcome.solution.state.step)),
            f"{timing.compile_seconds:.1f}",
            f"{timing.run_seconds:.1f}",
            *(
                f"{float(value):.5g} +- {float(error):.1g}"
                for value, error in (outcome.energy_start, outcome.energy_end)
            ),
            f"{outcome.reference:.5g}",
            outcome.reference_name,
            outcome.verdict.fit,
        )
    console = Console(file=io.StringIO(), width=250)
    with console.capture() as capture:
        console.print(drawn, highlight=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _as_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Estimate):
        return f"{float(value.value):.4g} +- {float(value.standard_error):.2g}"
    if hasattr(value, "_asdict"):
        return ", ".join(f"{name} {_as_text(part)}" for name, part in value._asdict().items())
    return str(value)
