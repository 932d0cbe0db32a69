"""Step sizes that adapt to what the inner solve can do: a step that raises F is taken back, and steps that could be larger grow.

Rule, for the fall of F, D = F(mu_k) - F(mu_{k+1}), and P = SW_2^2(mu_{k+1}, mu_k) / (2 tau), over a few common random numbers:

- An exact step has D >= P >= 0, whatever tau. So where F rose by more than its noise, or the inner solve gave no usable numbers, the
  solve failed: the step is rejected, its measure dropped, tau halved, and another attempt made with fresh draws.
- For a quadratic F of curvature c along the step, D = (2 + c tau) P: D / P - 2 is the step size in units of the time on which F relaxes.
  While that is below ``saturation``, a larger tau still resolves the flow, and it grows; above, the step is near the largest fall that
  F has to offer, and tau stays. (On a Wasserstein flow D = 2 P as tau -> 0: this is the energy identity.)
- Where P is within its noise floor, the step cannot be told from none and tau grows too. The floor is the standard error of P; with
  independent latents, that and what two samples of one measure are apart, E SW_2^2 / (2 tau), which is also taken off P.

Sources: energy identity and inequality, Ambrosio, Gigli, Savare, "Gradient flows" (2008); steps of errors that are controlled still
converge, Di Marino, Naldi, Villa (2025), arXiv 2505.23517. The rest derived.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from swjko import validation
from swjko.families.base import Family
from swjko.schemes.base import Result, State
from swjko.schemes.sw_jko import SWJKO
from swjko.types import Estimate, Key, Leaf, Params, Scalar, static_field

_SHRINK = 0.5
# Sums of floats round where nothing is random and the standard error is zero.
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
    """A scheme whose every ``step`` is one attempt at a step of ``scheme``, with the step size in its state: see the module's text.

    An attempt that is rejected leaves params and time; ``state.step`` counts attempts, since it selects the draws of the next one, so
    ``num_steps`` of ``run`` and ``solve`` are attempts. All flows of a ``vmap`` have step sizes of their own.

    Args:
      scheme: from ``sw_jko``; its step_size is the first one tried.
      min_step_size, max_step_size: bounds on tau, in units of SW time.
      growth: factor by which tau grows, at least 1; rejections halve it.
      saturation: c tau up to which it does, c the curvature of F along the step.
      num_standard_errors: of the change of F, by which it may rise.
      num_repeats: clouds of ``num_samples`` points on which F is compared, at least 2; an attempt costs as many evaluations more.
      max_retries: rejected attempts in a row before the flow stops.

    The flow stops with the code of the inner solve, NON_FINITE or DIVERGED, where its failures outlast ``max_retries`` or happen twice in
    a row with the second at ``min_step_size``; with INNER_NOT_CONVERGED where it was F that rose.

    Raises TypeError for another scheme and ValueError for bounds that do not hold the scheme's step size or numbers below their minimum.

    Example: ``solve(key, adaptive(scheme, min_step_size=1e-3, max_step_size=1.0), 50)``.
    """
    if not isinstance(scheme, SWJKO):
        raise TypeError(
            f"scheme must come from swjko.sw_jko, whose step size may change; received {type(scheme).__name__}."
        )
    smallest, largest = (
        validation.as_positive(value, name).astype(jnp.result_type(scheme.step_size))
        for value, name in ((min_step_size, "min_step_size"), (max_step_size, "max_step_size"))
    )
    if all(map(validation.is_concrete, (smallest, largest, scheme.step_size))) and not bool(
        jnp.all((smallest <= scheme.step_size) & (scheme.step_size <= largest))
    ):
        raise ValueError(
            f"min_step_size and max_step_size must hold the scheme's step_size between them; received {smallest} and {largest} "
            f"for {scheme.step_size}. Widen them, or make the scheme with another step_size."
        )
    for value, name, least in (
        (growth, "growth", 1.0),
        (saturation, "saturation", 0.0),
        (num_standard_errors, "num_standard_errors", 0.0),
    ):
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not least <= value < float("inf")
        ):
            raise ValueError(f"{name} must be a number of at least {least:g}; received {value!r}.")
    return Adaptive(
        scheme,
        smallest,
        largest,
        float(growth),
        float(saturation),
        float(num_standard_errors),
        validation.as_count(num_repeats, "num_repeats", 2),
        validation.as_count(max_retries, "max_retries"),
    )


class AdaptiveState(NamedTuple):
    """A ``State`` with a step size.

    Attributes:
      params, time, result: as in ``swjko.State``; time is the sum of the accepted step sizes.
      step: number of attempts.
      step_size: of the next attempt.
      retries: rejected attempts since the last accepted one.
    """

    params: Params
    time: Scalar
    step: Int[Array, ""]
    result: Int[Array, ""]
    step_size: Scalar
    retries: Int[Array, ""]


class AdaptiveInfo(NamedTuple):
    """An ``Info`` of one attempt. Where it was rejected, energy is that of the measure kept and proximity zero.

    Attributes:
      time, energy, proximity, objective, gradient_norm, result: as in ``swjko.Info``, energy and proximity from ``num_repeats`` clouds.
      step_size: that was tried.
      accepted: whether the measure moved.
      energy_change: F(new) - F(old) of the attempt, from common random numbers, and its standard error.
    """

    time: Scalar
    energy: Scalar
    proximity: Scalar
    objective: Scalar
    gradient_norm: Scalar
    result: Int[Array, ""]
    step_size: Scalar
    accepted: Bool[Array, ""]
    energy_change: Estimate


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adaptive:
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

    def init(self, key: Key) -> AdaptiveState:
        """The state at mu_0, time 0, with the scheme's step size."""
        step_size = jnp.clip(self.scheme.step_size, self.min_step_size, self.max_step_size)
        return AdaptiveState(
            *self.scheme.init(key), step_size=step_size, retries=jnp.zeros((), jnp.int32)
        )

    def step(self, key: Key, state: AdaptiveState) -> tuple[AdaptiveState, AdaptiveInfo]:
        """One attempt from ``state``. A flow whose result is not OK stands still."""
        step_key, compare_key = jax.random.split(key)
        scheme = dataclasses.replace(self.scheme, step_size=state.step_size)
        running = state.result == Result.OK
        new, info = scheme.step(
            step_key, State(state.params, state.time, state.step, jnp.zeros_like(state.result))
        )
        energies = self._compare(compare_key, scheme, new.params, state.params)
        change = Estimate.of_mean(energies.new - energies.old)
        rounding = (
            _ROUNDINGS * jnp.finfo(change.value.dtype).eps * (1.0 + jnp.abs(jnp.mean(energies.old)))
        )
        falls = change.value <= self.num_standard_errors * change.standard_error + rounding
        accepted = running & (new.result == Result.OK) & falls
        rejected = running & ~accepted
        retries = jnp.where(accepted, 0, state.retries + rejected)
        at_the_bottom = (state.step_size <= self.min_step_size) & (retries > 1)
        stops = rejected & (at_the_bottom | (retries > self.max_retries))
        code = jnp.where(new.result == Result.OK, Result.INNER_NOT_CONVERGED, new.result)
        factor = jnp.where(
            rejected, _SHRINK, jnp.where(accepted & self._may_grow(energies), self.growth, 1.0)
        )
        after = AdaptiveState(
            jax.tree.map(lambda new, old: jnp.where(accepted, new, old), new.params, state.params),
            jnp.where(accepted, state.time + state.step_size, state.time),
            state.step + running,
            jnp.where(stops, code, state.result).astype(state.result.dtype),
            jnp.clip(
                state.step_size * factor.astype(state.step_size.dtype),
                self.min_step_size,
                self.max_step_size,
            ),
            retries.astype(state.retries.dtype),
        )
        energy = jnp.mean(jnp.where(accepted, energies.new, energies.old))
        proximity = jnp.where(accepted, jnp.mean(energies.proximity), 0.0)
        report = (
            after.time,
            energy,
            proximity,
            energy + proximity,
            info.gradient_norm,
            after.result,
            state.step_size,
            accepted,
            change,
        )
        return after, AdaptiveInfo(*report)

    def _compare(self, key: Key, scheme: SWJKO, new: Params, old: Params) -> "_Energies":
        def once(key):
            _, (energy, proximity) = scheme._objective(key, new, new, old)
            _, (old_energy, no_move) = scheme._objective(key, old, old, old)
            return _Energies(energy, old_energy, proximity, no_move)

        return lax.map(once, jax.random.split(key, self.num_repeats))

    def _may_grow(self, energies: "_Energies") -> Bool[Array, ""]:
        moved = Estimate.of_mean(energies.proximity - energies.no_move)
        unsaturated = jnp.mean(energies.old - energies.new) <= (2.0 + self.saturation) * moved.value
        return unsaturated | (moved.value <= moved.standard_error)


class _Energies(NamedTuple):
    """Of one attempt, over r draws common to all four. no_move: the proximity of the old measure to itself, zero for common latents."""

    new: Float[Array, " r"]
    old: Float[Array, " r"]
    proximity: Float[Array, " r"]
    no_move: Float[Array, " r"]
