"""The Laplace approximation: a Gaussian at a mode, with the curvature there."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko import validation
from swjko.families.distribution import FlowDistribution
from swjko.families.gaussians import gaussian
from swjko.types import Scalar, as_partial

_NEWTON_STEPS = 3
# Squared distance from the mode, in standard deviations, that a mode may be found with.
_LARGEST_DECREMENT = 0.1


def laplace(
    log_prob: Callable[[Float[Array, " d"]], Scalar],
    start: Float[Array, " d"],
    *,
    num_steps: int = 500,
) -> FlowDistribution:
    """Fits a Gaussian at a mode: N(mode, (-Hessian of log_prob)^{-1}), a start for a flow.

    The mode is found by L-BFGS and a few steps of Newton's method. The Hessian has d^2 entries.

    Args:
      log_prob: Log-density of one point [d], such as ``target.log_prob``.
      start: Point [d] to start from, such as ``target.start``.
      num_steps: Most steps of L-BFGS.

    Returns:
      A distribution of the ``swjko.gaussian`` family. Pass it to ``target.whitened(...)``, or to a
      family as ``base=``.

    Raises:
      ValueError: If no mode is found, or the log-density is not curved in all directions there.

    Example::

        target = target.whitened(swjko.laplace(target.log_prob, target.start))
    """
    validation.require_callable(log_prob, "log_prob", "from one point [d] to a scalar")
    num_steps = validation.as_count(num_steps, "num_steps")
    cost = Partial(_negative, as_partial(log_prob))
    start = validation.as_values(start, "start")
    mode, decrement, precision = _newton(cost, _lbfgs(cost, start, num_steps))
    eigenvalues, axes = jnp.linalg.eigh(precision)
    if validation.is_concrete(decrement):
        _require_mode(eigenvalues[0], decrement, num_steps)
    # Of A^T A = Q R the Cholesky factor is R^T, up to the signs of its rows.
    root = jnp.linalg.qr((axes / jnp.sqrt(eigenvalues)[None, :]).T, mode="r").T
    factor = root * jnp.sign(jnp.diagonal(root))[None, :]
    params = {
        "mean": mode,
        "log_diagonal": jnp.log(jnp.diagonal(factor)),
        "lower": jnp.tril(factor, -1),
    }
    return FlowDistribution(gaussian(start.shape[0]), params)


def _negative(log_prob, point):
    return -log_prob(point)


def _lbfgs(cost: Partial, start: Float[Array, " d"], num_steps: int) -> Float[Array, " d"]:
    """Minimises the cost until it no longer falls by more than its rounding error."""
    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(cost)
    eps = jnp.finfo(start.dtype).eps

    def unfinished(carry: Any) -> Array:
        count, _, _, value, fall = carry
        return (count < num_steps) & (fall > 4 * eps * jnp.abs(value))

    def update(carry: Any) -> Any:
        count, point, state, last, _ = carry
        value, gradient = value_and_grad(point, state=state)
        updates, state = optimizer.update(
            gradient, state, point, value=value, grad=gradient, value_fn=cost
        )
        # The value is that before the update, so one more update is made after the last fall.
        return count + 1, optax.apply_updates(point, updates), state, value, last - value

    infinite = jnp.full((), jnp.inf, start.dtype)
    carry = (jnp.zeros((), int), start, optimizer.init(start), infinite, infinite)
    return lax.while_loop(unfinished, update, (*update(carry)[:4], infinite))[1]


def _newton(cost, point):
    """Returns a point, the squared length of the last Newton step in its units, the Hessian."""

    def update(carry, _):
        point = carry[0]
        gradient, hessian = jax.grad(cost)(point), jax.hessian(cost)(point)
        hessian = (hessian + hessian.T) / 2
        move = jnp.linalg.solve(hessian, gradient)
        better = cost(point - move) <= cost(point)
        moved = jnp.where(better, point - move, point)
        return (moved, jnp.dot(gradient, move), hessian), None

    zero = jnp.zeros((), point.dtype)
    carry = (point, zero, jnp.zeros((point.shape[0],) * 2, point.dtype))
    return lax.scan(update, carry, length=_NEWTON_STEPS)[0]


def _require_mode(smallest, decrement, num_steps):
    cure = (
        "Start at N(0, s^2 I) by init_scale=, or write the model with standardised (non-centred) "
        "parameters."
    )
    if not smallest > 0:
        raise ValueError(
            "`log_prob` must be curved downwards in all directions at its mode; got a smallest "
            f"eigenvalue {smallest:.3g} of the negative Hessian. {cure}"
        )
    if not decrement < _LARGEST_DECREMENT:
        raise ValueError(
            f"`log_prob` must have a mode; got none within num_steps={num_steps}: the last is "
            f"{decrement**0.5:.3g} standard deviations from one. {cure}"
        )
