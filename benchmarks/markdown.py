"""Tables and numbers in Markdown, for the pages and the terminal.

Cells are templates of ``str.format`` over the fields of a row, such as ``{mean:.3f}``. A missing
field and None leave a cell empty. Beside the usual formats there are those of ``_FORMS``, and
``±.3f`` for " ± " and a number.
"""

import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Result = Mapping[str, Any]
Region = tuple[tuple[str, ...], Callable[..., list[str]]]
_SHOWN_PACKAGES = ("jax", "torch", "POT", "ott-jax", "blackjax")


def region(
    result: str, rows: Callable[..., Any], head: str, cells: str, note: bool = True
) -> Region:
    """The result that a table of a page needs, and the function that writes the table.

    Args:
      result: Name of the JSON.
      rows: Content of the JSON to the rows.
      head: Headings of the columns, separated by ``|``.
      cells: Template of a row.
      note: Whether a line says where and when the result was measured.
    """

    def write(found: Result) -> list[str]:
        return table(head, cells, rows(found)) + (provenance(found) if note else [])

    return (result,), write


def table(head: str, cells: str, rows: Iterable[Result]) -> list[str]:
    """A table with one line for each row."""
    rule = " | ".join("---" for _ in head.split(" | "))
    return [f"| {line} |" for line in (head, rule, *(fill(cells, row) for row in rows))]


def across(corner: str, head: str, lines: dict[str, str], rows: Iterable[Result]) -> list[str]:
    """A table with one column for each row, and lines of a label and a template."""
    rows = list(rows)
    templates = {corner: head, "---": "---"} | lines
    return [
        f"| {' | '.join([label, *(fill(template, row) for row in rows)])} |"
        for label, template in templates.items()
    ]


def fill(template: str, row: Result) -> str:
    """A template with the fields of a row."""
    return _Cells().vformat(template, (), row)


class _Cells(string.Formatter):
    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        try:
            return super().get_field(field_name, args, kwargs)
        except KeyError:
            return None, field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return ""
        if format_spec in _FORMS:
            return _FORMS[format_spec](value)
        if format_spec.startswith("±"):
            return f" ± {value:{format_spec[1:]}}".replace("-", "\N{MINUS SIGN}")
        text = format(value, format_spec).replace("|", "\\|")
        return f"\N{MINUS SIGN}{text[1:]}" if text.startswith("-") else text


def _duration(value: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if value >= 2 * size or (unit == "s" and value >= 0.1):
            return f"{value / size:.3g} {unit}"
    if value >= 1e-4:
        return f"{1e3 * value:.2g} ms"
    return f"{1e6 * value:.2g} µs" if value else "0"


_FORMS: dict[str, Callable[[Any], str]] = {
    "count": lambda values: str(len(values)),
    "duration": _duration,
    "ms": lambda value: f"{1e3 * value:.3g} ms",
    "power": lambda value: f"{value:.0e}" if value else "0",
    "ratio": lambda value: f"{value:.{1 if value >= 0.95 else 2}f}\N{MULTIPLICATION SIGN}",
    "seconds": lambda value: f"{value:.0f}" if value >= 9.5 else f"{value:.1f}",
}


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
