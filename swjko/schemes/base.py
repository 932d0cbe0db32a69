"""What all time-stepping schemes share: state, report, result codes, and ``run``.

scheme.init(key) -> state
scheme.step(key, state) -> (state, info)
run(key, scheme, state, num_steps) -> (state, recorded)
"""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from swjko.families.base import Family
from swjko.types import Functional, Key, Params, Scalar, as_partial, validation

# Estimates rise by their noise, and a bad solve raises them by more. This many times the noise
# and the value itself is neither.
_DIVERGENCE_FACTOR = 10.0


class Result(enum.IntEnum):
    """Codes in ``state.result`` and ``info.result``, one for each flow under ``vmap``.

    A flow whose code is not OK stays at its last good state. STOPPED is not a failure: ``solve``
    gives it to flows that its ``stop`` has ended while others continue.
    """

    OK = 0
    STEP_LIMIT = 1
    NON_FINITE = 2
    DIVERGED = 3
    INNER_NOT_CONVERGED = 4
    STOPPED = 5

    @property
    def advice(self) -> str:
        """What happened, and what to do about it."""
        return _ADVICE[self]


_ADVICE = {
    Result.OK: "the flow completed its steps",
    Result.STEP_LIMIT: (
        "the number of steps was reached before the stopping criterion was met; "
        "raise num_steps, or the scheme's max_steps"
    ),
    Result.NON_FINITE: (
        "a value became NaN or infinite; lower the learning rate or step_size, "
        "or check the functional on the samples"
    ),
    Result.DIVERGED: (
        "a step raised its objective far above its start; lower the learning rate or step_size, "
        "or use more samples"
    ),
    Result.INNER_NOT_CONVERGED: (
        "the inner problem was not solved to its tolerance; raise num_inner_steps"
    ),
    Result.STOPPED: "the stopping criterion was met",
}


class State(NamedTuple):
    """What the next step needs.

    Attributes:
      params: Parameters of the family; the points themselves for particle schemes.
      time: Sum of the step sizes so far.
      step: Number of steps taken. It selects the random draws of the next step, so a run can be
        interrupted and resumed.
      result: A ``Result`` code. The flow no longer moves once it is not OK.
      extra: What this scheme needs beyond that; see the scheme.
    """

    params: Params
    time: Scalar
    step: Int[Array, ""]
    result: Int[Array, ""]
    extra: PyTree = ()


class Info(NamedTuple):
    """The report of a step, estimated on fresh samples after it.

    Attributes:
      time: Time at the end of the step.
      energy: F at the new measure.
      proximity: SW_2^2(new, old) / (2 step_size); zero for schemes without a proximity.
      objective: energy + proximity, which the step minimises.
      gradient_norm: Euclidean norm of the gradient of the objective in the parameters.
      result: The ``Result`` code.
      extra: What this scheme reports beyond that; see the scheme.
    """

    time: Scalar
    energy: Scalar
    proximity: Scalar
    objective: Scalar
    gradient_norm: Scalar
    result: Int[Array, ""]
    extra: PyTree = ()


RecordFn = Callable[[State, Info], Any]


@runtime_checkable
class Scheme(Protocol):
    """A pytree with a family, a start and a step."""

    @property
    def family(self) -> Family: ...

    def init(self, key: Key, /) -> State: ...

    def step(self, key: Key, state: State, /) -> tuple[State, Info]: ...


def both(state: State, info: Info) -> tuple[State, Info]:
    """Records (state, info), so the whole trajectory of parameters is kept.

    Args:
      state: State after the step.
      info: Report of the step.
    """
    return state, info


def infos(state: State, info: Info) -> Info:
    """Records the report of each step, a few numbers, and not its state.

    Args:
      state: State after the step.
      info: Report of the step.
    """
    del state
    return info


_RECORDS: dict[str, RecordFn] = {"trajectory": both, "infos": infos}


