"""How far a flow has come: energies and divergences with standard errors, and trajectories replayed on fixed latents."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from swjko import validation
from swjko.families.base import Family, require_family, sample
from swjko.functionals.energies import needs_density
from swjko.types import Cloud, Estimate, Functional, Key, Params, Scalar

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
    """F at ``params``: the mean over ``num_repeats`` independent clouds of ``num_samples`` points, and its standard error.

    Raises ValueError when the functional needs a density that the family lacks, or a count is too small (num_repeats at least 2).
    """
    num_samples, num_repeats = (
        validation.as_count(num_samples, "num_samples"),
        validation.as_count(num_repeats, "num_repeats", 2),
    )
    require_family(family)
    validation.require_callable(functional, "functional", "(key, cloud) -> scalar")
    if needs_density(functional) and not family.has_density:
        raise ValueError(
            "functional needs the density of the measure, and this family has none; take one such as swjko.flows.coupling."
        )

    def once(key: Key) -> Scalar:
        sample_key, functional_key = jax.random.split(key)
        return functional(functional_key, sample(family, params, sample_key, num_samples))

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
    """KL(mu || nu) + KL(nu || mu), with its standard error.

    With l = log mu - log nu and points of both measures, it is the mean of 2 l tanh(l / 2) over their equal mixture: no term is negative,
    and where the measures are close, values far below 1 / num_samples are resolved (means of l and -l under each would have a noise of
    sqrt(value / num_samples)). A constant missing in log nu is found from the points too, as the one for which the mean of tanh(l / 2)
    vanishes (Bennett 1976; Meng and Wong 1996).

    Args:
      family, params: mu.
      target_log_prob: log-density of nu at one point [d], up to a constant.
      target_sample: ``(key, num) -> [num d]`` points of nu, or such points [m d].
      num_samples: points drawn on each side.

    Raises ValueError when the family has no density.
    """
    num_samples = validation.as_count(num_samples, "num_samples", 2)
    require_family(family)
    validation.require_callable(
        target_log_prob, "target_log_prob", "from one point [d] to a scalar"
    )
    if not family.has_density:
        raise ValueError(
            "symmetric_kl needs a family with a density, such as swjko.gaussian or swjko.flows.coupling."
        )
    family_key, target_key = jax.random.split(key)
    points = (
        target_sample(target_key, num_samples)
        if callable(target_sample)
        else validation.as_points(target_sample, "target_sample")
    )
    if points.shape[1:] != (family.dim,):
        raise ValueError(
            f"target_sample must give points [m {family.dim}] like the family's; received shape {points.shape}."
        )
    log_prob = family.log_prob(params, points)
    if log_prob is None:
        raise ValueError(
            "symmetric_kl needs the density at the target's points, and a grid has it at its own alone; evaluate a KL."
        )
    cloud = sample(family, params, family_key, num_samples)
    own = jnp.asarray(cloud.log_density) - jax.vmap(target_log_prob)(cloud.points)
    other = jnp.asarray(log_prob) - jax.vmap(target_log_prob)(points)
    constant = _log_ratio_of_constants(own, other)
    sides = [
        Estimate.of_mean((ratio - constant) * jnp.tanh((ratio - constant) / 2.0))
        for ratio in (own, other)
    ]
    return Estimate(
        sides[0].value + sides[1].value, jnp.hypot(sides[0].standard_error, sides[1].standard_error)
    )


def replay(key: Key, family: Family, params_trajectory: Params, num: int) -> Cloud:
    """The clouds of a trajectory, all pushed from the same latents, so that each point moves smoothly from one time to the next.

    Args:
      family: the one that the params are of, as ``scheme.family``.
      params_trajectory: params with a leading time axis [t ...], such as ``states.params`` recorded by ``run``.
      num: points in each cloud. Returns a Cloud of points [t num d].

    Raises ValueError or TypeError on a trajectory that does not fit the family and on a count below 1.
    """
    require_family(family)
    require_trajectory(family, params_trajectory, "params_trajectory")
    latent = family.latent(key, validation.as_count(num, "num"))
    return jax.vmap(lambda params: family.push(params, latent))(params_trajectory)


def _log_ratio_of_constants(own: Float[Array, " n"], other: Float[Array, " m"]) -> Scalar:
    """The constant c at which the mean over both sides of tanh((l - c) / 2) vanishes, by bisection: the mean falls as c grows."""

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
    one = jax.eval_shape(family.init, jax.eval_shape(lambda: jax.random.key(0)))
    fits = jax.tree.structure(one) == jax.tree.structure(trajectory) and all(
        jnp.shape(leaf)[1:] == template.shape and jnp.ndim(leaf) == template.ndim + 1
        for leaf, template in zip(jax.tree.leaves(trajectory), jax.tree.leaves(one), strict=True)
    )
    if not fits:
        raise ValueError(
            f"{name} must be params of the family with a leading axis of times, such as states.params recorded by swjko.run; "
            f"received shapes {[jnp.shape(leaf) for leaf in jax.tree.leaves(trajectory)]}."
        )
