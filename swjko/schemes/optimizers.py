"""Optimizers of optax as the inner solves call them, and their check before anything is compiled.

Some need more than gradients. ``update`` gets what its signature names, of

- ``value``, ``grad``: the objective and its gradient at the parameters;
- ``value_fn``, ``obj_fn``: ``params -> objective``, for line searches and second derivatives;
- ``grad_fn``: ``(params, i) -> gradient``, for optimizers that take several gradients an update.
"""

import functools
import inspect
import types
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from swjko.types import Params, Scalar, validation
from swjko.types.readable import Readable

# These pass on what the transformations inside them do.
_WRAPPERS = ("chain", "named_chain", "with_extra_args_support")
# The first of equal optimizers, by its content.
_MAX_OPTIMIZERS = 64
_optimizers: dict[Any, optax.GradientTransformation] = {}
# An optimizer and what stands for it, by identity, so that one optimizer stays one.
_MAX_SEEN = 1024
_seen: dict[int, tuple[optax.GradientTransformation, optax.GradientTransformation]] = {}


class WithOptimizer(Readable):
    """A scheme whose ``optimizer`` is shared with equal ones, also after unpickling."""

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Any:
        optimizer = fields["optimizer"]
        if isinstance(optimizer, optax.GradientTransformation):
            optimizer = as_optimizer(optimizer)
        return super().from_fields(fields | {"optimizer": optimizer})


def as_optimizer(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns the optimizer, or an equal one that was used before, so that programs are reused.

    Optax makes new functions at each call, and programs are kept by function. Two optimizers are
    equal if their functions have the same code, globals, defaults and values in their closures:
    numbers, texts, and tuples, lists and functions of these, such as schedules. Anything else is
    equal to itself alone.
    """
    validation.require_optimizer(optimizer)
    known = _seen.get(id(optimizer))
    if known is not None and known[0] is optimizer:
        return known[1]
    chosen = _first_of_equals(optimizer)
    if len(_seen) >= _MAX_SEEN:
        del _seen[next(iter(_seen))]
    _seen[id(optimizer)] = (optimizer, chosen)
    return chosen


def _first_of_equals(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    try:
        content = _content(optimizer)
    except (ValueError, RecursionError):  # an empty closure, or a function that calls itself
        return optimizer
    if len(_optimizers) >= _MAX_OPTIMIZERS and content not in _optimizers:
        del _optimizers[next(iter(_optimizers))]
    return _optimizers.setdefault(content, optimizer)


def _content(thing: Any) -> Any:
    """Returns a hashable value that is equal for things that act alike."""
    if isinstance(thing, types.FunctionType) and not thing.__dict__:
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        values = (cells, thing.__defaults__, sorted((thing.__kwdefaults__ or {}).items()))
        parts = tuple(tuple(map(_content, value or ())) for value in values)
        return thing.__code__, _Same(thing.__globals__), parts
    if isinstance(thing, functools.partial):
        parts = (thing.args, tuple(sorted(thing.keywords.items())))
        return functools.partial, _content(thing.func), tuple(map(_content, parts))
    if isinstance(thing, tuple | list):
        return type(thing), tuple(map(_content, thing))
    # The type tells 1 from 1.0 and True, the text 0.0 from -0.0.
    if isinstance(thing, bool | int | float | str | bytes | types.NoneType):
        return type(thing), repr(thing)
    return _Same(thing)


class _Same:
    """A key for a thing, equal to that of the same object alone."""

    def __init__(self, thing: Any):
        self._thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._thing is other._thing

    def __hash__(self) -> int:
        return id(self._thing)


def update(
    optimizer: optax.GradientTransformation,
    state: PyTree,
    params: Params,
    value: Scalar,
    gradient: Params,
    value_fn: Callable[[Params], Scalar],
) -> tuple[Params, PyTree]:
    """Returns the parameters and the state of the optimizer after one update.

    Args:
      optimizer: Optax optimizer.
      state: State of the optimizer.
      params: Parameters before the update.
      value: Objective at the parameters.
      gradient: Its gradient there.
      value_fn: The objective as a function of the parameters.
    """
    updates, state = _updates(optimizer, state, params, value, gradient, value_fn)
    return optax.apply_updates(params, updates), state


def _updates(optimizer, state, params, value, gradient, value_fn):
    def searched(params, obj_fn=None, grad_fn=None):
        # Line searches insist that value_fn takes all arguments that are not their own.
        del obj_fn, grad_fn
        return value_fn(params)

    offered = {
        "value": value,
        "grad": gradient,
        "value_fn": searched,
        "obj_fn": value_fn,
        "grad_fn": lambda params, _=0: jax.grad(value_fn)(params),
    }
    extra = _accepted(optimizer.update, offered)
    return optimizer.update(gradient, state, params, **extra)


def require_updates(optimizer: optax.GradientTransformation, params: PyTree) -> None:
    """Raises TypeError if the optimizer cannot update parameters like these.

    Args:
      optimizer: Optax optimizer.
      params: Parameters, or their shapes and dtypes.
    """

    def objective(params):
        return sum((jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)), jnp.zeros(()))

    def updated(params):
        value, gradient = jax.value_and_grad(objective)(params)
        return _updates(optimizer, optimizer.init(params), params, value, gradient, objective)[0]

    try:
        updates = jax.eval_shape(updated, params)
        shapes = ([leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (params, updates))
        if len({tuple(one) for one in shapes}) > 1:
            # Otherwise they might be broadcast to the parameters in silence.
            raise ValueError("the updates do not have the shapes of the parameters")
    except Exception as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise TypeError(
            "optimizer must update the parameters from the gradient of the objective; got "
            f"{_name(optimizer, error)}, which raises {type(error).__name__}: {text}. "
            "Use another, such as optax.adam(3e-3)."
        ) from error


def _accepted(function: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """Returns the offered arguments that the signature of a function has room for."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return offered
    return {name: value for name, value in offered.items() if name in parameters}


def _name(optimizer: optax.GradientTransformation, error: BaseException) -> str:
    """Returns the name of the transformation of optax in which an error was raised."""
    trace, name = error.__traceback__, ""
    while trace is not None:
        maker = _maker(trace.tb_frame)
        if maker and not name:
            name = f"optax's {maker}"
        trace = trace.tb_next
    return name or f"optax's {_first_maker(optimizer.update)}"


def _first_maker(function: Callable[..., Any]) -> str:
    """Returns the function that made a function, or the first of those inside it for a chain."""
    maker = getattr(function, "__qualname__", "").partition(".<locals>.")[0]
    if maker in _WRAPPERS:
        for cell in getattr(function, "__closure__", None) or ():
            inside = cell.cell_contents
            for one in inside if isinstance(inside, (tuple, list)) else (inside,):
                if callable(one) and getattr(one, "__module__", "").startswith("optax."):
                    return _first_maker(one)
    return maker


def _maker(frame: FrameType) -> str:
    """Returns the function of optax that made the function of a frame; "" if there is none."""
    maker, _, inner = frame.f_code.co_qualname.partition(".<locals>.")
    of_optax = frame.f_globals.get("__name__", "").startswith("optax.")
    return maker if of_optax and inner and maker not in _WRAPPERS else ""
