"""Particle methods as schemes: the unadjusted Langevin diffusion and the sliced-Wasserstein flow, x <- x + h v(x) + noise.

Nothing is minimised: points move along a velocity, v = grad log nu or the mean displacement towards a sample, and noise stands for the
entropy. Both have the face of ``sw_jko``: state.params are the points [n d], ``run``, ``solve`` and ``vmap`` take them, and a flow that is
not OK stands still. Their time is that of Wasserstein flows; an SW-JKO flow at time t resembles one of these at time d t.

Of a measure that is known by points alone, an ``Info`` can say this much: ``energy`` is F without its entropy, at the new points;
``proximity`` is zero; ``objective`` is the energy; ``gradient_norm`` is that of the energy where the last move began.
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
from swjko.families.base import Family, particles
from swjko.schemes.base import Info, Result, State
from swjko.types import DirectionFn, Key, Leaf, Scalar, as_partial, static_field

# A stable step does not raise the energy by more than its noise; this many times what noise and energy amount to is neither.
_DIVERGENCE_FACTOR = 10.0


def langevin(
    points_init: Float[Array, "n d"],
    log_prob: Callable[[Float[Array, " d"]], Scalar],
    *,
    step_size: float | Scalar,
    num_inner_steps: int = 1,
) -> "Langevin":
    """The unadjusted Langevin algorithm: x <- x + h grad log_prob(x) + sqrt(2 h) z with z ~ N(0, I), for each point by itself.

    It is the Euler-Maruyama scheme of dX = grad log_prob dt + sqrt(2) dB, whose law is the Wasserstein flow of KL(mu | nu), and has a bias
    of order h: along an eigenvector of a Gaussian's precision with eigenvalue a, the stationary variance is 1 / (a (1 - h a / 2)).

    Args:
      points_init: [n d], the sample of mu_0 that is moved.
      log_prob: log-density of nu at one point [d] -> scalar, up to a constant; bind data by ``jax.tree_util.Partial``.
      step_size: Wasserstein time of one ``step``; stable while h times the largest curvature of -log_prob is below 2.
      num_inner_steps: moves in one ``step``, h = step_size / num_inner_steps.

    ``info.energy`` is the mean of -log_prob over the points. Raises ValueError or TypeError on points that are not [n d] floats, on numbers
    below their minimum, and on a log_prob that is no function from one point to a scalar. Sources: Roberts, Tweedie (1996), "Exponential
    convergence of Langevin distributions and their discrete approximations"; Jordan, Kinderlehrer, Otto (1998).

    Example::

        scheme = langevin(jax.random.normal(key, (1000, 2)), lambda x: -jnp.sum(x**2) / 2, step_size=0.1, num_inner_steps=10)
        state, infos = run(key, scheme, scheme.init(key), 40, record=swjko.infos)
    """
    family = particles(validation.as_points(points_init, "points_init"))
    log_prob = as_partial(
        validation.require_callable(log_prob, "log_prob", "from one point [d] to a scalar")
    )
    scheme = Langevin(
        family,
        log_prob,
        validation.as_step_size(step_size),
        validation.as_count(num_inner_steps, "num_inner_steps"),
    )
    value = jax.eval_shape(
        log_prob, jax.ShapeDtypeStruct((family.dim,), jnp.result_type(points_init))
    )
    if jnp.shape(value) != ():
        raise ValueError(
            f"log_prob must map one point of shape ({family.dim},) to a scalar; it returned shape {jnp.shape(value)}. "
            "Write it for a single point; the package maps it over the particles."
        )
    return scheme


def sliced_flow(
    points_init: Float[Array, "n d"],
    target: Float[Array, "m d"],
    *,
    step_size: float | Scalar,
    num_projections: int,
    temperature: float | Scalar = 0.0,
    direction_fn: DirectionFn = uniform_directions,
    num_inner_steps: int = 1,
) -> "SlicedFlow":
    """The sliced-Wasserstein flow towards a sample: x <- x + h v(x) + sqrt(2 temperature h) z, v = ``sliced_displacement`` to the target.

    It is the Wasserstein flow of F(mu) = SW_2^2(mu, nu) / 2 + temperature * int log(mu) dmu. The displacement is a mean over directions,
    a d-th of the way for a translation: means approach that of the target by the factor 1 - h / d in each move, exactly so for
    ``orthogonal_directions`` in multiples of d. From N(0, s^2 I) to N(0, r^2 I), s settles at [r + sqrt(r^2 + 4 d temperature)] / 2.

    Args:
      points_init: [n d], the sample of mu_0 that is moved.
      target: [m d], the sample of nu, m and n being any; a leaf, never compiled in.
      step_size: Wasserstein time of one ``step``.
      num_projections: directions drawn afresh for each move.
      temperature: weight of the entropy, at least 0.
      direction_fn: ``(key, num, dim) -> [num dim]`` unit rows.
      num_inner_steps: moves in one ``step``, h = step_size / num_inner_steps: stable below 2 d, and h = 1 goes all the way on a line. A
        step measures the energy once before its moves and once after them, which takes as long as a move does: many moves in a step take
        half the time.

    ``info.energy`` is SW_2^2 / 2 on fresh directions. Raises ValueError or TypeError on points that are not [n d] floats of one dimension
    and on numbers below their minimum. Source: Liutkus, Simsekli, Majewski, Durmus, Stoter, "Sliced-Wasserstein flows: nonparametric
    generative modeling via optimal transport and diffusions" (2019), arXiv 1806.08141.

    Example::

        scheme = sliced_flow(jax.random.normal(key, (500, 2)), data, step_size=1.0, num_projections=32)
        state, infos = run(key, scheme, scheme.init(key), 30, record=swjko.infos)
    """
    points_init, target = (
        validation.as_points(points_init, "points_init"),
        validation.as_points(target, "target"),
    )
    validation.require_same_dim(points_init, target, "points_init", "target")
    scheme = SlicedFlow(
        particles(points_init),
        target,
        validation.as_step_size(step_size),
        validation.as_nonnegative(temperature, "temperature"),
        validation.as_count(num_projections, "num_projections"),
        validation.require_callable(direction_fn, "direction_fn", "(key, num, dim) -> directions"),
        validation.as_count(num_inner_steps, "num_inner_steps"),
    )
    jax.eval_shape(scheme._energy, jax.eval_shape(lambda: jax.random.key(0)), points_init)
    return scheme


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Langevin:
    """Made by ``langevin``. family, log_prob and step_size are leaves: replace them, or give them a leading axis and vmap."""

    family: Family
    log_prob: Partial
    step_size: Leaf
    num_inner_steps: int = static_field()

    def init(self, key: Key) -> State:
        """The state at the initial points, time 0."""
        return _start(self.family.init(key), self.step_size)

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """``num_inner_steps`` moves from ``state``; where they fail, the state stays and its code says why."""
        h = (self.step_size / self.num_inner_steps).astype(state.params.dtype)

        def move(points, key):
            values, scores = jax.vmap(jax.value_and_grad(self.log_prob))(points)
            moved = (
                points
                + h * scores
                + jnp.sqrt(2 * h) * jax.random.normal(key, points.shape, points.dtype)
            )
            # Each coordinate's share of the mean over points.
            return moved, (-jnp.mean(values), jnp.linalg.norm(scores) / points.shape[0])

        points, (energies, gradient_norms) = lax.scan(
            move, state.params, jax.random.split(key, self.num_inner_steps)
        )
        energy = -jnp.mean(jax.vmap(self.log_prob)(points))
        # From a mode to the stationary law of a well the energy rises by half its dimension.
        return _end(
            state,
            points,
            self.step_size,
            (energies[0], energy),
            gradient_norms[-1],
            noise=float(self.family.dim),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SlicedFlow:
    """Made by ``sliced_flow``. family, target, step_size and temperature are leaves."""

    family: Family
    target: Leaf
    step_size: Leaf
    temperature: Leaf
    num_projections: int = static_field()
    direction_fn: DirectionFn = static_field()
    num_inner_steps: int = static_field()

    def init(self, key: Key) -> State:
        """The state at the initial points, time 0."""
        return _start(self.family.init(key), self.step_size)

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """``num_inner_steps`` moves from ``state``; where they fail, the state stays and its code says why."""
        move_key, report_key = jax.random.split(key)
        dtype = state.params.dtype
        h, temperature = (
            (self.step_size / self.num_inner_steps).astype(dtype),
            self.temperature.astype(dtype),
        )

        def move(points, key):
            direction_key, noise_key = jax.random.split(key)
            velocity = sliced_displacement(points, self.target, self._directions(direction_key))
            noise = jax.random.normal(noise_key, points.shape, points.dtype)
            moved = points + h * velocity + jnp.sqrt(2 * temperature * h) * noise
            return moved, jnp.linalg.norm(velocity) / points.shape[0]

        points, gradient_norms = lax.scan(
            move, state.params, jax.random.split(move_key, self.num_inner_steps)
        )
        energies = (self._energy(report_key, state.params), self._energy(report_key, points))
        noise = 1.0 + temperature * self.step_size.astype(dtype)
        return _end(state, points, self.step_size, energies, gradient_norms[-1], noise=noise)

    def _energy(self, key: Key, points: Array) -> Scalar:
        return 0.5 * sliced_wasserstein_pow(points, self.target, self._directions(key))

    def _directions(self, key: Key) -> Array:
        return self.direction_fn(key, self.num_projections, self.family.dim)


def _start(points: Array, step_size: Any) -> State:
    return State(
        points, jnp.zeros_like(step_size), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    )


def _end(
    state: State,
    points: Array,
    step_size: Any,
    energies: tuple[Scalar, Scalar],
    gradient_norm: Scalar,
    noise: Any,
):
    """The state and report after a move to ``points``. energies: before and after; noise: the rise that is no sign of divergence."""
    before, energy = energies
    finite = jnp.all(jnp.isfinite(points)) & jnp.isfinite(energy)
    diverged = energy - before > _DIVERGENCE_FACTOR * (noise + jnp.abs(before))
    code = jnp.where(finite, jnp.where(diverged, Result.DIVERGED, Result.OK), Result.NON_FINITE)
    result = jnp.where(state.result == Result.OK, code, state.result).astype(state.result.dtype)
    keep = result == Result.OK
    state = State(
        jnp.where(keep, points, state.params),
        jnp.where(keep, state.time + step_size, state.time),
        jnp.where(keep, state.step + 1, state.step),
        result,
    )
    return state, Info(state.time, energy, jnp.zeros_like(energy), energy, gradient_norm, result)
