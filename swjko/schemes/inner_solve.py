"""The inner loop of a step: stochastic gradient updates of parameters on an objective.

The objective is ``objective(params, draw) -> (value, aux)``, with a fresh draw, such as a random
key, for each update. Schemes wrap it so that gradients are taken in params alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from swjko.schemes.optimizers import update
from swjko.types import Params, Scalar

Objective: TypeAlias = Callable[[Params, PyTree], tuple[Scalar, PyTree]]

# Decay of the running mean of gradients that ends an inner solve, and the fewest updates.
_DECAY, _MIN_UPDATES = 0.9, 10


class Evaluation(NamedTuple):
    """The objective at one draw.

    Attributes:
      value: The objective.
      aux: What the objective returns beside its value.
      gradient: Gradient in the parameters.
    """

    value: Scalar
    aux: Any
    gradient: Params


def evaluate(objective: Objective, params: Params, draw: PyTree) -> Evaluation:
    """Returns value, aux and gradient of the objective."""
    (value, aux), gradient = jax.value_and_grad(objective, has_aux=True)(params, draw)
    return Evaluation(value, aux, gradient)


def minimize(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    start: Params,
    draws: PyTree,
    tolerance: Scalar | None = None,
) -> Params:
    """Returns the parameters after one update for each draw.

    Args:
      objective: ``(params, draw) -> (value, aux)``.
      optimizer: Optax optimizer, which starts afresh.
      start: Parameters before the first update.
      draws: Draws stacked along a leading axis.
      tolerance: Fraction of the first gradient's norm. Updates stop once the running mean of the
        gradients has fallen to it. None makes all updates.
    """
    start_carry = (start, optimizer.init(start))

    def step(carry, draw):
        updated, _ = _update(objective, optimizer, carry, draw)
        return updated, None

    if tolerance is None:
        (params, _), _ = lax.scan(step, start_carry, draws)
        return params

    def step_unless_solved(carry, draw):
        def updated_carry(carry):
            updated, found = _update(objective, optimizer, carry[0], draw)
            return updated, carry[1].after(found.gradient)

        return lax.cond(carry[1].solved(tolerance), lambda carry: carry, updated_carry, carry), None

    carry = (start_carry, _GradientWatch.at(start))
    ((params, _), _), _ = lax.scan(step_unless_solved, carry, draws)
    return params


def minimize_and_report(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    start: Params,
    draws: PyTree,
    tolerance: Scalar | None = None,
) -> tuple[Params, Evaluation]:
    """Makes one update for each draw but the last, and evaluates the objective on the last.

    Without a tolerance the evaluation is in the same loop as the updates, which halves the program
    to compile.

    Args:
      objective: ``(params, draw) -> (value, aux)``.
      optimizer: Optax optimizer, which starts afresh.
      start: Parameters before the first update.
      draws: Draws stacked along a leading axis.
      tolerance: As for ``minimize``.
    """
    if tolerance is not None:
        updates, last = (
            jax.tree.map(lambda leaf, at=at: leaf[at], draws) for at in (slice(-1), -1)
        )
        params = minimize(objective, optimizer, start, updates, tolerance)
        return params, evaluate(objective, params, last)
    num_updates = jax.tree.leaves(draws)[0].shape[0] - 1

    def step(carry, numbered_draw):
        number, draw = numbered_draw
        (new, optimizer_state), found = _update(objective, optimizer, carry[:2], draw)
        last = number == num_updates
        params = jax.tree.map(lambda old, new: jnp.where(last, old, new), carry[0], new)
        return (params, optimizer_state, found.gradient), (found.value, found.aux)

    carry = (start, optimizer.init(start), jax.tree.map(jnp.zeros_like, start))
    carry, found = lax.scan(step, carry, (jnp.arange(num_updates + 1), draws))
    value, aux = jax.tree.map(lambda leaf: leaf[-1], found)
    return carry[0], Evaluation(value, aux, carry[2])


def _update(objective, optimizer, carry, draw):
    """Returns (params, optimizer state) after one update, and the evaluation before it."""
    params, optimizer_state = carry
    found = evaluate(objective, params, draw)
    moved = update(
        optimizer,
        optimizer_state,
        params,
        found.value,
        found.gradient,
        lambda params: objective(params, draw)[0],
    )
    return moved, found


class _GradientWatch(NamedTuple):
    """A running mean of the gradients of one inner solve, and the norm of the first."""

    mean: Params
    count: Int[Array, ""]
    first_norm: Scalar

    @classmethod
    def at(cls, params: Params) -> "_GradientWatch":
        zeros = jax.tree.map(jnp.zeros_like, params)
        return cls(zeros, jnp.zeros((), jnp.int32), jnp.zeros_like(optax.tree.norm(zeros)))

    def after(self, gradient: Params) -> "_GradientWatch":
        mean = jax.tree.map(
            lambda old, new: _DECAY * old + (1.0 - _DECAY) * new, self.mean, gradient
        )
        first_norm = jnp.where(self.count == 0, optax.tree.norm(gradient), self.first_norm)
        return _GradientWatch(mean, self.count + 1, first_norm.astype(self.first_norm.dtype))

    def solved(self, tolerance: Array) -> Bool[Array, ""]:
        # The mean starts at zero; the division takes that out, as in Adam.
        norm = optax.tree.norm(self.mean) / (
            1.0 - _DECAY ** jnp.maximum(self.count, 1).astype(float)
        )
        enough = self.count >= _MIN_UPDATES
        return enough & (norm <= tolerance.astype(norm.dtype) * self.first_norm)
