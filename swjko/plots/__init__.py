"""Figures of flows: clouds over their targets, movies, energy and proximity against time.

Each function returns a matplotlib Figure, draws into ``axis`` if given one, and never shows
anything; save a figure with ``figure.savefig``. matplotlib is imported on the first call, and its
global state (pyplot) is not used, so no display is needed. Notebooks show a figure that is the last
value of a cell after ``%matplotlib inline``.
"""

from swjko.plots.clouds import cloud, clouds, movie
from swjko.plots.curves import energy, progress, proximity

__all__ = ["cloud", "clouds", "energy", "movie", "progress", "proximity"]
