"""Checks of what a user hands in, made before anything is compiled.

Each raises ``ValueError`` or ``TypeError`` naming the argument, the requirement, what was received and the cure. Shapes and dtypes are
always checked; values only when they are concrete (under ``jit``, ``vmap`` or ``grad`` they are unknown, and result codes take over).
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

WEIGHT_SUM_TOLERANCE = 1e-3


def as_points(points: Any, name: str) -> Array:
    """The argument as a float array [n d] with n, d >= 1, finite when concrete."""
    points = as_float_array(points, name)
    if points.ndim != 2:
        raise ValueError(
            f"{name} must have rank 2, [number of points, dimension]; received shape {points.shape}. "
            f"For points on a line use {name}[:, None]."
        )
    if 0 in points.shape:
        raise ValueError(
            f"{name} must hold at least one point of at least one dimension; received shape {points.shape}."
        )
    require_finite(points, name)
    return points


def as_values(values: Any, name: str) -> Array:
    """The argument as a float array [n] with n >= 1, finite when concrete."""
    values = as_float_array(values, name)
    if values.ndim != 1 or values.shape[0] == 0:
        raise ValueError(
            f"{name} must have rank 1 and at least one value; received shape {values.shape}."
        )
    require_finite(values, name)
    return values


def as_float_array(values: Any, name: str) -> Array:
    """The argument as a real floating-point array; integers and booleans are refused rather than rounded into one."""
    if not hasattr(values, "dtype"):
        try:
            values = np.asarray(values)
        except ValueError as error:
            raise TypeError(
                f"{name} must be a rectangular array of floats; received rows of different lengths."
            ) from error
        if values.dtype == np.float64:
            values = values.astype(jax.dtypes.canonicalize_dtype(np.float64))
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be real floating point; received dtype {values.dtype}. Convert it first, as in {name}.astype(jnp.float32)."
        )
    return jnp.asarray(values)


def require_finite(values: Array, name: str) -> None:
    # On the host: inside a trace jnp would stage the check of a concrete array too, and give no answer.
    if is_concrete(values) and not np.all(finite := np.isfinite(np.asarray(values))):
        count = int(np.sum(~finite))
        raise ValueError(
            f"{name} must be finite; {count} of {values.size} entries are NaN or infinite. Remove or replace them."
        )


def as_weights(weights: Any, count: int, name: str) -> Array | None:
    """None, or the argument as float weights [count], nonnegative and summing to one when concrete."""
    if weights is None:
        return None
    weights = as_float_array(weights, name)
    if weights.shape != (count,):
        raise ValueError(
            f"{name} must have one weight for each point, shape ({count},); received shape {weights.shape}."
        )
    if is_concrete(weights):
        host = np.asarray(weights, dtype=np.float64)
        if not np.all(np.isfinite(host)) or host.min() < 0:
            raise ValueError(
                f"{name} must be finite and nonnegative; received a smallest weight of {host.min()}."
            )
        if abs(host.sum() - 1.0) > WEIGHT_SUM_TOLERANCE:
            raise ValueError(
                f"{name} must sum to one; received a sum of {host.sum():.6g}. Divide by it: {name} / {name}.sum()."
            )
    return weights


def as_directions(directions: Any, dim: int) -> Array:
    """The argument as unit vectors [l dim] with l >= 1."""
    directions = as_float_array(directions, "directions")
    if directions.ndim != 2 or directions.shape[1] != dim:
        raise ValueError(
            f"directions must have shape [number of directions, {dim}], the dimension of the points; received {directions.shape}."
        )
    if directions.shape[0] == 0:
        raise ValueError("directions must hold at least one direction; received none.")
    if is_concrete(directions):
        norms = np.linalg.norm(np.asarray(directions, dtype=np.float64), axis=1)
        tolerance = max(1e-5, 8 * float(jnp.finfo(directions.dtype).eps))
        if not np.all(np.abs(norms - 1.0) < tolerance):
            raise ValueError(
                f"directions must be unit vectors; received norms between {norms.min():.6g} and {norms.max():.6g}. "
                "Draw them with swjko.uniform_directions, or divide each row by its norm."
            )
    return directions


def require_same_dim(x: Array, y: Array, x_name: str, y_name: str) -> None:
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{x_name} and {y_name} must have the same dimension; received {x_name} of shape {x.shape} and {y_name} of shape {y.shape}."
        )


def as_count(value: Any, name: str, minimum: int = 1) -> int:
    """A static Python integer >= minimum."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer; received {value!r}.")
    try:
        count = operator.index(value)
    except TypeError as error:
        raise TypeError(
            f"{name} must be a static integer; received {value!r} of type {type(value).__name__}."
        ) from error
    if count < minimum:
        raise ValueError(f"{name} must be at least {minimum}; received {count}.")
    return count


def as_choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))}; received {value!r}."
        )
    return value


