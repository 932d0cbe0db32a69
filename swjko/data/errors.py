"""The error of data files, and the wording of its message."""

from collections.abc import Sequence

# Items of a list that a message shows.
_SHOWN = 5


class DataError(ValueError):
    """A data file that cannot be used. The message names the file, and the line or column."""


def reason(error: BaseException) -> str:
    """Return the first line of an error's text, for use inside another message."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def listed(kind: str, items: Sequence[object]) -> str:
    """Return "column 'a'", or "12 lines (3, 9, ...)"."""
    if len(items) == 1:
        return f"{kind} {items[0]!r}"
    return f"{len(items)} {kind}s ({shortened([repr(item) for item in items])})"


def shortened(items: list[str]) -> str:
    """Return the first items and how many more there are."""
    more = f", and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
