"""The progress bar of ``swjko.solve`` on stderr, or lines if there is no terminal.

A run does not fail because its terminal was closed or its pipe is broken. The lines go to the
logger "swjko" if it shows messages of the level INFO.
"""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from swjko.schemes.base import Info, Result

# Lines of a whole run in a file or a pipe.
_LINES = 10
_COMPILING, _STEPS = "compiling (once for each shape) ...", "JKO steps"
_log = logging.getLogger("swjko")


@contextlib.contextmanager
def progress_bar(
    total: int, shown: bool | Callable[[str], object], compiles: bool
) -> Iterator[Callable[[int, Info | None], None]]:
    """Show a progress bar of steps, or lines.

    Args:
      total: Number of steps of the whole run.
      shown: Whether to show it at all. A function is called with the lines in place of the bar.
      compiles: Whether the run starts with compilation.

    Yields:
      ``advance(step, info)``, for the number of steps taken and the reports of the last of them,
      [steps ...] or [steps flows ...]; None for steps of an earlier run.
    """
    if shown is False:
        yield lambda step, info: None
        return
    # Imported here, since importing swjko must stay light.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    lenient: Any = _Lenient(sys.stderr)
    console = Console(file=lenient)
    if callable(shown) or not console.is_terminal:
        with _lines(total, shown if callable(shown) else _print, compiles) as printed:
            yield printed
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[summary]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(_COMPILING if compiles else _STEPS, total=total, summary="")

        def advance(step: int, info: Info | None) -> None:
            summary = "" if info is None else _summary(info)
            bar.update(task, completed=step, description=_STEPS, summary=summary)

        yield advance


@contextlib.contextmanager
def _lines(
    total: int, tell: Callable[[str], object], compiles: bool
) -> Iterator[Callable[[int, Info | None], None]]:
    """Tell a line before compilation, at every tenth of the steps and at the last step."""
    if compiles:
        tell(_COMPILING)
    before, pending = 0, ""

    def advance(step: int, info: Info | None) -> None:
        nonlocal before, pending
        pending = f"{step}/{total} {_STEPS}" + (f": {_summary(info)}" if info else "")
        if step * _LINES // total > before * _LINES // total:
            tell(pending)
            pending = ""
        before = step

    yield advance
    if pending:
        tell(pending)


class _Lenient:
    """A terminal that may be gone: what cannot be shown is left out."""

    def __init__(self, file: Any):
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._file.flush()


def _print(line: str) -> None:
    """Log a line if somebody reads the log, else print it on stderr."""
    if _log.isEnabledFor(logging.INFO) and _log.hasHandlers():
        _log.info("%s", line)
        return
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _summary(info: Info) -> str:
    """Return time and energy after the last step; means are over flows that have not failed."""
    time, energy, result = (
        np.asarray(value[-1]) for value in (info.time, info.energy, info.result)
    )
    if result.ndim == 0:
        return f"t = {np.mean(time):.3g}, energy {np.mean(energy):.5g}"
    good = np.isin(result, (Result.OK, Result.STOPPED))
    parts = []
    if np.any(good):
        mean = np.mean(energy[good], dtype=np.float64)
        parts = [f"t = {np.mean(time[good]):.3g}, mean energy {mean:.5g}"]
    parts.append(f"{np.sum(good)} of {good.size} flows ok")
    if stopped := np.sum(result == Result.STOPPED):
        parts.append(f"{stopped} stopped")
    return ", ".join(parts)
