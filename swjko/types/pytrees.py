"""Dataclasses and functions as pytrees, some parts of which are static."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import PyTree

# A leaf of a registered dataclass: an array, or what JAX puts in its place (None, specs, tracers).
Leaf: TypeAlias = Any


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
