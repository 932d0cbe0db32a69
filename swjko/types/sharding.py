"""Arrays that are sharded over a mesh with explicit axes, as ``jax.make_mesh`` makes by default."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec


def on_auto_axes(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function whose sharding is left to the compiler; its results are replicated.

    Sorts, gathers and pairs of points have no unique sharding, which explicit axes ask for.

    Args:
      function: Function of pytrees of arrays.
      *arguments: Its arguments.
    """
    if AxisType.Explicit not in jax.sharding.get_abstract_mesh().axis_types:
        return function(*arguments)
    return jax.sharding.auto_axes(function, out_sharding=PartitionSpec())(*arguments)
