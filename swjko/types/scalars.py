"""A function of one point at each point of a cloud, and errors that say what it must return."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from swjko.types import validation


def scalars(
    function: Callable[..., Any], points: Float[Array, "n ..."], name: str
) -> Float[Array, " n"]:
    """Returns a function of one point at each point, or raises an error if it is not scalar.

    Args:
      function: ``point -> scalar``.
      points: Points.
      name: Name of the argument that the function is, for messages.
    """
    point = f"point of shape {points.shape[1:]}"
    try:
        values = jax.vmap(function)(points)
    except (TypeError, AttributeError) as error:
        if not _reads_names(error):
            raise
        raise TypeError(
            f"`{name}` must map one {point} to a scalar; got one that reads its argument by names "
            f"({error}). Flatten it: swjko.raveled({name}, position).log_prob takes a point for a "
            "position that is a dictionary or another pytree."
        ) from error
    return validation.require_scalars(values, points.shape[0], name, point)


def _reads_names(error: TypeError | AttributeError) -> bool:
    """Returns whether an array was used as a dictionary or as a record."""
    if isinstance(error, AttributeError):
        return isinstance(error.obj, jax.Array)
    return "string indexing" in str(error)
