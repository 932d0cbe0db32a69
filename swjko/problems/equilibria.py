"""Interaction energies in the plane whose equilibria are known."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko.functionals.energies import interaction, potential
from swjko.functionals.sums import weighted_sum
from swjko.types import Functional, Scalar


class Equilibrium(NamedTuple):
    """An energy in the plane whose equilibrium is known.

    Attributes:
      functional: F.
      exact_energy: F at the equilibrium.
      inner_radius: The equilibrium is uniform between this radius and the outer one.
      outer_radius: Outer radius; equal radii are a circle.
    """

    functional: Functional
    exact_energy: float
    inner_radius: float
    outer_radius: float


def ring() -> Equilibrium:
    """Returns W = |x|^4/4 - |x|^2/2, whose equilibrium is a circle of radius 1/sqrt(3)."""
    radius = 1 / math.sqrt(3)
    return Equilibrium(interaction(Partial(_ring_kernel)), -1 / 12, radius, radius)


def disk() -> Equilibrium:
    """Returns W = |x|^2/2 - log|x|, whose equilibrium is the uniform unit disk."""
    return Equilibrium(interaction(Partial(_coulomb_kernel)), 3 / 8, 0.0, 1.0)


def annulus() -> Equilibrium:
    """Returns W = |x|^2/2 - log|x| with V = -log|x|/4: uniform on 1/2 < |x| < sqrt(5)/2.

    At equilibrium s = |x|^2 is uniform on (1/4, 5/4). The energy is 3/8 - (1/2) int s log(s) ds,
    the minimum over measures that are symmetric about 0. V decreases with the distance from the
    origin, so F has no minimum over all measures: a shift of the cloud grows like exp(t / 4) in
    Wasserstein time. Start centred, and stop after a few units of time.
    """
    terms = interaction(Partial(_coulomb_kernel)), potential(Partial(_repulsive_center))
    functional = weighted_sum(*((1.0, term) for term in terms))
    energy = 9 / 16 - 25 / 64 * math.log(5 / 4) - math.log(4) / 64
    return Equilibrium(functional, energy, 0.5, math.sqrt(5) / 2)


def _ring_kernel(x: Float[Array, " d"]) -> Scalar:
    square = jnp.sum(x**2)
    return square**2 / 4 - square / 2


def _coulomb_kernel(x: Float[Array, " d"]) -> Scalar:
    square = jnp.sum(x**2)
    return (square - jnp.log(square)) / 2


def _repulsive_center(x: Float[Array, " d"]) -> Scalar:
    return -jnp.log(jnp.sum(x**2)) / 8
