"""One-step generators by drift: the samples of a family move, and the family learns where they go.

    x_i = f_theta(z_i),   y_i = x_i moved num_drift_steps times by h v,   f_theta(z_i) -> y_i.

The velocity v is minus the Wasserstein gradient of F at the sample, -n dF/dx_i. For
``sw_to_target`` it is ``sliced_displacement``, for ``mmd_to_target`` that of the MMD flow. For one
move of length h, the loss of the regression is

    mean_i |f(z_i) - y_i|^2 / (2 h) = mean_i |f(z_i) - x_i|^2 / (2 h) + F'(x; f - x) + constant,

which is a JKO step with F linearised at x, and the transport cost replaced by that of the latents.
Its gradient at theta is that of F, as is the gradient of the objective of ``sw_jko``. The squared
distance of small moves of points is d times their SW_2^2 if the directions average to I / d, so to
first order a step of length d tau is an SW-JKO step of length tau.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from swjko.families.base import Family, require_family
from swjko.functionals.base import needs_density, needs_log_prob
from swjko.schemes import inner_solve
from swjko.schemes.base import (
    Info,
    State,
    accept,
    as_functional,
    require_scalar_objective,
    start_shapes,
    start_state,
    step_result,
)
from swjko.schemes.optimizers import WithOptimizer, as_optimizer, require_updates, update
from swjko.types import (
    Cloud,
    Functional,
    Key,
    Leaf,
    Params,
    Scalar,
    as_partial,
    static_field,
    validation,
)

Velocity = Callable[[Key, Float[Array, "n d"]], Float[Array, "n d"]]


def drifting(
    family: Family,
    functional: Functional,
    optimizer: optax.GradientTransformation,
    *,
    step_size: float | Scalar,
    num_drift_steps: int,
    num_inner_steps: int,
    num_samples: int,
    batch_size: int | None = None,
    velocity: Velocity | None = None,
) -> "Drifting":
    """Makes a scheme that fits a generator to its own samples after they have drifted.

    A step draws ``num_samples`` latents, pushes them, moves the points by
    x <- x + h v(x) with h = step_size / num_drift_steps, and makes ``num_inner_steps`` updates of
    the regression on where they end. With one move and one update it is a drifting model; many
    moves of a large sample for each regression spare the network most of the noise.

    ``state.extra`` is the state of the optimizer. In ``Info``, the proximity is
    E |f(z) - f_old(z)|^2 / (2 step_size) on fresh latents, and ``gradient_norm`` is that of
    energy + proximity.

    Args:
      family: Family of the generator. Its points must have equal weights.
      functional: F, without a density, such as ``sw_to_target(data, 64, batch_size=512)``. A
        functional of features sees ``Cloud(features(cloud.points))``, and the velocity is then
        pulled back to the points.
      optimizer: Optax optimizer. Unlike that of ``sw_jko`` it continues from step to step, so a
        schedule runs over all steps times ``num_inner_steps``.
      step_size: Wasserstein time of one ``step``, that of ``sliced_flow``: an SW-JKO step of tau is
        like one of d tau. The moves towards a sample are stable while h is below 2 d.
      num_drift_steps: Moves of the points in one step.
      num_inner_steps: Updates of the regression in one step.
      num_samples: Points that drift in one step.
      batch_size: Pairs drawn without replacement for each update; None takes all ``num_samples``.
      velocity: ``(key, points [n d]) -> [n d]``; None takes that of the functional, which is then
        only reported.

    Raises:
      ValueError: If the functional needs a density and no velocity is given.

    Example::

        energy = sw_to_target(data, 64, batch_size=512)
        scheme = drifting(flows.mlp(2, 2), energy, optax.adam(1e-3), step_size=4.0,
                          num_drift_steps=8, num_inner_steps=20, num_samples=512)
        solution = solve(key, scheme, 100)

    References:
      Deng, Li, Li, Du, He (2026), arXiv 2602.04770. Gretton et al. (2026), arXiv 2605.05118, on
      velocities of Wasserstein flows, the sliced one among them. "One-step generative modeling via
      Wasserstein gradient flows" (2026), arXiv 2605.11755. Caucheteux, Bonet, Korba (2026), arXiv
      2605.31369, on parametric JKO steps.
    """
    require_family(family)
    functional = as_functional(functional)
    if needs_density(functional) or needs_log_prob(functional):
        raise ValueError(
            "functional must not need the density of the measure, since drifted points have none; "
            f"got {type(functional).__name__}. Use swjko.sw_to_target or swjko.mmd_to_target."
        )
    num_samples = validation.as_count(num_samples, "num_samples")
    if batch_size is None:
        batch_size = num_samples
    elif validation.as_count(batch_size, "batch_size") > num_samples:
        raise ValueError(
            f"batch_size must not exceed num_samples, {num_samples}; got {batch_size}. "
            "Raise num_samples, or pass None."
        )
    if velocity is not None:
        validation.require_callable(velocity, "velocity", "(key, points [n d]) -> [n d]")
        velocity = as_partial(velocity)
    scheme = Drifting(
        family,
        functional,
        velocity,
        validation.as_positive(step_size, "step_size"),
        as_optimizer(optimizer),
        validation.as_count(num_drift_steps, "num_drift_steps"),
        validation.as_count(num_inner_steps, "num_inner_steps"),
        num_samples,
        batch_size,
    )
    _check(scheme)
    return scheme


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Drifting(WithOptimizer):
    """Made by ``drifting``. family, functional, velocity and step_size are leaves."""

    family: Family
    functional: Functional
    velocity: Partial | None
    step_size: Leaf
    optimizer: optax.GradientTransformation = static_field()
    num_drift_steps: int = static_field()
    num_inner_steps: int = static_field()
    num_samples: int = static_field()
    batch_size: int = static_field()

    def init(self, key: Key) -> State:
        """Returns the state at mu_0, time 0."""
        params = self.family.init(key)
        return start_state(params, self.step_size, self.optimizer.init(params))

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """Takes one step from ``state``. If it fails, the state stays and its code says why."""
        latent_key, drift_key, update_key, report_key = jax.random.split(key, 4)
        latent = self.family.latent(latent_key, self.num_samples)
        target = self.drifted(drift_key, self.family.push(state.params, latent).points)

        def updated(carry, key):
            params, optimizer_state = carry
            chosen = self._batch(key, (latent, target))
            value, gradient = jax.value_and_grad(self.regression)(params, *chosen)
            moved = update(
                self.optimizer,
                optimizer_state,
                params,
                value,
                gradient,
                lambda params: self.regression(params, *chosen),
            )
            return moved, None

        keys = jax.random.split(update_key, self.num_inner_steps)
        (params, optimizer_state), _ = lax.scan(updated, (state.params, state.extra), keys)
        report = inner_solve.evaluate(
            lambda params, key: self.objective(key, params, state.params), params, report_key
        )
        before, _ = self.objective(report_key, state.params, state.params)
        result = step_result(state, params, report.value, before)
        time = state.time + self.step_size
        state = accept(state, State(params, time, state.step + 1, result, optimizer_state))
        (energy, proximity), norm = report.aux, optax.tree.norm(report.gradient)
        return state, Info(state.time, energy, proximity, report.value, norm, result)

    def drifted(self, key: Key, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Returns where points [n d] are after the moves of one step."""
        h = (self.step_size / self.num_drift_steps).astype(points.dtype)

        def move(points, key):
            return points + h * self._velocity_at(key, points), None

        return lax.scan(move, points, jax.random.split(key, self.num_drift_steps))[0]

    def regression(self, params: Params, latent: PyTree, target: Float[Array, "n d"]) -> Scalar:
        """Returns mean_i |f(z_i) - y_i|^2 / (2 step_size) for latents and targets y [n d]."""
        return self._moved(self.family.push(params, latent).points, target)

    def objective(
        self, key: Key, params: Params, anchor: Params
    ) -> tuple[Scalar, tuple[Scalar, Scalar]]:
        """Estimates energy + proximity, and (energy, proximity), on fresh latents.

        At params == anchor its gradient is the mean of that of ``regression`` for one move.
        """
        latent_key, functional_key = jax.random.split(jax.random.clone(key))
        latent = self.family.latent(latent_key, self.num_samples)
        points = self.family.push(params, latent).points
        energy = self.functional(functional_key, Cloud(points))
        proximity = self._moved(points, self.family.push(anchor, latent).points)
        return energy + proximity, (energy, proximity)

    def _moved(self, x: Float[Array, "n d"], y: Float[Array, "n d"]) -> Scalar:
        return jnp.mean(jnp.sum((x - y) ** 2, axis=1)) / (2 * self.step_size.astype(x.dtype))

    def _velocity_at(self, key: Key, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
        if self.velocity is not None:
            return self.velocity(key, points)
        gradient = jax.grad(lambda points: self.functional(key, Cloud(points)))(points)
        return -points.shape[0] * gradient

    def _batch(self, key: Key, pairs: PyTree) -> PyTree:
        if self.batch_size == self.num_samples:
            return pairs
        chosen = jax.random.choice(key, self.num_samples, (self.batch_size,), replace=False)
        return jax.tree.map(lambda leaf: leaf[chosen], pairs)


def _check(scheme: Drifting) -> None:
    """Raises errors for a family, functional, velocity or optimizer that do not fit."""
    family, key = scheme.family, jax.eval_shape(lambda: jax.random.key(0))
    require_scalar_objective(lambda key: scheme.objective(key, *2 * [family.init(key)])[0])
    require_updates(scheme.optimizer, start_shapes(family))
    cloud = jax.eval_shape(lambda key: family.draw(family.init(key), key, scheme.num_samples), key)
    if cloud.weights is not None:
        raise ValueError(
            "family must have points of equal weights, since drift moves points; "
            f"got {type(family).__name__}. Use swjko.sw_jko for weights."
        )
    if scheme.velocity is not None:
        got = jax.eval_shape(scheme.velocity, key, cloud.points)
        if getattr(got, "shape", None) != cloud.points.shape:
            raise ValueError(
                f"velocity must return one velocity for each point, shape {cloud.points.shape}; "
                f"got {getattr(got, 'shape', type(got).__name__)}."
            )
