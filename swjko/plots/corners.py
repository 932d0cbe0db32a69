"""All coordinates of a cloud, alone and in pairs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from swjko.plots.axes import new_axes
from swjko.plots.clouds import cloud

_MOST = 6
_INCHES = 1.7


def corner(
    points: Float[Any, "n d"],
    *,
    target: Float[Any, "m d"] | None = None,
    target_name: str = "target",
    coordinates: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> Any:
    """Draws a histogram of each coordinate, and a cloud of each pair below them.

    Args:
      points: Points [n d].
      target: Points [m d] of the target.
      target_name: Name of the target in the legend.
      coordinates: Which coordinates to draw; None draws the first six.
      names: Names of the drawn coordinates; None numbers them from 1.

    Returns:
      The figure.

    Example::

        draws = sample(scheme.family, solution.state.params, key, 2000)
        corner(draws.points, target=reference).savefig("corner.png")
    """
    points = np.asarray(points, float)
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(
            "points must have rank 2, [points, dimension], none of them 0; "
            f"got shape {points.shape}."
        )
    dim = points.shape[1]
    drawn = list(range(min(dim, _MOST))) if coordinates is None else list(coordinates)
    if not drawn or any(not 0 <= one < dim for one in drawn):
        raise ValueError(
            f"coordinates must be numbers from 0 to {dim - 1}, at least one; got {drawn}."
        )
    if names is not None and len(names) != len(drawn):
        raise ValueError(f"names must have one name for each of {len(drawn)}; got {len(names)}.")
    if target is not None and np.shape(target)[1:] != (dim,):
        raise ValueError(f"target must have shape [points, {dim}]; got {np.shape(target)}.")
    target = None if target is None else np.asarray(target, float)
    labels = [f"$x_{{{one + 1}}}$" for one in drawn] if names is None else list(names)
    count = len(drawn)
    side = _INCHES * count + 1.0
    grid = new_axes(count, (side, side), rows=count).reshape(count, count)
    for row, column in np.ndindex(count, count):
        if column > row:
            grid[row, column].set_axis_off()
            continue
        pair = [drawn[column]] if row == column else [drawn[column], drawn[row]]
        both = None if target is None else target[:, pair]
        title = (labels[column], labels[row])
        cloud(
            points[:, pair],
            target=both,
            names=title,
            target_name=target_name,
            axis=grid[row, column],
        )
        _label_the_edge(grid[row, column], row, column, count)
    if target is not None:
        grid[0, 0].legend(fontsize=6)
    return grid[0, 0].figure


def _label_the_edge(axis: Any, row: int, column: int, count: int) -> None:
    """Leaves labels at the left and lower edge only; heights of histograms mean nothing alone."""
    axis.tick_params(labelsize=7)
    if row < count - 1:
        axis.set_xlabel("")
    if row == column:
        axis.set(ylabel="", yticks=[])
    elif column > 0:
        axis.set_ylabel("")
