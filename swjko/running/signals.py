"""SIGTERM, SIGHUP and Ctrl-C during ``swjko.solve``: the run saves between two chunks and ends."""

import contextlib
import itertools
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from swjko.schemes.base import State

# Windows has no SIGHUP.
_SIGNALS = [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]

_log = logging.getLogger("swjko")

# Saves a state, given the number of steps taken.
Save = Callable[[int, State], None]


class Interrupts:
    """SIGTERM, SIGHUP and Ctrl-C to one process."""

    def __init__(self, directory: Path | None):
        self._directory = directory
        self.pending: int | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Note a signal for ``obey``; a second Ctrl-C raises KeyboardInterrupt at once."""
        del frame
        if self.pending == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.pending = number

    def obey(self, step: int, state: State, save: Save) -> None:
        """Save and end the run if a signal has been noted."""
        if self.pending is None:
            return
        save(step, state)
        number, self.pending = self.pending, None
        message = f"stopped after step {step}, which is saved in {self._directory}"
        if number == signal.SIGINT:
            raise KeyboardInterrupt(message)
        _log.warning("%s", message)
        raise SystemExit(128 + number)


# JAX stops all processes when their counters are one beyond the largest of them. So it counts the
# calls of ``Preemption.obey``, which all processes make alike, and never starts again.
_looks = itertools.count(1)


class Preemption:
    """SIGTERM, SIGHUP and Ctrl-C to any of several processes; all stop after the same step.

    JAX spreads the news of a SIGTERM. While the context is open, this process answers the other
    signals by sending itself a SIGTERM.
    """

    def __init__(self, directory: Path | None):
        self._directory = directory
        self._pending: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
                if signal.getsignal(number) not in (signal.SIG_IGN, None, self._note):
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._pending is not None:
            signal.raise_signal(self._pending)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on to all processes; a second Ctrl-C raises KeyboardInterrupt at once."""
        del frame
        if self._pending == signal.SIGINT == number:
            raise KeyboardInterrupt
        self._pending = number
        signal.raise_signal(signal.SIGTERM)

    def obey(self, step: int, state: State, save: Save) -> None:
        """Save and end the run if any process has received a signal."""
        from jax.experimental import multihost_utils

        if not multihost_utils.reached_preemption_sync_point(next(_looks)):
            return
        save(step, state)
        number, self._pending = self._pending or signal.SIGTERM, None
        saved = f", which is saved in {self._directory}" if self._directory else ""
        message = f"stopped after step {step}{saved}"
        if number == signal.SIGINT:
            raise KeyboardInterrupt(message)
        if jax.process_index() == 0:
            _log.warning("%s", message)
        raise SystemExit(128 + number)


@contextlib.contextmanager
def listening(directory: Path | None, *, together: bool) -> Iterator[Interrupts | Preemption]:
    """Handle signals while the context is open, and restore the handlers afterwards.

    Only the main thread may set handlers, and ignored signals stay ignored.

    Args:
      directory: Directory of the run. Without one, a single process keeps its own handlers.
      together: Whether several processes share the run.
    """
    if together:
        with Preemption(directory) as preemption:
            yield preemption
        return
    interrupts, previous = Interrupts(directory), {}
    if directory is not None and threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, interrupts.note)
    try:
        yield interrupts
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        # The signal came after the last ``obey``, or together with an error.
        if previous and interrupts.pending is not None:
            signal.raise_signal(interrupts.pending)
