"""A failure of one process ends the others of a shared run with the package's error.

JAX aborts a process that has lost process 0, and one whose peer sends no heartbeats. A process
whose peer has failed waits in an exchange that never ends. So a process that fails leaves a note
in the key-value store that joined them, and process 0 leaves one if the ``lifeline`` of a peer is
lost. The others end by the error of their exchange, or by the note. A failed process exits without
JAX's last meeting of all processes.
"""

import atexit
import contextlib
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from swjko.running import lifeline
from swjko.running.agreement import DistributedError, store_of_processes

_NOTE = "swjko/failure"
_PAUSE_SECONDS = 0.5
# How long a process may take to end by an error of its own after a peer has left a note.
_GRACE_SECONDS = 1.0
# Notes cannot be read any more when process 0 has ended, so it lets the others go first.
_LINGER_SECONDS = 3.0
# How soon the connection to a peer closes after an exchange with it has failed.
_CLOSING_SECONDS = 0.5
# Outside of a run, a process ends after this part of the heartbeat's timeout.
_FREE_PART = 0.25
_OF_PEERS = re.compile(
    r"\b(Gloo|NCCL|RCCL)\b|coordination service|Connection (closed|reset) by peer", re.IGNORECASE
)
_log = logging.getLogger("swjko")
_doomed = threading.Event()


@contextlib.contextmanager
def watching(
    shared: bool, directory: Path | None, alike: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn the loss of a peer into a DistributedError, and tell the peers of a failure.

    Args:
      shared: Whether several processes run the context together.
      directory: Directory of the run, for the message.
      alike: Errors that all processes raise together, which need not be sent to the others.
    """
    if not shared or store_of_processes() is None:
        yield
        return
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(over, directory), daemon=True)
    watcher.start()
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        if isinstance(error, Exception) and _OF_PEERS.search(str(error)):
            lifeline.lost(_CLOSING_SECONDS)
            message = _failure_message(_note(), error, directory)
            _doom("")
            raise DistributedError(message) from error
        # An interrupt with a message ends all processes after the same step (``signals``).
        if not (isinstance(error, alike) or (isinstance(error, KeyboardInterrupt) and error.args)):
            _doom(f"{type(error).__name__}: {_first_line(error)}")
        raise
    finally:
        over.set()
        # It may wait for an answer of process 0 that never comes.
        watcher.join(2 * _PAUSE_SECONDS)


def end_without_peer(heartbeat_timeout: float) -> None:
    """End this process before JAX aborts it, because the lifeline of a peer is lost.

    During a run, ``watching`` ends it earlier. JAX may be shutting down in all processes.

    Args:
      heartbeat_timeout: Seconds after which JAX aborts.
    """
    deadline = time.monotonic() + _FREE_PART * heartbeat_timeout
    if jax.distributed.is_initialized() and lifeline.lost() != 0:
        _leave_note(_loss())
    while time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS / 5)
        if not jax.distributed.is_initialized():
            return
    _log.error("error: %s", _failure_message(_note(), None, None))
    _exit(1)


def linger() -> None:
    """Let the other processes end first, if this is process 0 of a run that has failed."""
    is_alone = jax.process_count() == 2 and lifeline.lost() is not None
    if _doomed.is_set() and jax.process_index() == 0 and not is_alone:
        time.sleep(_LINGER_SECONDS)


def _watch(over: threading.Event, directory: Path | None) -> None:
    """End the process if a peer has failed and the main thread waits for it in vain."""
    while not over.wait(_PAUSE_SECONDS):
        note = _note()
        if note and not over.wait(_GRACE_SECONDS):
            _log.error("error: %s", _failure_message(note, None, directory))
            _exit(1)


def _doom(reason: str) -> None:
    """Leave a note with the reason, if there is one, and exit without the others."""
    if reason and lifeline.lost() != 0:
        _leave_note(f"process {jax.process_index()} has failed: {reason}")
    if not _doomed.is_set():
        _doomed.set()
        atexit.register(_exit_alone)


def _leave_note(note: str) -> None:
    # The first note stays: later failures follow from it.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        store_of_processes().key_value_set(_NOTE, note)


def _exit_alone() -> None:
    linger()
    is_interrupt = isinstance(getattr(sys, "last_value", None), KeyboardInterrupt)
    _exit(130 if is_interrupt else 1)


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _note() -> str:
    """Return why the first process has failed; "" if none has."""
    if lifeline.lost() == 0:
        return _loss()
    try:
        return str(store_of_processes().key_value_try_get(_NOTE))
    except jax.errors.JaxRuntimeError:
        return _loss()


def _loss() -> str:
    process = lifeline.lost()
    return "" if process is None else f"process {process} has ended or cannot be reached"


def _failure_message(note: str, error: Any, directory: Path | None) -> str:
    reason = note or f"another process has ended or cannot be reached ({_first_line(error)})"
    saved = f" What was saved in {directory} is intact." if directory else ""
    return f"{reason}.{saved} Start all processes again."


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [""])[0].removesuffix(".")
