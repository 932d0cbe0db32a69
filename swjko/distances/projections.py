"""Slices other than straight lines: projections, and directions and weights with structure.

A projection ``(points [n d], directions [l ...]) -> positions [l n]`` is an argument of
``sliced_wasserstein_pow``; any function will do, a network as well. A slice of an image by
convolutions is linear, so it is a direction, and serves wherever a ``DirectionFn`` does.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from swjko.distances.directions import uniform_directions
from swjko.distances.rows import linear_projection
from swjko.distances.sliced import slice_costs
from swjko.types import DirectionFn, Key, Projection, validation


def polynomial_projection(dim: int, degree: int) -> Projection:
    """Makes the projection on level sets of homogeneous polynomials.

    A direction theta [q] holds one coefficient for each monomial x^a with |a| = degree, and the
    position of x is sum_a theta_a x^a. There are q = C(dim + degree - 1, degree) monomials. For an
    odd degree the sliced distance is a metric.

    Args:
      dim: Dimension of the points.
      degree: Degree of the polynomials; 1 gives scalar products.

    Example::

        projection = polynomial_projection(2, 3)
        directions = uniform_directions(key, 100, 4)  # x^3, x^2 y, x y^2, y^3
        sliced_wasserstein_pow(x, y, directions, projection=projection)

    References:
      Kolouri, Nadjahi, Simsekli, Badeau, Rohde, "Generalized sliced Wasserstein distances" (2019),
      arXiv 1902.00434, section 3.
    """
    dim, degree = validation.as_count(dim, "dim"), validation.as_count(degree, "degree")
    factors = list(itertools.combinations_with_replacement(range(dim), degree))
    return Partial(_polynomial, jnp.asarray(factors, jnp.int32))


def _polynomial(
    factors: Int[Array, "q k"], points: Float[Array, "n d"], directions: Float[Array, "l q"]
) -> Float[Array, "l n"]:
    if directions.shape[1] != factors.shape[0]:
        raise ValueError(
            f"directions must have one column for each of {factors.shape[0]} monomials; "
            f"got shape {directions.shape}. "
            f"Use swjko.uniform_directions(key, num, {factors.shape[0]})."
        )
    return linear_projection(jnp.prod(points[:, factors], axis=-1), directions)


def stereographic_projection(
    points: Float[Array, "n d"], directions: Float[Array, "l e"]
) -> Float[Array, "l n"]:
    """Returns positions [l n] of points on a sphere, through their map on a hyperplane.

    A point at the angle a from the south pole (0, ..., 0, -1) goes to a times the unit vector of
    its first d - 1 coordinates. This is the stereographic projection with its radius replaced by
    the angle, so that distances to the south pole are those on the sphere. The north pole has no
    image; it is taken at the origin. Pass the function as ``projection``.

    Args:
      points: Unit vectors [n d].
      directions: Unit rows [l d - 1].

    Example:
      ``sliced_wasserstein_pow(x, y, uniform_directions(key, 100, 2),
      projection=stereographic_projection)`` for points on the sphere in three dimensions. A mean
      over random rotations of both clouds does not depend on the pole.

    References:
      Tran, Bai, Kothapalli, Shahbazi, Liu, Diaz Martin, Kolouri, "Stereographic spherical sliced
      Wasserstein distances" (2024), arXiv 2402.02345.
    """
    points = validation.as_unit_points(points, "points")
    if directions.shape[1] != points.shape[1] - 1:
        raise ValueError(
            f"directions must have shape [l, {points.shape[1] - 1}] for points in "
            f"{points.shape[1]}D; got shape {directions.shape}. Leave the last coordinate out."
        )
    flat, height = points[:, :-1], points[:, -1:]
    square = jnp.sum(flat**2, axis=1, keepdims=True)
    pole = square == 0
    radius = jnp.sqrt(jnp.where(pole, 1.0, square))
    # At the south pole the angle over the radius is one, at the north pole infinite.
    stretch = jnp.where(pole, 1.0, jnp.arctan2(radius, -height) / radius)
    return linear_projection(stretch * flat, directions)


def convolutional_directions(height: int, width: int, channels: int = 1) -> DirectionFn:
    """Makes a ``direction_fn`` for images that convolves them down to one number.

    Each slice has its own random kernels: 2 x 2 with stride 2 while both sides are even, the first
    over all channels, and a last one of the size that is left. Kernels are uniform on their unit
    spheres. The result is linear in the image, and its direction is the Kronecker product of the
    kernels, a unit vector. So it needs no projection and serves in every function and scheme that
    takes a ``direction_fn``. As for uniform directions, the mean of theta theta^T is I / d.

    Args:
      height: Height of the images.
      width: Width of the images.
      channels: Channels of the images. A point is an image [height width channels] in one row.

    Example::

        direction_fn = convolutional_directions(28, 28)
        functional = sw_to_target(images.reshape(-1, 784), 256, direction_fn=direction_fn)

    References:
      Nguyen, Ho, "Revisiting sliced Wasserstein on images: from vectorization to convolution"
      (2022), arXiv 2204.01188: the slicer with stride, without activations.
    """
    height = validation.as_count(height, "height")
    width = validation.as_count(width, "width")
    channels = validation.as_count(channels, "channels")
    return functools.partial(_convolutional, (height, width, channels))


def _convolutional(
    shape: tuple[int, int, int], key: Key, num: int, dim: int
) -> Float[Array, "l d"]:
    height, width, channels = shape
    if dim != math.prod(shape):
        raise ValueError(
            f"points must be images of {height} x {width} x {channels} = {math.prod(shape)} "
            f"numbers for these convolutional_directions; got dimension {dim}. Pass their shape."
        )
    halvings = 0
    while height % 2 == 0 and width % 2 == 0:
        height, width, halvings = height // 2, width // 2, halvings + 1
    # From the last kernel to the first: each entry of the coarser ones becomes a block.
    sizes = [(height, width), *[(2, 2)] * halvings]
    sizes = [(*size, channels if index == halvings else 1) for index, size in enumerate(sizes)]
    direction = jnp.ones((num, 1, 1, 1))
    keys = jax.random.split(key, len(sizes))
    for kernel_key, size in zip(keys, sizes, strict=True):
        kernel = uniform_directions(kernel_key, num, math.prod(size)).reshape(num, *size)
        direction = jax.vmap(jnp.kron)(direction, kernel)
    return direction.reshape(num, dim)


def energy_based_weights(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    directions: Float[Array, "l ..."],
    *,
    p: float = 2.0,
    temperature: float = 1.0,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
    projection: Projection | None = None,
) -> Float[Array, " l"]:
    """Returns weights [l] of slices, larger where the projected clouds differ more.

    They are proportional to exp(W_p^p / temperature). With them as ``projection_weights`` and
    directions drawn uniformly, ``sliced_wasserstein_pow`` estimates the energy-based distance by
    importance sampling, between the sliced distance and the max-sliced one. Its gradient includes
    that of the weights; ``jax.lax.stop_gradient`` leaves that part out.

    Args:
      x: Points [n d].
      y: Points [m d].
      directions: Unit rows [l d], or what ``projection`` takes.
      p: Order of the distance, at least 1.
      temperature: Unit of W_p^p in the exponent, positive; the reference has 1.
      x_weights: Weights [n] with sum one; None is uniform.
      y_weights: Weights [m] with sum one; None is uniform.
      projection: Positions of the points on each slice; None is the scalar product.

    References:
      Nguyen, Ho, "Energy-based sliced Wasserstein distance" (2023), arXiv 2304.13586.
    """
    p = validation.as_power(p)
    unit = validation.as_positive(temperature, "temperature")
    costs, scale = slice_costs(x, y, directions, x_weights, y_weights, projection, p=p)
    return jax.nn.softmax(costs * scale**p / unit.astype(costs.dtype))
