"""Tables and numbers in Markdown, for the pages and the terminal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
Column = str | Callable[[Any], Any]
Region = tuple[tuple[str, ...], Callable[..., list[str]]]
_MINUS = "\N{MINUS SIGN}"
_SHOWN_PACKAGES = ("jax", "torch", "POT", "ott-jax", "blackjax")


def region(
    result: str,
    rows: Callable[[Any], Iterable[Any]],
    columns: Mapping[str, Column],
    *,
    across: Column | None = None,
    note: bool = True,
) -> Region:
    """What a region of a page needs and how it is written, for a table of rows and columns.

    Args:
      result: Name of the JSON.
      rows: Content of the JSON to the rows.
      columns: Heading of each column, and its cell: a key of the row or a function of the row.
      across: Heading of each row, if rows go across and columns down.
      note: Whether a line says where and when the result was measured.
    """

    def cell(row: Any, column: Column) -> Any:
        return row[column] if isinstance(column, str) else column(row)

    def write(found: Result) -> list[str]:
        lines = [[cell(row, column) for column in columns.values()] for row in rows(found)]
        head = list(columns)
        if across is not None:
            corner, *heads = head
            lines = [list(line) for line in zip(heads, *(line[1:] for line in lines), strict=True)]
            head = [corner, *(cell(row, across) for row in rows(found))]
        return table(head, lines) + (provenance(found) if note else [])

    return (result,), write


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A table of a heading and rows of cells."""
    lines = [head, ("---",) * len(head), *rows]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return [f"| {' | '.join(line)} |" for line in cells]


def provenance(result: Result) -> list[str]:
    """A blank line and a line that says where and when a result was measured.

    Seconds are too long if the load of the machine is above its number of cores.
    """
    machine, versions = result["machine"], result["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in _SHOWN_PACKAGES if name in versions)
    load = machine.get("load_average")
    busy = f", load {load[0]:.1f} at the end" if load else ""
    cores = f"{machine['cores']} core{'s' if machine['cores'] != 1 else ''}"
    where = f"{machine['cpu']}, {cores}{busy}; Python {versions['python']}, {packages}"
    return ["", f"*`{result['benchmark']}.json`, {result['date']}: {where}.*"]


def number(value: float | None, form: str = "{:g}") -> str:
    """A number with a typographic minus; empty for None."""
    return "" if value is None else form.format(value).replace("-", _MINUS)


def log10(value: float | None) -> str:
    """A logarithm with two decimals; empty for None."""
    return number(value, "{:.2f}")


def with_error(found: Result | None, form: str = "{:.2f}") -> str:
    """Mean and standard error; empty for None."""
    if found is None:
        return ""
    return number(found["mean"], form) + number(found["standard_error"], " ± {:.2f}")


def ratio(value: float | None) -> str:
    """A ratio with a multiplication sign; empty for None."""
    form = "{:.1f}" if value is None or value >= 0.95 else "{:.2f}"
    return number(value, form + "\N{MULTIPLICATION SIGN}")


def power(value: float) -> str:
    """An error as a power of ten."""
    return f"{value:.0e}" if value else "0"


def milliseconds(seconds: float) -> str:
    """Seconds in milliseconds."""
    return f"{1e3 * seconds:.3g} ms"


def seconds(value: float) -> str:
    """Seconds without unit."""
    return f"{value:.0f}" if value >= 9.5 else f"{value:.1f}"


def duration(value: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if value >= 2 * size or (unit == "s" and value >= 0.1):
            return f"{value / size:.3g} {unit}"
    if value >= 1e-4:
        return f"{1e3 * value:.2g} ms"
    return f"{1e6 * value:.2g} µs" if value else "0"
