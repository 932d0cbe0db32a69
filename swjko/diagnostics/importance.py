"""Importance sampling: how well draws of a distribution represent an unnormalised target.

With draws x_i of q and log-weights l_i = log p(x_i) - log q(x_i),

    log Z = log mean exp(l),    ELBO = mean l <= log Z,
    effective fraction = (mean exp(l))^2 / mean exp(2 l),

and k-hat is the shape of a generalised Pareto law that is fitted to the largest weights: weights
have a finite variance for k < 1/2, and estimates are usable for k <= 0.7. None of these sees a
mode of p that q misses altogether.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from swjko.families.bases import Distribution
from swjko.functionals.base import effective_fraction
from swjko.linalg import nan_where
from swjko.types import Cloud, Estimate, Key, Scalar, as_partial, validation
from swjko.types.readable import html_table
from swjko.types.scalars import scalars

# Weights whose k-hat is larger are not to be used.
LARGEST_PARETO_K = 0.7
# Fewer draws have fewer than five weights in their tail (a fifth of them).
_LEAST_DRAWS = 25
# Weights of a larger effective fraction differ by rounding or not much more.
_EQUAL_WEIGHTS = 0.999
# The wide distribution has to find more than this, in nats, beyond so many standard errors.
_LEAST_DISAGREEMENT, _STANDARD_ERRORS = 0.1, 3.0
_BLIND = "Neither sees a mode that the distribution misses."


class Importance(NamedTuple):
    """The result of ``importance``. All numbers are NaN if a log-weight is NaN or +infinity.

    Attributes:
      log_evidence: log Z of the target, by the Pareto-smoothed weights. Raw ones, whose mean may be
        that of a single draw, are ``jax.nn.logsumexp(log_weights) - jnp.log(num_samples)``.
      standard_error: Standard error of log_evidence.
      effective_fraction: Effective number of draws, by these weights, as a fraction of the draws.
      pareto_k: k-hat, the shape of the tail of the raw weights; NaN if too few weights differ.
      elbo: Mean of log p - log q over draws of q, an ``Estimate``.
      eubo: Mean of log p - log q over the reference draws of p, an ``Estimate``; None without them.
      cloud: The draws [n d] with their log-densities and with Pareto-smoothed weights [n], sum 1.
      log_weights: log p - log q of the draws [n].
      num_invalid: Number of draws whose log-weight is NaN or +infinity.
      wide: The same for draws of the wide distribution, a second opinion; None without one.
    """

    log_evidence: Scalar
    standard_error: Scalar
    effective_fraction: Scalar
    pareto_k: Scalar
    elbo: Estimate
    eubo: Estimate | None
    cloud: Cloud
    log_weights: Float[Array, " n"]
    num_invalid: Int[Array, ""]
    wide: "Importance | None" = None

    def resample(self, key: Key, num: int) -> Float[Array, "num d"]:
        """Draws points [num d] by the smoothed weights, with replacement; NaN if these are NaN.

        Args:
          key: Random key.
          num: Number of points, at least 1.
        """
        num = validation.as_count(num, "num")
        weights = jnp.asarray(self.cloud.weights)
        chosen = jax.random.choice(key, len(self.log_weights), (num,), p=weights)
        return nan_where(jnp.isnan(jnp.sum(weights)), jnp.asarray(self.cloud.points)[chosen])

    @property
    def verdict(self) -> str:
        """One or two sentences: whether the weights can be trusted, and what to do otherwise."""
        count, k = len(self.log_weights), float(self.pareto_k)
        if int(self.num_invalid):
            return (
                f"unusable: log p - log q is NaN or +infinity at {int(self.num_invalid)} of "
                f"{count} draws. Check target_log_prob there."
            )
        if not np.isfinite(float(self.log_evidence)):
            return f"unusable: the target has no mass at any of the {count} draws."
        if self.wide is not None and self.misses_mass:
            found, error = float(self.wide.log_evidence), float(self.wide.standard_error)
            return (
                f"unreliable: the wide distribution finds log Z = {found:.4g} +- {error:.1g}, and "
                f"these draws {float(self.log_evidence):.4g}. Modes are missed: start wider, and "
                "use swjko.corrected."
            )
        share = f"{100 * float(self.effective_fraction):.2g} % of {count} draws are effective"
        if not self.weights_usable:
            return (
                f"unreliable: k-hat is {k:.2f}, above {LARGEST_PARETO_K}; {share}. "
                "Take more steps or a family with heavier tails, and do not use the weights."
            )
        second = _BLIND if self.wide is None else "A wide distribution finds no more mass."
        return f"weights usable: k-hat is {k:.2f} and {share}. {second}"

    def _repr_html_(self) -> str | None:
        if jnp.ndim(self.pareto_k):  # many at once, from vmap
            return None
        rows: dict[str, Any] = {"verdict": self.verdict}
        evidence = Estimate(self.log_evidence, self.standard_error)
        bounds = {"log Z": evidence, "ELBO": self.elbo, "EUBO": self.eubo}
        for name, one in bounds.items():
            if one is not None:
                rows[name] = f"{float(one.value):.5g} +- {float(one.standard_error):.2g}"
        rows["effective fraction"] = f"{float(self.effective_fraction):.3g}"
        return html_table("Importance", rows | {"k-hat": f"{float(self.pareto_k):.3g}"})

    @property
    def weights_usable(self) -> bool:
        """Whether k-hat is at most 0.7, or all weights are equal, which leaves it undefined."""
        k, fraction = float(self.pareto_k), float(self.effective_fraction)
        return k <= LARGEST_PARETO_K or bool(np.isnan(k) and fraction > _EQUAL_WEIGHTS)

    @property
    def misses_mass(self) -> bool:
        """Whether the wide distribution finds more mass than these draws, beyond its noise."""
        if self.wide is None:
            return False
        found, own = (
            (float(one.log_evidence), float(one.standard_error)) for one in (self.wide, self)
        )
        noise = _STANDARD_ERRORS * (found[1] + own[1]) + _LEAST_DISAGREEMENT
        return found[0] - own[0] > noise


def importance(
    key: Key,
    distribution: Distribution,
    target_log_prob: Callable[[Float[Array, " d"]], Scalar],
    num_samples: int,
    *,
    reference: Float[Array, "m d"] | None = None,
    wide: Distribution | None = None,
) -> Importance:
    """Weights draws of a distribution by a target, and measures how even the weights are.

    The target is evaluated at all draws at once. Jit it with ``num_samples`` static, and with the
    target static unless it is a ``jax.tree_util.Partial``.

    Args:
      key: Random key of the draws.
      distribution: Distribution with a density, such as ``solution.distribution``.
      target_log_prob: Unnormalised log-density of the target at one point [d].
      num_samples: Number of draws, at least 25.
      reference: Draws [m d] of the target, for the EUBO; it needs ``distribution.log_prob``.
      wide: A wide distribution, such as the start of the flow, for a second opinion: if it finds
        more mass than the draws do, modes are missed, and the verdict says so. In many dimensions
        it sees little.

    Example::

        found = swjko.importance(key, solution.distribution, log_prob, 10_000)
        print(found.verdict, found.log_evidence)

    References:
      Vehtari, Simpson, Gelman, Yao, Gabry (2024), arXiv 1507.02646.
    """
    num_samples = validation.as_count(num_samples, "num_samples", _LEAST_DRAWS)
    validation.require_callable(target_log_prob, "target_log_prob", "[d] -> log-density")
    target = as_partial(target_log_prob)
    cloud = distribution.sample(key, num_samples)
    eubo = None
    if reference is not None:
        reference = validation.as_points(reference, "reference")
        density = distribution.log_prob(reference)
        eubo = Estimate.of_mean(scalars(target, reference, "target_log_prob") - density)
    found = weigh(cloud, scalars(target, cloud.points, "target_log_prob"), eubo)
    if wide is None:
        return found
    others = wide.sample(jax.random.fold_in(key, 1), num_samples)
    values = scalars(target, others.points, "target_log_prob")
    return found._replace(wide=weigh(others, values))


def weigh(
    cloud: Cloud, target_log_density: Float[Array, " n"], eubo: Estimate | None = None
) -> Importance:
    """Returns the importance weights of draws with known log-densities, and their figures.

    Args:
      cloud: Draws [n d], n >= 25, with ``log_density``.
      target_log_density: Unnormalised log-density of the target at the draws [n].
      eubo: Estimate that is passed on to the result.
    """
    if cloud.log_density is None:
        raise ValueError(
            "distribution must have a density; this one has none. "
            "Use a family with a density, such as swjko.flows.coupling."
        )
    log_weights = target_log_density - cloud.log_density
    count = log_weights.shape[0]
    invalid = jnp.isnan(log_weights) | (log_weights == jnp.inf)
    # One NaN makes every number NaN, since no finite one would be right.
    checked = nan_where(jnp.any(invalid), log_weights)
    smoothed, k = _pareto_smoothed(checked)
    fraction = effective_fraction(smoothed)
    error = jnp.sqrt(jnp.maximum(1 / fraction - 1, 0.0) / count)
    weights = jax.nn.softmax(smoothed)
    return Importance(
        jax.nn.logsumexp(smoothed) - jnp.log(count),
        error,
        fraction,
        k,
        Estimate.of_mean(checked),
        eubo,
        Cloud(cloud.points, weights, cloud.log_density),
        log_weights,
        jnp.sum(invalid),
    )


def _pareto_smoothed(log_weights: Float[Array, " n"]) -> tuple[Float[Array, " n"], Scalar]:
    """Replaces the largest weights by quantiles of a generalised Pareto law; returns its shape."""
    count = log_weights.shape[0]
    num = int(np.ceil(min(0.2 * count, 3 * np.sqrt(count))))
    order = jnp.argsort(log_weights)
    largest = log_weights[order[-1]]
    relative = jnp.where(jnp.isfinite(largest), log_weights - largest, log_weights)
    tail, cutoff = order[count - num :], relative[order[count - num - 1]]
    base = jnp.exp(cutoff)
    k, scale = _fit_generalised_pareto(jnp.exp(relative[tail]) - base)
    share = (jnp.arange(num, dtype=relative.dtype) + 0.5) / num
    # (u^-k - 1) / k, which tends to -log u as k tends to 0.
    quantile = jnp.expm1(-k * jnp.log1p(-share)) / jnp.where(k == 0, 1.0, k)
    smoothed = jnp.log(base + scale * jnp.where(k == 0, -jnp.log1p(-share), quantile))
    smoothed = jnp.minimum(jnp.where(jnp.isfinite(k), smoothed, relative[tail]), 0.0)
    smoothed = relative.at[tail].set(smoothed)
    return jnp.where(jnp.isfinite(largest), smoothed + largest, smoothed), k


def _fit_generalised_pareto(excess: Float[Array, " m"]) -> tuple[Scalar, Scalar]:
    """Returns shape and scale of the law of sorted excesses [m]; NaN if they are all equal.

    A posterior mean over a grid of the ratio of shape and scale. The shape is drawn towards 1/2
    with the weight of ten draws.

    References:
      Zhang, Stephens (2009), doi 10.1198/tech.2009.08017. Vehtari et al. (2024), appendix C.
    """
    num = excess.shape[0]
    grid = 30 + int(np.sqrt(num))
    quartile, largest = excess[int(num / 4 + 0.5) - 1], excess[-1]
    position = 1 - jnp.sqrt(grid / (jnp.arange(grid, dtype=excess.dtype) + 0.5))
    ratios = 1 / largest + position / (3 * quartile)
    shapes = jnp.mean(jnp.log1p(-ratios[:, None] * excess[None, :]), axis=1)
    log_likelihood = num * (jnp.log(-ratios / shapes) - shapes - 1)
    ratio = jnp.sum(jax.nn.softmax(log_likelihood) * ratios)
    shape = jnp.mean(jnp.log1p(-ratio * excess))
    scale = -shape / ratio
    return (num * shape + 5.0) / (num + 10.0), scale
