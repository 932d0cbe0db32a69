"""Axes of figures that pyplot does not manage, and the colours of the plots."""

import functools
import io
from typing import Any

# Of the cycle of the style in use.
INK, TARGET = "C0", "C1"


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


def text_color() -> Any:
    """Returns the style's colour of text, which shows on its ground."""
    import matplotlib

    return matplotlib.rcParams["text.color"]


@functools.cache
def _displayed(figure: type) -> type:
    """The class of figures that notebooks show without any magic command."""

    def as_png(self: Any) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()

    return type("Figure", (figure,), {"_repr_png_": as_png, "__module__": figure.__module__})
