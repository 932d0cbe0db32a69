"""Functionals F(mu) of a probability measure, each estimated on a cloud drawn from it.

A functional is called as ``functional(key, cloud)`` and returns a scalar; it respects the cloud's weights. Each is a pytree: the functions
inside are ``jax.tree_util.Partial``, so data bound with ``Partial(v, data)`` are leaves, kept out of compiled programs and replaceable
without recompiling. Any function ``(key, cloud) -> scalar`` is a functional too. One that reads ``cloud.log_density`` says so by
``needs_density = True``, and by ``entropy_like = True`` if it is int (a log rho + V) drho with a constant a: then, and only then, the
density's own dependence on the parameters has mean zero and a scheme may leave it out of the gradient.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko import validation
from swjko.distances.directions import uniform_directions
from swjko.distances.sliced import sliced_wasserstein_pow
from swjko.types import Cloud, DirectionFn, Functional, Key, Leaf, Scalar, as_partial, static_field


def potential(v: Callable[[Float[Array, " d"]], Scalar]) -> "Potential":
    """int V dmu, estimated by the mean of V over the points. v: one point [d] -> scalar. Its Wasserstein flow is div(rho grad V).

    Raises TypeError where v is no function; one of another shape raises when a scheme is made with it.
    """
    return Potential(
        as_partial(validation.require_callable(v, "v", "from one point [d] to a scalar"))
    )


def interaction(
    w: Callable[[Float[Array, " d"]], Scalar],
    *,
    self_pairs: bool = False,
    block_size: int | None = None,
) -> "Interaction":
    """1/2 int int W(x - y) dmu(x) dmu(y), by default estimated over pairs of different points (the U-statistic).

    A point is then never paired with itself, so kernels that are singular at 0 are allowed and the estimate from independent points is
    unbiased. With weights, sum_{i != j} w_i w_j W(x_i - x_j) / (1 - sum_i w_i^2) / 2.

    Args:
      w: the difference of two points [d] -> scalar; only its even part counts.
      self_pairs: take all pairs, sum_{i, j} w_i w_j W(x_i - x_j) / 2 (the V-statistic): the exact value for the points as a measure of
        their own, such as particles; of independent draws it is biased by W(0) / (2 n) and less. W(0) must be finite.
      block_size: rows of the pair matrix worked on at once; memory is O(block_size n). None takes all n.

    Raises TypeError where w is no function and ValueError on a block_size below 1.
    """
    if block_size is not None:
        block_size = validation.as_count(block_size, "block_size")
    kernel = as_partial(
        validation.require_callable(w, "w", "from a difference of points [d] to a scalar")
    )
    return Interaction(kernel, bool(self_pairs), block_size)


def negative_entropy() -> "NegativeEntropy":
    """int log(rho) drho, estimated by the mean log-density of the points. Its Wasserstein flow is the heat equation.

    Needs a family with a density; raises ValueError on a cloud without ``log_density``.
    """
    return NegativeEntropy()


def internal_energy(f: Callable[[Scalar], Scalar]) -> "InternalEnergy":
    """int f(rho(x)) dx, estimated by the mean of f(rho) / rho over the points.

    Args:
      f: from a density [] to a scalar, f(0) = 0. r log r is the negative entropy; r^m / (m - 1) gives the porous medium equation,
        d rho / dt = Laplacian rho^m, as its Wasserstein flow.

    Needs a family with a density. Densities below the square root of the smallest float count as that. Source: Ambrosio, Gigli,
    Savare, "Gradient flows" (2008). Raises TypeError where f is no function. Example: ``internal_energy(lambda r: r**2)``.
    """
    return InternalEnergy(
        as_partial(validation.require_callable(f, "f", "from a density to a scalar"))
    )


def kl_divergence(target_log_prob: Callable[[Float[Array, " d"]], Scalar]) -> "WeightedSum":
    """KL(mu || nu) = int log(rho) drho - int log(nu) drho; the flow is Fokker-Planck with V = -log nu.

    Args:
      target_log_prob: log-density of nu at one point [d] -> scalar; unnormalised, it shifts the value by log of the normalisation.

    Needs a family with a density. Raises TypeError where target_log_prob is no function. Source of the flow: Jordan, Kinderlehrer, Otto
    (1998), doi 10.1137/S0036141096303359. Example: ``kl_divergence(lambda x: -0.5 * jnp.sum(x**2))``.
    """
    validation.require_callable(
        target_log_prob, "target_log_prob", "from one point [d] to a scalar"
    )
    return weighted_sum((-1.0, potential(target_log_prob)), (1.0, negative_entropy()))


def sw_to_target(
    target: Float[Array, "m d"],
    num_projections: int,
    *,
    direction_fn: DirectionFn = uniform_directions,
    batch_size: int | None = None,
) -> "SWToTarget":
    """SW_2^2(mu, nu) / 2 for an empirical target nu, over fresh directions at each call (Liutkus et al. 2019; note the factor 1/2).

    Args:
      target: [m d] points of nu; a leaf, never compiled in.
      num_projections: directions for each evaluation.
      direction_fn: ``(key, num, dim) -> [num dim]``.
      batch_size: points of the target drawn without replacement for each evaluation; None takes all m.

    Raises ValueError or TypeError on points that are not [m d] floats, zero counts, or a batch larger than the target.
    """
    target = validation.as_points(target, "target")
    num_projections = validation.as_count(num_projections, "num_projections")
    if batch_size is not None and validation.as_count(batch_size, "batch_size") > target.shape[0]:
        raise ValueError(
            f"batch_size must not exceed the {target.shape[0]} points of the target; received {batch_size}."
        )
    validation.require_callable(direction_fn, "direction_fn", "(key, num, dim) -> directions")
    return SWToTarget(target, num_projections, direction_fn, batch_size)


def mmd_to_target(
    target: Float[Array, "m d"],
    kernel: Callable[[Float[Array, " d"]], Scalar],
    *,
    block_size: int | None = None,
) -> "MMDToTarget":
    """MMD^2(mu, nu) / 2 for an empirical target nu: 1/2 E k(X - X') - E k(X - Y) + 1/2 E k(Y - Y').

    Pairs of a point with itself are left out on both sides, so the value is unbiased and may fall below zero. Source: Arbel, Korba, Salim,
    Gretton, "Maximum mean discrepancy gradient flow" (2019), arXiv 1906.04370.

    Args:
      target: [m d] points of nu, m >= 2; a leaf, never compiled in.
      kernel: the difference of two points [d] -> scalar, positive definite, such as ``lambda x: jnp.exp(-jnp.sum(x**2) / 2)``.
      block_size: points worked on at once; memory is O(block_size (n + m)). None takes all.

    Raises ValueError or TypeError on points that are not [m d] floats, fewer than two of them, or another kind of kernel.
    """
    target = validation.as_points(target, "target")
    if target.shape[0] < 2:
        raise ValueError(
            f"target must hold at least two points, since none is paired with itself; received {target.shape[0]}."
        )
    own = interaction(
        validation.require_callable(
            kernel, "kernel", "from a difference of points [d] to a scalar"
        ),
        block_size=block_size,
    )
    return MMDToTarget(own, target, own(jax.random.key(0), Cloud(target)))


def weighted_sum(*terms: tuple[float | Scalar, Functional]) -> "WeightedSum":
    """sum_i coef_i F_i, from ``terms``, pairs ``(coef, functional)``; each gets a key of its own and all see the same cloud.

    Raises ValueError without terms, and TypeError on one that is no pair of a number and a functional.
    Example: ``weighted_sum((1.0, potential(v)), (0.5, interaction(w)))``.
    """
    if not terms:
        raise ValueError("weighted_sum needs at least one (coef, functional) pair; received none.")
    for term in terms:
        if not isinstance(term, tuple) or len(term) != 2 or not callable(term[1]):
            raise TypeError(f"weighted_sum takes (coef, functional) pairs; received {term!r}.")
        if isinstance(term[0], str) or jnp.shape(term[0]) != ():
            raise TypeError(
                f"the coef of a (coef, functional) pair must be one number; received {term[0]!r}."
            )
    coefs, functionals = zip(*terms, strict=True)
    return WeightedSum(
        tuple(jnp.asarray(coef, float) for coef in coefs),
        tuple(
            functional if _is_pytree_functional(functional) else as_partial(functional)
            for functional in functionals
        ),
    )


def needs_density(functional: Functional) -> bool:
    """Whether the functional reads ``cloud.log_density``; a plain function says so by an attribute ``needs_density``."""
    return _says(functional, "needs_density")


def is_entropy_like(functional: Functional) -> bool:
    """Whether log rho enters the functional as a multiple of the entropy at most; a function says so by an attribute ``entropy_like``."""
    return not needs_density(functional) or _says(functional, "entropy_like")


def expectation(cloud: Cloud, values: Float[Array, " n"]) -> Scalar:
    """The mean of values at the cloud's points under its weights; what a point of zero weight holds does not matter."""
    if cloud.weights is None:
        return jnp.mean(values)
    return jnp.sum(jnp.where(cloud.weights > 0, cloud.weights * values, 0.0)) / jnp.sum(
        cloud.weights
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Potential:
    v: Partial
    needs_density: ClassVar[bool] = False

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        del key
        return expectation(cloud, _scalars(self.v, cloud.points, "v"))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Interaction:
    w: Partial
    self_pairs: bool = static_field()
    block_size: int | None = static_field()
    needs_density: ClassVar[bool] = False

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        del key
        points = cloud.points
        n = points.shape[0]
        if n < 2 and not self.self_pairs:
            raise ValueError(
                "interaction needs at least two points, since none is paired with itself; received a cloud of one."
            )
        weights = (
            jnp.full((n,), 1.0 / n, points.dtype)
            if cloud.weights is None
            else cloud.weights / jnp.sum(cloud.weights)
        )

        def row(point, weight, index):
            other = ((jnp.arange(n) != index) | self.self_pairs) & (weights > 0) & (weight > 0)
            # The excluded pair is evaluated away from 0: a where around an infinite value would still give NaN gradients.
            differences = jnp.where(other[:, None], point[None, :] - points, 1.0)
            return weight * jnp.sum(
                jnp.where(other, weights * _scalars(self.w, differences, "w"), 0.0)
            )

        rows = _map_in_blocks(row, self.block_size, points, weights, jnp.arange(n))
        return (
            jnp.sum(rows) / 2.0
            if self.self_pairs
            else jnp.sum(rows) / (2.0 * (1.0 - jnp.sum(weights**2)))
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NegativeEntropy:
    needs_density: ClassVar[bool] = True
    entropy_like: ClassVar[bool] = True

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        del key
        return expectation(cloud, _log_density(cloud, "negative_entropy"))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InternalEnergy:
    f: Partial
    needs_density: ClassVar[bool] = True

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        del key
        log_density = _log_density(cloud, "internal_energy")
        # Its square must not vanish: f(r) / r would have the derivative 0 / 0.
        density = jnp.exp(
            jnp.maximum(log_density, 0.5 * jnp.log(jnp.finfo(log_density.dtype).tiny))
        )
        return expectation(cloud, _scalars(self.f, density, "f") / density)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SWToTarget:
    target: Leaf
    num_projections: int = static_field()
    direction_fn: DirectionFn = static_field()
    batch_size: int | None = static_field()
    needs_density: ClassVar[bool] = False

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        direction_key, batch_key = jax.random.split(key)
        directions = self.direction_fn(direction_key, self.num_projections, cloud.points.shape[1])
        target = self.target
        if self.batch_size is not None:
            target = jax.random.choice(batch_key, target, (self.batch_size,), replace=False)
        return 0.5 * sliced_wasserstein_pow(
            cloud.points, target, directions, x_weights=cloud.weights
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MMDToTarget:
    own: Interaction
    target: Leaf
    target_energy: Leaf
    needs_density: ClassVar[bool] = False

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        def attraction(point):
            return jnp.mean(_scalars(self.own.w, point[None, :] - self.target, "kernel"))

        cross = _map_in_blocks(attraction, self.own.block_size, cloud.points)
        return (
            self.own(key, cloud)
            - expectation(cloud, cross)
            + self.target_energy.astype(cross.dtype)
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WeightedSum:
    coefs: tuple[Leaf, ...]
    functionals: tuple[Any, ...]

    @property
    def needs_density(self) -> bool:
        return any(needs_density(functional) for functional in self.functionals)

    @property
    def entropy_like(self) -> bool:
        return all(is_entropy_like(functional) for functional in self.functionals)

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        keys = jax.random.split(key, len(self.functionals))
        values = [
            coef.astype(cloud.points.dtype) * functional(key, cloud)
            for coef, functional, key in zip(self.coefs, self.functionals, keys, strict=True)
        ]
        return functools.reduce(operator.add, values)


def _is_pytree_functional(functional: Functional) -> bool:
    return not jax.tree_util.all_leaves([functional])


def _map_in_blocks(
    function: Callable[..., Scalar], block_size: int | None, *arrays: Array
) -> Array:
    """The function at each entry of the arrays' leading axis, ``block_size`` of them at a time, and nothing kept for the gradient."""
    n = arrays[0].shape[0]
    if block_size is None or block_size >= n:
        return jax.vmap(function)(*arrays)
    remembering_nothing = jax.checkpoint(function)
    return lax.map(lambda at: remembering_nothing(*at), arrays, batch_size=block_size)


def _says(functional: Functional, name: str) -> bool:
    """Whether the functional, or the function in a ``Partial``, has a true attribute of that name."""
    inner = functional.func if isinstance(functional, Partial) else functional
    return bool(getattr(inner, name, False))


def _log_density(cloud: Cloud, name: str) -> Array:
    if cloud.log_density is None:
        raise ValueError(
            f"{name} needs the density of the measure, and this cloud has none. "
            "Use a family with one, such as swjko.gaussian or swjko.flows.coupling, or swjko.nearest_neighbour_negative_entropy."
        )
    return cloud.log_density


def _scalars(function: Partial, points: Float[Array, "n ..."], name: str) -> Float[Array, " n"]:
    values = jax.vmap(function)(points)
    if jnp.shape(values) != (points.shape[0],):
        raise ValueError(
            f"{name} must map one point of shape {points.shape[1:]} to a scalar; it returned shape {jnp.shape(values)[1:]}. "
            "Write it for a single point; the package maps it over the cloud."
        )
    return values
