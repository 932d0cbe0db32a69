"""The error of data files, and the wording of its message."""

from collections.abc import Sequence

# Items of a list, and characters of a text from a file, that a message shows.
_SHOWN, _SHOWN_CHARACTERS = 5, 60


class DataError(ValueError):
    """A data file that cannot be used. The message names the file, and the line or column."""


def reason(error: BaseException) -> str:
    """Return the first line of an error's text, for use inside another message."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return next(iter(text.strip().splitlines()), type(error).__name__)[:200].rstrip(".")


def quoted(text: str) -> str:
    """Return a text from a file in quotes, cut if long, without control characters."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}...")


def listed(kind: str, items: Sequence[object]) -> str:
    """Return "column 'a'", or "12 lines (3, 9, ...)"."""
    if len(items) == 1:
        return f"{kind} {_quoted(items[0])}"
    return f"{len(items)} {kind}s ({shortened([_quoted(item) for item in items])})"


def _quoted(item: object) -> str:
    return quoted(item) if isinstance(item, str) else repr(item)


def shortened(items: Sequence[str]) -> str:
    """Return the first items and how many more there are."""
    more = f", and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
