"""Readers of the values of options. They refuse what cannot be used by an ArgumentTypeError."""

import argparse
import csv
import functools
import math
from collections.abc import Callable

import numpy as np

# Eleven days: longer waits are mistakes.
LARGEST_SECONDS = 10**6


def as_whole(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from ``low`` to ``high``."""
    return functools.partial(_read_whole, low, high)


def _read_whole(low: int, high: int, text: str) -> int:
    try:
        value = int(text) if text.isascii() else None
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from {low} to {high}; got {_shown(text)}"
        )
    return value


def as_positive(text: str) -> float:
    """Return a positive number that float32 can hold."""
    try:
        value = float(text) if text.isascii() else math.nan
    except ValueError:
        value = math.nan
    # Outside this range float32 rounds to zero or infinity.
    if not float(np.finfo(np.float32).tiny) <= value <= float(np.finfo(np.float32).max):
        raise argparse.ArgumentTypeError(f"must be a positive number; got {_shown(text)}")
    return value


def as_seconds(text: str) -> float:
    """Return a positive number of seconds, at most eleven days."""
    value = as_positive(text)
    if value > LARGEST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"must be at most {LARGEST_SECONDS} seconds; got {_shown(text)}"
        )
    return value


def as_path(text: str) -> str:
    """Return a path, which is not empty."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"must be a path; got {_shown(text)}")
    return text


def as_names(text: str) -> tuple[str, ...]:
    """Return names that are separated by commas, quoted as in a CSV file."""
    try:
        names = tuple(name.strip() for row in csv.reader([text], strict=True) for name in row)
    except csv.Error:
        names = ()
    if not names:
        raise argparse.ArgumentTypeError(
            f"must be names of columns, separated by commas; got {_shown(text)}"
        )
    return names


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