def as_positive(value: Any, name: str, shape: tuple[int, ...] | None = ()) -> Array:
    """Returns positive numbers of a shape as a float leaf; None accepts any shape.

    The sign is checked when the value is concrete; a traced value may be swept by vmap.
    """
    array = _as_numbers(value, name)
    if shape is not None and array.shape != shape:
        raise ValueError(
            f"{name} must be one number; got shape {array.shape}. "
            "To sweep it, vmap over the scheme's leaf."
        )
    if is_concrete(array) and not bool(jnp.all((array > 0) & jnp.isfinite(array))):
        raise ValueError(f"{name} must be positive and finite; received {value}.")
    return array


def as_nonnegative(value: Any, name: str) -> Array:
    """A number of at least zero as a float leaf, in the manner of ``as_positive``."""
    array = _as_numbers(value, name)
    if array.ndim != 0:
        raise ValueError(
            f"{name} must be one number; received shape {array.shape}. To sweep it, vmap over the scheme's leaf."
        )
    if is_concrete(array) and not bool((array >= 0) & jnp.isfinite(array)):
        raise ValueError(f"{name} must be at least 0 and finite; received {value}.")
    return array


def _as_numbers(value: Any, name: str) -> Array:
    try:
        array = jnp.asarray(value, dtype=None if hasattr(value, "dtype") else float)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be a number; received {value!r} of type {type(value).__name__}."
        ) from error
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def require_optimizer(optimizer: Any) -> Any:
    """Raises TypeError if ``optimizer`` is not an optax optimizer."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            "optimizer must be an optax GradientTransformation, such as optax.adam(3e-3); "
            f"got {type(optimizer).__name__}."
        )
    return optimizer


def as_fraction(value: Any, name: str, what: str) -> float:
    """A static number above 0 and below 1; ``what`` says in the message what it is."""
    try:
        fraction = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a static number, {what}; received {value!r}.") from error
    if not 0.0 < fraction < 1.0:
        raise ValueError(
            f"{name} must be above 0 and below 1, {what}; received {value}. Leave it out for the default."
        )
    return fraction


def as_step_size(value: Any) -> Array:
    """A positive scalar; a sweep is a vmap over schemes, not an array here."""
    step_size = as_positive(value, "step_size")
    if step_size.ndim != 0:
        raise ValueError(
            f"step_size must be one number; received shape {step_size.shape}. To sweep it, vmap over the scheme's leaf."
        )
    return step_size


def as_square(matrix: Any, dim: int, name: str, *, definite: bool = False) -> Array:
    """The argument as a float array [dim dim]; symmetric, and positive definite or semidefinite, when concrete."""
    matrix = as_float_array(matrix, name)
    if matrix.shape != (dim, dim):
        raise ValueError(
            f"{name} must have shape ({dim}, {dim}), the dimension of the mean; received shape {matrix.shape}."
        )
    require_finite(matrix, name)
    if is_concrete(matrix):
        host = np.asarray(matrix, np.float64)
        tolerance = 100 * float(jnp.finfo(matrix.dtype).eps) * np.abs(host).max()
        if np.abs(host - host.T).max() > tolerance:
            raise ValueError(
                f"{name} must be symmetric; received an asymmetry of {np.abs(host - host.T).max():.3g}. Take ({name} + {name}.T) / 2."
            )
        smallest = np.linalg.eigvalsh(host).min()
        if smallest < -tolerance or (definite and smallest <= 0):
            kind = "definite" if definite else "semidefinite"
            raise ValueError(
                f"{name} must be positive {kind}; received a smallest eigenvalue of {smallest:.3g}."
            )
    return matrix


def as_start(dim: int, init_mean: Any, init_scale: Any) -> tuple[Array, Array]:
    """mean and scale of mu_0 as arrays [dim]."""
    try:
        mean = jnp.asarray(init_mean, float)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"init_mean must be a number or one for each coordinate; received {init_mean!r}."
        ) from error
    require_finite(mean, "init_mean")
    scale = as_positive(init_scale, "init_scale", shape=None)
    for name, value in (("init_mean", mean), ("init_scale", scale)):
        if value.shape not in ((), (dim,)):
            raise ValueError(
                f"{name} must be a number or one for each of {dim} coordinates; received shape {value.shape}."
            )
    return jnp.broadcast_to(mean, (dim,)), jnp.broadcast_to(scale.astype(mean.dtype), (dim,))


def as_power(p: Any) -> float:
    try:
        power = float(p)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"p must be a static number, the order of the Wasserstein distance; received {p!r}."
        ) from error
    if not 1.0 <= power < float("inf"):
        raise ValueError(
            f"p must be at least 1 and finite; received {p}. Below 1 the sorted coupling is not optimal."
        )
    return power


def require_callable(function: Any, name: str, signature: str) -> Callable[..., Any]:
    if not callable(function):
        raise TypeError(
            f"{name} must be a function {signature}; received {function!r} of type {type(function).__name__}."
        )
    return function


def is_concrete(array: Any) -> bool:
    return not isinstance(array, Tracer)
