"""Steps that fail are taken back and tried again, smaller: a guard for schemes that do not choose their step size themselves.

Every scheme of this package keeps its last good state where a step becomes non-finite or diverges, and stands still from then on. Under a
guard the flow goes on from that state by another attempt, of fresh draws and ``factor`` times the step size, ``max_retries`` times at most.
The smaller step size is kept, and after ``recovery`` steps in a row without a failure it is raised by one such factor, up to the scheme's
own. What grows by a little in each step diverges too, so the guard also takes back a step that ends with an energy far above the lowest of
its flow so far. (``swjko.adaptive`` judges each step by the change of F and lets step sizes grow; it needs no guard.)
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Int

from swjko import validation
from swjko.families.base import Family
from swjko.schemes.base import Info, Result, Scheme, State, require_scheme
from swjko.types import Key, Leaf, Params, Scalar, static_field

# Sets the keys of further attempts apart from those that a step splits its own into.
_RETRY = 0x72657472
# Energies of a flow fall. Estimates scatter, and F without its entropy may rise by about the dimension; this many times both is neither.
_DIVERGENCE_FACTOR = 10.0
_COMMON, _REPORTED = len(State._fields), len(Info._fields)


def guarded(
    scheme: Scheme,
    *,
    max_retries: int = 8,
    factor: float = 0.5,
    recovery: int = 10,
    scale_updates: bool = False,
) -> "Guarded":
    """A scheme whose ``step`` is one of ``scheme``, tried again with a smaller step size where it is non-finite or diverges.

    Without a failure the steps are those of ``scheme``, from the same draws. Under ``vmap`` each flow has attempts and a step size of its
    own, and the flows wait for the one with the most attempts; one that fails changes no other, to the bit.

    Args:
      scheme: one with a ``step_size``: from ``sw_jko``, ``icnn_jko``, ``langevin`` or ``sliced_flow``.
      max_retries: attempts after the first in one step, and the most factors below the scheme's step size. When they are used up, the
        flow keeps its last good state and stops with the code of the last attempt, NON_FINITE or DIVERGED.
      factor: of the step size from one attempt to the next, above 0 and below 1.
      recovery: steps in a row without a failure after which the step size is raised by one factor.
      scale_updates: shrink the updates of the scheme's optimizer, and so its learning rate, by the same factors.

    ``state.time`` is the sum of the step sizes that succeeded. Raises TypeError for a scheme without a step size or, where the updates are
    to be scaled, an optimizer, and ValueError for numbers out of range.

    Example: ``solve(keys, guarded(scheme), 200)``; ``solution.history.retries`` says where it helped.
    """
    require_scheme(scheme)
    fields = (
        {field.name for field in dataclasses.fields(scheme)}
        if dataclasses.is_dataclass(scheme)
        else set()
    )
    if "step_size" not in fields:
        raise TypeError(
            f"scheme must have a step_size of its own, as those of swjko.sw_jko, icnn_jko, langevin and sliced_flow; received "
            f"{type(scheme).__name__}."
        )
    if scale_updates and "optimizer" not in fields:
        raise TypeError(
            f"scale_updates must be False for a scheme without an optimizer, such as this {type(scheme).__name__}."
        )
    return Guarded(
        scheme,
        validation.as_count(max_retries, "max_retries"),
        validation.as_fraction(factor, "factor", "the part of the step size that is left"),
        validation.as_count(recovery, "recovery"),
        bool(scale_updates),
    )


class GuardedState(NamedTuple):
    """A ``State`` with what the scheme's own state holds beyond it, and where the step size stands.

    Attributes:
      params, time, step, result: as in ``swjko.State``.
      rest: further fields of the scheme's state.
      backoffs: factors by which the next step is smaller than the scheme's.
      unfailing: steps without a failure since the last change of it.
      lowest: energy reported so far; infinite at the start.
    """

    params: Params
    time: Scalar
    step: Int[Array, ""]
    result: Int[Array, ""]
    rest: tuple
    backoffs: Int[Array, ""]
    unfailing: Int[Array, ""]
    lowest: Scalar


class GuardedInfo(NamedTuple):
    """An ``Info`` of the last attempt of a step.

    Attributes:
      time, energy, proximity, objective, gradient_norm, result: as in ``swjko.Info``.
      step_size: of that attempt.
      retries: attempts after the first.
    """

    time: Scalar
    energy: Scalar
    proximity: Scalar
    objective: Scalar
    gradient_norm: Scalar
    result: Int[Array, ""]
    step_size: Scalar
    retries: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guarded:
    """Made by ``guarded``. scheme holds the leaves."""

    scheme: Leaf
    max_retries: int = static_field()
    factor: float = static_field()
    recovery: int = static_field()
    scale_updates: bool = static_field()

    @property
    def family(self) -> Family:
        return self.scheme.family

    def init(self, key: Key) -> GuardedState:
        """The state at mu_0, time 0, with the scheme's step size."""
        start, zero = self.scheme.init(key), jnp.zeros((), jnp.int32)
        _, info = jax.eval_shape(self.scheme.step, key, start)
        lowest = jnp.full((), jnp.inf, info.energy.dtype)
        return GuardedState(
            *start[:_COMMON],
            rest=tuple(start[_COMMON:]),
            backoffs=zero,
            unfailing=zero,
            lowest=lowest,
        )

    def step(self, key: Key, state: GuardedState) -> tuple[GuardedState, GuardedInfo]:
        """One step from ``state``, of as many attempts as it takes; where all fail, the state stays and its code says why."""
        inner = self._inner(state)
        running = state.result == Result.OK
        retry_key = jax.random.fold_in(key, _RETRY)

        def attempt(carry: "_Attempts") -> "_Attempts":
            backoffs = jnp.minimum(state.backoffs + carry.count, self.max_retries)
            attempt_key = jnp.where(
                carry.count == 0, key, jax.random.fold_in(retry_key, carry.count)
            )
            scheme = self._smaller(backoffs)
            new, info = self._checked(inner, state.lowest, *scheme.step(attempt_key, inner))
            return _Attempts(carry.count + 1, backoffs, new, info, jnp.asarray(scheme.step_size))

        def go_on(carry: "_Attempts") -> Array:
            failed = (carry.state.result == Result.NON_FINITE) | (
                carry.state.result == Result.DIVERGED
            )
            return (carry.count == 0) | (running & failed & (carry.count <= self.max_retries))

        done = lax.while_loop(go_on, attempt, self._before(attempt, state))
        retries = done.count - 1
        good = done.state.result == Result.OK
        unfailing = jnp.where(good & (retries == 0) & (done.backoffs > 0), state.unfailing + 1, 0)
        recovers = unfailing >= self.recovery
        after = GuardedState(
            *done.state[:_COMMON],
            rest=tuple(done.state[_COMMON:]),
            backoffs=jnp.where(running, done.backoffs - recovers, state.backoffs),
            unfailing=jnp.where(recovers, 0, unfailing),
            lowest=jnp.where(good, jnp.minimum(state.lowest, done.info.energy), state.lowest),
        )
        return after, GuardedInfo(*done.info[:_REPORTED], step_size=done.step_size, retries=retries)

    def _checked(
        self, old: State, lowest: Scalar, new: State, info: Any
    ) -> tuple[State, Any]:
        """The attempt, or where its energy is far above the lowest, no move and the code for it."""
        risen = info.energy > lowest + _DIVERGENCE_FACTOR * (self.family.dim + jnp.abs(lowest))
        diverged = risen & (new.result == Result.OK)
        result = jnp.where(diverged, Result.DIVERGED, new.result).astype(new.result.dtype)
        kept = jax.tree.map(lambda before, after: jnp.where(diverged, before, after), old, new)
        return kept._replace(result=result), info._replace(time=kept.time, result=result)

    def _inner(self, state: GuardedState) -> State:
        kind = type(jax.eval_shape(self.scheme.init, jax.eval_shape(lambda: jax.random.key(0))))
        return kind(*state[:_COMMON], *state.rest)

    def _smaller(self, backoffs: Int[Array, ""]) -> Any:
        # The first of them is one, and what is multiplied by it stays as it is, to the bit.
        scales = np.power(self.factor, np.arange(self.max_retries + 1))
        scale = jnp.asarray(scales, jnp.result_type(self.scheme.step_size))[backoffs]
        changes = {"step_size": self.scheme.step_size * scale}
        if self.scale_updates:
            changes["optimizer"] = optax.chain(self.scheme.optimizer, _scaled(scale))
        return dataclasses.replace(self.scheme, **changes)

    def _before(self, attempt: Any, state: GuardedState) -> "_Attempts":
        """What the loop starts from: no attempt yet, and no numbers that are ever seen."""
        zero = jnp.zeros_like(state.backoffs)
        start = _Attempts(zero, zero, self._inner(state), None, None)
        reported = jax.eval_shape(attempt, start)[-2:]
        return _Attempts(
            *start[:-2], *jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), reported)
        )


class _Attempts(NamedTuple):
    count: Array
    backoffs: Array
    state: State
    info: Any
    step_size: Any


def _scaled(scale: Scalar) -> optax.GradientTransformation:
    """Updates times a number, in their own dtype."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda update: update * scale.astype(update.dtype), updates
        )
    )
