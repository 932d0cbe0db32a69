"""Particle methods as schemes: unadjusted Langevin and the sliced-Wasserstein flow.

    x <- x + h v(x) + noise,   v = grad log nu, or the mean displacement towards a sample.

Nothing is minimised, and noise stands for the entropy. ``state.params`` are the points [n d]. Time
is that of Wasserstein flows: an SW-JKO flow at time t resembles one of these at time d t.

A measure known by points alone has no estimate of its entropy, so in ``Info`` ``energy`` and
``objective`` are F without its entropy at the new points, ``proximity`` is zero, and
``gradient_norm`` is the norm of the energy's gradient where the last move began.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko import validation
from swjko.distances.directions import uniform_directions
from swjko.distances.plans import sliced_displacement
from swjko.distances.sliced import sliced_wasserstein_pow
from swjko.families.base import Family
from swjko.families.particles import Particles, particles
from swjko.functionals.targets import as_data
from swjko.readable import Readable
from swjko.schemes.base import Info, State, accept, start_state, step_result
from swjko.types import DirectionFn, Key, Leaf, Scalar, as_partial, static_field


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
    points_init = validation.as_points(points_init, "points_init")
    family = particles(points_init)
    validation.require_callable(log_prob, "log_prob", "from one point [d] to a scalar")
    scheme = Langevin(
        family,
        as_partial(log_prob),
        validation.as_positive(step_size, "step_size"),
        validation.as_count(num_inner_steps, "num_inner_steps"),
    )
    values = jax.eval_shape(jax.vmap(scheme.log_prob), points_init)
    point = f"point of shape ({family.dim},)"
    validation.require_scalars(values, points_init.shape[0], "log_prob", point)
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

    Example::

        points = jax.random.normal(key, (500, 2))
        scheme = sliced_flow(points, data, step_size=1.0, num_projections=32)
        state, infos = run(key, scheme, scheme.init(key), 30, record=swjko.infos)

    References:
      Liutkus, Simsekli, Majewski, Durmus, Stoter, "Sliced-Wasserstein flows: nonparametric
      generative modeling via optimal transport and diffusions" (2019), arXiv 1806.08141.
    """
    points_init = validation.as_points(points_init, "points_init")
    target = validation.as_points(target, "target")
    validation.require_same_dim(points_init, target, "points_init", "target")
    scheme = SlicedFlow(
        particles(points_init, weights),
        target,
        validation.as_positive(step_size, "step_size"),
        validation.as_nonnegative(temperature, "temperature"),
        validation.as_count(num_projections, "num_projections"),
        validation.require_callable(direction_fn, "direction_fn", "(key, num, dim) -> directions"),
        validation.as_count(num_inner_steps, "num_inner_steps"),
        validation.as_weights(target_weights, target.shape[0], "target_weights"),
    )
    jax.eval_shape(scheme.energy, jax.eval_shape(lambda: jax.random.key(0)), points_init)
    return scheme


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Langevin(Readable):
    """Made by ``langevin``. family, log_prob and step_size are leaves."""

    family: Family
    log_prob: Partial
    step_size: Leaf
    num_inner_steps: int = static_field()

    def init(self, key: Key) -> State:
        """Returns the state at the initial points, time 0."""
        return start_state(self.family.init(key), self.step_size)

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """Makes the moves of a step. If they fail, the state stays and its code says why."""
        h = (self.step_size / self.num_inner_steps).astype(state.params.dtype)

        def move(points, key):
            values, scores = jax.vmap(jax.value_and_grad(self.log_prob))(points)
            noise = jax.random.normal(key, points.shape, points.dtype)
            moved = points + h * scores + jnp.sqrt(2 * h) * noise
            # The energy is a mean over points, so each point has a part 1 / n of the gradient.
            return moved, (-jnp.mean(values), jnp.linalg.norm(scores) / points.shape[0])

        keys = jax.random.split(key, self.num_inner_steps)
        points, (energies, gradient_norms) = lax.scan(move, state.params, keys)
        energy = -jnp.mean(jax.vmap(self.log_prob)(points))
        # From a mode to the stationary law of a well the energy rises by half its dimension.
        noise = float(self.family.dim)
        change = (energies[0], energy)
        return _end(state, points, self.step_size, change, gradient_norms[-1], noise)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SlicedFlow(Readable):
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

    @property
    def _weights(self) -> dict[str, Any]:
        return {"x_weights": self.family.weights, "y_weights": self.target_weights}

    def init(self, key: Key) -> State:
        """Returns the state at the initial points, time 0."""
        return start_state(self.family.init(key), self.step_size)

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """Makes the moves of a step. If they fail, the state stays and its code says why."""
        move_key, report_key = jax.random.split(key)
        dtype = state.params.dtype
        h = (self.step_size / self.num_inner_steps).astype(dtype)
        temperature = self.temperature.astype(dtype)

        def move(points, key):
            direction_key, noise_key = jax.random.split(key)
            directions = self._directions(direction_key)
            velocity = sliced_displacement(points, self.target, directions, **self._weights)
            noise = jax.random.normal(noise_key, points.shape, points.dtype)
            moved = points + h * velocity + jnp.sqrt(2 * temperature * h) * noise
            if self.family.weights is not None:
                share = self.family.weights.astype(dtype) * points.shape[0]
                velocity *= share[:, None]
            return moved, jnp.linalg.norm(velocity) / points.shape[0]

        keys = jax.random.split(move_key, self.num_inner_steps)
        points, gradient_norms = lax.scan(move, state.params, keys)
        change = (self.energy(report_key, state.params), self.energy(report_key, points))
        noise = 1.0 + temperature * self.step_size.astype(dtype)
        return _end(state, points, self.step_size, change, gradient_norms[-1], noise)

    def energy(self, key: Key, points: Float[Array, "n d"]) -> Scalar:
        """Returns SW_2^2 / 2 from points [n d] to the target, on directions drawn with the key."""
        directions = self._directions(jax.random.clone(key))
        return 0.5 * sliced_wasserstein_pow(points, self.target, directions, **self._weights)

    def with_data(
        self, target: Float[Array, "m d"], target_weights: Float[Array, " m"] | None = None
    ) -> "SlicedFlow":
        """Returns the scheme with another target."""
        target, weights = as_data(target, target_weights, "target", self.target.dtype)
        return dataclasses.replace(self, target=target, target_weights=weights)

    def _directions(self, key: Key) -> Float[Array, "l d"]:
        return self.direction_fn(key, self.num_projections, self.family.dim)


def _end(
    state: State,
    points: Float[Array, "n d"],
    step_size: Scalar,
    energies: tuple[Scalar, Scalar],
    gradient_norm: Scalar,
    noise: float | Scalar,
) -> tuple[State, Info]:
    """Returns state and report after a move to ``points``, with energies before and after it."""
    before, energy = energies
    result = step_result(state, points, energy, before, noise)
    state = accept(state, State(points, state.time + step_size, state.step + 1, result))
    zero = jnp.zeros_like(energy)
    return state, Info(state.time, energy, zero, energy, gradient_norm, result)