def run(
    key: Key, scheme: Scheme, state: State, num_steps: int, record: RecordFn | str = both
) -> tuple[State, Any]:
    """Takes ``num_steps`` steps from ``state``, as one scan.

    The key of a step is ``fold_in(key, state.step)``, so ten steps are the same run as five steps
    and then five more from the state reached. Jit it as
    ``jax.jit(swjko.run, static_argnames=("num_steps", "record"))``; vmap it over keys, states or
    leaves of the scheme.

    Args:
      key: Random key of the run.
      scheme: Scheme such as ``sw_jko(...)``.
      state: Where to start, such as ``scheme.init(key)``.
      num_steps: Number of steps, at least 1.
      record: ``(state, info) -> what to keep of each step``; "trajectory" is ``swjko.both`` and
        "infos" is ``swjko.infos``.

    Returns:
      The final state, and what ``record`` kept, stacked along a leading axis of steps.

    Example:
      ``state, (states, infos) = run(key, scheme, scheme.init(init_key), 30)``
    """
    require_scheme(scheme)
    if not hasattr(state, "step"):
        raise TypeError(
            f"state must be a state of the scheme; got {type(state).__name__}. "
            "Use scheme.init(key)."
        )
    num_steps = validation.as_count(num_steps, "num_steps")
    record = as_record(record)

    def body(state, _):
        state, info = scheme.step(jax.random.fold_in(key, state.step), state)
        return state, record(state, info)

    return lax.scan(body, state, length=num_steps)


def split_run_key(key: Key) -> tuple[Key, Key]:
    """Returns the key of ``scheme.init`` and that of ``run`` for one flow."""
    # A run splits its key once for the start, and again for each chunk of steps.
    init_key, run_key = jax.random.split(jax.random.clone(key))
    return init_key, run_key


def as_record(record: RecordFn | str) -> RecordFn:
    """Returns the record function, which may be given by its name."""
    if isinstance(record, str):
        return _RECORDS[validation.as_choice(record, "record", tuple(_RECORDS))]
    return validation.require_callable(
        record, "record", "from (state, info) to the values to record"
    )


def require_scheme(scheme: object) -> None:
    """Raises TypeError if ``scheme`` is not a scheme."""
    if not isinstance(scheme, Scheme):
        raise TypeError(
            f"scheme must have family, init and step; got {type(scheme).__name__}. "
            "Use a scheme such as swjko.sw_jko(...)."
        )


def as_functional(functional: Functional) -> Functional:
    """Returns the functional as a pytree."""
    validation.require_callable(functional, "functional", "(key, cloud) -> scalar")
    return functional if dataclasses.is_dataclass(functional) else as_partial(functional)


def require_scalar_objective(objective: Callable[[Key], Scalar]) -> None:
    """Evaluates the shape of ``objective(key)``, so mistakes in user functions surface early."""
    shape = jax.eval_shape(objective, jax.eval_shape(lambda: jax.random.key(0))).shape
    if shape != ():
        raise ValueError(
            f"functional must return a scalar; the objective has shape {shape}. "
            "Average over the points of the cloud."
        )


def start_shapes(family: Family) -> PyTree:
    """Returns the shapes and dtypes of the parameters at mu_0."""
    return jax.eval_shape(family.init, jax.eval_shape(lambda: jax.random.key(0)))


def start_state(params: Params, step_size: Array, extra: PyTree = ()) -> State:
    """Returns the state at mu_0, time 0, with a time of the step size's dtype."""
    zero = jnp.zeros((), jnp.int32)
    return State(params, jnp.zeros_like(step_size), zero, zero, extra)


def is_divergent(value: Scalar, reference: Scalar, noise: float | Scalar = 1.0) -> Bool[Array, ""]:
    """Returns whether a value exceeds its reference by far more than the noise and its size."""
    return value - reference > _DIVERGENCE_FACTOR * (noise + jnp.abs(reference))


def step_result(
    state: State,
    moved: PyTree,
    value: Scalar,
    reference: Scalar,
    noise: float | Scalar = 1.0,
) -> Int[Array, ""]:
    """Returns the code of a step from ``state`` to ``moved``.

    Args:
      state: State before the step. A code other than OK stays.
      moved: Parameters and whatever else must be finite after the step.
      value: Value of the objective after the step.
      reference: Its value before the step.
      noise: Rise of the value that is not a sign of divergence.
    """
    finite = jnp.isfinite(value)
    for leaf in jax.tree.leaves(moved):
        finite &= jnp.all(jnp.isfinite(leaf))
    diverged = is_divergent(value, reference, noise)
    code = jnp.where(finite, jnp.where(diverged, Result.DIVERGED, Result.OK), Result.NON_FINITE)
    return jnp.where(state.result == Result.OK, code, state.result).astype(state.result.dtype)


def accept(state: State, new: State) -> State:
    """Returns ``new`` if its code is OK, else ``state`` with that code."""
    return select(new.result == Result.OK, new, state)._replace(result=new.result)


def select(condition: Bool[Array, ""], new: PyTree, old: PyTree) -> Any:
    """Returns ``new`` where the condition holds, else ``old``, leaf by leaf."""
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), new, old)
