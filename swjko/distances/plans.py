"""Maps, plans and potentials of optimal couplings on lines.

They come from the kernel of the distance: a displacement is a gradient in the points, and
potentials are gradients in the weights.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from swjko.distances.one_dimensional import merge_weights
from swjko.distances.sliced import sliced_wasserstein_scaled_pow, wasserstein_1d_pow
from swjko.distances.sorting import sort_rows_with_permutation
from swjko.types import Scalar, validation


class Potentials(NamedTuple):
    """Kantorovich potentials, with u_i + v_j <= |u_i - v_j|^p and <a, u> + <b, v> = W_p^p.

    Attributes:
      u: Potentials [n] at the points of u.
      v: Potentials [m] at the points of v.
    """

    u: Float[Array, " n"]
    v: Float[Array, " m"]


class Plan(NamedTuple):
    """A coupling as a list of n + m pieces, some of mass zero.

    Attributes:
      u_index: Index [n + m] of the point of u.
      v_index: Index [n + m] of the point of v.
      mass: Mass [n + m] that moves between the two.
    """

    u_index: Int[Array, " k"]
    v_index: Int[Array, " k"]
    mass: Float[Array, " k"]


def sliced_displacement(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    directions: Float[Array, "l d"],
    *,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
) -> Float[Array, "n d"]:
    """Returns the mean displacement [n d] of points towards another cloud over directions.

    It is the mean of (T_theta(<x, theta>) - <x, theta>) theta with T_theta the monotone map
    between the projections: the velocity of the sliced-Wasserstein flow towards y, and minus the
    Wasserstein gradient of SW_2^2 / 2. A point whose mass is split moves to the mean (barycentric
    projection). Points of zero weight do not move.

    Args:
      x: Points [n d] to move.
      y: Points [m d] to move to.
      directions: Unit vectors [l d].
      x_weights: Weights [n] that sum to one; None is uniform.
      y_weights: Weights [m] that sum to one; None is uniform.

    References:
      Liutkus, Simsekli, Majewski, Durmus, Stoter (2019), arXiv 1806.08141.
    """

    def power(x: Float[Array, "n d"]) -> tuple[Scalar, Scalar]:
        return sliced_wasserstein_scaled_pow(
            x, y, directions, x_weights=x_weights, y_weights=y_weights
        )

    x = validation.as_points(x, "x")
    x_weights = validation.as_weights(x_weights, x.shape[0], "x_weights")
    gradient, scale = jax.grad(power, has_aux=True)(x)
    # In this order no product leaves the range of the points.
    gradient = gradient * scale * scale
    if x_weights is None:
        return -0.5 * x.shape[0] * gradient
    mass = (x_weights / jnp.sum(x_weights))[:, None]
    return jnp.where(mass > 0, -0.5 * gradient / jnp.where(mass > 0, mass, 1.0), 0.0)


def wasserstein_1d_potentials(
    u: Float[Array, " n"],
    v: Float[Array, " m"],
    *,
    p: float = 2.0,
    u_weights: Float[Array, " n"] | None = None,
    v_weights: Float[Array, " m"] | None = None,
) -> Potentials:
    """Returns optimal dual potentials of W_p^p on the line, with <u_weights, u> = 0.

    They are the derivative of W_p^p in the weights, along changes that keep the total. If levels
    tie, they are one of its subgradients.

    Args:
      u: Points [n].
      v: Points [m].
      p: Order of the distance, at least 1.
      u_weights: Weights [n] that sum to one; None is uniform.
      v_weights: Weights [m] that sum to one; None is uniform.
    """
    u, v = validation.as_values(u, "u"), validation.as_values(v, "v")
    u_weights = _or_uniform(validation.as_weights(u_weights, u.shape[0], "u_weights"), u)
    v_weights = _or_uniform(validation.as_weights(v_weights, v.shape[0], "v_weights"), v)

    def cost(u_weights, v_weights):
        return wasserstein_1d_pow(u, v, p=p, u_weights=u_weights, v_weights=v_weights)

    value, potentials = jax.value_and_grad(cost, argnums=(0, 1))(u_weights, v_weights)
    return Potentials(potentials[0], potentials[1] + value)


def wasserstein_1d_plan(
    u: Float[Array, " n"],
    v: Float[Array, " m"],
    *,
    u_weights: Float[Array, " n"] | None = None,
    v_weights: Float[Array, " m"] | None = None,
) -> Plan:
    """Returns the monotone coupling of two measures on the line, optimal for every p >= 1.

    Args:
      u: Points [n].
      v: Points [m].
      u_weights: Weights [n] that sum to one; None is uniform.
      v_weights: Weights [m] that sum to one; None is uniform.

    Example:
      ``jnp.sum(plan.mass * jnp.abs(u[plan.u_index] - v[plan.v_index]) ** p)`` is W_p^p.
    """
    u, v = validation.as_values(u, "u"), validation.as_values(v, "v")
    u_weights = _or_uniform(validation.as_weights(u_weights, u.shape[0], "u_weights"), u)
    v_weights = _or_uniform(validation.as_weights(v_weights, v.shape[0], "v_weights"), v)
    _, u_order = sort_rows_with_permutation(u[None])
    _, v_order = sort_rows_with_permutation(v[None])
    u_weights, v_weights = u_weights / jnp.sum(u_weights), v_weights / jnp.sum(v_weights)
    i, j, mass, _ = merge_weights(u_weights[u_order], v_weights[v_order])
    return Plan(u_order[0, i[0]], v_order[0, j[0]], mass[0])


def _or_uniform(weights: Float[Array, " n"] | None, points: Float[Array, " n"]) -> Array:
    if weights is None:
        return jnp.full(points.shape, 1.0 / points.shape[0], points.dtype)
    return weights
