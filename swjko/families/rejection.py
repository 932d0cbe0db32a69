"""Rejection of unlikely draws: a distribution closer to the target than the one it refines.

A draw x of q is kept with the probability

    a(x) = min(1, p(x) / (c q(x))),

and otherwise replaced by a fresh draw of q, which is kept. With A = E_q[a], the mean acceptance,
the result has the density

    r(x) = q(x) (a(x) + 1 - A),

whose KL divergence to the target is not larger. The level c is set by the part of the draws that
is replaced. A step needs two draws of q for each of its own, and can be repeated.

References:
  Hertrich, Gruhlke (2024), arXiv 2407.20444, section 4.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko.families.bases import Distribution
from swjko.types import Cloud, Key, Leaf, Scalar, as_partial, validation
from swjko.types.readable import Readable
from swjko.types.scalars import scalars

_LEAST_DRAWS = 25
_HALVINGS = 40


def rejection(
    key: Key,
    distribution: Distribution,
    target_log_prob: Callable[[Float[Array, " d"]], Scalar],
    *,
    rate: float = 0.2,
    num_draws: int = 10_000,
) -> "Rejection":
    """Makes a distribution that replaces draws which the target finds unlikely.

    The level and the mean acceptance are estimated once, and fixed. Their error shifts the
    log-density by about ``0.5 / sqrt(num_draws)`` at most.

    Args:
      key: Random key of the draws by which the level is set.
      distribution: Distribution q with a density, such as ``solution.distribution``.
      target_log_prob: Unnormalised log-density of the target p at one point [d]; -inf is allowed.
      rate: Part of the draws that is replaced, above 0 and below 1.
      num_draws: Number of draws by which the level is set, at least 25.

    Returns:
      A distribution with ``sample`` and ``log_prob``, usable as ``base=`` and here again.

    Example::

        closer = swjko.rejection(key, solution.distribution, log_prob)
        closer = swjko.rejection(other_key, closer, log_prob)
    """
    if not isinstance(distribution, Distribution):
        raise TypeError(
            "distribution must have sample and log_prob; "
            f"got {type(distribution).__name__}. Use solution.distribution."
        )
    validation.require_callable(target_log_prob, "target_log_prob", "[d] -> log-density")
    rate = validation.as_fraction(rate, "rate", "the part of the draws")
    num_draws = validation.as_count(num_draws, "num_draws", _LEAST_DRAWS)
    target_log_prob = as_partial(target_log_prob)
    log_ratio = _log_ratio(target_log_prob, distribution.sample(key, num_draws))
    level = _level(log_ratio, rate)
    acceptance = jnp.mean(jnp.exp(jnp.minimum(log_ratio - level, 0.0)))
    return Rejection(distribution, target_log_prob, level, acceptance)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rejection(Readable):
    """Made by ``rejection``. All attributes are leaves.

    Attributes:
      distribution: The distribution q.
      target_log_prob: Unnormalised log-density of the target.
      level: log c.
      acceptance: A, the mean acceptance.
    """

    distribution: Leaf
    target_log_prob: Partial
    level: Scalar
    acceptance: Scalar

    @property
    def dim(self) -> int:
        """Dimension of the points."""
        return self.distribution.dim

    def sample(self, key: Key, num: int) -> Cloud:
        """Draws ``num`` points with their log-densities.

        Args:
          key: Random key.
          num: Number of points, at least 1.
        """
        num = validation.as_count(num, "num")
        first_key, second_key, uniform_key = jax.random.split(key, 3)
        first, second = (self.distribution.sample(one, num) for one in (first_key, second_key))
        log_accept = self._log_accept(first)
        is_kept = jnp.log(jax.random.uniform(uniform_key, (num,))) < log_accept
        chosen = jax.tree.map(
            lambda a, b: jnp.where(is_kept[(...,) + (None,) * (a.ndim - 1)], a, b), first, second
        )
        return chosen._replace(log_density=self._log_density(chosen))

    def log_prob(self, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Returns the log-density at points [n d].

        Args:
          points: Points [n d].
        """
        return self._log_density(Cloud(points, None, self.distribution.log_prob(points)))

    def _log_accept(self, cloud: Cloud) -> Float[Array, " n"]:
        return jnp.minimum(_log_ratio(self.target_log_prob, cloud) - self.level, 0.0)

    def _log_density(self, cloud: Cloud) -> Float[Array, " n"]:
        more = jnp.exp(self._log_accept(cloud)) - self.acceptance
        return jnp.asarray(cloud.log_density) + jnp.log1p(more)


def _log_ratio(target_log_prob: Partial, cloud: Cloud) -> Float[Array, " n"]:
    if cloud.log_density is None:
        raise ValueError(
            "distribution must have a density; this one has none. Use a family with a density, "
            "such as swjko.flows.coupling."
        )
    return scalars(target_log_prob, cloud.points, "target_log_prob") - cloud.log_density


def _level(log_ratio: Float[Array, " n"], rate: float) -> Scalar:
    """Returns log c, for which a part ``rate`` of the draws is replaced on average."""
    finite = jnp.where(jnp.isfinite(log_ratio), log_ratio, jnp.nan)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        replaced = 1.0 - jnp.mean(jnp.exp(jnp.minimum(log_ratio - middle, 0.0)))
        is_low = replaced < rate
        return jnp.where(is_low, middle, low), jnp.where(is_low, high, middle)

    bounds = jnp.nanmin(finite), jnp.nanmax(finite) + jnp.log(1.0 / (1.0 - rate))
    low, high = lax.fori_loop(0, _HALVINGS, halve, bounds)
    return (low + high) / 2
