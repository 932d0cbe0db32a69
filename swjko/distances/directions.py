"""Directions on the unit sphere, on which clouds are projected.

SW_p^p is an average over the uniform law of the sphere S^{d-1}. Each function here draws unit
vectors with that marginal law, so the average over them is an unbiased estimate. They differ in how
the vectors depend on each other.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from swjko.types import DirectionFn, Key
from swjko.types.validation import as_count

_QUASI_MAX_DIM = 3


def uniform_directions(key: Key, num: int, dim: int) -> Float[Array, "l d"]:
    """Draws independent uniform directions [num dim].

    theta = g / |g| with g ~ N(0, I). The error of an average over them falls as 1 / sqrt(num).

    Args:
      key: Random key.
      num: Number of directions.
      dim: Dimension of the points.
    """
    num, dim = as_count(num, "num"), as_count(dim, "dim")
    return _normalised(jax.random.normal(key, (num, dim)))


def orthogonal_directions(key: Key, num: int, dim: int) -> Float[Array, "l d"]:
    """Draws directions [num dim] in independent orthonormal blocks of ``dim``.

    Blocks are Haar distributed. If num is a multiple of dim, the second moment
    sum_l theta_l theta_l^T / num is exactly I / dim, so translations are measured without error.

    Args:
      key: Random key.
      num: Number of directions.
      dim: Dimension of the points.

    References:
      Rowland, Hron, Tang, Choromanski, Sarlos, Weller, "Orthogonal estimation of Wasserstein
      distances" (2019), arXiv 1903.03784.
    """
    num, dim = as_count(num, "num"), as_count(dim, "dim")
    gaussian = jax.random.normal(key, (math.ceil(num / dim), dim, dim))
    return _normalised(_orthonormal(gaussian).swapaxes(-1, -2).reshape(-1, dim)[:num])


def refined_directions(
    key: Key,
    basis: Float[Array, "d d"],
    points: Float[Array, "n d"],
    num: int,
    turn: float | Float[Array, ""],
) -> Float[Array, "d d"]:
    """Returns an orthonormal basis turned towards projections of points that are not normal.

    In an iteration, which is one of FastICA, each row q becomes E[tanh(<q, x>) x] -
    E[1 - tanh(<q, x>)^2] q, and a QR makes the rows orthonormal again.

    Args:
      key: Random key.
      basis: Orthonormal rows to start from.
      points: Points [n d].
      num: Number of iterations.
      turn: Size of a random turn in standard errors of the means.
    """
    n = points.shape[0]
    noise = jax.random.normal(key, basis.shape, basis.dtype) * turn / n**0.5

    def iteration(basis: Array, _: None) -> tuple[Array, None]:
        scores = jnp.tanh(points @ basis.T)
        slopes = jnp.mean(1 - scores**2, axis=0)
        rows = scores.T @ points / n - slopes[:, None] * basis + noise
        return _orthonormal(rows.T[None])[0].T, None

    return lax.scan(iteration, basis, None, length=num)[0]


def _orthonormal(matrices: Float[Array, "b d d"]) -> Float[Array, "b d d"]:
    """Returns factors Q of QRs with a diagonal of R that is not negative."""
    q, r = lax.platform_dependent(matrices, cpu=_factored_in_turn, default=_factored_at_once)
    # The routine fixes the sign of R's diagonal, so Q alone is not Haar. Moving the sign into Q
    # makes it so (Mezzadri 2007).
    signs = jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
    return q * signs[:, None, :]


def _factored_at_once(matrices: Float[Array, "b d d"]) -> tuple[Array, Array]:
    q, r = jnp.linalg.qr(matrices)
    return q, r


def _factored_in_turn(matrices: Float[Array, "b d d"]) -> tuple[Array, Array]:
    # On a CPU a batch of QRs waits, in a worker thread, for parts that it hands to other workers.
    # If as many batches run as there are workers, as in an objective of two distances on two
    # cores, all wait forever (jaxlib 0.10.2). A single matrix waits for nothing.
    return lax.map(_factored_alone, matrices)


@jax.custom_batching.sequential_vmap
def _factored_alone(matrix):
    q, r = jnp.linalg.qr(matrix)
    return q, r


def _normalised(vectors: Float[Array, "l d"]) -> Float[Array, "l d"]:
    if vectors.shape[-1] == 1:
        return jnp.where(vectors < 0, -1.0, 1.0).astype(vectors.dtype)
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)


def quasi_directions(key: Key, num: int, dim: int) -> Float[Array, "l d"]:
    """Draws randomised quasi-Monte-Carlo directions [num dim], spread more evenly than others.

    - d = 2: equal angles on the half circle (a direction and its opposite project alike) with a
      random phase.
    - d = 3: a Fibonacci spiral on the half sphere under a random rotation.
    - d > 3: Sobol points with a random digital shift, through the normal quantile, normalised.

    Each direction has the uniform marginal law. For smooth integrands the error falls almost as
    1 / num in low dimension; above about ten, ``orthogonal_directions`` is as good.

    Args:
      key: Random key.
      num: Number of directions.
      dim: Dimension of the points, at most 21201.

    References:
      Nguyen, Bariletto, Ho, "Quasi-Monte Carlo for 3D sliced Wasserstein" (2024),
      arXiv 2309.11713; Sobol points of scipy.stats.qmc.
    """
    num, dim = as_count(num, "num"), as_count(dim, "dim")
    if dim == 1:
        return jnp.ones((num, 1))
    if dim == 2:
        angles = jnp.pi * (jnp.arange(num) / num + jax.random.uniform(key))
        return jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    if dim == 3:
        rotation = orthogonal_directions(key, 3, 3)
        return _normalised(_half_spiral(num) @ rotation)
    return _normalised(jax.scipy.special.ndtri(_shifted_sobol(key, num, dim)))


def recommended_directions(key: Key, num: int, dim: int) -> Float[Array, "l d"]:
    """Draws the directions [num dim] with the smallest error for their number.

    They are ``quasi_directions`` for dim <= 3 and ``orthogonal_directions`` above, by measurement
    over numbers from 16 to 2048 (table "directions" of the benchmarks).

    Args:
      key: Random key.
      num: Number of directions.
      dim: Dimension of the points.

    References:
      Petrovic, Bardenet, Desolneux (2025), arXiv 2509.10166, recommend the same.
    """
    quasi = as_count(dim, "dim") <= _QUASI_MAX_DIM
    return (quasi_directions if quasi else orthogonal_directions)(key, num, dim)


def sharded_directions(direction_fn: DirectionFn, mesh: Mesh, axis: str) -> DirectionFn:
    """Returns a ``direction_fn`` whose directions are sharded over an axis of a mesh.

    Each device projects and sorts its share, and the results are summed. Points are replicated.
    The draws are the same, summed in another order. If ``num`` is not a multiple of the axis size,
    XLA pads it. On a CPU the devices are cores: set
    ``XLA_FLAGS=--xla_force_host_platform_device_count=2`` before jax starts.

    Args:
      direction_fn: ``(key, num, dim) -> [num dim]`` unit rows.
      mesh: Mesh of devices.
      axis: Name of the axis that shares the directions.

    Example::

        auto = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((2,), ("projection",), auto)
        direction_fn = sharded_directions(uniform_directions, mesh, "projection")
    """
    if axis not in mesh.axis_names:
        raise ValueError(f"axis must be one of the mesh's axes {mesh.axis_names}; got {axis!r}.")
    if dict(zip(mesh.axis_names, mesh.axis_types, strict=True))[axis] is not AxisType.Auto:
        raise ValueError(
            f"axis must be an Auto axis of the mesh; got {axis!r}, which is not. Pass "
            "axis_types=(jax.sharding.AxisType.Auto,) to jax.make_mesh."
        )
    return functools.partial(_sharded, direction_fn, NamedSharding(mesh, PartitionSpec(axis)))


def _sharded(
    direction_fn: DirectionFn, sharding: NamedSharding, key: Key, num: int, dim: int
) -> Float[Array, "l d"]:
    return jax.lax.with_sharding_constraint(direction_fn(key, num, dim), sharding)


def _half_spiral(num: int) -> Float[Array, "l 3"]:
    """Returns a point in each equal-area band of the half sphere, turned by the golden angle."""
    index = jnp.arange(num, dtype=float) + 0.5
    height = index / num
    angle = index * (math.pi * (3.0 - math.sqrt(5.0)))
    radius = jnp.sqrt(1.0 - height**2)
    return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle), height], axis=1)


def _shifted_sobol(key: Key, num: int, dim: int) -> Float[Array, "l d"]:
    """Draws Sobol points in (0, 1)^dim with a random digital shift.

    Point i is the exclusive or of a random word and of the direction numbers at the binary digits
    of i. Only these numbers, [digits dim] integers, enter the program as constants.
    """
    numbers = _sobol_numbers(math.ceil(math.log2(num)) if num > 1 else 1, dim)
    index = jnp.arange(num, dtype=jnp.uint32)
    words = jax.random.bits(key, (1, dim), jnp.uint32)
    for digit, row in enumerate(numbers):
        has_digit = ((index >> digit) & 1)[:, None] == 1
        words = words ^ jnp.where(has_digit, jnp.asarray(row)[None, :], jnp.uint32(0))
    # With 23 bits and a half, as float32 holds, the largest is below 1 and its quantile finite.
    return ((words >> 9).astype(float) + 0.5) / 2.0**23


@functools.cache
def _sobol_numbers(digits: int, dim: int) -> np.ndarray:
    """Returns direction numbers, uint32 [digits dim], from SciPy's unscrambled sequence.

    SciPy orders its first 2^digits points by the Gray code of the index.
    """
    from scipy.stats import qmc

    if dim > qmc.Sobol.MAXDIM:
        raise ValueError(
            f"dim must be at most {qmc.Sobol.MAXDIM} for Sobol points; got {dim}. "
            "Use orthogonal_directions."
        )
    points = qmc.Sobol(dim, scramble=False, bits=32).random_base2(digits)
    words = (points * 2.0**32).astype(np.uint64).astype(np.uint32)
    gray = {index ^ (index >> 1): index for index in range(2**digits)}
    return np.stack([words[gray[1 << digit]] for digit in range(digits)])
