"""Explicit steps of particles along the flow of any functional, and what such schemes share.

    x <- x + h v(x) + sqrt(2 temperature h) z,   z ~ N(0, I)

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
import optax
from jax import lax
from jaxtyping import Array, Float, PyTree

from swjko.families.particles import Particles, particles
from swjko.functionals.base import needs_density, needs_log_prob
from swjko.functionals.radial import equal_weights
from swjko.schemes.base import Info, State, accept, as_functional, start_state, step_result
from swjko.schemes.optimizers import WithOptimizer, as_optimizer, require_updates, update
from swjko.types import Cloud, Functional, Key, Leaf, Scalar, as_partial, static_field, validation
from swjko.types.readable import Readable
from swjko.types.scalars import scalars

Drift = Callable[[Key, Cloud], Float[Array, "n d"]]


def particle_flow(
    points_init: Float[Array, "n d"],
    functional: Functional | None = None,
    optimizer: optax.GradientTransformation | None = None,
    *,
    step_size: float | Scalar,
    drift: Drift | None = None,
    temperature: float | Scalar = 0.0,
    weights: Float[Array, " n"] | None = None,
    num_inner_steps: int = 1,
) -> "ParticleFlow":
    """Makes explicit steps of particles along the Wasserstein flow of any functional.

    x_i <- x_i + h v(x_i) + sqrt(2 temperature h) z_i. v is minus the Wasserstein gradient of the
    functional, -grad_{x_i} F / w_i, or the drift. The noise adds temperature * int log(mu) dmu to
    F. ``info.energy`` is the functional, or else the ``energy`` of the drift.

    Args:
      points_init: Sample [n d] of mu_0 that is moved.
      functional: F, of points alone. It may be None if the drift has an ``energy``.
      optimizer: Optax optimizer, whose updates for the gradient -v replace h v; its state is
        kept from step to step. None moves by h v, as ``optax.sgd(h)`` does. With an optimizer h is
        only the unit of time and of noise.
      step_size: Wasserstein time of one ``step``.
      drift: ``(key, cloud) -> v [n d]``, such as ``svgd(log_prob)``; None follows the functional.
        Particles have no density, so KL divergences need one.
      temperature: Weight of the entropy that noise adds, at least 0.
      weights: Weights [n] of the points, with sum one; None means equal weights.
      num_inner_steps: Moves in one ``step``; h = step_size / num_inner_steps. A step measures the
        energy before and after its moves.

    Example::

        points = jax.random.normal(key, (1000, 2))
        scheme = particle_flow(points, optimizer=optax.adam(0.05), drift=svgd(log_prob),
                               step_size=1.0, num_inner_steps=50)
        state, infos = run(key, scheme, scheme.init(key), 20, record=swjko.infos)

    References:
      Ambrosio, Gigli, Savare, "Gradient flows" (2008); see the drifts for theirs.
    """
    family = particles(validation.as_points(points_init, "points_init"), weights=weights)
    moving = _as_drift(drift, functional)
    if functional is not None:
        functional = _of_points_alone(as_functional(functional))
    if optimizer is not None:
        optimizer = as_optimizer(optimizer)
        require_updates(optimizer, family.points)
    # Noise of no variance is not drawn.
    cold = isinstance(temperature, float) and temperature == 0.0
    scheme = ParticleFlow(
        family,
        functional,
        moving,
        validation.as_positive(step_size, "step_size"),
        None if cold else validation.as_nonnegative(temperature, "temperature"),
        optimizer,
        validation.as_count(num_inner_steps, "num_inner_steps"),
    )
    target = getattr(functional if moving is None else moving, "log_prob", None)
    if target is not None:
        require_gradient(target, family.points)
    if moving is None:
        key = jax.random.key(0)
        # Errors of the functional itself surface as they are.
        jax.eval_shape(scheme.energy, key, family.points)
        _differentiate(jax.grad(lambda x: scheme.energy(key, x)), family.points, "functional")
    check_scheme(scheme)
    return scheme


class ParticleScheme(Readable):
    """What the schemes of this module share: their record and their step.

    A scheme has the fields of ``Langevin`` or more, an ``energy`` and a ``velocity``.
    """

    family: Particles
    step_size: Leaf
    temperature: Any
    optimizer: optax.GradientTransformation | None
    num_inner_steps: int

    def velocity(self, key: Key, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Returns the velocity [n d] of the points."""
        raise NotImplementedError

    def energy(self, key: Key, points: Float[Array, "n d"]) -> Scalar:
        """Returns F without its entropy."""
        raise NotImplementedError

    def init(self, key: Key) -> State:
        """Returns the state at the initial points, time 0, and a fresh optimizer."""
        params = self.family.init(key)
        extra = () if self.optimizer is None else self.optimizer.init(params)
        return start_state(params, self.step_size, extra)

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """Makes the moves of a step. If they fail, the state stays and its code says why."""
        move_key, report_key = jax.random.split(key)
        dtype = state.params.dtype
        h = (self.step_size / self.num_inner_steps).astype(dtype)
        temperature = jnp.asarray(0.0 if self.temperature is None else self.temperature, dtype)

        def move(carry, key):
            points, extra = carry
            drift_key, noise_key = jax.random.split(key)
            velocity = self.velocity(jax.random.clone(drift_key), points)
            moved, extra = self._moved(drift_key, points, velocity, h, extra)
            if self.temperature is not None:
                noise = jax.random.normal(noise_key, points.shape, dtype)
                moved += jnp.sqrt(2 * temperature * h) * noise
            # The energy is a mean over points, so each point has its weight of the gradient.
            weights = equal_weights(self._cloud(points))[:, None]
            return (moved, extra), jnp.linalg.norm(weights * velocity)

        keys = jax.random.split(move_key, self.num_inner_steps)
        (points, extra), gradient_norms = lax.scan(move, (state.params, state.extra), keys)
        # Both energies are of the same draws.
        before, energy = (
            self.energy(jax.random.clone(report_key), one) for one in (state.params, points)
        )
        # From a mode to the stationary law of a well the energy rises by half its dimension.
        noise = 1.0 + temperature * self.family.dim
        result = step_result(state, points, energy, before, noise)
        new = State(points, state.time + self.step_size, state.step + 1, result, extra)
        state, zero = accept(state, new), jnp.zeros_like(energy)
        return state, Info(state.time, energy, zero, energy, gradient_norms[-1], result)

    def _moved(self, key, points, velocity, h, extra) -> tuple[Float[Array, "n d"], PyTree]:
        """Returns the points after a move without noise, and the optimizer's state."""
        if self.optimizer is None:
            return points + h * velocity, extra

        def energy(points: Float[Array, "n d"]) -> Scalar:
            return self.energy(key, points)

        return update(self.optimizer, extra, points, energy(points), -velocity, energy)

    def _cloud(self, points: Float[Array, "n d"]) -> Cloud:
        return Cloud(points, self.family.weights)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ParticleFlow(WithOptimizer, ParticleScheme):
    """Made by ``particle_flow``. All fields but optimizer and num_inner_steps are leaves."""

    family: Particles
    functional: Leaf
    drift: Leaf
    step_size: Leaf
    temperature: Leaf
    optimizer: optax.GradientTransformation | None = static_field()
    num_inner_steps: int = static_field()

    def velocity(self, key: Key, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Returns the drift, or minus the Wasserstein gradient of the functional."""
        if self.drift is not None:
            return self.drift(key, self._cloud(points))
        gradient = jax.grad(lambda points: self.functional(key, self._cloud(points)))(points)
        weights = equal_weights(self._cloud(points))[:, None]
        return jnp.where(weights > 0, -gradient / jnp.where(weights > 0, weights, 1.0), 0.0)

    def energy(self, key: Key, points: Float[Array, "n d"]) -> Scalar:
        """Returns the functional, or else the energy of the drift."""
        energy = self.drift.energy if self.functional is None else self.functional
        return energy(key, self._cloud(points))


def check_scheme(scheme: ParticleScheme) -> None:
    """Evaluates the shapes of energy and velocity, so mistakes in user functions surface early."""
    key, points = jax.eval_shape(lambda: jax.random.key(0)), scheme.family.points
    energy = jax.eval_shape(scheme.energy, key, points)
    if energy.shape != ():
        raise ValueError(
            f"functional must return a scalar; got shape {energy.shape}. "
            "Average over the points of the cloud."
        )
    velocity = jax.eval_shape(scheme.velocity, key, points)
    if getattr(velocity, "shape", None) != points.shape:
        raise ValueError(
            f"drift must return one velocity for each point, shape {points.shape}; got "
            f"{getattr(velocity, 'shape', type(velocity).__name__)}."
        )


def require_gradient(log_prob: Callable[..., Scalar], points: Float[Array, "n d"]) -> None:
    """Raises ValueError or TypeError if a log-density is not scalar or has no gradient."""
    try:
        jax.eval_shape(lambda points: scalars(log_prob, points, "log_prob"), points)
    except NotImplementedError as error:  # such as a callback to the host
        raise _without_gradient("log_prob", error) from error
    _differentiate(jax.vmap(jax.grad(log_prob)), points, "log_prob")


def _differentiate(gradient: Callable[..., Any], points: Float[Array, "n d"], name: str) -> None:
    try:
        jax.eval_shape(gradient, points)
    except Exception as error:
        raise _without_gradient(name, error) from error


def _without_gradient(name: str, error: Exception) -> TypeError:
    text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return TypeError(
        f"{name} must have a gradient in JAX, which moves the points; got {type(error).__name__}: "
        f"{text}. Write it in jax.numpy with a float result, or give it a gradient by "
        "jax.custom_jvp."
    )


def _as_drift(drift: Drift | None, functional: Functional | None) -> Any:
    """Returns the drift as a pytree, and raises TypeError if there is no energy to report."""
    has_energy = hasattr(drift, "energy")
    if functional is None and not has_energy:
        raise TypeError(
            "functional must be given, or a drift with a method energy(key, cloud); got functional "
            f"None and drift {type(drift).__name__}. Pass a functional such as "
            "swjko.potential(v), or a drift such as swjko.svgd(log_prob)."
        )
    if drift is None or has_energy or dataclasses.is_dataclass(drift):
        return drift
    return as_partial(validation.require_callable(drift, "drift", "(key, cloud) -> velocity"))


def _of_points_alone(functional: Functional) -> Functional:
    if needs_density(functional) or needs_log_prob(functional):
        raise ValueError(
            "functional needs the density of the measure, and particles have none. Pass a drift "
            "that estimates it, such as drift=swjko.svgd(log_prob), or a functional with "
            "swjko.nearest_neighbour_negative_entropy."
        )
    return functional
