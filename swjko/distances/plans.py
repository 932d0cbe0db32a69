"""Maps, plans and potentials: what the optimal couplings on lines say beyond their cost.

Built on the same kernel as the distance: a displacement is a gradient in the points, potentials are gradients in the weights.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from swjko import validation
from swjko.distances import one_dimensional as line
from swjko.distances.sliced import sliced_wasserstein_pow, wasserstein_1d_pow
from swjko.distances.sorting import sort_rows_with_permutation


class Potentials(NamedTuple):
    """Kantorovich potentials at the points: u: [n], v: [m], with u_i + v_j <= |u_i - v_j|^p and <a, u> + <b, v> = W_p^p."""

    u: Float[Array, " n"]
    v: Float[Array, " m"]


class Plan(NamedTuple):
    """A coupling as a list of n + m pieces: mass[k] goes between point u_index[k] and point v_index[k]; some pieces have mass zero."""

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
    """The mean over directions of (T_theta(<x, theta>) - <x, theta>) theta, T_theta the monotone map between the projections; [n d].

    It is the velocity of the sliced-Wasserstein flow towards y (Liutkus, Simsekli, Majewski, Durmus, Stoter 2019, arXiv 1806.08141), and
    minus the Wasserstein gradient of SW_2^2 / 2. Where a point's mass is split it goes to the mean (barycentric projection). Points of
    zero weight do not move. Arguments and errors as ``sliced_wasserstein_pow``.
    """
    gradient = jax.grad(
        lambda x: sliced_wasserstein_pow(x, y, directions, x_weights=x_weights, y_weights=y_weights)
    )(x)
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
    """Optimal dual potentials of W_p^p on the line; of the constant between them, so much that <a, u> = 0.

    They are a derivative of W_p^p in the weights, along changes that keep the total; where levels tie, one of its subgradients.
    Arguments and errors as ``wasserstein_1d_pow``.
    """
    u, v = validation.as_values(u, "u"), validation.as_values(v, "v")
    u_weights = jnp.full(u.shape, 1.0 / u.shape[0], u.dtype) if u_weights is None else u_weights
    v_weights = jnp.full(v.shape, 1.0 / v.shape[0], v.dtype) if v_weights is None else v_weights

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
    """The monotone coupling of two measures on the line, optimal for every p >= 1.

    Arguments and errors as ``wasserstein_1d_pow``.
    Example: ``jnp.sum(plan.mass * jnp.abs(u[plan.u_index] - v[plan.v_index]) ** p)`` is W_p^p.
    """
    u, v = validation.as_values(u, "u"), validation.as_values(v, "v")
    u_weights = validation.as_weights(u_weights, u.shape[0], "u_weights")
    v_weights = validation.as_weights(v_weights, v.shape[0], "v_weights")
    u_weights = jnp.full(u.shape, 1.0 / u.shape[0], u.dtype) if u_weights is None else u_weights
    v_weights = jnp.full(v.shape, 1.0 / v.shape[0], v.dtype) if v_weights is None else v_weights
    _, u_order = sort_rows_with_permutation(u[None])
    _, v_order = sort_rows_with_permutation(v[None])
    i, j, mass, _ = line.merge_weights(u_weights[u_order], v_weights[v_order])
    return Plan(u_order[0, i[0]], v_order[0, j[0]], mass[0])
