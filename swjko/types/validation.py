"""Checks of the user's arguments, made before anything is compiled.

A failed check raises ``ValueError`` or ``TypeError``. The message names the argument, the
requirement, the value and the cure. Shapes and dtypes are always checked. Values are checked only
if they are concrete: inside ``jit``, ``vmap`` or ``grad`` they are unknown, and schemes report
trouble by result codes instead.
"""

import operator
from collections.abc import Callable
from typing import Any, SupportsFloat, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array

_WEIGHT_SUM_TOLERANCE = 1e-3

_MODEL_CURES = {
    "flax.linen": "Pass lambda x: module.apply(variables, x). swjko.flows.from_linen(module, "
    "dim=...) makes a family of it.",
    "equinox": "Pass jax.tree_util.Partial(lambda model, x: model(x), model). For a family use "
    "swjko.flows.from_equinox.",
    "haiku": "Pass lambda x: transformed.apply(params, None, x). For a family use "
    "swjko.pushforward(transformed.init, transformed.apply, ...).",
}


def as_points(points: object, name: str) -> Array:
    """Returns points as a float array [n d] with n, d >= 1, finite if concrete."""
    cure = ""
    if getattr(points, "ndim", 2) > 2:
        cure = f"Flatten each sample, as in {name}.reshape(len({name}), -1)."
    array = as_float_array(points, name, cure)
    shape = f"shape {array.shape}"
    cure = cure or f"For points on a line use {name}[:, None]."
    require(array.ndim == 2, name, "have rank 2, [number of points, dimension]", shape, cure)
    require(0 not in array.shape, name, "hold at least one point and one dimension", shape)
    require_finite(array, name)
    return array


def as_values(values: object, name: str) -> Array:
    """Returns values as a float array [n] with n >= 1, finite if concrete."""
    array = as_float_array(values, name)
    fits = array.ndim == 1 and array.shape[0] > 0
    require(fits, name, "have rank 1 and at least one value", f"shape {array.shape}")
    require_finite(array, name)
    return array


def as_float_array(values: object, name: str, cure: str = "") -> Array:
    """Returns values as a real floating-point array; integers and booleans are refused."""
    if isinstance(values, (dict, set, str)):
        raise TypeError(
            f"{name} must be an array of floats; got {type(values).__name__}. Make a vector of "
            "each sample, as jax.flatten_util.ravel_pytree does."
        )
    if not isinstance(values, (jax.Array, np.ndarray, np.generic)):
        try:
            values = np.asarray(values)
        except ValueError as error:
            raise TypeError(
                f"{name} must be a rectangular array of floats; got rows of different lengths."
            ) from error
        if values.dtype == np.float64:
            values = values.astype(jax.dtypes.canonicalize_dtype(np.float64))
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be real floating point; got dtype {values.dtype}. "
            f"Convert it first, as in {name}.astype(jnp.float32)." + (cure and f" {cure}")
        )
    return jnp.asarray(values)


def require(
    valid: bool | np.bool_, name: str, requirement: str, got: object, cure: str = ""
) -> None:
    """Raises ValueError unless ``valid``: ``name`` must meet the requirement, and the cure."""
    if not valid:
        raise ValueError(f"{name} must {requirement}; got {got}." + (cure and f" {cure}"))


def require_finite(values: Array, name: str) -> None:
    """Raises ValueError if a concrete array holds NaN or infinity."""
    # NumPy, because jnp would stage the check of a concrete array inside a trace.
    if is_concrete(values):
        bad = np.sum(~np.isfinite(np.asarray(values)))
        got = f"NaN or infinity in {bad} of {values.size} entries"
        require(bad == 0, name, "be finite", got, "Remove or replace them.")


