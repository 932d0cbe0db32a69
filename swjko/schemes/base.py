"""What every time-stepping scheme shares: its state, what a step reports, result codes, and ``run``, a scan over steps.

scheme.init(key) -> state;   scheme.step(key, state) -> (state, info);   run(key, scheme, state, num_steps) -> (state, recorded)
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
from jax import lax
from jaxtyping import Array, Int

from swjko import validation
from swjko.families.base import Family
from swjko.types import Key, Params, Scalar


class Result(enum.IntEnum):
    """Codes in ``state.result`` and ``info.result``; per flow under ``vmap``. Any but OK freezes its flow at the last good state.

    STOPPED is no failure: ``solve`` gives it to flows that its ``stop`` has ended while others go on.
    """

    OK = 0
    STEP_LIMIT = 1
    NON_FINITE = 2
    DIVERGED = 3
    INNER_NOT_CONVERGED = 4
    STOPPED = 5

    @property
    def advice(self) -> str:
        return _ADVICE[self]


_ADVICE = {
    Result.OK: "the flow ran as asked",
    Result.STEP_LIMIT: "the number of steps was reached before the stopping criterion; raise num_steps, or the scheme's max_steps",
    Result.NON_FINITE: "a value became NaN or infinite; lower the learning rate or step_size, or check the functional on the samples",
    Result.DIVERGED: "a step raised its objective far above the start; lower the learning rate or step_size, or take more samples",
    Result.INNER_NOT_CONVERGED: "the inner problem was not solved to its tolerance; raise num_inner_steps",
    Result.STOPPED: "the flow met the rule by which it was to stop",
}


class State(NamedTuple):
    """What the next step needs.

    A scheme that needs more has a NamedTuple of its own with these fields first.

    Attributes:
      params: the family's parameters; the points themselves for particle schemes.
      time: sum of the step sizes so far.
      step: number of steps taken; it selects the random draws of the next one, so that runs can be cut and resumed.
      result: a ``Result`` code; the flow stands still once it is not OK.
    """

    params: Params
    time: Scalar
    step: Int[Array, ""]
    result: Int[Array, ""]


class Info(NamedTuple):
    """What a reader wants to know of a step, estimated on fresh samples after it.

    Attributes:
      time: at the end of the step.
      energy: F at the new measure.
      proximity: SW_2^2(new, old) / (2 step_size); zero for schemes without one.
      objective: energy + proximity, what the step minimised.
      gradient_norm: Euclidean norm of the objective's gradient in the parameters.
      result: the ``Result`` code.
    """

    time: Scalar
    energy: Scalar
    proximity: Scalar
    objective: Scalar
    gradient_norm: Scalar
    result: Int[Array, ""]


# A State or an Info, or the NamedTuple of a scheme with their fields and more.
AnyState: TypeAlias = Any
AnyInfo: TypeAlias = Any


@runtime_checkable
class Scheme(Protocol):
    """A pytree with a family, a start and a step."""

    @property
    def family(self) -> Family: ...

    def init(self, key: Key, /) -> AnyState: ...

    def step(self, key: Key, state: AnyState, /) -> tuple[AnyState, AnyInfo]: ...


def both(state: AnyState, info: AnyInfo) -> tuple[AnyState, AnyInfo]:
    """Records everything, (state, info): the whole trajectory of parameters is kept."""
    return state, info


def infos(state: AnyState, info: AnyInfo) -> AnyInfo:
    """Records ``info`` alone, the report of a step, and not its state: a few numbers per step."""
    del state
    return info


def run(
    key: Key,
    scheme: Scheme,
    state: AnyState,
    num_steps: int,
    record: Callable[[AnyState, AnyInfo], Any] = both,
) -> tuple[AnyState, Any]:
    """``num_steps`` steps as one scan, from ``state``; returns (final state, what ``record`` kept, stacked along a leading axis).

    The key of a step is ``fold_in(key, state.step)``: ten steps, or five and then five more from the state reached, are the same run.
    Jit it as ``jax.jit(swjko.run, static_argnames=("num_steps", "record"))``; vmap it over keys, states or leaves of the scheme.

    Raises TypeError on what is no scheme, no state of one, or no function to record, and ValueError on a number of steps below 1.

    Example: ``state, (states, infos) = run(key, scheme, scheme.init(init_key), 30)``.
    """
    require_scheme(scheme)
    if not hasattr(state, "step"):
        raise TypeError(
            f"state must be the state of the scheme, such as scheme.init(key); received {type(state).__name__}."
        )
    num_steps = validation.as_count(num_steps, "num_steps")
    validation.require_callable(record, "record", "from (state, info) to what is kept")

    def body(state, _):
        state, info = scheme.step(jax.random.fold_in(key, state.step), state)
        return state, record(state, info)

    return lax.scan(body, state, length=num_steps)


def require_scheme(scheme: Any) -> None:
    if not isinstance(scheme, Scheme):
        raise TypeError(
            f"scheme must have family, init and step, such as swjko.sw_jko(...); received {type(scheme).__name__}."
        )
