"""Unadjusted Langevin and the sliced-Wasserstein flow, as schemes of moving particles.

    x <- x + h v(x) + noise,   v = grad log nu, or the mean displacement towards a sample.

Their steps and reports are those of ``swjko.schemes.particle_flow``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko.distances.directions import uniform_directions
from swjko.distances.plans import sliced_displacement
from swjko.distances.sliced import sliced_wasserstein_pow
from swjko.families.particles import Particles, particles
from swjko.functionals.base import as_data
from swjko.functionals.radial import as_target, mean_potential
from swjko.schemes.particle_flow import ParticleScheme, check_scheme, require_gradient
from swjko.types import DirectionFn, Key, Leaf, Scalar, static_field, validation


def langevin(
    points_init: Float[Array, "n d"],
    log_prob: Callable[[Float[Array, " d"]], Scalar],
    *,
    step_size: float | Scalar,
    num_inner_steps: int = 1,
) -> "Langevin":
    """Makes the unadjusted Langevin algorithm, which moves each point by itself.

    x <- x + h grad log_prob(x) + sqrt(2 h) z with z ~ N(0, I): the Euler-Maruyama scheme of
    dX = grad log_prob dt + sqrt(2) dB, whose law is the Wasserstein flow of KL(mu | nu). Its bias
    is of order h: along an eigenvector of a Gaussian's precision with eigenvalue a, the stationary
    variance is 1 / (a (1 - h a / 2)). ``info.energy`` is the mean of -log_prob over the points.

    Args:
      points_init: Sample [n d] of mu_0 that is moved.
      log_prob: Log-density of nu at one point [d], up to a constant. Bind data by
        ``jax.tree_util.Partial``.
      step_size: Wasserstein time of one ``step``. The scheme is stable while h times the largest
        curvature of -log_prob is below 2.
      num_inner_steps: Moves in one ``step``; h = step_size / num_inner_steps.

    Example::

        points = jax.random.normal(key, (1000, 2))
        scheme = langevin(points, lambda x: -jnp.sum(x**2) / 2, step_size=0.1, num_inner_steps=10)
        state, infos = run(key, scheme, scheme.init(key), 40, record=swjko.infos)

    References:
      Roberts, Tweedie (1996), "Exponential convergence of Langevin distributions and their
      discrete approximations"; Jordan, Kinderlehrer, Otto (1998).
    """
    scheme = Langevin(
        particles(validation.as_points(points_init, "points_init")),
        as_target(log_prob),
        validation.as_positive(step_size, "step_size"),
        validation.as_count(num_inner_steps, "num_inner_steps"),
    )
    require_gradient(scheme.log_prob, scheme.family.points)
    return scheme


def sliced_flow(
    points_init: Float[Array, "n d"],
    target: Float[Array, "m d"],
    *,
    step_size: float | Scalar,
    num_projections: int,
    temperature: float | Scalar = 0.0,
    weights: Float[Array, " n"] | None = None,
    target_weights: Float[Array, " m"] | None = None,
    direction_fn: DirectionFn = uniform_directions,
    num_inner_steps: int = 1,
) -> "SlicedFlow":
    """Makes the sliced-Wasserstein flow of particles towards a sample.

    x <- x + h v(x) + sqrt(2 temperature h) z with v = ``sliced_displacement`` to the target: the
    Wasserstein flow of F(mu) = SW_2^2(mu, nu) / 2 + temperature * int log(mu) dmu. The displacement
    is a mean over directions, a d-th of the way for a translation: means approach that of the
    target by the factor 1 - h / d in each move, exactly so for ``orthogonal_directions`` in
    multiples of d. From N(0, s^2 I) to N(0, r^2 I), s settles at
    [r + sqrt(r^2 + 4 d temperature)] / 2. ``info.energy`` is SW_2^2 / 2 on fresh directions.

    Args:
      points_init: Sample [n d] of mu_0 that is moved.
      target: Sample [m d] of nu, of any size. It is a leaf and never compiled in.
      step_size: Wasserstein time of one ``step``.
      num_projections: Directions drawn for each move.
      temperature: Weight of the entropy, at least 0.
      weights: Weights [n] of the points, nonnegative, with sum one; None is uniform. They stay.
      target_weights: Weights [m] of the target, likewise.
      direction_fn: ``(key, num, dim) -> [num dim]`` unit rows.
      num_inner_steps: Moves in one ``step``; h = step_size / num_inner_steps is stable below 2 d,
        and h = 1 goes all the way on a line. A step measures the energy before and after its
        moves, which takes as long as a move does, so many moves in a step take half the time.
        h = d with d ``orthogonal_directions`` is slice matching, which ``slice_matching`` turns
        into a distribution with a density.

    Example::

        points = jax.random.normal(key, (500, 2))
        scheme = sliced_flow(points, data, step_size=1.0, num_projections=32)
        state, infos = run(key, scheme, scheme.init(key), 30, record=swjko.infos)

    References:
      Liutkus, Simsekli, Majewski, Durmus, Stoter, "Sliced-Wasserstein flows: nonparametric
      generative modeling via optimal transport and diffusions" (2019), arXiv 1806.08141.
    """
    family = particles(validation.as_points(points_init, "points_init"), weights)
    target = validation.as_points(target, "target")
    validation.require_same_dim(family.points, target, "points_init", "target")
    scheme = SlicedFlow(
        family,
        target,
        validation.as_positive(step_size, "step_size"),
        validation.as_nonnegative(temperature, "temperature"),
        validation.as_count(num_projections, "num_projections"),
        validation.require_callable(direction_fn, "direction_fn", "(key, num, dim) -> directions"),
        validation.as_count(num_inner_steps, "num_inner_steps"),
        validation.as_weights(target_weights, target.shape[0], "target_weights"),
    )
    check_scheme(scheme)
    return scheme


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Langevin(ParticleScheme):
    """Made by ``langevin``. family, log_prob and step_size are leaves."""

    family: Particles
    log_prob: Partial
    step_size: Leaf
    num_inner_steps: int = static_field()
    temperature: ClassVar[float] = 1.0
    optimizer: ClassVar[None] = None

    def velocity(self, key: Key, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Returns grad log nu."""
        del key
        return jax.vmap(jax.grad(self.log_prob))(points)

    def energy(self, key: Key, points: Float[Array, "n d"]) -> Scalar:
        """Returns the mean of -log nu."""
        del key
        return mean_potential(self.log_prob, self._cloud(points))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SlicedFlow(ParticleScheme):
    """Made by ``sliced_flow``.

    family, target, step_size, temperature and target_weights are leaves.
    """

    family: Particles
    target: Leaf
    step_size: Leaf
    temperature: Leaf
    num_projections: int = static_field()
    direction_fn: DirectionFn = static_field()
    num_inner_steps: int = static_field()
    target_weights: Leaf | None = None
    optimizer: ClassVar[None] = None

    def velocity(self, key: Key, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Returns the mean displacement towards the target, on directions drawn with the key."""
        return sliced_displacement(points, self.target, self._directions(key), **self._weights)

    def energy(self, key: Key, points: Float[Array, "n d"]) -> Scalar:
        """Returns SW_2^2 / 2 from points [n d] to the target, on directions drawn with the key."""
        directions = self._directions(key)
        return 0.5 * sliced_wasserstein_pow(points, self.target, directions, **self._weights)

    def with_data(
        self, target: Float[Array, "m d"], target_weights: Float[Array, " m"] | None = None
    ) -> "SlicedFlow":
        """Returns the scheme with another target."""
        target, weights = as_data(target, target_weights, "target", self.target.dtype)
        return dataclasses.replace(self, target=target, target_weights=weights)

    @property
    def _weights(self) -> dict[str, Any]:
        return {"x_weights": self.family.weights, "y_weights": self.target_weights}

    def _directions(self, key: Key) -> Float[Array, "l d"]:
        return self.direction_fn(key, self.num_projections, self.family.dim)
