"""The progress bar of ``swjko.solve`` on stderr, or lines if there is no terminal.

A run does not fail because its terminal was closed or its pipe is broken.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from swjko.schemes.base import Info, Result

# Lines of a whole run in a file or a pipe.
_LINES = 10


@contextlib.contextmanager
def progress_bar(total: int, shown: bool, done: int = 0) -> Iterator[Callable[[int, Info], None]]:
    """Show a progress bar of steps.

    Args:
      total: Number of steps of the whole run.
      shown: Whether to show it at all.
      done: Number of steps already taken.

    Yields:
      ``advance(steps, info)``, for reports of these steps, [steps ...] or [steps flows ...].
    """
    if not shown:
        yield lambda steps, info: None
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
    if not console.is_terminal:
        with _lines(total, done) as printed:
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
        task = bar.add_task("compiling", total=total, completed=done, summary="")

        def advance(steps: int, info: Info) -> None:
            bar.update(task, advance=steps, description="JKO steps", summary=_summary(info))

        yield advance


@contextlib.contextmanager
def _lines(total: int, done: int) -> Iterator[Callable[[int, Info], None]]:
    """Print a line before compilation, at every tenth of the steps and at the last step."""
    _print(f"compiling, {done}/{total} JKO steps")
    step, pending = done, ""

    def advance(steps: int, info: Info) -> None:
        nonlocal step, pending
        before, step = step, step + steps
        pending = f"{step}/{total} JKO steps: {_summary(info)}"
        if step * _LINES // total > before * _LINES // total:
            _print(pending)
            pending = ""

    yield advance
    if pending:
        _print(pending)


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
