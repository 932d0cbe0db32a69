"""Wasserstein distances on the circle, and their mean over the great circles of a sphere.

Positions and lengths are in turns: the circle has length one, and opposite points have distance
1/2. In radians W_p^p is (2 pi)^p times what these functions return.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from swjko.distances.blocks import automatic_block_size
from swjko.distances.centering import without_wild_padding
from swjko.distances.directions import uniform_directions
from swjko.distances.preparation import normalised_weights
from swjko.distances.rows import sliced_costs
from swjko.distances.sorting import sort_rows_with_permutation
from swjko.types import Key, Scalar, validation


def wasserstein_circle_pow(
    u: Float[Array, " n"],
    v: Float[Array, " m"] | None = None,
    *,
    p: float = 2.0,
    u_weights: Float[Array, " n"] | None = None,
    v_weights: Float[Array, " m"] | None = None,
) -> Scalar:
    """Returns W_p^p between two empirical measures on a circle of length one (no root).

    It is exact for the distance min(|u - v|, 1 - |u - v|), and differentiable in u, v and the
    weights. The optimal cut of the circle is found by bisection over the shift of the levels.

    Args:
      u: Positions [n] in turns; whole turns do not matter.
      v: Positions [m] in turns. None is the uniform law of the circle, which needs p = 2.
      p: Order of the distance, at least 1.
      u_weights: Weights [n], nonnegative, with sum one; None is uniform.
      v_weights: Weights [m], nonnegative, with sum one; None is uniform.

    Example:
      ``wasserstein_circle_pow(jnp.array([0.1]), jnp.array([0.9]))`` is 0.04.

    References:
      Delon, Salomon, Sobolevski (2010), arXiv 0902.3527. Uniform law: Bonet et al. (2022), arXiv
      2206.08780, proposition 1.
    """
    u = validation.as_values(u, "u")[:, None]
    v = None if v is None else validation.as_values(v, "v")[:, None]
    names = ("u", "v", "u_weights", "v_weights")
    circle = jnp.zeros((1, 1), u.dtype)
    return _mean_cost(_turns, names, u, v, circle, p, u_weights, v_weights, None)


def uniform_planes(key: Key, num: int, dim: int) -> Float[Array, "l 2 d"]:
    """Draws orthonormal pairs [num 2 dim] that span uniform independent planes.

    A plane through the origin meets the sphere in a great circle.

    Args:
      key: Random key.
      num: Number of planes.
      dim: Dimension of the points, at least 2.
    """
    dim = validation.as_count(dim, "dim", 2)
    pairs = uniform_directions(key, 2 * validation.as_count(num, "num"), dim)
    first, second = pairs[:num], pairs[num:]
    # The second pass removes what rounding leaves if the two are nearly parallel.
    for _ in range(2):
        second = second - jnp.sum(first * second, axis=1, keepdims=True) * first
        second = second / jnp.linalg.norm(second, axis=1, keepdims=True)
    return jnp.stack([first, second], axis=1)


def spherical_sliced_wasserstein_pow(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"] | None,
    planes: Float[Array, "l 2 d"],
    *,
    p: float = 2.0,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
    block_size: int | None = None,
) -> Scalar:
    """Returns the spherical sliced distance SSW_p^p of two clouds on a sphere (no root).

    It is the mean over ``planes`` of W_p^p on the circle in turns, between the points projected on
    the great circle of each plane. The gradient in a point is tangent to the sphere there. A
    particle flow is therefore a step against it and a division by the norm.

    Args:
      x: Unit vectors [n d], d >= 2.
      y: Unit vectors [m d]. None is the uniform law of the sphere, which needs p = 2.
      planes: Orthonormal pairs [l 2 d], see ``swjko.uniform_planes``.
      p: Order of the distance, at least 1.
      x_weights: Weights [n], nonnegative, with sum one; None is uniform.
      y_weights: Weights [m], likewise.
      block_size: Planes processed at once; None keeps the temporaries within a budget.

    References:
      Bonet, Berg, Courty, Septier, Drumetz, Pham, "Spherical sliced-Wasserstein" (2022), arXiv
      2206.08780.
    """
    x = validation.as_unit_points(x, "x")
    if y is not None:
        y = validation.as_unit_points(y, "y")
        validation.require_same_dim(x, y, "x", "y")
    planes = _as_planes(planes, x.shape[1])
    names = ("x", "y", "x_weights", "y_weights")
    return _mean_cost(_on_great_circles, names, x, y, planes, p, x_weights, y_weights, block_size)


def _mean_cost(
    project, names, x, y, slices, p, x_weights, y_weights, block_size: int | None
) -> Scalar:
    """Returns the mean over slices of W_p^p on the circle; y = None is the uniform law."""
    p = validation.as_power(p)
    x_weights = validation.as_weights(x_weights, x.shape[0], names[2])
    if y is None:
        if p != 2.0 or y_weights is not None:
            raise ValueError(
                f"{names[1]} must be given unless p = 2 without {names[3]}; got None and p = {p}. "
                "Pass a sample of the uniform law."
            )
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        weights = normalised_weights(x_weights, x.shape[0], x.dtype)
        x = without_wild_padding(x, x_weights)
        return jnp.mean(_cost_to_uniform(project(x, slices.astype(x.dtype)), weights))
    y_weights = validation.as_weights(y_weights, y.shape[0], names[3])
    dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    x, y, slices = (array.astype(dtype) for array in (x, y, slices))
    x, y = without_wild_padding(x, x_weights), without_wild_padding(y, y_weights)
    weighted = x_weights is not None or y_weights is not None
    if weighted:
        x_weights = normalised_weights(x_weights, x.shape[0], dtype)
        y_weights = normalised_weights(y_weights, y.shape[0], dtype)
    total = slices.shape[0]
    if block_size is None:
        block_size = automatic_block_size(x.shape[0], y.shape[0], total, weighted)
    block_size = min(validation.as_count(block_size, "block_size"), total)
    costs = sliced_costs(
        *(project, x, y, slices, x_weights, y_weights), p=p, block_size=block_size, on_circle=True
    )
    return jnp.mean(costs.value)


def _turns(points: Float[Array, "n 1"], circle: Float[Array, "1 1"]) -> Float[Array, "1 n"]:
    """Returns positions modulo one."""
    del circle
    return (points - jnp.floor(points)).T


def _on_great_circles(
    points: Float[Array, "n d"], planes: Float[Array, "l 2 d"]
) -> Float[Array, "l n"]:
    """Returns the angle in turns of the nearest point of each great circle."""
    first, second = (
        jnp.matmul(planes[:, index], points.T, precision="highest") for index in range(2)
    )
    # All points of the circle are as near to a pole; one is taken, with derivative zero.
    pole = (first == 0) & (second == 0)
    angle = jnp.arctan2(second, jnp.where(pole, 1.0, first)) / (2 * math.pi)
    return jnp.where(angle < 0, angle + 1.0, angle)


def _cost_to_uniform(u: Float[Array, "l n"], weights: Float[Array, " n"]) -> Float[Array, " l"]:
    """Returns W_2^2 between rows on the circle and its uniform law.

    An atom of weight a is spread over an arc of length a. If the shift c aligns the means, the cost
    is sum_i a_i [(x_i - t_i - c)^2 + a_i^2 / 12], with t_i the middle of the levels of atom i.
    """
    u, order = sort_rows_with_permutation(u)
    mass = weights[order]
    middle = jnp.cumsum(mass, axis=-1) - mass / 2
    distance = u - middle
    distance = distance - jnp.sum(mass * distance, axis=-1, keepdims=True)
    return jnp.sum(mass * (distance**2 + mass**2 / 12), axis=-1)


def _as_planes(planes: object, dim: int) -> Array:
    """Returns planes as a float array [l 2 dim], of orthonormal pairs if concrete."""
    array = validation.as_float_array(planes, "planes")
    cure = "Draw them with swjko.uniform_planes."
    if array.ndim != 3 or array.shape[1:] != (2, dim) or array.shape[0] == 0:
        raise ValueError(f"planes must have shape [l, 2, {dim}]; got shape {array.shape}. {cure}")
    if validation.is_concrete(array):
        host = np.asarray(array, np.float64)
        error = np.abs(host @ host.swapaxes(1, 2) - np.eye(2)).max()
        if not error < 1e-5:
            raise ValueError(
                f"planes must be orthonormal pairs; got products that miss those by {error:.3g}. "
                f"{cure}"
            )
    return array
