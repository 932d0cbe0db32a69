"""Sums of the kernel over blocks of directions, with their gradients and their scales."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from swjko.distances.scales import power_of_two
from swjko.types import Leaf, Scalar


class Wanted(NamedTuple):
    """Which inputs need a gradient; permutations are computed for those only."""

    x: bool = False
    y: bool = False
    directions: bool = False
    x_weights: bool = False
    y_weights: bool = False
    rho: bool = False


class Gradients(NamedTuple):
    """One array for each wanted input, None for the others.

    Gradients in points and directions are those of the scaled power times the scale.
    """

    x: Leaf = None
    y: Leaf = None
    directions: Leaf = None
    x_weights: Leaf = None
    y_weights: Leaf = None
    rho: Leaf = None


class BlockSum(NamedTuple):
    """Powers divided by ``scale`` and summed over directions; None is a scale of one."""

    value: Scalar
    gradients: Gradients
    scale: Leaf


def zeros_of(one_block, directions) -> BlockSum:
    """Returns a sum that gives the carry its shapes and adds nothing."""
    shapes = jax.eval_shape(one_block, directions)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return zeros if zeros.scale is None else zeros._replace(scale=power_of_two(zeros.scale))


def without_directions(summed: BlockSum) -> BlockSum:
    return summed._replace(gradients=summed.gradients._replace(directions=None))


def added(p: float, first: BlockSum, second: BlockSum) -> BlockSum:
    """Returns the sum of both over the larger of their scales."""
    if first.scale is None:
        return jax.tree.map(jnp.add, first, second)
    scale = jnp.maximum(first.scale, second.scale)
    exponents = Gradients(p - 1.0, p - 1.0, p - 1.0, p, p, p)
    parts = []
    for part in (first, second):
        gradients = Gradients(
            *(
                None if gradient is None else rescaled(exponent, gradient, part.scale, scale)
                for exponent, gradient in zip(exponents, part.gradients, strict=True)
            )
        )
        parts.append(BlockSum(rescaled(p, part.value, part.scale, scale), gradients, None))
    return jax.tree.map(jnp.add, *parts)._replace(scale=scale)


def rescaled(exponent: float, values: Array, old: Leaf, new: Leaf) -> Array:
    """Returns powers divided by ``new`` of powers divided by ``old``, which may have an axis."""
    if old is None:
        return values
    factor = (old / new) ** exponent
    return values * factor.reshape(factor.shape + (1,) * (values.ndim - factor.ndim))
