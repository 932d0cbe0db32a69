"""Axes of figures that pyplot does not manage, and the colours of the plots."""

from typing import Any

INK, TARGET, EXACT = "#1f5fa8", "#c2571a", "#444444"


def new_axes(columns: int, size: tuple[float, float], shared: bool = False) -> Any:
    """Returns axes in a row of a new figure of the given size in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib, which is not installed. Run: pip install 'swjko[cli]'"
        ) from error
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    return figure.subplots(1, columns, squeeze=False, sharex=shared, sharey=shared)[0]
