"""The types that all modules share: clouds of points, functionals of them, directions.

Letters in shape annotations: n points of the moving measure, m points of the other, d their
dimension, l directions.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

Key: TypeAlias = Shaped[Array, "..."]
Scalar: TypeAlias = Float[Array, ""]
Params: TypeAlias = PyTree
# A leaf of a registered dataclass: an array, or what JAX puts in its place (None, specs, tracers).
Leaf: TypeAlias = Any
DirectionFn: TypeAlias = Callable[[Key, int, int], Float[Array, "l d"]]


class Cloud(NamedTuple):
    """A weighted sample of a measure, sum_i weights_i delta(points_i), as functionals see it.

    Attributes:
      points: Points [n d].
      weights: Weights [n], nonnegative, with sum one; None is uniform. A zero weight is padding.
      log_density: Logarithm [n] of the measure's Lebesgue density at each point; None if there is
        no density.
    """

    points: Float[Array, "n d"]
    weights: Float[Array, " n"] | None = None
    log_density: Float[Array, " n"] | None = None


class Estimate(NamedTuple):
    """A Monte Carlo estimate.

    Attributes:
      value: The estimate.
      standard_error: One standard deviation of the mean.
    """

    value: Scalar
    standard_error: Scalar

    @classmethod
    def of_mean(cls, values: Float[Array, " n"]) -> "Estimate":
        """Returns the mean of independent values [n] and its standard error."""
        return cls(jnp.mean(values), jnp.std(values, ddof=1) / jnp.sqrt(values.shape[0]))


@runtime_checkable
class Functional(Protocol):
    """F(mu) estimated on a cloud: ``functional(key, cloud) -> scalar``.

    ``key`` is for randomness inside the functional.
    """

    def __call__(self, key: Key, cloud: Cloud, /) -> Scalar: ...


def as_partial(function: Callable[..., Any]) -> jax.tree_util.Partial:
    """Returns the function as a pytree: its code is static, its bound data are leaves."""
    partial = jax.tree_util.Partial
    return function if isinstance(function, partial) else partial(function)


def static_field(**options: Any) -> Any:
    """Returns a dataclass field that is static: hashed at compile time, and not a leaf.

    Args:
      **options: Options of ``dataclasses.field``.
    """
    return dataclasses.field(metadata={"static": True}, **options)
