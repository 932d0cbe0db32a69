"""Output of the command line, and the errors that end it with one line."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from swjko.data.errors import DataError


class UsageError(Exception):
    """A command line that cannot be run. The message is one line."""


class RunError(Exception):
    """A run that failed. The message is one line."""


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's text, or the name of its class if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def tell(text: str, end: str = "\n") -> None:
    """Print text on stdout at once, in what the encoding of the terminal can show."""
    _write(sys.stdout, text + end)


def say(text: str, progress: bool = True) -> None:
    """Print the current phase on stderr, unless progress is off."""
    if progress:
        _write(sys.stderr, f"swjko: {text}\n")


def say_compiling(progress: bool) -> None:
    """Print that compilation starts, and where its programs are kept for the next run."""
    kept = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    where = f", kept in {kept} for the next run" if kept else ""
    say(f"compiling (once for each shape{where}) ...", progress)


def say_error(error: BaseException | str) -> None:
    """Print an error on stderr; only the problems of a data file take more than one line."""
    whole = isinstance(error, DataError) and str(error).strip()
    say(f"error: {whole or first_line(error)}")


@contextlib.contextmanager
def log_lines() -> Iterator[None]:
    """Print what the library logs as lines of the command line, while the context is open."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with contextlib.suppress(OSError):  # after SIGHUP the terminal is gone
                say(record.getMessage())

    lines, log = Lines(), logging.getLogger("swjko")
    log.addHandler(lines)
    try:
        yield
    finally:
        log.removeHandler(lines)


def silence() -> None:
    """Send stdout and stderr to nowhere, so that Python does not fail at exit to flush them."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (AttributeError, OSError, ValueError):  # closed, or not a file
            continue
    os.close(nowhere)


def _write(stream: Any, text: str) -> None:
    if stream is None:  # closed by the shell
        return
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
