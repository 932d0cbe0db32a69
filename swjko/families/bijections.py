"""Bijections of distrax, flowjax and NumPyro, each as a map of one point with its log-determinant.

A bijection is an object with one of these pairs of methods:

- ``forward_and_log_det``, ``inverse_and_log_det``: distrax;
- ``transform_and_log_det``, ``inverse_and_log_det``: flowjax;
- a call and ``inv``, with ``log_abs_det_jacobian``: NumPyro's transforms.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko.types import Scalar, partitioned

_NAMES = ("forward_and_log_det", "transform_and_log_det", "log_abs_det_jacobian")


def is_bijection(value: object) -> bool:
    """Returns whether a value has the methods of a bijection."""
    return not isinstance(value, type) and any(hasattr(value, name) for name in _NAMES)


def forward_and_log_det(
    bijection: Any, point: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Scalar]:
    """Returns the image of one point of any shape, and log |det d image / d point|.

    Args:
      bijection: A bijection. One of scalars is applied to each entry.
      point: Array of any shape, without axes of batches.
    """
    if hasattr(bijection, "forward_and_log_det"):
        image, log_det = bijection.forward_and_log_det(point)
    elif hasattr(bijection, "transform_and_log_det"):
        image, log_det = unwrapped(bijection).transform_and_log_det(point)
    else:
        image = bijection(point)
        log_det = bijection.log_abs_det_jacobian(point, image)
    return image, _sum_of_each(log_det, bijection, point)


def inverse_and_log_det(
    bijection: Any, point: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Scalar]:
    """Returns the preimage of one point of any shape, and log |det d preimage / d point|.

    Args:
      bijection: A bijection. One of scalars is applied to each entry.
      point: Array of any shape, without axes of batches.
    """
    if hasattr(bijection, "inverse_and_log_det"):
        preimage, log_det = unwrapped(bijection).inverse_and_log_det(point)
        return preimage, _sum_of_each(log_det, bijection, point)
    preimage = bijection.inv(point)
    log_det = bijection.log_abs_det_jacobian(preimage, point)
    return preimage, -_sum_of_each(log_det, bijection, preimage)


def of_rows(bijection: Any) -> tuple[Partial, Partial]:
    """Returns the map of rows [n d] and its inverse, each with log-determinants [n].

    Args:
      bijection: A bijection of one row [d]; its arrays are leaves of what is returned.
    """
    held = partitioned(bijection, "bijection")
    functions = (Partial(forward_and_log_det), Partial(inverse_and_log_det))
    forward, inverse = (Partial(_each_row, function, held) for function in functions)
    return forward, inverse


def unwrapped(model: Any) -> Any:
    """Returns a model with the constraints of its parameters applied, if it has such of paramax."""
    paramax = sys.modules.get("paramax")
    return model if paramax is None else paramax.unwrap(model)


def _each_row(function, held, rows):
    return jax.vmap(lambda row: function(held.whole, row))(rows)


def _sum_of_each(log_det, bijection, point):
    # A scalar bijection with a constant slope may return one number for all entries.
    if jnp.ndim(log_det) == 0 and getattr(bijection, "event_ndims_in", None) == 0:
        log_det = jnp.broadcast_to(log_det, point.shape)
    return jnp.sum(log_det)
