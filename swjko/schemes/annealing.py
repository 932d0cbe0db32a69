"""Annealing of the target as a scheme: steps towards laws between a start and the target.

Step k is one of SW-JKO for KL(mu | pi_b), with the geometric path

    log pi_b = (1 - b) log p_0 + b log p

from the law p_0 of the start to the target p. The exponent b grows as fast as the weights of draws
allow: with fresh draws of the measure, it is the largest for which the weights

    w_i ~ (p(x_i) / p_0(x_i))^(b_{k+1} - b_k)

keep an effective number of draws, as a fraction of them (the rule of adaptive sequential Monte
Carlo). Annealing helps the flow to reach far modes. It does not keep it from losing modes once
found: ``swjko.corrected`` does.

References:
  Neal (2001), arXiv physics/9803008. Zhou, Johansen, Aston (2016), arXiv 1303.3123, on the rule.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from swjko.families.base import Family
from swjko.families.bases import Distribution
from swjko.functionals.base import effective_fraction as effective_fraction_of
from swjko.functionals.entropies import kl_divergence
from swjko.schemes.base import Info, Result, Scheme, State, require_scheme
from swjko.schemes.correction import largest_exponent
from swjko.types import Key, Leaf, Scalar, as_partial, static_field, validation
from swjko.types.readable import Readable
from swjko.types.scalars import scalars

_LEAST_DRAWS = 25


def annealed(
    scheme: Scheme,
    target_log_prob: Callable[[Float[Array, " d"]], Scalar],
    start: Distribution,
    *,
    effective_fraction: float = 0.5,
    num_draws: int = 2048,
) -> "Annealed":
    """Makes a scheme whose steps go to laws between a start and the target.

    The functional of ``scheme`` is replaced by the divergence to the law of the step, so energies
    of different steps are not comparable until ``info.extra.exponent`` is one. ``state.extra`` is
    an ``AnnealedExtra`` and ``info.extra`` an ``AnnealingReport``.

    Args:
      scheme: Scheme with a functional, such as ``sw_jko(family, kl_divergence(log_prob), ...)``.
      target_log_prob: Unnormalised log-density of the target p at one point [d].
      start: Law p_0 of the start, such as ``FlowDistribution(family, family.init(key))``.
      effective_fraction: Effective number of draws that a step of the exponent keeps, as a
        fraction. A larger one means more steps.
      num_draws: Fresh draws by which the exponent is chosen, at least 25.

    Example::

        jko = sw_jko(family, kl_divergence(log_prob), optax.adam(3e-3), step_size=0.1, ...)
        start = FlowDistribution(family, family.init(key))
        solution = solve(key, annealed(jko, log_prob, start), 20)
    """
    require_scheme(scheme)
    fields = dataclasses.fields(scheme) if dataclasses.is_dataclass(scheme) else ()
    if "functional" not in {field.name for field in fields}:
        raise TypeError(
            f"scheme must have a functional of its own; got {type(scheme).__name__}. Use a scheme "
            "from swjko.sw_jko, sw_bdf2, icnn_jko or direct_minimization."
        )
    validation.require_callable(target_log_prob, "target_log_prob", "[d] -> log-density")
    if not isinstance(start, Distribution):
        raise TypeError(
            f"start must have sample and log_prob; got {type(start).__name__}. "
            "Use swjko.FlowDistribution(family, params)."
        )
    return Annealed(
        scheme,
        as_partial(target_log_prob),
        start,
        validation.as_fraction(effective_fraction, "effective_fraction", "the part of the draws"),
        validation.as_count(num_draws, "num_draws", _LEAST_DRAWS),
    )


class AnnealedExtra(NamedTuple):
    """What an annealed scheme keeps in ``state.extra``.

    Attributes:
      extra: ``state.extra`` of the scheme itself.
      exponent: b of the last step, 0 at the start.
    """

    extra: PyTree
    exponent: Scalar


class AnnealingReport(NamedTuple):
    """What an annealed scheme reports in ``info.extra``.

    Attributes:
      extra: ``info.extra`` of the scheme itself.
      exponent: b of the step, one once the flow goes to the target itself.
      effective_fraction: Effective number of draws by which it was chosen, as a fraction.
    """

    extra: PyTree
    exponent: Scalar
    effective_fraction: Scalar


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Annealed(Readable):
    """Made by ``annealed``. scheme, target_log_prob and start are leaves."""

    scheme: Leaf
    target_log_prob: Partial
    start: Leaf
    effective_fraction: float = static_field()
    num_draws: int = static_field()

    @property
    def family(self) -> Family:
        return self.scheme.family

    def init(self, key: Key) -> State:
        """Returns the state at mu_0, time 0, with exponent 0."""
        start = self.scheme.init(key)
        return start._replace(extra=AnnealedExtra(start.extra, jnp.zeros((), start.time.dtype)))

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """Raises the exponent and takes a step towards its law. A failed step leaves the state."""
        draw_key, scheme_key = jax.random.split(key)
        own = state.extra
        exponent, fraction = self._next_exponent(draw_key, state)
        path = Partial(_path_log_prob, exponent, self.start, self.target_log_prob)
        scheme = dataclasses.replace(self.scheme, functional=kl_divergence(path))
        moved, info = scheme.step(scheme_key, state._replace(extra=own.extra))
        kept = jnp.where(moved.result == Result.OK, exponent, own.exponent)
        report = AnnealingReport(info.extra, exponent, fraction)
        return moved._replace(extra=AnnealedExtra(moved.extra, kept)), info._replace(extra=report)

    def _next_exponent(self, key: Key, state: State) -> tuple[Scalar, Scalar]:
        own = state.extra
        points = lax.stop_gradient(self.family.draw(state.params, key, self.num_draws).points)
        target = scalars(self.target_log_prob, points, "target_log_prob")
        log_ratio = target - self.start.log_prob(points)
        left = (1.0 - own.exponent) * log_ratio
        part = largest_exponent(left, self.effective_fraction)
        exponent = own.exponent + part * (1.0 - own.exponent)
        return exponent.astype(own.exponent.dtype), effective_fraction_of(part * left)


def _path_log_prob(
    exponent: Scalar, start: Distribution, target_log_prob: Partial, x: Float[Array, " d"]
) -> Scalar:
    own = start.log_prob(x[None, :])[0]
    # At exponent one the start is left out, also where its density is zero.
    return exponent * target_log_prob(x) + jnp.where(exponent < 1, (1.0 - exponent) * own, 0.0)
