"""The few types that every other module speaks: clouds of points, functionals of them, directions.

Letters in shape annotations: n points of the moving measure, m points of the other, d their dimension, l directions.
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
# A leaf of a registered dataclass: an array, or whatever JAX puts in its place while it handles the tree (None, specs, tracers).
Leaf: TypeAlias = Any
DirectionFn: TypeAlias = Callable[[Key, int, int], Float[Array, "l d"]]


class Cloud(NamedTuple):
    """A measure as functionals see it: sum_i weights_i delta(points_i), with its density where one is known.

    Attributes:
      points: [n d].
      weights: [n], nonnegative, summing to one; None means 1/n each. A zero weight is padding.
      log_density: [n], log of the measure's Lebesgue density at each point; None when there is none.
    """

    points: Float[Array, "n d"]
    weights: Float[Array, " n"] | None = None
    log_density: Float[Array, " n"] | None = None


class Estimate(NamedTuple):
    """A Monte Carlo value and its ``standard_error`` (one standard deviation of the mean)."""

    value: Scalar
    standard_error: Scalar

    @classmethod
    def of_mean(cls, values: Float[Array, " n"]) -> "Estimate":
        """The mean of independent values and its standard error."""
        return cls(jnp.mean(values), jnp.std(values, ddof=1) / jnp.sqrt(values.shape[0]))


@runtime_checkable
class Functional(Protocol):
    """F(mu) estimated on a cloud: ``functional(key, cloud) -> scalar``; the key pays for whatever it draws itself."""

    def __call__(self, key: Key, cloud: Cloud, /) -> Scalar: ...


def as_partial(function: Callable[..., Any]) -> jax.tree_util.Partial:
    """The function as a pytree: the code is static, the data bound with ``jax.tree_util.Partial`` are leaves."""
    return (
        function if isinstance(function, jax.tree_util.Partial) else jax.tree_util.Partial(function)
    )


def static_field() -> Any:
    """A dataclass field that is part of a pytree's structure, hashed at compile time, and no leaf."""
    return dataclasses.field(metadata={"static": True})
