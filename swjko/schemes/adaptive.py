"""Step sizes that adapt to what the inner solve can do.

A step that raises F is rejected, and steps that could be larger grow. The rule uses the decrease
D = F(mu_k) - F(mu_{k+1}) and the proximity P = SW_2^2(mu_{k+1}, mu_k) / (2 tau), each a mean over
a few clouds of common random numbers:

- An exact step has D >= P >= 0 for every tau. If F rose by more than its noise, or the inner solve
  gave no finite numbers, the solve failed: the attempt is rejected, tau is halved, and the next
  attempt takes fresh draws.
- For a quadratic F of curvature c along the step, D = (2 + c tau) P, so D / P - 2 is the step size
  in units of the time on which F relaxes. While that is below ``saturation``, a larger tau still
  resolves the flow, and tau grows. (On a Wasserstein flow D = 2 P as tau -> 0, the energy
  identity.)
- If P is within its noise, the step cannot be told from none, and tau grows too. The noise is the
  standard error of P. With independent latents, P of no move is subtracted from P first.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from swjko.families.base import Family
from swjko.schemes.base import Info, Result, State, select
from swjko.schemes.sw_jko import SWJKO
from swjko.types import Estimate, Key, Leaf, Params, Scalar, static_field, validation
from swjko.types.readable import Readable

_SHRINK = 0.5
# Rounding of sums, where nothing is random and the standard error is zero.
_ROUNDINGS = 8.0


def adaptive(
    scheme: SWJKO,
    *,
    min_step_size: float | Scalar,
    max_step_size: float | Scalar,
    growth: float = 1.5,
    saturation: float = 1.0,
    num_standard_errors: float = 2.0,
    num_repeats: int = 8,
    max_retries: int = 10,
) -> "Adaptive":
    """Makes a scheme whose ``step`` is one attempt at a step of ``scheme``, of adaptive size.

    A rejected attempt leaves params and time as they are. ``state.step`` counts attempts, so
    ``num_steps`` of ``run`` and ``solve`` are attempts. Under ``vmap`` each flow has a step size
    of its own. ``state.extra`` is an ``AdaptiveExtra`` and ``info.extra`` an ``AdaptiveReport``.

    A flow stops with the code of the inner solve, NON_FINITE or DIVERGED, if failures outlast
    ``max_retries`` or happen twice in a row with the second at ``min_step_size``. If F rose
    instead, the code is INNER_NOT_CONVERGED.

    Args:
      scheme: Scheme from ``sw_jko``; its step_size is tried first.
      min_step_size: Smallest tau, in units of SW time.
      max_step_size: Largest tau.
      growth: Factor by which tau grows, at least 1. Rejections halve it.
      saturation: Largest c tau at which tau grows, with c the curvature of F along the step.
      num_standard_errors: Standard errors of the change of F by which F may rise.
      num_repeats: Clouds of ``num_samples`` points on which F is compared, at least 2.
      max_retries: Rejected attempts in a row before the flow stops.

    Example:
      ``solve(key, adaptive(scheme, min_step_size=1e-3, max_step_size=1.0), 50)``

    References:
      Energy identity and inequality: Ambrosio, Gigli, Savare, "Gradient flows" (2008). Steps whose
      errors are controlled: Di Marino, Naldi, Villa (2025), arXiv 2505.23517.
    """
    if not isinstance(scheme, SWJKO):
        raise TypeError(
            f"scheme must come from swjko.sw_jko, whose step size may change; "
            f"got {type(scheme).__name__}."
        )
    dtype = jnp.result_type(scheme.step_size)
    smallest = validation.as_positive(min_step_size, "min_step_size", shape=None).astype(dtype)
    largest = validation.as_positive(max_step_size, "max_step_size", shape=None).astype(dtype)
    if all(map(validation.is_concrete, (smallest, largest, scheme.step_size))) and not bool(
        jnp.all((smallest <= scheme.step_size) & (scheme.step_size <= largest))
    ):
        raise ValueError(
            "min_step_size and max_step_size must enclose the scheme's step_size; got "
            f"{smallest} and {largest} for {scheme.step_size}. Widen them, or change the scheme's."
        )
    least = {"growth": 1.0, "saturation": 0.0, "num_standard_errors": 0.0}
    numbers = dict(zip(least, (growth, saturation, num_standard_errors), strict=True))
    for name, value in numbers.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not least[name] <= value < float("inf"):
            raise ValueError(f"{name} must be a number of at least {least[name]:g}; got {value!r}.")
    return Adaptive(
        scheme,
        smallest,
        largest,
        *map(float, numbers.values()),
        num_repeats=validation.as_count(num_repeats, "num_repeats", 2),
        max_retries=validation.as_count(max_retries, "max_retries"),
    )


class AdaptiveExtra(NamedTuple):
    """What an adaptive scheme keeps in ``state.extra``.

    Attributes:
      step_size: Step size of the next attempt.
      retries: Rejected attempts since the last accepted one.
    """

    step_size: Scalar
    retries: Int[Array, ""]


class AdaptiveReport(NamedTuple):
    """What an adaptive scheme reports in ``info.extra``.

    If the attempt was rejected, ``info.energy`` is that of the measure kept and
    ``info.proximity`` is zero.

    Attributes:
      step_size: Step size of the attempt.
      accepted: Whether the measure moved.
      energy_change: F(new) - F(old) of the attempt, from common random numbers.
    """

    step_size: Scalar
    accepted: Bool[Array, ""]
    energy_change: Estimate


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adaptive(Readable):
    """Made by ``adaptive``. scheme and the bounds are leaves."""

    scheme: SWJKO
    min_step_size: Leaf
    max_step_size: Leaf
    growth: float = static_field()
    saturation: float = static_field()
    num_standard_errors: float = static_field()
    num_repeats: int = static_field()
    max_retries: int = static_field()

    @property
    def family(self) -> Family:
        return self.scheme.family

    def init(self, key: Key) -> State:
        """Returns the state at mu_0, time 0, with the scheme's step size."""
        step_size = jnp.clip(self.scheme.step_size, self.min_step_size, self.max_step_size)
        return self.scheme.init(key)._replace(extra=AdaptiveExtra(step_size, jnp.int32(0)))

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """Makes one attempt from ``state``. A flow whose result is not OK stays."""
        step_key, compare_key = jax.random.split(key)
        step_size, retries = state.extra
        scheme = dataclasses.replace(self.scheme, step_size=step_size)
        running = state.result == Result.OK
        new, info = scheme.step(step_key, state._replace(result=jnp.zeros_like(state.result)))
        energies = self._compare(compare_key, scheme, new.params, state.params)
        change = Estimate.of_mean(energies.new - energies.old)
        solved = new.result == Result.OK
        accepted = running & solved & self._falls(change, energies)
        rejected = running & ~accepted
        retries = jnp.where(accepted, 0, retries + rejected.astype(retries.dtype))
        at_the_bottom = (step_size <= self.min_step_size) & (retries > 1)
        stops = rejected & (at_the_bottom | (retries > self.max_retries))
        code = jnp.where(solved, Result.INNER_NOT_CONVERGED, new.result)
        grows = accepted & self._may_grow(energies)
        factor = jnp.where(rejected, _SHRINK, jnp.where(grows, self.growth, 1.0))
        next_size = step_size * factor.astype(step_size.dtype)
        after = State(
            select(accepted, new.params, state.params),
            jnp.where(accepted, state.time + step_size, state.time),
            state.step + running.astype(state.step.dtype),
            jnp.where(stops, code, state.result).astype(state.result.dtype),
            AdaptiveExtra(jnp.clip(next_size, self.min_step_size, self.max_step_size), retries),
        )
        energy = jnp.mean(jnp.where(accepted, energies.new, energies.old))
        proximity = jnp.where(accepted, jnp.mean(energies.proximity), 0.0)
        return after, Info(
            after.time,
            energy,
            proximity,
            energy + proximity,
            info.gradient_norm,
            after.result,
            AdaptiveReport(step_size, accepted, change),
        )

    def _compare(self, key: Key, scheme: SWJKO, new: Params, old: Params) -> "_Energies":
        def once(key):
            _, (energy, proximity) = scheme.objective(key, new, old)
            _, (old_energy, no_move) = scheme.objective(key, old, old)
            return _Energies(energy, old_energy, proximity, no_move)

        return lax.map(once, jax.random.split(key, self.num_repeats))

    def _falls(self, change: Estimate, energies: "_Energies") -> Bool[Array, ""]:
        rounding = _ROUNDINGS * jnp.finfo(change.value.dtype).eps
        rounding *= 1.0 + jnp.abs(jnp.mean(energies.old))
        return change.value <= self.num_standard_errors * change.standard_error + rounding

    def _may_grow(self, energies: "_Energies") -> Bool[Array, ""]:
        moved = Estimate.of_mean(energies.proximity - energies.no_move)
        decrease = jnp.mean(energies.old - energies.new)
        unsaturated = decrease <= (2.0 + self.saturation) * moved.value
        return unsaturated | (moved.value <= moved.standard_error)


class _Energies(NamedTuple):
    """Estimates for one attempt over r common draws.

    no_move is the proximity of the old measure to itself, zero for common latents.
    """

    new: Float[Array, " r"]
    old: Float[Array, " r"]
    proximity: Float[Array, " r"]
    no_move: Float[Array, " r"]
