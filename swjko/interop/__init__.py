"""Targets and draws of other libraries: NumPyro, blackjax, bijectors of distrax, ArviZ.

``import swjko.interop`` imports none of them. ``pip install "swjko[interop]"`` installs them.
"""

from swjko.interop.arviz_trees import to_arviz
from swjko.interop.bounded import Bounded, bounded
from swjko.interop.laplace import laplace
from swjko.interop.numpyro_models import from_numpyro
from swjko.interop.raveled import Raveled, raveled

__all__ = ["Bounded", "Raveled", "bounded", "from_numpyro", "laplace", "raveled", "to_arviz"]
