"""Axes of figures that pyplot does not manage, and the colours of the plots."""

import functools
import io
from typing import Any

# Of the cycle of the style in use; the colour of text shows on any ground.
INK, TARGET = "C0", "C1"
EXACT = "text.color"


def new_axes(
    columns: int, size: tuple[float, float], shared: bool | str = False, rows: int = 1
) -> Any:
    """Returns the axes of a new figure of the given size in inches, row after row."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib, which is not installed. Run: pip install 'swjko[cli]'"
        ) from error
    figure = _displayed(Figure)(figsize=size, dpi=130, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)
    return axes.ravel()


def style_color(name: str) -> Any:
    """Returns the colour of a setting of the style, such as "text.color"."""
    import matplotlib

    return matplotlib.rcParams[name]


@functools.cache
def _displayed(figure: type) -> type:
    """The class of figures that notebooks show without any magic command."""

    def as_png(self: Any) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()

    return type("Figure", (figure,), {"_repr_png_": as_png, "__module__": figure.__module__})
