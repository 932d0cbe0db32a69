"""The SW-JKO scheme: mu_{k+1} = argmin_mu SW_2^2(mu, mu_k) / (2 step_size) + F(mu), over a family of measures.

Source: Bonet, Courty, Septier, Drumetz, "Efficient gradient flows in sliced-Wasserstein space", TMLR 2022, arXiv 2110.10972, eq. (9) and
algorithm 1. Each step minimises over the family's parameters by stochastic gradients, starting from the previous ones. Two choices
make the gradient noise vanish where the step is stationary, and a third removes the bias of samples:

- common latents: the new and the previous parameters push the same latents, so equal parameters are at distance zero, where
  independent samples are at the distance of two samples of one measure;
- path gradients: log rho is differentiated through the points alone, log_prob(stop_gradient(params), push(params, z)); the part left
  out has mean zero (Roeder, Wu, Duvenaud 2017, arXiv 1703.09194). It has so for the entropy alone: for int rho^2 the same omission
  would halve the gradient. Functionals that read the density otherwise get the whole gradient;
- jackknife: SW_2^2 between n-point samples is above that of the measures by about a constant / n, since sorting pairs points by what
  rank they happen to have. 2 D(n points) - D(n / 2 points) is free of it (Quenouille 1956).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array

from swjko import validation
from swjko.distances.directions import uniform_directions
from swjko.distances.sliced import sliced_wasserstein_pow
from swjko.families.base import Family, require_family
from swjko.functionals.energies import is_entropy_like, needs_density
from swjko.schemes.base import Info, Result, State
from swjko.types import (
    Cloud,
    DirectionFn,
    Functional,
    Key,
    Leaf,
    Params,
    Scalar,
    as_partial,
    static_field,
)

# An exact step never raises the objective. Estimates do by their noise and a bad solve by more; this many times (1 + |F|) is neither.
_DIVERGENCE_FACTOR = 10.0
# Of the running mean of gradients by which an inner solve may stop, and how many it needs.
_MEMORY, _SHORTEST_SOLVE = 0.9, 10


def sw_jko(
    family: Family,
    functional: Functional,
    optimizer: optax.GradientTransformation,
    *,
    step_size: float | Scalar,
    num_inner_steps: int,
    num_samples: int,
    num_projections: int,
    direction_fn: DirectionFn = uniform_directions,
    common_latents: bool = True,
    path_gradient: bool = True,
    debias: bool = True,
    inner_tolerance: float | Scalar | None = None,
) -> "SWJKO":
    """A scheme whose ``step`` is one SW-JKO step over ``family``.

    Args:
      family: the measures to move in.
      functional: F.
      optimizer: from optax; it starts afresh at each JKO step, so a schedule runs over ``num_inner_steps``.
      step_size: tau, in units of SW time. An SW flow runs about d times as fast as a Wasserstein flow: at time t it resembles that flow at
        time d t, exactly only for isotropic Gaussians with isotropic quadratic potentials.
      num_inner_steps: optimiser updates in one JKO step.
      num_samples, num_projections: points and directions drawn afresh for each update.
      direction_fn: ``(key, num, dim) -> [num dim]`` unit rows.
      common_latents, path_gradient, debias: see the module's text; False gives the plain estimators. Path gradients are taken where the
        functional is entropy-like, see ``swjko.functionals``; families of finitely many points (particles, grids) are no samples and have
        no bias to remove. A debiased proximity near zero may be estimated below it.
      inner_tolerance: part of a step's first gradient at which its updates stop, such as 0.05; None makes all of them. What is compared is
        the norm of a running mean of the gradients, over about ten updates, so that noise does not hide what is left. A step that
        does not get there takes all its updates, and is no failure. Stopped updates cost nothing, except under ``vmap``, where
        the flows wait for the slowest. Steps whose errors are controlled converge as exact ones do (Di Marino, Naldi, Villa 2025,
        arXiv 2505.23517).

    Raises ValueError or TypeError on numbers below their minimum, on things of the wrong kind, on a functional that needs a density with
    a family that has none, and on whatever goes wrong when the objective's shapes are evaluated, all before anything is compiled.

    Example::

        scheme = sw_jko(gaussian(2), kl_divergence(lambda x: -jnp.sum(x**2) / 2), optax.adam(1e-2), step_size=0.1,
                        num_inner_steps=100, num_samples=256, num_projections=32)
        state, (states, infos) = run(key, scheme, scheme.init(init_key), 10)
    """
    require_family(family)
    validation.require_callable(functional, "functional", "(key, cloud) -> scalar")
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer must be an optax GradientTransformation, such as optax.adam(3e-3); received {type(optimizer).__name__}."
        )
    if needs_density(functional) and not family.has_density:
        raise ValueError(
            "functional needs the density of the measure, and this family has none. Take a family with a density, such as "
            "swjko.gaussian or swjko.flows.coupling, or drop the entropy from the functional."
        )
    scheme = SWJKO(
        family,
        functional if dataclasses.is_dataclass(functional) else as_partial(functional),
        validation.as_step_size(step_size),
        optimizer,
        validation.as_count(num_inner_steps, "num_inner_steps"),
        validation.as_count(num_samples, "num_samples"),
        validation.as_count(num_projections, "num_projections"),
        validation.require_callable(direction_fn, "direction_fn", "(key, num, dim) -> directions"),
        bool(common_latents),
        bool(path_gradient),
        bool(debias),
        None
        if inner_tolerance is None
        else validation.as_positive(inner_tolerance, "inner_tolerance"),
    )
    _check_shapes(scheme)
    return scheme


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SWJKO:
    """Made by ``sw_jko``. family, functional, step_size and inner_tolerance are leaves: replace them, or give them a leading axis and
    vmap."""

    family: Family
    functional: Any
    step_size: Leaf
    optimizer: optax.GradientTransformation = static_field()
    num_inner_steps: int = static_field()
    num_samples: int = static_field()
    num_projections: int = static_field()
    direction_fn: DirectionFn = static_field()
    common_latents: bool = static_field()
    path_gradient: bool = static_field()
    debias: bool = static_field()
    inner_tolerance: Leaf | None = None

    def init(self, key: Key) -> State:
        """The state at mu_0, time 0."""
        params = self.family.init(key)
        return State(
            params,
            jnp.zeros_like(self.step_size),
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.int32),
        )

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """One JKO step from ``state``, the anchor; where it fails, the state stays and its code says why."""
        inner_key, report_key = jax.random.split(key)
        anchor = state.params
        params = self._solve_inner(inner_key, anchor)
        (objective, (energy, proximity)), gradient = self.objective_and_gradient(
            report_key, params, anchor
        )
        (anchor_energy, _), _ = self.objective_and_gradient(report_key, anchor, anchor)
        result = _result(state.result, objective, anchor_energy, params)
        keep = result == Result.OK
        state = State(
            jax.tree.map(lambda new, old: jnp.where(keep, new, old), params, anchor),
            jnp.where(keep, state.time + self.step_size, state.time),
            jnp.where(keep, state.step + 1, state.step),
            result,
        )
        return state, Info(
            state.time, energy, proximity, objective, optax.tree.norm(gradient), result
        )

    def objective_and_gradient(
        self, key: Key, params: Params, anchor: Params
    ) -> tuple[tuple[Scalar, tuple[Scalar, Scalar]], Params]:
        """One estimate: ((objective, (energy, proximity)), gradient in params). The anchor gets no gradient."""
        return jax.value_and_grad(self._objective, argnums=1, has_aux=True)(
            key, params, params, anchor
        )

    def _objective(self, key: Key, params: Params, frozen_params: Params, anchor: Params):
        latent_key, anchor_key, direction_key, functional_key = jax.random.split(key, 4)
        latent = self.family.latent(latent_key, self.num_samples)
        anchor_latent = (
            latent if self.common_latents else self.family.latent(anchor_key, self.num_samples)
        )
        cloud = self.family.push(params, latent)
        if (
            self.path_gradient
            and needs_density(self.functional)
            and is_entropy_like(self.functional)
        ):
            frozen = self.family.log_prob(frozen_params, cloud.points)
            cloud = cloud if frozen is None else cloud._replace(log_density=frozen)
        directions = self.direction_fn(direction_key, self.num_projections, self.family.dim)
        distance = self._squared_distance(cloud, anchor, anchor_latent, directions)
        proximity = distance / (2.0 * self.step_size.astype(distance.dtype))
        energy = self.functional(functional_key, cloud)
        return energy + proximity, (energy, proximity)

    def _squared_distance(
        self, cloud: Cloud, anchor: Params, latent: Any, directions: Array
    ) -> Scalar:
        old = self.family.push(anchor, latent)
        if cloud.weights is not None or old.weights is not None:
            return sliced_wasserstein_pow(
                cloud.points, old.points, directions, x_weights=cloud.weights, y_weights=old.weights
            )
        return self._debiased(
            lambda x, y: sliced_wasserstein_pow(x, y, directions), cloud.points, old.points
        )

    def _debiased(self, distance: Callable[..., Scalar], *points: Array) -> Scalar:
        """The jackknife (n D_n - h D_h) / (n - h) of a distance between clouds of n points, D_h its mean over two parts of h = n // 2."""
        whole, n = distance(*points), points[0].shape[0]
        if not self.debias or self.family.is_finite or n < 2:
            return whole
        h = n // 2
        halves = [distance(*(cloud[first : first + h] for cloud in points)) for first in (0, h)]
        return (n * whole - h * 0.5 * (halves[0] + halves[1])) / (n - h)

    def _solve_inner(self, key: Key, anchor: Params) -> Params:
        optimizer = optax.with_extra_args_support(self.optimizer)

        def update(carry, update_key):
            params, optimizer_state = carry
            (objective, _), gradient = self.objective_and_gradient(update_key, params, anchor)

            def value_fn(params: Any) -> Array:
                return self._objective(update_key, params, params, anchor)[0]

            updates, optimizer_state = optimizer.update(
                gradient, optimizer_state, params, value=objective, grad=gradient, value_fn=value_fn
            )
            return (optax.apply_updates(params, updates), optimizer_state), gradient

        def update_unless_solved(carry, update_key):
            def go_on(carry):
                inner, watch = carry
                inner, gradient = update(inner, update_key)
                return inner, watch.after(gradient)

            return lax.cond(
                carry[1].solved(self.inner_tolerance), lambda carry: carry, go_on, carry
            ), None

        keys = jax.random.split(key, self.num_inner_steps)
        start = (anchor, optimizer.init(anchor))
        if self.inner_tolerance is None:
            (params, _), _ = lax.scan(lambda carry, key: (update(carry, key)[0], None), start, keys)
        else:
            ((params, _), _), _ = lax.scan(
                update_unless_solved, (start, _GradientWatch.at(anchor)), keys
            )
        return params


