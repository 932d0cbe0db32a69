"""Directions on the unit sphere, on which clouds are projected.

SW_p^p is an average over the uniform law of the sphere S^{d-1}; each function here draws unit vectors whose marginal law is that one, so
the average over them is an unbiased estimate. They differ in how the vectors depend on each other.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from swjko.types import Key
from swjko.validation import as_count


def uniform_directions(key: Key, num: int, dim: int) -> Float[Array, "l d"]:
    """Independent uniform directions, theta = g / |g| with g ~ N(0, I_dim).

    Returns [num dim], unit rows. The error of an average over them falls as 1 / sqrt(num).
    Raises ValueError when num or dim is below 1.
    """
    num, dim = as_count(num, "num"), as_count(dim, "dim")
    return _normalised(jax.random.normal(key, (num, dim)))


def orthogonal_directions(key: Key, num: int, dim: int) -> Float[Array, "l d"]:
    """Directions in blocks of ``dim`` that are orthonormal within a block; blocks are independent and Haar distributed.

    Returns [num dim], unit rows; when num is a multiple of dim, the second moment sum_l theta_l theta_l^T / num is exactly I / dim, so
    translations are measured without error. Source: Rowland, Hron, Tang, Choromanski, Sarlos, Weller, "Orthogonal estimation of
    Wasserstein distances" (2019), arXiv 1903.03784. Raises ValueError when num or dim is below 1.
    """
    num, dim = as_count(num, "num"), as_count(dim, "dim")
    gaussian = jax.random.normal(key, (math.ceil(num / dim), dim, dim))
    q, r = jnp.linalg.qr(gaussian)
    # QR alone is not Haar: the sign of R's diagonal is fixed by the routine, so it is moved into Q (Mezzadri 2007).
    signs = jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
    return _normalised((q * signs[:, None, :]).swapaxes(-1, -2).reshape(-1, dim)[:num])


def _normalised(vectors: Float[Array, "l d"]) -> Float[Array, "l d"]:
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
