"""Short texts of families, functionals and schemes, which would print all their arrays."""

import dataclasses
import html
from collections.abc import Mapping
from typing import Any

import jax
from jax.core import Tracer

from swjko.types.pickling import Picklable

# Characters of a value in a table.
_LONGEST = 160


class Readable(Picklable):
    """Gives subclasses a ``repr`` of a few lines, a table in notebooks, and pickling.

    Arrays are shown by their shapes, and functions by name.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Set here, before ``dataclass`` would set its own.
        setattr(cls, "__repr__", _short_repr)  # noqa: B010

    def _repr_html_(self) -> str:
        shown = (field.name for field in dataclasses.fields(self) if field.repr)  # pyright: ignore[reportArgumentType]
        return html_table(type(self).__name__, {name: getattr(self, name) for name in shown})


def html_table(title: str, rows: Mapping[str, Any]) -> str:
    """Returns a small HTML table of names and values, for notebooks.

    Args:
      title: Caption of the table.
      rows: Values by name. Texts stand as they are; others are shown by their short ``repr``.
    """
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(_one_line(value))}</td></tr>"
        for name, value in rows.items()
    )
    caption = f"<caption style='text-align:left'><b>{html.escape(title)}</b></caption>"
    return f"<table>{caption}<tbody>{cells}</tbody></table>"


def _one_line(value: Any) -> str:
    if isinstance(value, jax.Array) and not (value.shape or isinstance(value, Tracer)):
        value = str(value)  # one number
    text = " ".join((value if isinstance(value, str) else _short_repr(value)).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _short_repr(thing: object) -> str:
    import wadler_lindig

    def custom(part: Any) -> Any:
        if isinstance(part, jax.tree_util.Partial):
            shown = (part.func, *part.args, *part.keywords.values())
            return wadler_lindig.pdoc(shown[0] if len(shown) == 1 else shown, **options)
        if callable(part) and hasattr(part, "__qualname__"):
            return wadler_lindig.TextDoc(part.__qualname__)
        kind = type(part)
        is_foreign = not kind.__module__.startswith(("swjko.", "builtins", "jax", "numpy"))
        return wadler_lindig.TextDoc(kind.__name__) if is_foreign else None

    options: dict[str, Any] = {"custom": custom, "short_arrays": True}
    return wadler_lindig.pformat(thing, width=100, **options)
