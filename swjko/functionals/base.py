"""What functionals share: whether they read the density, means over clouds, loops over points.

A functional is called as ``functional(key, cloud)``, returns a scalar and respects the cloud's
weights. Those of the package are pytrees. The functions inside are ``jax.tree_util.Partial``, so
data bound by ``Partial(v, data)`` are leaves: they stay out of compiled programs, and new data do
not recompile. Any function ``(key, cloud) -> scalar`` is a functional too. If it reads
``cloud.log_density``, set ``needs_density = True`` on it. If it is int (a log rho + V) drho with a
constant a, you may also set ``entropy_like = True``: only then does the dependence of the density
on the parameters have mean zero, and schemes leave it out of the gradient.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from swjko.types import Cloud, Functional, Key, Scalar, validation
from swjko.types.scalars import scalars


def needs_density(functional: Functional) -> bool:
    """Returns whether the functional reads ``cloud.log_density``.

    Args:
      functional: Functional; a function has an attribute ``needs_density`` if it does.
    """
    return _has_true(functional, "needs_density")


def is_entropy_like(functional: Functional) -> bool:
    """Returns whether the density enters the functional as a multiple of the entropy at most.

    Args:
      functional: Functional; a function has an attribute ``entropy_like`` if it is so.
    """
    return not needs_density(functional) or _has_true(functional, "entropy_like")


def needs_log_prob(functional: Functional) -> bool:
    """Returns whether the functional reads the density at points of its own, as ``forward_kl``.

    Args:
      functional: Functional; it is called as ``functional(key, cloud, log_prob)`` if it does.
    """
    return _has_true(functional, "needs_log_prob")


def value_at(
    functional: Functional, key: Key, cloud: Cloud, log_prob: Callable[..., Array] | None
) -> Scalar:
    """Returns the functional of a measure.

    Args:
      functional: Functional.
      key: Key for randomness inside the functional.
      cloud: Sample of the measure.
      log_prob: ``points [m d] -> [m]``, the log-density of the measure; None if it has none.
    """
    if not needs_log_prob(functional):
        return functional(key, cloud)
    if log_prob is None:
        raise ValueError(
            "functional needs the density of the measure at points of its own, and this family has "
            "none. Use a family with log_prob, such as swjko.flows.coupling."
        )
    return functional(key, cloud, log_prob)  # pyright: ignore[reportCallIssue]


def effective_fraction(log_weights: Float[Array, " n"]) -> Scalar:
    """Returns the effective number of draws as a fraction, (mean w)^2 / mean w^2.

    Args:
      log_weights: Logarithms of the weights w [n], up to a constant.
    """
    log_sum, log_square = (jax.nn.logsumexp(scale * log_weights) for scale in (1.0, 2.0))
    return jnp.exp(2 * log_sum - log_square) / log_weights.shape[0]


def expectation(cloud: Cloud, values: Float[Array, " n"]) -> Scalar:
    """Returns the mean of values at the points of a cloud under its weights.

    Args:
      cloud: Cloud of n points.
      values: Values [n] at the points. Those at points of zero weight may be anything.
    """
    if cloud.weights is None:
        return jnp.mean(values)
    # Masked before the product: the gradient of 0 x infinity in the weight is not finite.
    masked = jnp.where(cloud.weights > 0, values, 0.0)
    return jnp.sum(cloud.weights * masked) / jnp.sum(cloud.weights)


def log_density(cloud: Cloud, name: str) -> Float[Array, " n"]:
    """Returns the log-density of a cloud for the functional ``name``, or raises ValueError."""
    if cloud.log_density is None:
        raise ValueError(
            f"{name} needs the density of the measure, and this cloud has none. Use a family with "
            "one, such as swjko.gaussian or swjko.flows.coupling, or "
            "swjko.nearest_neighbour_negative_entropy."
        )
    return cloud.log_density


def kernel_values(
    kernel: Partial,
    at_zero: Scalar,
    differences: Float[Array, "n d"],
    name: str,
    wanted: Bool[Array, " n"] | bool = True,
) -> Float[Array, " n"]:
    """Returns an even function at each difference, with ``at_zero`` for differences of zero.

    These have the gradient zero, also for kernels such as the norm, which has none there. Values
    that are not ``wanted`` are those of another difference.
    """
    zero = jnp.all(differences == 0, axis=1)
    # Other differences are replaced, since `where` around an infinite value has NaN gradients.
    apart = jnp.where((wanted & ~zero)[:, None], differences, 1.0)
    return jnp.where(wanted & zero, at_zero, scalars(kernel, apart, name))


def kernel_at_zero(kernel: Partial, points: Float[Array, "n d"], name: str) -> Scalar:
    """Returns the kernel at the difference of a point and itself.

    Its derivatives in bound data are those close by, since kernels such as |a x| have none at 0.
    """
    zero = jnp.zeros_like(points[:1])
    close = jnp.full_like(zero, float(jnp.finfo(zero.dtype).tiny) ** 0.4)
    # A kernel may overflow close by. Its value there does not matter, but 0 x infinity would.
    finite = jnp.isfinite(lax.stop_gradient(scalars(kernel, close, name)))
    nearby = scalars(kernel, jnp.where(finite[:, None], close, 1.0), name)
    value = lax.stop_gradient(scalars(kernel, zero, name))
    return (value + (nearby - lax.stop_gradient(nearby)))[0]


def map_in_blocks(function: Callable[..., Array], block_size: int | None, *arrays: Array) -> Array:
    """Maps a function over the leading axis, and keeps nothing for the gradient.

    Args:
      function: Function of one entry of each array.
      block_size: Entries worked on at once; None takes all, and then vmap alone is used.
      *arrays: Arrays of equal leading axis.
    """
    if block_size is None or block_size >= arrays[0].shape[0]:
        return jax.vmap(function)(*arrays)
    rematerialised = jax.checkpoint(function)
    return lax.map(lambda entry: rematerialised(*entry), arrays, batch_size=block_size)


def as_data(
    points: Float[Array, "m d"], weights: Float[Array, " m"] | None, name: str, dtype: DTypeLike
) -> tuple[Float[Array, "m d"], Float[Array, " m"] | None]:
    """Returns checked points and weights that take the place of others of this dtype."""
    points = validation.as_points(points, name).astype(dtype)
    weights = validation.as_weights(weights, points.shape[0], "weights")
    return points, None if weights is None else weights.astype(dtype)


def _has_true(functional: Functional, name: str) -> bool:
    inner = functional.func if isinstance(functional, Partial) else functional
    return bool(getattr(inner, name, False))
