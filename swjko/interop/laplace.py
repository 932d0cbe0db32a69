"""The Laplace approximation: a Gaussian at a mode, with the curvature there."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko.families.distribution import FlowDistribution
from swjko.families.gaussians import gaussian
from swjko.types import Scalar, as_partial, validation
from swjko.types.scalars import scalars

# Squared distances from the mode in standard deviations: where steps end, and what is accepted.
_DECREMENT, _LARGEST_DECREMENT = 1e-6, 0.1


def laplace(
    log_prob: Callable[[Float[Array, " d"]], Scalar],
    start: Float[Array, " d"],
    *,
    num_steps: int = 100,
) -> FlowDistribution:
    """Fits a Gaussian at a mode: N(mode, (-Hessian of log_prob)^{-1}), a start for a flow.

    The mode is found by Newton's method, whose steps take the Hessian of d^2 entries.

    Args:
      log_prob: Log-density of one point [d], such as ``target.log_prob``.
      start: Point [d] to start from, such as ``target.start``.
      num_steps: Most steps of Newton's method.

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
    jax.eval_shape(lambda start: scalars(log_prob, start[None, :], "log_prob"), start)
    mode, decrement, eigenvalues, axes = _minimise(cost, start, num_steps)
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


def _minimise(
    cost: Partial, start: Float[Array, " d"], num_steps: int
) -> tuple[Array, Array, Array, Array]:
    """Minimises by Newton's method, with |eigenvalues| of the Hessian and shortened steps.

    Returns:
      The point, the squared length of the last Newton step in the norm of the Hessian, and the
      eigenvalues and eigenvectors of the Hessian.
    """
    eps = jnp.finfo(start.dtype).eps

    def unfinished(carry: Any) -> Array:
        count, _, share, decrement, _, _ = carry
        return (count < num_steps) & (share > eps) & (decrement > _DECREMENT)

    def update(carry: Any) -> Any:
        count, point, share, _, _, _ = carry
        value, gradient = jax.value_and_grad(cost)(point)
        hessian = jax.hessian(cost)(point)
        eigenvalues, axes = jnp.linalg.eigh((hessian + hessian.T) / 2)
        curvatures = jnp.maximum(jnp.abs(eigenvalues), 8 * eps * jnp.max(jnp.abs(eigenvalues)))
        along = axes.T @ gradient
        move = point - share * (axes @ (along / curvatures))
        lower = cost(move) <= value
        point = jnp.where(lower, move, point)
        share = jnp.where(lower, jnp.minimum(2 * share, 1.0), share / 4)
        return count + 1, point, share, jnp.sum(along**2 / curvatures), eigenvalues, axes

    one = jnp.ones((), start.dtype)
    square = jnp.zeros((start.shape[0],) * 2, start.dtype)
    carry = (jnp.zeros((), int), start, one, one * jnp.inf, jnp.zeros_like(start), square)
    _, point, _, decrement, eigenvalues, axes = lax.while_loop(unfinished, update, carry)
    return point, decrement, eigenvalues, axes


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
