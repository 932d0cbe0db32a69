"""Importance correction as a scheme: a step, then a step of birth and death towards the target.

A flow of reverse KL loses modes silently. After each step of another scheme, the
corrected scheme draws afresh from the measure q with its density, weighs the draws by

    w_i ~ (p(x_i) / q(x_i))^b,

and refits the family to the weighted draws by forward KL, with the SW proximity to them:

    argmin_params  -sum_i w_i log q_params(x_i) + SW_2^2(q_params, sum_i w_i delta_{x_i}) / (2 tau).

The measure q^{1-b} p^b lies at time -log(1 - b) on the Fisher-Rao gradient flow of KL( . | p),
which moves mass without transport. The exponent b is the largest, up to one, for which the
effective number of draws is at least a fraction of them. So far from the target steps are short.
A part of the draws may come from a wide proposal, which finds modes again that q has lost. The
weights are then those of the mixture of both.

References:
  Hertrich, Gruhlke (2024), arXiv 2407.20444. Crucinio, Pathiraja (2025), arXiv 2506.05905. On the
  Fisher-Rao flow: Lu, Lu, Nolen (2019), arXiv 1905.09863.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from swjko.distances.directions import uniform_directions
from swjko.distances.sliced import sliced_wasserstein_pow
from swjko.families.base import Family
from swjko.families.bases import Distribution
from swjko.families.expectation_maximization import ExpectationMaximization, require_fit
from swjko.functionals.base import effective_fraction
from swjko.linalg import stratified_indices
from swjko.schemes import inner_solve
from swjko.schemes.base import (
    Info,
    Result,
    Scheme,
    State,
    accept,
    require_scheme,
    start_shapes,
    step_result,
)
from swjko.schemes.optimizers import WithOptimizer, as_optimizer, require_updates
from swjko.types import DirectionFn, Key, Leaf, Params, Scalar, as_partial, static_field, validation
from swjko.types.scalars import scalars

# Halvings of the interval [0, 1] of the exponent.
_HALVINGS = 24


def corrected(
    scheme: Scheme,
    target_log_prob: Callable[[Float[Array, " d"]], Scalar],
    optimizer: optax.GradientTransformation | ExpectationMaximization,
    *,
    num_inner_steps: int,
    num_draws: int = 8192,
    batch_size: int = 512,
    effective_fraction: float = 0.3,
    step_size: float | Scalar | None = None,
    num_projections: int = 32,
    direction_fn: DirectionFn = uniform_directions,
    proposal: Distribution | None = None,
    proposal_fraction: float = 0.1,
) -> "Corrected":
    """Makes a scheme whose ``step`` is one of ``scheme`` and a correction towards a target.

    Give ``scheme`` short first steps: what it loses before a correction sees it is lost.
    ``state.extra`` is that of ``scheme``, and ``info.extra`` a ``CorrectionReport``.

    Args:
      scheme: Scheme whose family has ``log_prob``, such as ``sw_jko(...)``.
      target_log_prob: Unnormalised log-density of the target p at one point [d]; -inf is allowed.
      optimizer: Optax optimizer of the refit. It starts afresh at each step, so a schedule runs
        over ``num_inner_steps``. For Gaussians and their mixtures ``expectation_maximization()``
        is faster and more exact.
      num_inner_steps: Updates of a refit, or steps of expectation-maximisation.
      num_draws: Fresh draws that are weighted at each step, at least 25.
      batch_size: Points of an update, resampled from the draws by their weights.
      effective_fraction: Effective number of draws that the exponent keeps, as a fraction.
      step_size: tau of the SW proximity to the weighted draws; None leaves the proximity out.
      num_projections: Directions of the proximity for each update.
      direction_fn: ``(key, num, dim) -> [num dim]`` unit rows.
      proposal: Wide distribution, such as the start ``FlowDistribution(family, params)``, from
        which a part of the draws comes. It helps in a few dimensions only.
      proposal_fraction: Part of the draws that come from the proposal.

    Raises:
      ValueError: If the family has no density at given points.

    Example::

        jko = sw_jko(family, kl_divergence(log_prob), optax.adam(1e-3), step_size=0.01, ...)
        scheme = corrected(jko, log_prob, optax.adam(3e-3), num_inner_steps=200)
        solution = solve(key, scheme, 20)
    """
    require_scheme(scheme)
    validation.require_callable(target_log_prob, "target_log_prob", "[d] -> log-density")
    if scheme.family.log_prob is None:
        raise ValueError(
            "scheme must have a family with a density at given points; this one has none. "
            "Use a family such as swjko.flows.coupling, swjko.flows.spline or swjko.gaussian."
        )
    if step_size is not None:
        step_size = validation.as_positive(step_size, "step_size")
    if isinstance(optimizer, ExpectationMaximization):
        require_fit(scheme.family, step_size)
    else:
        optimizer = as_optimizer(optimizer)
        require_updates(optimizer, start_shapes(scheme.family))
    return Corrected(
        scheme,
        as_partial(target_log_prob),
        step_size,
        optimizer,
        validation.as_count(num_inner_steps, "num_inner_steps"),
        validation.as_count(num_draws, "num_draws", 25),
        validation.as_count(batch_size, "batch_size"),
        validation.as_fraction(effective_fraction, "effective_fraction", "the part of the draws"),
        validation.as_count(num_projections, "num_projections"),
        validation.require_callable(direction_fn, "direction_fn", "(key, num, dim) -> directions"),
        validation.as_fraction(proposal_fraction, "proposal_fraction", "the part of the draws"),
        proposal,
    )


class CorrectionReport(NamedTuple):
    """What a corrected scheme reports in ``info.extra``, of the draws before the refit.

    Attributes:
      extra: ``info.extra`` of the scheme itself.
      exponent: b, the part of log p - log q that the refit follows.
      log_evidence: log Z of the target, by the draws with exponent one.
      effective_fraction: Effective number of draws with exponent one, as a fraction.
    """

    extra: PyTree
    exponent: Scalar
    log_evidence: Scalar
    effective_fraction: Scalar


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Corrected(WithOptimizer):
    """Made by ``corrected``. scheme, target_log_prob and step_size are leaves."""

    scheme: Leaf
    target_log_prob: Partial
    step_size: Leaf | None
    optimizer: optax.GradientTransformation | ExpectationMaximization = static_field()
    num_inner_steps: int = static_field()
    num_draws: int = static_field()
    batch_size: int = static_field()
    effective_fraction: float = static_field()
    num_projections: int = static_field()
    direction_fn: DirectionFn = static_field()
    proposal_fraction: float = static_field()
    proposal: Leaf | None = None

    @property
    def family(self) -> Family:
        return self.scheme.family

    def init(self, key: Key) -> State:
        """Returns the state at mu_0, time 0."""
        return self.scheme.init(key)

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """Takes a step of the scheme, and corrects. If either fails, the state stays before it."""
        scheme_key, draw_key, inner_key, report_key = jax.random.split(key, 4)
        moved, info = self.scheme.step(scheme_key, state)
        draws, log_weights, report = self.weigh(draw_key, moved.params)
        weights = jax.nn.softmax(report.exponent * log_weights)

        def objective(params: Params, key: Key) -> tuple[Scalar, None]:
            return self.objective(key, params, draws, weights), None

        if isinstance(self.optimizer, ExpectationMaximization):
            fit = self.optimizer.fit
            params = fit(self.family, moved.params, draws, weights, self.num_inner_steps)
        else:
            keys = jax.random.split(inner_key, self.num_inner_steps)
            params = inner_solve.minimize(objective, self.optimizer, moved.params, keys)
        before, after = (objective(one, report_key)[0] for one in (moved.params, params))
        result = step_result(moved, params, after, before)
        unusable = jnp.isnan(log_weights) | (log_weights == jnp.inf)
        failed = jnp.any(unusable) | ~jnp.isfinite(report.log_evidence)
        is_ok = result == Result.OK
        result = jnp.where(failed & is_ok, Result.NON_FINITE, result).astype(result.dtype)
        new = accept(moved, moved._replace(params=params, result=result))
        return new, info._replace(result=result, extra=report._replace(extra=info.extra))

    def weigh(
        self, key: Key, params: Params
    ) -> tuple[Float[Array, "n d"], Float[Array, " n"], CorrectionReport]:
        """Returns fresh draws, log p - log q at them, and the exponent with its report."""
        points, log_density = self._draw(key, params)
        log_weights = lax.stop_gradient(
            scalars(self.target_log_prob, points, "target_log_prob") - log_density
        )
        evidence = jax.nn.logsumexp(log_weights) - jnp.log(float(self.num_draws))
        exponent = largest_exponent(log_weights, self.effective_fraction)
        fraction = effective_fraction(log_weights)
        report = CorrectionReport((), exponent, evidence, fraction)
        return lax.stop_gradient(points), log_weights, report

    def _draw(self, key: Key, params: Params) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        """Returns draws of the measure, and of the proposal if there is one, with their density."""
        if self.proposal is None:
            cloud = self.family.draw(params, key, self.num_draws)
            return cloud.points, jnp.asarray(cloud.log_density)
        own_key, wide_key = jax.random.split(key)
        num_wide = max(1, round(self.proposal_fraction * self.num_draws))
        own = self.family.draw(params, own_key, self.num_draws - num_wide)
        wide = self.proposal.sample(wide_key, num_wide)
        points = jnp.concatenate([own.points, wide.points])
        share = num_wide / self.num_draws
        log_density = jnp.logaddexp(
            jnp.log1p(-share) + self.family.log_prob(params, points),
            jnp.log(share) + self.proposal.log_prob(points),
        )
        return points, log_density

    def objective(
        self, key: Key, params: Params, draws: Float[Array, "n d"], weights: Float[Array, " n"]
    ) -> Scalar:
        """Estimates forward KL up to a constant, plus the proximity to the weighted draws."""
        index_key, latent_key, direction_key = jax.random.split(jax.random.clone(key), 3)
        points = draws[stratified_indices(index_key, weights, self.batch_size)]
        value = -jnp.mean(self.family.log_prob(params, points))
        if self.step_size is None:
            return value
        cloud = self.family.push(params, self.family.latent(latent_key, self.batch_size))
        directions = self.direction_fn(direction_key, self.num_projections, self.family.dim)
        distance = sliced_wasserstein_pow(cloud.points, points, directions, x_weights=cloud.weights)
        return value + distance / (2.0 * self.step_size.astype(distance.dtype))


def largest_exponent(log_weights: Float[Array, " n"], fraction: float) -> Scalar:
    """Returns the largest b <= 1 for which weights to the power b are effective enough."""

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        is_enough = effective_fraction(middle * log_weights) >= fraction
        return jnp.where(is_enough, middle, low), jnp.where(is_enough, high, middle)

    one = jnp.ones((), log_weights.dtype)
    low, _ = lax.fori_loop(0, _HALVINGS, halve, (0 * one, one))
    return jnp.where(effective_fraction(log_weights) >= fraction, one, low)
