"""The types that all modules share: clouds of points, functionals of them, directions.

Letters in shape annotations: n points of the moving measure, m points of the other, d their
dimension, l directions.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

Key: TypeAlias = Shaped[Array, "..."]
Scalar: TypeAlias = Float[Array, ""]
Params: TypeAlias = PyTree
DirectionFn: TypeAlias = Callable[[Key, int, int], Float[Array, "l d"]]
# From points [n d] and parameters of slices [l ...] to the positions of the points on each [l n].
Projection: TypeAlias = Callable[[Array, Array], Array]


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
