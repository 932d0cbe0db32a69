"""The types that all packages share, and the checks of their values."""

from swjko.types.clouds import (
    Cloud,
    DirectionFn,
    Estimate,
    Functional,
    Key,
    Params,
    Projection,
    Scalar,
)
from swjko.types.pytrees import Leaf, Partitioned, as_partial, partitioned, static_field

__all__ = [
    "Cloud",
    "DirectionFn",
    "Estimate",
    "Functional",
    "Key",
    "Leaf",
    "Params",
    "Partitioned",
    "Projection",
    "Scalar",
    "as_partial",
    "partitioned",
    "static_field",
]