def as_weights(
    weights: object, count: int, name: str, of: str = "point", *, any_sum: bool = False
) -> Array | None:
    """Returns None, or float weights [count], nonnegative and summing to one if concrete.

    With ``any_sum`` they need a positive sum only.
    """
    if weights is None:
        return None
    array = as_float_array(weights, name)
    requirement = f"have one weight for each {of}, shape ({count},)"
    require(array.shape == (count,), name, requirement, f"shape {array.shape}")
    if is_concrete(array):
        host = np.asarray(array, dtype=np.float64)
        valid = bool(np.all(np.isfinite(host)) and host.min() >= 0)
        require(valid, name, "be finite and nonnegative", f"a smallest weight of {host.min()}")
        if any_sum:
            require(host.sum() > 0, name, "have a positive sum", "a total mass of 0")
            return array
        got, cure = f"a sum of {host.sum():.6g}", f"Divide by it: {name} / {name}.sum()."
        require(abs(host.sum() - 1.0) <= _WEIGHT_SUM_TOLERANCE, name, "sum to one", got, cure)
    return array


def as_directions(directions: object, dim: int) -> Array:
    """Returns directions as a float array [l dim] with l >= 1, of unit rows if concrete."""
    array = as_float_array(directions, "directions")
    fits = array.ndim == 2 and array.shape[1] == dim and array.shape[0] > 0
    requirement = f"have shape [number of directions, {dim}], at least one row for points in {dim}D"
    require(fits, "directions", requirement, f"shape {array.shape}")
    cure = "Draw them with swjko.uniform_directions, or divide each row by its norm."
    return _with_unit_rows(array, "directions", cure)


def as_unit_points(points: object, name: str) -> Array:
    """Returns points on a sphere as a float array [n d] with d >= 2, of unit rows if concrete."""
    array = as_points(points, name)
    cure = "Angles are for swjko.wasserstein_circle_pow."
    require(array.shape[1] > 1, name, "have at least two dimensions", "one", cure)
    return _with_unit_rows(array, name, "Divide each row by its norm.")


def _with_unit_rows(array: Array, name: str, cure: str) -> Array:
    if is_concrete(array):
        norms = np.linalg.norm(np.asarray(array, dtype=np.float64), axis=1)
        tolerance = max(1e-5, 8 * float(jnp.finfo(array.dtype).eps))
        unit = bool(np.all(np.abs(norms - 1.0) < tolerance))
        got = f"norms between {norms.min():.6g} and {norms.max():.6g}"
        require(unit, name, "be unit vectors", got, cure)
    return array


def require_same_dim(x: Array, y: Array, x_name: str, y_name: str) -> None:
    """Raises ValueError if two clouds of points differ in dimension."""
    got = f"{x_name} of shape {x.shape} and {y_name} of shape {y.shape}"
    same = x.shape[1] == y.shape[1]
    require(same, f"{x_name} and {y_name}", "have the same dimension", got)


def as_count(value: SupportsIndex, name: str, minimum: int = 1) -> int:
    """Returns a static Python integer of at least ``minimum``."""
    try:
        count = operator.index(value)
    except TypeError as error:
        raise _wrong_type(name, "be a static integer", value) from error
    if isinstance(value, bool):
        raise _wrong_type(name, "be a static integer", value)
    require(count >= minimum, name, f"be at least {minimum}", count)
    return count


