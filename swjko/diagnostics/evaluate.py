"""Energies and divergences with standard errors, and trajectories on fixed latents."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from swjko.families.base import Family, require_family, sample
from swjko.functionals.base import needs_density, value_at
from swjko.types import Cloud, Estimate, Functional, Key, Params, Scalar, as_partial, validation
from swjko.types.scalars import scalars

# Enough for float64 from any width.
_BISECTIONS = 64


def evaluate(
    key: Key,
    family: Family,
    functional: Functional,
    params: Params,
    *,
    num_samples: int,
    num_repeats: int = 16,
) -> Estimate:
    """Estimates F at ``params``, with a standard error.

    Args:
      key: Random key.
      family: Family that the params belong to.
      functional: F.
      params: Parameters of the measure.
      num_samples: Points in each cloud.
      num_repeats: Independent clouds that are averaged, at least 2.
    """
    num_samples = validation.as_count(num_samples, "num_samples")
    num_repeats = validation.as_count(num_repeats, "num_repeats", 2)
    require_family(family)
    validation.require_callable(functional, "functional", "(key, cloud) -> scalar")
    if needs_density(functional) and not family.has_density:
        raise ValueError(
            "functional needs the density of the measure, and this family has none. "
            "Use one with a density, such as swjko.flows.coupling."
        )

    log_prob = None if family.log_prob is None else functools.partial(family.log_prob, params)

    def once(key: Key) -> Scalar:
        sample_key, functional_key = jax.random.split(key)
        cloud = sample(family, params, sample_key, num_samples)
        return value_at(functional, functional_key, cloud, log_prob)

    return Estimate.of_mean(jax.lax.map(once, jax.random.split(key, num_repeats)))


def symmetric_kl(
    key: Key,
    family: Family,
    params: Params,
    target_log_prob: Callable[[Float[Array, " d"]], Scalar],
    target_sample: Callable[[Key, int], Float[Array, "m d"]] | Float[Array, "m d"],
    *,
    num_samples: int,
) -> Estimate:
    """Estimates KL(mu || nu) + KL(nu || mu), with a standard error.

    With l = log mu - log nu and points of both measures, it is the mean of 2 l tanh(l / 2) over
    their equal mixture. No term is negative, so values far below 1 / num_samples are resolved
    where the measures are close; means of l and -l under each measure would have a noise of
    sqrt(value / num_samples). A missing constant of log nu is estimated from the points too, as
    the one for which the mean of tanh(l / 2) vanishes.

    Args:
      key: Random key.
      family: Family of mu; it must have a density at given points.
      params: Parameters of mu.
      target_log_prob: Log-density of nu at one point [d], up to a constant.
      target_sample: ``(key, num) -> [num d]`` points of nu, or points [m d] of nu.
      num_samples: Points drawn on each side, at least 2.

    References:
      Bennett (1976); Meng and Wong (1996).
    """
    num_samples = validation.as_count(num_samples, "num_samples", 2)
    require_family(family)
    validation.require_callable(
        target_log_prob, "target_log_prob", "from one point [d] to a scalar"
    )
    if not family.has_density:
        raise ValueError(
            "family must have a density for symmetric_kl. "
            "Use one such as swjko.gaussian or swjko.flows.coupling."
        )
    family_key, target_key = jax.random.split(key)
    given = target_sample(target_key, num_samples) if callable(target_sample) else target_sample
    points = validation.as_points(given, "target_sample")
    if points.shape[1:] != (family.dim,):
        raise ValueError(
            f"target_sample must give points [m {family.dim}], as the family does; "
            f"got shape {points.shape}."
        )
    log_prob = None if family.log_prob is None else family.log_prob(params, points)
    if log_prob is None:
        raise ValueError(
            "family must have a density at the target's points for symmetric_kl; a grid has one "
            "at its own points only. Evaluate a KL divergence with swjko.evaluate."
        )
    cloud = sample(family, params, family_key, num_samples)
    target = as_partial(target_log_prob)
    own = jnp.asarray(cloud.log_density) - scalars(target, cloud.points, "target_log_prob")
    other = jnp.asarray(log_prob) - scalars(target, points, "target_log_prob")
    constant = _log_ratio_of_constants(own, other)
    sides = [
        Estimate.of_mean((ratio - constant) * jnp.tanh((ratio - constant) / 2.0))
        for ratio in (own, other)
    ]
    error = jnp.hypot(sides[0].standard_error, sides[1].standard_error)
    return Estimate(sides[0].value + sides[1].value, error)


def replay(key: Key, family: Family, params_trajectory: Params, num: int) -> Cloud:
    """Returns the clouds of a trajectory, all pushed from the same latents.

    Each point then moves smoothly from one time to the next, as in a movie.

    Args:
      key: Random key of the latents.
      family: Family that the params belong to, such as ``scheme.family``.
      params_trajectory: Params with a leading axis of times [t ...], such as ``states.params``
        recorded by ``run``.
      num: Points in each cloud.

    Returns:
      A cloud of points [t num d].
    """
    require_family(family)
    require_trajectory(family, params_trajectory, "params_trajectory")
    latent = family.latent(key, validation.as_count(num, "num"))
    return jax.vmap(lambda params: family.push(params, latent))(params_trajectory)


def _log_ratio_of_constants(own: Float[Array, " n"], other: Float[Array, " m"]) -> Scalar:
    """Returns the c at which the mean of tanh((l - c) / 2) over both sides vanishes.

    The mean falls as c grows, so bisection finds it.
    """

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2.0
        positive = (
            jnp.mean(jnp.tanh((own - middle) / 2.0)) + jnp.mean(jnp.tanh((other - middle) / 2.0))
            > 0
        )
        return jnp.where(positive, middle, low), jnp.where(positive, high, middle)

    ends = (jnp.minimum(jnp.min(own), jnp.min(other)), jnp.maximum(jnp.max(own), jnp.max(other)))
    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, ends)
    return (low + high) / 2.0


def require_trajectory(family: Family, trajectory: Params, name: str) -> None:
    """Raises ValueError if ``trajectory`` is not params with a leading axis of times."""
    one = jax.eval_shape(family.init, jax.eval_shape(lambda: jax.random.key(0)))
    fits = jax.tree.structure(one) == jax.tree.structure(trajectory) and all(
        jnp.shape(leaf)[1:] == template.shape and jnp.ndim(leaf) == template.ndim + 1
        for leaf, template in zip(jax.tree.leaves(trajectory), jax.tree.leaves(one), strict=True)
    )
    if not fits:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(trajectory)]
        raise ValueError(
            f"{name} must be params of the family with a leading axis of times, such as "
            f"states.params recorded by swjko.run; got shapes {shapes}."
        )