class _GradientWatch(NamedTuple):
    """A running mean of the gradients of one inner solve, beside the first one's norm."""

    mean: Params
    count: Array
    first_norm: Scalar

    @classmethod
    def at(cls, params: Params) -> "_GradientWatch":
        zeros = jax.tree.map(jnp.zeros_like, params)
        return cls(zeros, jnp.zeros((), jnp.int32), jnp.zeros_like(optax.tree.norm(zeros)))

    def after(self, gradient: Params) -> "_GradientWatch":
        mean = jax.tree.map(
            lambda old, new: _MEMORY * old + (1.0 - _MEMORY) * new, self.mean, gradient
        )
        first_norm = jnp.where(self.count == 0, optax.tree.norm(gradient), self.first_norm)
        return _GradientWatch(mean, self.count + 1, first_norm.astype(self.first_norm.dtype))

    def solved(self, tolerance: Any) -> Array:
        """Not before the mean is one of enough gradients; its start at zero is taken out."""
        left = optax.tree.norm(self.mean) / (1.0 - _MEMORY**self.count)
        return (self.count >= _SHORTEST_SOLVE) & (
            left <= tolerance.astype(left.dtype) * self.first_norm
        )


def _result(previous: Array, objective: Scalar, anchor_energy: Scalar, params: Params) -> Array:
    finite = jnp.isfinite(objective)
    for leaf in jax.tree.leaves(params):
        finite &= jnp.all(jnp.isfinite(leaf))
    diverged = objective - anchor_energy > _DIVERGENCE_FACTOR * (1.0 + jnp.abs(anchor_energy))
    code = jnp.where(finite, jnp.where(diverged, Result.DIVERGED, Result.OK), Result.NON_FINITE)
    return jnp.where(previous == Result.OK, code, previous).astype(previous.dtype)


def _check_shapes(scheme: SWJKO) -> None:
    """Traces the objective without computing it, so that mistakes in user functions surface here and not inside a compiled scan."""

    def trace(key):
        params = scheme.family.init(key)
        return scheme._objective(key, params, params, params)[0]

    objective = jax.eval_shape(trace, jax.eval_shape(lambda: jax.random.key(0)))
    if objective.shape != ():
        raise ValueError(
            f"functional must return a scalar; the objective has shape {objective.shape}. Average over the points of the cloud."
        )
