"""A guard for schemes of fixed step size: a failed step is repeated with a smaller one.

Every scheme keeps its last good state when a step becomes non-finite or diverges, and stays there.
Under a guard the flow continues from that state with fresh draws and ``factor`` times the step
size, at most ``max_retries`` times in a step. The smaller step size is kept, and rises by one
factor after ``recovery`` steps in a row without a failure, up to the scheme's own. A flow may also
grow by a little in each step, so the guard rejects a step whose energy is far above the lowest so
far. ``swjko.adaptive`` judges each step by the change of F; it needs no guard.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Int, PyTree

from swjko.families.base import Family
from swjko.schemes.base import Info, Result, Scheme, State, is_divergent, require_scheme, select
from swjko.types import Key, Leaf, Scalar, static_field, validation
from swjko.types.readable import Readable

# Separates the keys of further attempts from those that a step splits its own into.
_RETRY = 0x72657472


def guarded(
    scheme: Scheme,
    *,
    max_retries: int = 8,
    factor: float = 0.5,
    recovery: int = 10,
    scale_updates: bool = False,
) -> "Guarded":
    """Makes a scheme whose steps are those of ``scheme``, repeated smaller where they fail.

    Without a failure the steps are those of ``scheme``, from the same draws. Under ``vmap`` each
    flow has attempts and a step size of its own; flows wait for the one with the most attempts,
    and a failing flow changes no other, to the bit. ``state.time`` is the sum of the step sizes
    that succeeded. ``state.extra`` is a ``GuardedExtra`` and ``info.extra`` a ``GuardedReport``.

    Args:
      scheme: Scheme with a ``step_size``: from ``sw_jko``, ``icnn_jko``, ``langevin`` or
        ``sliced_flow``.
      max_retries: Attempts after the first in one step, and the most factors below the scheme's
        step size. After them the flow stops at its last good state with the code of the last
        attempt, NON_FINITE or DIVERGED.
      factor: Step size of an attempt divided by that of the one before, above 0 and below 1.
      recovery: Steps in a row without a failure after which the step size rises by one factor.
      scale_updates: Whether to shrink the updates of the scheme's optimizer, and so its learning
        rate, by the same factors.

    Example:
      ``solve(keys, guarded(scheme), 200)``; ``solution.history.extra.retries`` counts attempts.
    """
    require_scheme(scheme)
    fields = dataclasses.fields(scheme) if dataclasses.is_dataclass(scheme) else ()
    names = {field.name for field in fields}
    if "step_size" not in names:
        raise TypeError(
            f"scheme must have a step_size of its own; got {type(scheme).__name__}. Use a scheme "
            "from swjko.sw_jko, icnn_jko, langevin or sliced_flow."
        )
    if scale_updates and "optimizer" not in names:
        raise TypeError(
            "scale_updates must be False for a scheme without an optimizer; "
            f"got {type(scheme).__name__}."
        )
    return Guarded(
        scheme,
        validation.as_count(max_retries, "max_retries"),
        validation.as_fraction(factor, "factor", "the part of the step size that is left"),
        validation.as_count(recovery, "recovery"),
        bool(scale_updates),
    )


class GuardedExtra(NamedTuple):
    """What a guarded scheme keeps in ``state.extra``.

    Attributes:
      extra: ``state.extra`` of the scheme itself.
      backoffs: Factors by which the next step is smaller than the scheme's.
      unfailing: Steps without a failure since backoffs last changed.
      lowest: Lowest energy reported so far; infinite at the start.
    """

    extra: PyTree
    backoffs: Int[Array, ""]
    unfailing: Int[Array, ""]
    lowest: Scalar


class GuardedReport(NamedTuple):
    """What a guarded scheme reports in ``info.extra``, of the last attempt of a step.

    Attributes:
      step_size: Step size of that attempt.
      retries: Attempts after the first.
    """

    step_size: Scalar
    retries: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guarded(Readable):
    """Made by ``guarded``. scheme holds the leaves."""

    scheme: Leaf
    max_retries: int = static_field()
    factor: float = static_field()
    recovery: int = static_field()
    scale_updates: bool = static_field()

    @property
    def family(self) -> Family:
        return self.scheme.family

    def init(self, key: Key) -> State:
        """Returns the state at mu_0, time 0, with the scheme's step size."""
        start = self.scheme.init(key)
        _, info = jax.eval_shape(self.scheme.step, jax.random.clone(key), start)
        lowest = jnp.full((), jnp.inf, info.energy.dtype)
        return start._replace(extra=GuardedExtra(start.extra, jnp.int32(0), jnp.int32(0), lowest))

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """Takes one step from ``state``, in as many attempts as it needs."""
        own = state.extra
        inner = state._replace(extra=own.extra)
        running = state.result == Result.OK
        retry_key = jax.random.fold_in(key, _RETRY)

        def attempt(carry: "_Attempts") -> "_Attempts":
            backoffs = jnp.minimum(own.backoffs + carry.count, self.max_retries)
            further_key = jax.random.fold_in(retry_key, carry.count)
            own_key = jax.random.clone(key)
            attempt_key = jax.random.clone(jnp.where(carry.count == 0, own_key, further_key))
            scheme = self._smaller(backoffs)
            new, info = self._checked(inner, own.lowest, *scheme.step(attempt_key, inner))
            return _Attempts(carry.count + 1, backoffs, new, info, jnp.asarray(scheme.step_size))

        def fails(carry: "_Attempts") -> Array:
            result = carry.state.result
            failed = (result == Result.NON_FINITE) | (result == Result.DIVERGED)
            again = running & failed & (carry.count <= self.max_retries)
            return (carry.count == 0) | again

        done = lax.while_loop(fails, attempt, _before(attempt, inner, own.backoffs))
        retries = done.count - 1
        good = done.state.result == Result.OK
        unfailing = jnp.where(good & (retries == 0) & (done.backoffs > 0), own.unfailing + 1, 0)
        recovers = unfailing >= self.recovery
        extra = GuardedExtra(
            done.state.extra,
            backoffs=jnp.where(running, done.backoffs - recovers.astype(jnp.int32), own.backoffs),
            unfailing=jnp.where(recovers, 0, unfailing),
            lowest=jnp.where(good, jnp.minimum(own.lowest, done.info.energy), own.lowest),
        )
        report = GuardedReport(done.step_size, retries)
        return done.state._replace(extra=extra), done.info._replace(extra=report)

    def _checked(self, old: State, lowest: Scalar, new: State, info: Info) -> tuple[State, Info]:
        """Returns the attempt, or no move and DIVERGED if its energy is far above the lowest."""
        risen = is_divergent(info.energy, lowest, float(self.family.dim))
        diverged = risen & (new.result == Result.OK)
        result = jnp.where(diverged, Result.DIVERGED, new.result).astype(new.result.dtype)
        kept = select(diverged, old, new)
        return kept._replace(result=result), info._replace(time=kept.time, result=result)

    def _smaller(self, backoffs: Int[Array, ""]) -> Any:
        # scales[0] is 1.0, so the first attempt is bit-identical.
        scales = np.power(self.factor, np.arange(self.max_retries + 1))
        scale = jnp.asarray(scales, jnp.result_type(self.scheme.step_size))[backoffs]
        changes = {"step_size": self.scheme.step_size * scale}
        if self.scale_updates:
            changes["optimizer"] = optax.chain(self.scheme.optimizer, _scaled(scale))
        return dataclasses.replace(self.scheme, **changes)


class _Attempts(NamedTuple):
    count: Array
    backoffs: Array
    state: State
    info: PyTree
    step_size: PyTree


def _before(attempt: Callable, inner: State, backoffs: Array) -> _Attempts:
    """Returns what the loop starts from: no attempt, and a report that is never seen."""
    zero = jnp.zeros_like(backoffs)
    start = _Attempts(zero, zero, inner, None, None)
    info, step_size = jax.eval_shape(attempt, start)[-2:]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (info, step_size))
    return _Attempts(*start[:-2], *zeros)


def _scaled(scale: Scalar) -> optax.GradientTransformation:
    """Multiplies updates by a number, in their own dtype."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda update: update * scale.astype(update.dtype), updates
        )
    )
