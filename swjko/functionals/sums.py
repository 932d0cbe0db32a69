"""Weighted sums of functionals."""

import dataclasses
import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from swjko.functionals.base import is_entropy_like, needs_density, needs_log_prob, value_at
from swjko.types import Cloud, Functional, Key, Leaf, Scalar, as_partial
from swjko.types.readable import Readable


def weighted_sum(*terms: tuple[float | Scalar, Functional]) -> "WeightedSum":
    """Makes sum_i coef_i F_i. Each functional gets its own key, and all see the same cloud.

    Args:
      *terms: Pairs ``(coef, functional)``, at least one.

    Example:
      ``weighted_sum((1.0, potential(v)), (0.5, interaction(w)))``
    """
    if not terms:
        raise ValueError("`weighted_sum` needs at least one (coef, functional) pair; got none.")
    for term in terms:
        if not isinstance(term, (tuple, list)) or len(term) != 2 or not callable(term[1]):
            raise TypeError(f"`weighted_sum` takes (coef, functional) pairs; got {term!r}.")
        if isinstance(term[0], str) or jnp.shape(term[0]) != ():
            raise TypeError(
                f"the coef of a (coef, functional) pair must be one number; got {term[0]!r}."
            )
    coefs, functionals = zip(*terms, strict=True)
    return WeightedSum(
        tuple(jnp.asarray(coef, float) for coef in coefs),
        tuple(
            as_partial(functional) if jax.tree_util.all_leaves([functional]) else functional
            for functional in functionals
        ),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WeightedSum(Readable):
    """Made by ``weighted_sum``. coefs are leaves."""

    coefs: tuple[Leaf, ...]
    functionals: tuple[Leaf, ...]

    @property
    def needs_density(self) -> bool:
        return any(needs_density(functional) for functional in self.functionals)

    @property
    def entropy_like(self) -> bool:
        return all(is_entropy_like(functional) for functional in self.functionals)

    @property
    def needs_log_prob(self) -> bool:
        return any(needs_log_prob(functional) for functional in self.functionals)

    def __call__(
        self, key: Key, cloud: Cloud, log_prob: Callable[..., Array] | None = None
    ) -> Scalar:
        keys = jax.random.split(key, len(self.functionals))
        values = [
            coef.astype(cloud.points.dtype) * value_at(functional, key, cloud, log_prob)
            for coef, functional, key in zip(self.coefs, self.functionals, keys, strict=True)
        ]
        return functools.reduce(operator.add, values)
