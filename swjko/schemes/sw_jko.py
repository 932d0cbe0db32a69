"""The SW-JKO scheme.

    mu_{k+1} = argmin_mu SW_2^2(mu, mu_k) / (2 step_size) + F(mu)   over a family of measures.

Each step minimises over the parameters of the family by stochastic gradients and starts from the
previous parameters. Common latents and path gradients make the gradient noise vanish where a step
is stationary: new and previous parameters push the same latents, so equal parameters are at
distance zero, where independent samples are at the distance of two samples of one measure. Path
gradients and the jackknife are in ``swjko.schemes.estimators``.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from swjko.distances.directions import uniform_directions
from swjko.distances.sliced import debiased_sliced_wasserstein_pow, sliced_wasserstein_pow
from swjko.families.base import Family, require_family
from swjko.functionals.base import needs_density, value_at
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
from swjko.schemes.estimators import path_push, reads_entropy_alone
from swjko.schemes.optimizers import WithOptimizer, as_optimizer, require_updates
from swjko.types import (
    Cloud,
    DirectionFn,
    Functional,
    Key,
    Leaf,
    Params,
    Scalar,
    static_field,
    validation,
)

# (cloud of the new measure, anchor, latent that the anchor pushes, directions) -> scalar
Proximity = Callable[[Cloud, Params, PyTree, Float[Array, "l d"]], Scalar]
# objective, (energy, proximity)
Objective = tuple[Scalar, tuple[Scalar, Scalar]]


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
    """Makes a scheme whose ``step`` is one SW-JKO step over ``family``.

    Args:
      family: Measures to move in.
      functional: F.
      optimizer: Optax optimizer. It starts afresh at each step, so a schedule runs over
        ``num_inner_steps``.
      step_size: tau, in units of SW time. An SW flow runs about d times as fast as a Wasserstein
        flow: at time t it resembles that flow at time d t, exactly so where measures change by
        translations and scalings alone, such as isotropic Gaussians in isotropic quadratic
        potentials.
      num_inner_steps: Optimizer updates in one step.
      num_samples: Points drawn for each update.
      num_projections: Directions drawn for each update.
      direction_fn: ``(key, num, dim) -> [num dim]`` unit rows.
      common_latents: Whether the new and the previous parameters push the same latents.
      path_gradient: Whether to take path gradients where the functional is entropy-like.
      debias: Whether to take the jackknife. Families of finitely many points have no bias to
        remove. A debiased proximity near zero may be estimated below it.
      inner_tolerance: Fraction of a step's first gradient at which its updates stop, such as
        0.05; None makes all of them. It is compared with the norm of a running mean over about
        ten gradients. A step that does not reach it is not a failure. Updates that are skipped
        cost nothing, except under ``vmap``, where all flows wait for the slowest.

    Raises:
      ValueError: If the functional needs a density and the family has none, or if the shapes of
        the objective do not fit.
      TypeError: If the optimizer cannot update the parameters, such as ``optax.lookahead``.

    Example::

        energy = kl_divergence(lambda x: -jnp.sum(x**2) / 2)
        scheme = sw_jko(gaussian(2), energy, optax.adam(1e-2), step_size=0.1,
                        num_inner_steps=100, num_samples=256, num_projections=32)
        state, (states, infos) = run(key, scheme, scheme.init(init_key), 10)

    References:
      Bonet et al. (2022), arXiv 2110.10972. On steps whose errors are controlled: Di Marino,
      Naldi, Villa (2025), arXiv 2505.23517.
    """
    require_family(family)
    functional = as_functional(functional)
    if needs_density(functional) and not family.has_density:
        raise ValueError(
            "functional needs the density of the measure, and this family has none. Use a family "
            "with a density, such as swjko.gaussian or swjko.flows.coupling, or drop the entropy "
            "from the functional."
        )
    if inner_tolerance is not None:
        inner_tolerance = validation.as_positive(inner_tolerance, "inner_tolerance", shape=None)
    scheme = SWJKO(
        family,
        functional,
        validation.as_positive(step_size, "step_size"),
        as_optimizer(optimizer),
        validation.as_count(num_inner_steps, "num_inner_steps"),
        validation.as_count(num_samples, "num_samples"),
        validation.as_count(num_projections, "num_projections"),
        validation.require_callable(direction_fn, "direction_fn", "(key, num, dim) -> directions"),
        bool(common_latents),
        bool(path_gradient),
        bool(debias),
        inner_tolerance,
    )
    require_scalar_objective(lambda key: scheme.objective(key, *2 * [family.init(key)])[0])
    require_updates(optimizer, start_shapes(family))
    return scheme


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SWJKO(WithOptimizer):
    """Made by ``sw_jko``.

    family, functional, step_size and inner_tolerance are leaves: replace them, or give them a
    leading axis and vmap.
    """

    family: Family
    functional: Functional
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
        """Returns the state at mu_0, time 0."""
        return start_state(self.family.init(key), self.step_size)

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """Takes one step from ``state``. If it fails, the state stays and its code says why."""
        same = self.common_latents
        return self.step_with(self.proximity, key, state, self.step_size, zero_at_anchor=same)

    def step_with(
        self,
        proximity: Proximity,
        key: Key,
        state: State,
        step_size: Scalar,
        *,
        zero_at_anchor: bool = False,
    ) -> tuple[State, Info]:
        """Takes one step of length ``step_size`` with another proximity term.

        Args:
          proximity: Term beside the energy.
          key: Random key.
          state: State before the step.
          step_size: Time of the step.
          zero_at_anchor: Whether the term is zero at the anchor, so that it need not be computed.
        """
        inner_key, report_key = jax.random.split(key)
        anchor = state.params

        def objective(params: Params, key: Key) -> Objective:
            return self.objective(key, params, anchor, proximity)

        keys = jax.random.split(inner_key, self.num_inner_steps)
        draws = jnp.concatenate([keys, report_key[None]])
        params, report = inner_solve.minimize_and_report(
            objective, self.optimizer, anchor, draws, self.inner_tolerance
        )
        if zero_at_anchor:
            anchor_energy = self.energy(report_key, anchor)
        else:
            anchor_energy, _ = objective(anchor, report_key)
        result = step_result(state, params, report.value, anchor_energy)
        new = State(params, state.time + step_size, state.step + 1, result, state.extra)
        state = accept(state, new)
        (energy, term), norm = report.aux, optax.tree.norm(report.gradient)
        return state, Info(state.time, energy, term, report.value, norm, result)

    def objective(
        self, key: Key, params: Params, anchor: Params, proximity: Proximity | None = None
    ) -> Objective:
        """Estimates energy + proximity, and (energy, proximity).

        Its gradient in params is the one that the updates follow: where path gradients are taken,
        the parameters of the log-density are held fixed. Equal keys give common random numbers.
        A proximity of None is SW_2^2 / (2 step_size).
        """
        latent_key, anchor_key, direction_key, _ = jax.random.split(jax.random.clone(key), 4)
        latent = anchor_latent = self.family.latent(latent_key, self.num_samples)
        if not self.common_latents:
            anchor_latent = self.family.latent(anchor_key, self.num_samples)
        along_path = self.path_gradient and self.family.log_prob is not None
        along_path = along_path and reads_entropy_alone(self.functional)
        push = functools.partial(path_push, self.family) if along_path else self.family.push
        cloud = push(params, latent)
        directions = self.direction_fn(direction_key, self.num_projections, self.family.dim)
        term = (proximity or self.proximity)(cloud, anchor, anchor_latent, directions)
        energy = self.energy(key, params, cloud)
        return energy + term, (energy, term)

    def energy(self, key: Key, params: Params, cloud: Cloud | None = None) -> Scalar:
        """Estimates F on the cloud that ``objective`` draws with this key, or on another one."""
        latent_key, _, _, functional_key = jax.random.split(jax.random.clone(key), 4)
        if cloud is None:
            cloud = self.family.push(params, self.family.latent(latent_key, self.num_samples))
        log_prob = self.family.log_prob
        log_prob = None if log_prob is None else functools.partial(log_prob, params)
        return value_at(self.functional, functional_key, cloud, log_prob)

    def objective_and_gradient(self, key: Key, params: Params, anchor: Params):
        """Estimates the objective of a step and its gradient in ``params``."""
        return jax.value_and_grad(self.objective, argnums=1, has_aux=True)(key, params, anchor)

    def proximity(
        self, cloud: Cloud, anchor: Params, latent: PyTree, directions: Float[Array, "l d"]
    ) -> Scalar:
        """Returns SW_2^2 between the cloud and the anchor's, over 2 step_size."""
        old = self.family.push(anchor, latent)
        weighted = cloud.weights is not None or old.weights is not None
        if self.is_debiased and not weighted:
            distance = debiased_sliced_wasserstein_pow(cloud.points, old.points, directions)
        else:
            distance = sliced_wasserstein_pow(
                cloud.points, old.points, directions, x_weights=cloud.weights, y_weights=old.weights
            )
        return distance / (2.0 * self.step_size.astype(distance.dtype))

    @property
    def is_debiased(self) -> bool:
        """Whether the jackknife is taken between clouds without weights."""
        return self.debias and not self.family.is_finite
