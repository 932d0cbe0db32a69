"""The types that all modules share: clouds of points, functionals of them, directions.

Letters in shape annotations: n points of the moving measure, m points of the other, d their
dimension, l directions.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Shaped

Key: TypeAlias = Shaped[Array, "..."]
Scalar: TypeAlias = Float[Array, ""]
Params: TypeAlias = PyTree
# A leaf of a registered dataclass: an array, or what JAX puts in its place (None, specs, tracers).
Leaf: TypeAlias = Any
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Partitioned:
    """A pytree whose arrays are leaves, and whose other leaves are static.

    Attributes:
      arrays: The arrays, in the order of the leaves.
      rest: The leaves, with the class ``jax.Array`` in place of each array.
      structure: Structure of the pytree.
    """

    arrays: list[Leaf]
    rest: tuple[Any, ...] = static_field()
    structure: Any = static_field()

    @property
    def whole(self) -> PyTree:
        """The pytree."""
        arrays = iter(self.arrays)
        return self.structure.unflatten(
            next(arrays) if leaf is jax.Array else leaf for leaf in self.rest
        )


def partitioned(tree: PyTree, name: str) -> Partitioned:
    """Returns a pytree with its arrays as leaves; TypeError if another leaf has no hash.

    Args:
      tree: Any pytree.
      name: Name of the argument, for the message.
    """
    leaves, structure = jax.tree.flatten(tree)
    is_array = [isinstance(leaf, (jax.Array, np.ndarray)) for leaf in leaves]
    rest = [jax.Array if array else leaf for leaf, array in zip(leaves, is_array, strict=True)]
    for leaf in rest:
        try:
            hash(leaf)
        except TypeError as error:
            raise TypeError(
                f"`{name}` must hold arrays and values with a hash; got a {type(leaf).__name__}. "
                "Convert it to an array, as in jnp.asarray(...)."
            ) from error
    arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
    return Partitioned(arrays, tuple(rest), structure)
