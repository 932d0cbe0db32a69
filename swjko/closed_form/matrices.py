"""Checks of the covariance matrices that closed forms take."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from swjko.types import validation


def as_square(matrix: object, dim: int, name: str, *, definite: bool = False) -> Array:
    """Returns a float array [dim dim], symmetric and positive (semi)definite if concrete."""
    array = validation.as_float_array(matrix, name)
    requirement = f"have shape ({dim}, {dim}), the dimension of the mean"
    validation.require(array.shape == (dim, dim), name, requirement, f"shape {array.shape}")
    validation.require_finite(array, name)
    if validation.is_concrete(array):
        host = np.asarray(array, np.float64)
        tolerance = 100 * float(jnp.finfo(array.dtype).eps) * np.abs(host).max()
        asymmetry = np.abs(host - host.T).max()
        got, cure = f"an asymmetry of {asymmetry:.3g}", f"Pass ({name} + {name}.T) / 2."
        validation.require(asymmetry <= tolerance, name, "be symmetric", got, cure)
        smallest = np.linalg.eigvalsh(host).min()
        valid = smallest >= -tolerance and (smallest > 0 or not definite)
        requirement = f"be positive {'definite' if definite else 'semidefinite'}"
        validation.require(valid, name, requirement, f"a smallest eigenvalue of {smallest:.3g}")
    return array
