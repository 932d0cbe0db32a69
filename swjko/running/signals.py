"""SIGTERM and Ctrl-C during ``swjko.solve``: noted when they come, obeyed between two chunks when all is saved."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from swjko.schemes.base import State


class Interrupts:
    """Notes SIGTERM and Ctrl-C, to be obeyed when all is saved."""

    def __init__(self, directory: Path):
        self._directory = directory
        self.noted: int | None = None

    def note(self, number: int, frame: Any) -> None:
        del frame
        if self.noted == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.noted = number

    def obey(self, step: int, state: State, store: Any) -> None:
        if self.noted is None or store is None:
            return
        store.save(step, state)
        number, self.noted = self.noted, None
        told = f"stopped after step {step}, which is saved in {self._directory}"
        if number == signal.SIGINT:
            raise KeyboardInterrupt(told)
        print(f"swjko: {told}", file=sys.stderr)
        raise SystemExit(128 + number)


class Preemption:
    """SIGTERM to any of several processes: JAX tells all of them, and has them stop after one and the same step."""

    def __init__(self, directory: Path | None):
        self._directory = directory

    def obey(self, step: int, state: State, store: Any) -> None:
        from jax.experimental import multihost_utils

        if not multihost_utils.reached_preemption_sync_point(step):
            return
        if store is not None:
            store.save(step, state)
        if jax.process_index() == 0:
            saved = "" if self._directory is None else f", which is saved in {self._directory}"
            print(f"swjko: stopped after step {step}{saved}", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM)


@contextlib.contextmanager
def listening(
    directory: Path | None, *, together: bool = False
) -> Iterator[Interrupts | Preemption]:
    """What is to be obeyed at each look: together with other processes what JAX says, and alone what the signals said.

    The signals' handlers are those of before again afterwards. Only the main thread may set any; ignored signals stay ignored."""
    if together:
        yield Preemption(directory)
        return
    interrupts = Interrupts(directory or Path())
    previous = {}
    if directory is not None and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, interrupts.note)
    try:
        yield interrupts
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        # One that came too late to be obeyed, or together with an error.
        if previous and interrupts.noted is not None:
            signal.raise_signal(interrupts.noted)
