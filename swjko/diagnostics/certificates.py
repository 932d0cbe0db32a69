"""Certificates: whether each step of a run did what an SW-JKO step does.

An exact step, mu_{k+1} = argmin_mu SW_2^2(mu, mu_k) / (2 tau) + F(mu), has for every F

    dissipation_k = F(mu_k) - F(mu_{k+1}) - SW_2^2(mu_{k+1}, mu_k) / (2 tau) >= 0,

since mu_k competes, and no gradient is left at its end. The inequality bounds the sum of all
proximities by the decrease of F, which the limit of small steps needs (Ambrosio, Gigli, Savare,
"Gradient flows", 2008). Inexact steps may satisfy it too; on what they converge to see Di Marino,
Naldi, Villa, "Inexact JKO and proximal-gradient algorithms in the Wasserstein space" (2025),
arXiv 2505.23517. Both are estimated from parameters alone on fresh samples. New and old measure
push the same latents and meet the same directions, so that shared noise cancels.

A certificate of k steps makes 2 k tests. Each has the level 2.5 % / (2 k), by the quantile of
Student's t, so at most 2.5 % of the runs without any fault are refused (Bonferroni).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from scipy.special import stdtrit

from swjko.diagnostics.evaluate import require_trajectory
from swjko.diagnostics.importance import importance
from swjko.diagnostics.verdicts import FALSE_ALARMS, Certificate
from swjko.families.distribution import FlowDistribution
from swjko.schemes.base import State
from swjko.schemes.sw_jko import SWJKO
from swjko.types import Estimate, Key, Params, Scalar, validation


def certificate(
    key: Key,
    scheme: SWJKO,
    trajectory: Params | State,
    *,
    num_samples: int,
    num_repeats: int = 16,
    start: Params | State | None = None,
    gradient_tolerance: float = 0.25,
    target_log_prob: Callable[[Float[Array, " d"]], Scalar] | None = None,
) -> Certificate:
    """Estimates what each step did, for a verdict on the steps.

    It holds num_repeats gradients of the size of params at once. Jit it as any function of arrays.

    Args:
      key: Random key of the fresh samples.
      scheme: Scheme that ran, from ``sw_jko``.
      trajectory: Params with a leading axis of times [k + 1 ...], mu_0 first; or [k ...] without
        mu_0, as recorded by ``run``. States are accepted too.
      num_samples: Points for each estimate. A grid, or particles taken whole, need their number
        of points.
      num_repeats: Independent estimates, of fresh latents, directions and draws of the
        functional; at least 2. Fewer than about 8 detect large violations only.
      start: Params or state of mu_0, as from ``scheme.init``, if the trajectory lacks it.
      gradient_tolerance: Largest gradient of a step's objective at its end, as a fraction of that
        at its anchor. What a stochastic inner solve leaves does not vanish with the gradient at
        the anchor, so the fraction is larger near the end of a flow.
      target_log_prob: Unnormalised log-density of the target at one point [d], for flows of
        KL(mu | target). The certificate then holds what draws of the last measure say of the fit,
        by ``importance``, and its verdict says it too.

    Example::

        found = certificate(key, scheme, states, start=scheme.init(init_key), num_samples=1000,
                            target_log_prob=log_prob)
        print(found.verdict)
    """
    if not isinstance(scheme, SWJKO):
        raise TypeError(
            f"scheme must come from swjko.sw_jko, whose steps have this inequality; "
            f"got {type(scheme).__name__}."
        )
    num_samples = validation.as_count(num_samples, "num_samples")
    num_repeats = validation.as_count(num_repeats, "num_repeats", 2)
    tolerance = validation.as_positive(gradient_tolerance, "gradient_tolerance", shape=None)
    measures = _measures(scheme, trajectory, start)
    old = jax.tree.map(lambda leaf: leaf[:-1], measures)
    new = jax.tree.map(lambda leaf: leaf[1:], measures)
    num_steps = jax.tree.leaves(new)[0].shape[0]
    paired = dataclasses.replace(scheme, num_samples=num_samples, common_latents=True)

    def judge(step):
        step_key, new, old = step
        return _judge(scheme, paired, jax.random.split(step_key, num_repeats), new, old)

    found = lax.map(judge, (jax.random.split(key, num_steps), new, old))
    energy, proximity, noise_floor, dissipation, inner_gap = found
    fit = None
    if target_log_prob is not None:
        last = FlowDistribution(scheme.family, jax.tree.map(lambda leaf: leaf[-1], new))
        num_draws = num_samples * num_repeats
        fit = importance(jax.random.fold_in(key, 1), last, target_log_prob, num_draws)
    quantile = -stdtrit(num_repeats - 1, FALSE_ALARMS / (2 * num_steps))
    return Certificate(
        energy,
        proximity,
        noise_floor,
        dissipation,
        inner_gap,
        tolerance,
        jnp.asarray(quantile, energy.value.dtype),
        fit,
    )


def _judge(scheme: SWJKO, paired: SWJKO, keys: Key, new: Params, old: Params):
    """Returns the estimates of one step, in the order of a ``Certificate``."""

    def repeat(key):
        (_, (energy, proximity)), gradient = paired.objective_and_gradient(key, new, old)
        (_, (old_energy, _)), old_gradient = paired.objective_and_gradient(key, old, old)
        no_move = jnp.zeros_like(proximity)
        if not scheme.common_latents:
            _, (_, no_move) = scheme.objective(key, old, old)
        return (
            energy,
            proximity,
            no_move,
            old_energy - energy - proximity,
            ravel_pytree(gradient)[0],
            ravel_pytree(old_gradient)[0],
        )

    energy, proximity, no_move, dissipation, gradients, old_gradients = lax.map(repeat, keys)
    proximity = Estimate.of_mean(proximity)
    start, _ = _norm_of_mean(old_gradients)
    gap = Estimate(*(jnp.where(norm == 0, 0.0, norm / start) for norm in _norm_of_mean(gradients)))
    floor = jnp.mean(no_move) + proximity.standard_error
    return Estimate.of_mean(energy), proximity, floor, Estimate.of_mean(dissipation), gap


def gradient_of_energy(key: Key, scheme: SWJKO, params: Params, num_repeats: int) -> Estimate:
    """Estimates the norm of the gradient of F in the parameters.

    It is the gradient of a step's objective at its anchor, a mean over ``num_repeats`` draws.
    """

    def repeat(key):
        return ravel_pytree(scheme.objective_and_gradient(key, params, params)[1])[0]

    return _norm_of_mean(lax.map(repeat, jax.random.split(jax.random.clone(key), num_repeats)))


def _norm_of_mean(gradients: Float[Array, "r p"]) -> Estimate:
    """Returns |E g| and the noise of the mean of r gradients.

    |mean|^2 exceeds |E g|^2 by the square of that noise on average, which is subtracted.
    """
    square = jnp.sum(jnp.mean(gradients, axis=0) ** 2)
    noise_square = jnp.sum(jnp.var(gradients, axis=0, ddof=1)) / gradients.shape[0]
    return Estimate(jnp.sqrt(jnp.maximum(square - noise_square, 0.0)), jnp.sqrt(noise_square))


def _measures(scheme: SWJKO, trajectory: Params | State, start: Params | State | None) -> Params:
    """Returns the params of all measures, the first included, along the leading axis."""
    trajectory = trajectory.params if isinstance(trajectory, State) else trajectory
    require_trajectory(scheme.family, trajectory, "trajectory")
    if start is not None:
        start = start.params if isinstance(start, State) else start
        first = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], start)
        require_trajectory(scheme.family, first, "start")
        trajectory = jax.tree.map(
            lambda one, rest: jnp.concatenate([one, jnp.asarray(rest)]), first, trajectory
        )
    count = jnp.shape(jax.tree.leaves(trajectory)[0])[0]
    if count < 2:
        raise ValueError(
            f"trajectory must hold at least two measures; got {count}. "
            "Pass that of mu_0 as start=scheme.init(key)."
        )
    return trajectory
