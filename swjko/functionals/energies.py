"""Energies of points, of pairs of points, and of the density."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko.functionals.base import (
    expectation,
    kernel_at_zero,
    kernel_values,
    log_density,
    map_in_blocks,
)
from swjko.types import Cloud, Key, Scalar, as_partial, static_field, validation
from swjko.types.readable import Readable
from swjko.types.scalars import scalars
from swjko.types.sharding import on_auto_axes

# Distance in log r of the two slopes of an internal energy. Rounding counts less if they are apart.
_APART = 8.0


def potential(v: Callable[[Float[Array, " d"]], Scalar]) -> "Potential":
    """Makes int V dmu, estimated by the mean of V over the points.

    Its Wasserstein flow is div(rho grad V).

    Args:
      v: V, from one point [d] to a scalar.
    """
    validation.require_callable(v, "v", "from one point [d] to a scalar")
    return Potential(as_partial(v))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Potential(Readable):
    """Made by ``potential``. ``name`` is what messages call ``v``."""

    v: Partial
    name: str = static_field(default="v", repr=False)
    needs_density: ClassVar[bool] = False

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        del key
        return expectation(cloud, scalars(self.v, cloud.points, self.name))


def interaction(
    w: Callable[[Float[Array, " d"]], Scalar],
    *,
    self_pairs: bool = False,
    block_size: int | None = None,
) -> "Interaction":
    """Makes 1/2 int int W(x - y) dmu(x) dmu(y), estimated over pairs of points.

    By default only pairs of different points count (the U-statistic), with weights
    sum_{i != j} w_i w_j W(x_i - x_j) / (1 - sum_i w_i^2) / 2. Kernels that are singular at 0 are
    then allowed, and the estimate from independent points is unbiased.

    Args:
      w: W, from the difference of two points [d] to a scalar; only its even part counts. Points
        that coincide have the gradient zero, so W may be a norm.
      self_pairs: Whether to take all pairs, sum_{i, j} w_i w_j W(x_i - x_j) / 2 (the
        V-statistic). It is exact for points that are a measure of their own, such as particles.
        For independent draws its bias is at most W(0) / (2 n). W(0) must be finite.
      block_size: Rows of the matrix of pairs worked on at once, so that memory is
        O(block_size n d); None takes all n.
    """
    if block_size is not None:
        block_size = validation.as_count(block_size, "block_size")
    validation.require_callable(w, "w", "from a difference of points [d] to a scalar")
    return Interaction(as_partial(w), bool(self_pairs), block_size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Interaction(Readable):
    """Made by ``interaction``."""

    w: Partial
    self_pairs: bool = static_field()
    block_size: int | None = static_field()
    needs_density: ClassVar[bool] = False

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        del key
        return on_auto_axes(Interaction._energy, self, cloud)

    def _energy(self, cloud: Cloud) -> Scalar:
        points, n = cloud.points, cloud.points.shape[0]
        if n < 2 and not self.self_pairs:
            raise ValueError(
                "interaction needs at least two points, since none is paired with itself; got a "
                "cloud of one. Use more samples, or self_pairs=True."
            )
        weights = (
            jnp.full((n,), 1.0 / n, points.dtype)
            if cloud.weights is None
            else cloud.weights / jnp.sum(cloud.weights)
        )

        at_zero = kernel_at_zero(self.w, points, "w")

        def row(point, weight, index):
            other = ((jnp.arange(n) != index) | self.self_pairs) & (weights > 0) & (weight > 0)
            differences = point[None, :] - points
            values = weights * kernel_values(self.w, at_zero, differences, "w", other)
            return weight * jnp.sum(jnp.where(other, values, 0.0))

        total = jnp.sum(map_in_blocks(row, self.block_size, points, weights, jnp.arange(n)))
        return total / 2.0 if self.self_pairs else total / (2.0 * (1.0 - jnp.sum(weights**2)))


def internal_energy(f: Callable[[Scalar], Scalar]) -> "InternalEnergy":
    """Makes int f(rho(x)) dx, estimated by the mean of f(rho) / rho over the points.

    It needs a family with a density. Below the square root of the smallest float, f(r) / r is
    continued as a + b r^s. That is exact for powers, and for r log r, the limit of small s.

    Args:
      f: From a density [] to a scalar, with f(0) = 0. r log r is the negative entropy; the flow of
        r^m / (m - 1) is the porous medium equation, d rho / dt = Laplacian rho^m.

    Example:
      ``internal_energy(lambda r: r**2)``

    References:
      Ambrosio, Gigli, Savare, "Gradient flows" (2008).
    """
    validation.require_callable(f, "f", "from a density to a scalar")
    return InternalEnergy(as_partial(f))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InternalEnergy(Readable):
    """Made by ``internal_energy``."""

    f: Partial
    needs_density: ClassVar[bool] = True

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        del key
        values = log_density(cloud, "internal_energy")
        # The square of the density must not vanish: f(r) / r would have the derivative 0 / 0.
        least = 0.5 * jnp.log(jnp.finfo(values.dtype).tiny) + 1.0
        inside = values > least
        density = jnp.exp(jnp.where(inside, values, least))
        ratios = scalars(self.f, density, "f") / density
        below = self._extrapolated(least, jnp.where(inside, 0.0, values - least))
        return expectation(cloud, jnp.where(inside, ratios, below))

    def _extrapolated(self, least: Scalar, change: Float[Array, " n"]) -> Float[Array, " n"]:
        """Returns g(l + change) for g(l) = f(e^l) / e^l, from g and two slopes near ``least``.

        The slope of a + b e^{s l} is proportional to e^{s l}.
        """
        nearby = jnp.exp(least + jnp.asarray([0.0, _APART], least.dtype))
        values, slopes = jax.vmap(jax.value_and_grad(self.f))(nearby)
        values = values / nearby
        slopes = slopes - values
        quotient = slopes[1] / jnp.where(slopes[0] == 0, 1.0, slopes[0])
        s = jnp.log(jnp.where(quotient > 0, quotient, 1.0)) / _APART
        # Of r log r, s is zero up to rounding.
        straight = jnp.abs(s) < jnp.sqrt(jnp.finfo(s.dtype).eps)
        safe = jnp.where(straight, 1.0, s)
        return values[0] + slopes[0] * jnp.where(straight, change, jnp.expm1(safe * change) / safe)
