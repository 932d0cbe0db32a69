"""The progress bar of ``swjko.solve``, on stderr: rich when it is installed, plain text otherwise."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from swjko.schemes.base import Info, Result


class progress_bar:
    """A context that yields ``advance(steps, infos)``, for infos [steps ...] of one flow or [flows steps ...] of many."""

    def __init__(self, total: int, shown: bool, done: int = 0, *, many: bool = False):
        self._total, self._done, self._bar = total, done, None
        self._shown, self._many = shown, many

    def __enter__(self) -> Callable[[int, Info], None]:
        if self._shown:
            self._bar = _rich_bar()
            if self._bar is not None:
                self._bar.start()
                self._task = self._bar.add_task(
                    "compiling", total=self._total, completed=self._done, energy=""
                )
        return self._advance

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._shown:
            print(file=sys.stderr)

    def _advance(self, steps: int, info: Info) -> None:
        self._done += steps
        if not self._shown:
            return
        told = _summary_of_many(info) if self._many else _summary(info)
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, description="JKO steps", energy=told)
        else:
            print(
                f"\rstep {self._done}/{self._total}, {told}    ",
                end="",
                file=sys.stderr,
                flush=True,
            )


def _summary(info: Info) -> str:
    return f"t = {float(np.mean(info.time[-1])):.3g}, energy {float(np.mean(info.energy[-1])):.5g}"


def _summary_of_many(info: Info) -> str:
    """Where the flows stand after the last step; means are over those that have not failed."""
    time, energy, result = (
        np.asarray(value)[:, -1] for value in (info.time, info.energy, info.result)
    )
    good = np.isin(result, (Result.OK, Result.STOPPED))
    told = f"{np.sum(good)} of {good.size} flows ok"
    if np.any(good):
        told = f"t = {np.mean(time[good]):.3g}, mean energy {np.mean(energy[good], dtype=np.float64):.5g}, {told}"
    stopped = np.sum(result == Result.STOPPED)
    return f"{told}, {stopped} stopped" if stopped else told


def _rich_bar() -> Any:
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )
    except ImportError:
        return None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[energy]}"),
    )
    return Progress(*columns, console=Console(stderr=True))