def as_choice(value: object, name: str, choices: tuple[str, ...]) -> str:
    """Returns one of the words in ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")
    return value


def as_positive(value: object, name: str, shape: tuple[int, ...] | None = ()) -> Array:
    """Returns positive numbers of one shape as a float leaf; shape=None accepts any shape.

    The sign is checked if the value is concrete; a traced value may be swept by vmap.
    """
    array = _as_numbers(value, name, shape)
    require(_all_finite_and(array, array > 0), name, "be positive and finite", value)
    return array


def as_nonnegative(value: object, name: str) -> Array:
    """Returns one number of at least zero as a float leaf."""
    array = _as_numbers(value, name, ())
    require(_all_finite_and(array, array >= 0), name, "be at least 0 and finite", value)
    return array


def as_fraction(value: SupportsFloat, name: str, meaning: str) -> float:
    """Returns a static number above 0 and below 1; the message explains its ``meaning``."""
    fraction = _as_static_number(value, name, meaning)
    requirement = f"be above 0 and below 1, {meaning}"
    require(0 < fraction < 1, name, requirement, value, "Leave it out for the default.")
    return fraction


def as_power(p: SupportsFloat, *, infinite: bool = False) -> float:
    """Returns the static order of a Wasserstein distance, at least 1, finite unless allowed."""
    power = _as_static_number(p, "p", "the order of the Wasserstein distance")
    cure = "Below 1 the sorted coupling is not optimal."
    if power == float("inf"):
        cure = "Use swjko.sliced_wasserstein, the only function that takes p = infinity."
    valid = power >= 1 and (infinite or power < float("inf"))
    require(valid, "p", "be at least 1" + ("" if infinite else " and finite"), p, cure)
    return power


def as_start(dim: int, init_mean: object, init_scale: object) -> tuple[Array, Array]:
    """Returns the mean and the scale of the starting measure as arrays [dim]."""
    requirement = f"be a number or one for each of {dim} coordinates"
    try:
        mean = jnp.asarray(init_mean, float)
    except (TypeError, ValueError) as error:
        raise _wrong_type("init_mean", requirement, init_mean) from error
    require_finite(mean, "init_mean")
    scale = as_positive(init_scale, "init_scale", shape=None)
    for name, value in (("init_mean", mean), ("init_scale", scale)):
        require(value.shape in ((), (dim,)), name, requirement, f"shape {value.shape}")
    return jnp.broadcast_to(mean, (dim,)), jnp.broadcast_to(scale.astype(mean.dtype), (dim,))


def require_callable(function: object, name: str, signature: str) -> Callable[..., Any]:
    """Raises TypeError if ``function`` cannot be called; the message shows the signature."""
    if cure := model_cure(function):
        kind = type(function).__name__
        raise TypeError(f"{name} must be a function {signature}; got the model {kind}. {cure}")
    if not callable(function):
        raise _wrong_type(name, f"be a function {signature}", function)
    return function


def model_cure(value: object) -> str:
    """Returns how to use a model of linen, equinox or haiku; empty for other values."""
    for base in type(value).__mro__:
        for package, cure in _MODEL_CURES.items():
            if f"{base.__module__}.".startswith(f"{package}."):
                return cure
    return ""


def require_scalars(values: Any, count: int, name: str, point: str) -> Any:
    """Returns values [count] of a function, or raises an error if they are not scalars."""
    requirement = f"must map one {point} to a scalar"
    if not hasattr(values, "shape") or not hasattr(values, "dtype"):
        raise TypeError(
            f"`{name}` {requirement}; got a {type(values).__name__}. Return one array from it, "
            "such as one entry of a dictionary or the first of a pair."
        )
    if values.shape != (count,):
        raise ValueError(
            f"`{name}` {requirement}; got shape {values.shape[1:]}. Write it for a single point; "
            "the package maps it over the cloud."
        )
    return values


def require_optimizer(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Raises TypeError if ``optimizer`` is not an optax optimizer."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        requirement = "be an optax GradientTransformation, such as optax.adam(3e-3)"
        raise _wrong_type("optimizer", requirement, optimizer)
    return optimizer


def is_concrete(array: object) -> bool:
    """Returns whether a value is known now, rather than traced by a transformation of JAX."""
    return not isinstance(array, Tracer)


def _as_numbers(value: object, name: str, shape: tuple[int, ...] | None) -> Array:
    try:
        array = jnp.asarray(value, dtype=None if hasattr(value, "dtype") else float)
    except (TypeError, ValueError) as error:
        raise _wrong_type(name, "be a number", value) from error
    requirement = f"have shape {shape}" if shape else "be one number"
    cure = "To sweep it, vmap over the scheme's leaf."
    require(shape in (None, array.shape), name, requirement, f"shape {array.shape}", cure)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def _as_static_number(value: SupportsFloat, name: str, meaning: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise _wrong_type(name, f"be a static number, {meaning}", value) from error


def _all_finite_and(array: Array, condition: Array) -> bool:
    return not is_concrete(condition) or bool(jnp.all(condition & jnp.isfinite(array)))


def _wrong_type(name: str, requirement: str, value: object) -> TypeError:
    return TypeError(f"{name} must {requirement}; got {value!r} of type {type(value).__name__}.")
