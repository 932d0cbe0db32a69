"""Figures of flows: clouds over their targets, movies, energy and proximity against time.

Each function returns a matplotlib Figure, draws into ``axis`` if given one, and never shows
anything; save a figure with ``figure.savefig``. matplotlib is imported on the first call, and its
global state (pyplot) is not used, so no display is needed. Notebooks show a figure that is the last
value of a cell. Colours are those of the style in use, such as ``matplotlib.style.use("ggplot")``.
"""

from swjko.plots.clouds import cloud, clouds, movie
from swjko.plots.corners import corner
from swjko.plots.curves import energy, progress, proximity

__all__ = ["cloud", "clouds", "corner", "energy", "movie", "progress", "proximity"]
