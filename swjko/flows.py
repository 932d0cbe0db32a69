"""Families carried by neural networks in flax: coupling flows with a density, multilayer perceptrons without one, and your own nnx model.

Parameters are plain nested dictionaries of arrays. A model with ``forward_and_log_det(z)`` and ``inverse_and_log_det(x)`` has a density;
one with ``__call__(z)`` alone is a generator. Every family here starts at mu_0 = N(init_mean, init_scale^2 I) exactly, except where it
says so.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from swjko import validation
from swjko.families import Family, pushforward
from swjko.triangular import inverse_of_lower_triangular
from swjko.types import Key, Params

# exp(+-2) per coupling: wide enough for separated modes after a few layers, and no single layer can overflow.
_LOG_SCALE_BOUND = 2.0
# Smallest bin and slope of a spline, in units where the start has scale 1.
_SPLINE_FLOOR = 0.1


def coupling(dim: int, *, num_layers: int = 6, width: int = 64, init_mean: ArrayLike = 0.0, init_scale: ArrayLike = 1.0) -> Family:
    """A RealNVP flow: ``num_layers`` affine couplings, then an invertible affine layer b + L U x; density and inverse are exact.

    A coupling moves one half u of the coordinates given the other half v: u -> u exp(s(v)) + t(v), with |s| <= 2; s and t come from one
    perceptron of two hidden layers. Starts at the identity, that is at N(init_mean, init_scale^2 I). Source: Dinh, Sohl-Dickstein,
    Bengio (2017), arXiv 1605.08803; the triangular layer after Kingma and Dhariwal (2018), arXiv 1807.03039.

    Args:
      dim: dimension, at least 2 (one coordinate leaves nothing to condition on: take ``swjko.gaussian`` or ``mlp(1, 1)``).
      num_layers: couplings; even numbers treat all coordinates alike.
      width: hidden units of each conditioner.
      init_mean, init_scale: numbers, or one per coordinate.
    """
    return _coupling_family("coupling", _Affine(), dim, num_layers, width, init_mean, init_scale)


def spline(
    dim: int,
    *,
    num_layers: int = 4,
    width: int = 64,
    num_bins: int = 8,
    bound: float = 4.0,
    init_mean: ArrayLike = 0.0,
    init_scale: ArrayLike = 1.0,
) -> Family:
    """A neural spline flow: couplings by monotone rational-quadratic splines, then an invertible affine layer b + L U x.

    Each coordinate of one half goes through a spline whose knots are functions of the other half. In units of init_scale around
    init_mean, a spline bends [-bound, bound] and is the identity outside, so tails stay those of the Gaussian start under an affine map.
    More costly by the update than ``coupling`` and better at separated modes. Source: Durkan, Bekasov, Murray, Papamakarios (2019),
    arXiv 1906.04032; the spline itself is distrax's.

    Args:
      dim: dimension, at least 2.
      num_layers, width: as for ``coupling``.
      num_bins: bins of each spline, at least 2.
      bound: end of the interval, in starting standard deviations.
      init_mean, init_scale: numbers, or one per coordinate.

    Raises ModuleNotFoundError where distrax is not installed.
    """
    num_bins = validation.as_count(num_bins, "num_bins", minimum=2)
    if not (math.isfinite(bound) and bound > 0.0):
        raise ValueError(f"bound must be a positive number, the half length of the splines' interval; received {bound}.")
    import distrax  # noqa: F401  (here, so that a missing one is found before anything is traced)

    return _coupling_family("spline", _RationalQuadratic(num_bins, float(bound)), dim, num_layers, width, init_mean, init_scale)


def _coupling_family(name, bijection, dim, num_layers, width, init_mean, init_scale):
    if validation.as_count(dim, "dim") == 1:
        raise ValueError(
            f"flows.{name} needs dim >= 2: with one coordinate there is nothing to condition on. Take swjko.gaussian or flows.mlp(1, 1)."
        )
    num_layers, width = (validation.as_count(num_layers, "num_layers"), validation.as_count(width, "width"))
    return _standardised(lambda rngs: _CouplingFlow(dim, num_layers, width, bijection, rngs), dim, init_mean, init_scale)


def mlp(
    latent_dim: int, dim: int, *, width: int = 64, num_layers: int = 3, init_mean: ArrayLike = 0.0, init_scale: ArrayLike = 1.0
) -> Family:
    """The image of N(0, I_latent_dim) under a perceptron; no density.

    With latent_dim == dim the map is x = init_mean + init_scale (z + net(z)) with a zero last layer, so it starts at N(init_mean,
    init_scale^2 I). With other dimensions it starts at a random network; fit it first if the flow is to start elsewhere.

    Args:
      latent_dim, dim: dimensions of noise and points.
      width, num_layers: hidden units and hidden layers.
    """
    latent_dim, dim = (validation.as_count(latent_dim, "latent_dim"), validation.as_count(dim, "dim"))
    num_layers, width = (validation.as_count(num_layers, "num_layers"), validation.as_count(width, "width"))
    return _standardised(
        lambda rngs: _Perceptron(latent_dim, dim, width, num_layers, latent_dim == dim, rngs), dim, init_mean, init_scale, latent_dim
    )


def from_nnx(make_model: Callable[[nnx.Rngs], nnx.Module], *, dim: int, latent_dim: int | None = None) -> Family:
    """A family from a flax nnx model, a pure function of its ``nnx.Param`` variables.

    Args:
      make_model: from ``nnx.Rngs`` to a model on batches: ``model(z)``: [n latent_dim] -> [n dim]; or, for a density,
        ``forward_and_log_det(z)`` -> (points, log_det [n]) and ``inverse_and_log_det(points)`` -> (z, log_det [n]).
      dim: dimension of the points; latent_dim: of z, None means dim.

    mu_0 is the image under the model as initialised. Raises ValueError at construction when output shapes do not fit, or when the model
    keeps other state (batch statistics, random streams), which would be lost between steps.
    """
    validation.require_callable(make_model, "make_model", "from nnx.Rngs to an nnx.Module")
    model = nnx.eval_shape(lambda: make_model(nnx.Rngs(0)))
    graph, _, rest = nnx.split(model, nnx.Param, ...)
    if jax.tree.leaves(rest):
        kinds = sorted({type(variable).__name__ for _, variable in nnx.to_flat_state(rest)})
        raise ValueError(
            f"make_model must return a model whose only state is nnx.Param; it also holds {', '.join(kinds)}. "
            "Replace batch normalisation by layer normalisation, and dropout by nothing."
        )

    def init(key: Key) -> Params:
        return nnx.to_pure_dict(nnx.split(make_model(nnx.Rngs(key)), nnx.Param, ...)[1])

    if hasattr(model, "forward_and_log_det") and hasattr(model, "inverse_and_log_det"):
        return pushforward(init, Partial(_forward, graph), dim=dim, inverse=Partial(_inverse, graph), latent_dim=latent_dim)
    return pushforward(init, Partial(_call, graph), dim=dim, latent_dim=latent_dim)


def _call(graph, params, z):
    return nnx.merge(graph, params)(z)


def _forward(graph, params, z):
    return nnx.merge(graph, params).forward_and_log_det(z)


def _inverse(graph, params, points):
    return nnx.merge(graph, params).inverse_and_log_det(points)


def _standardised(
    make_model: Callable[[nnx.Rngs], nnx.Module],
    dim: int,
    init_mean: ArrayLike,
    init_scale: ArrayLike,
    latent_dim: int | None = None,
) -> Family:
    """The model's family followed by x -> mean + scale x, so that networks work at unit scale wherever mu_0 is."""
    mean, scale = validation.as_start(dim, init_mean, init_scale)
    family = from_nnx(make_model, dim=dim, latent_dim=latent_dim)
    push = Partial(_push_standardised, mean, scale, family.push)
    log_prob = Partial(_log_prob_standardised, mean, scale, family.log_prob) if family.has_density else family.log_prob
    return dataclasses.replace(family, push=push, log_prob=log_prob)


def _push_standardised(mean, scale, push, params, z):
    cloud = push(params, z)
    log_density = None if cloud.log_density is None else cloud.log_density - jnp.sum(jnp.log(scale))
    return cloud._replace(points=mean[None, :] + scale[None, :] * cloud.points, log_density=log_density)


def _log_prob_standardised(mean, scale, log_prob, params, points):
    return log_prob(params, (points - mean[None, :]) / scale[None, :]) - jnp.sum(jnp.log(scale))


@dataclasses.dataclass(frozen=True)
class _Affine:
    """x -> x exp(s) + t, |s| <= 2."""

    num_params = 2

    def forward(self, x: Array, raw: Array) -> tuple[Array, Array]:
        log_scale = self._log_scale(raw)
        return x * jnp.exp(log_scale) + raw[..., 1], log_scale

    def inverse(self, y: Array, raw: Array) -> tuple[Array, Array]:
        log_scale = self._log_scale(raw)
        return (y - raw[..., 1]) * jnp.exp(-log_scale), -log_scale

    def _log_scale(self, raw):
        return _LOG_SCALE_BOUND * jnp.tanh(raw[..., 0] / _LOG_SCALE_BOUND)


@dataclasses.dataclass(frozen=True)
class _RationalQuadratic:
    """A monotone rational-quadratic spline on [-bound, bound], the identity outside."""

    num_bins: int
    bound: float

    @property
    def num_params(self):
        return 3 * self.num_bins + 1

    def forward(self, x: Array, raw: Array) -> Any:
        return self._spline(raw).forward_and_log_det(x)

    def inverse(self, y: Array, raw: Array) -> Any:
        return self._spline(raw).inverse_and_log_det(y)

    def _spline(self, raw):
        import distrax

        return distrax.RationalQuadraticSpline(
            raw, -self.bound, self.bound, boundary_slopes="identity", min_bin_size=_SPLINE_FLOOR, min_knot_slope=_SPLINE_FLOOR
        )


class _CouplingFlow(nnx.Module):
    """Pairs of couplings, the second half of the coordinates given the first and the first given the second, scanned over; a triangular
    affine layer at the end.

    After each pair the halves are interleaved like cards. Two coordinates of one half are then twice as far apart as before, and no two
    can stay in one half for log2(dim) pairs: each comes to be a function of each other.
    """

    def __init__(self, dim: int, num_layers: int, width: int, bijection: _Affine | _RationalQuadratic, rngs: nnx.Rngs):
        self.bijection, self.num_pairs, self.odd = bijection, num_layers // 2, num_layers % 2 == 1
        first = (dim + 1) // 2
        sizes = (first, width, (dim - first) * bijection.num_params)
        self.second_given_first = _Conditioners(self.num_pairs + self.odd, *sizes, rngs)
        self.first_given_second = _Conditioners(self.num_pairs, dim - first, width, first * bijection.num_params, rngs)
        self.affine = _TriangularAffine(dim)

    def forward_and_log_det(self, z: Float[Array, "n d"]) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        def pair(carry, weights):
            (first, second), log_det = _halves(carry[0]), carry[1]
            second, second_log_det = self._couple(self.bijection.forward, second, first, weights[0])
            first, first_log_det = self._couple(self.bijection.forward, first, second, weights[1])
            return (_interleave(first, second), log_det + second_log_det + first_log_det), None

        (x, log_det), _ = lax.scan(pair, (z, jnp.zeros_like(z[:, 0])), self._weights())
        if self.odd:
            first, second = _halves(x)
            second, second_log_det = self._couple(self.bijection.forward, second, first, self._last_weights())
            x, log_det = jnp.concatenate((first, second), axis=1), log_det + second_log_det
        for _ in range(self.num_pairs):
            x = jnp.concatenate(_deal(x), axis=1)
        x, affine_log_det = self.affine.forward_and_log_det(x)
        return x, log_det + affine_log_det

    def inverse_and_log_det(self, x: Float[Array, "n d"]) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        def pair(carry, weights):
            (first, second), log_det = _deal(carry[0]), carry[1]
            first, first_log_det = self._couple(self.bijection.inverse, first, second, weights[1])
            second, second_log_det = self._couple(self.bijection.inverse, second, first, weights[0])
            return (jnp.concatenate((first, second), axis=1), log_det + second_log_det + first_log_det), None

        x, log_det = self.affine.inverse_and_log_det(x)
        for _ in range(self.num_pairs):
            x = _interleave(*_halves(x))
        if self.odd:
            first, second = _halves(x)
            second, second_log_det = self._couple(self.bijection.inverse, second, first, self._last_weights())
            x, log_det = jnp.concatenate((first, second), axis=1), log_det + second_log_det
        (z, log_det), _ = lax.scan(pair, (x, log_det), self._weights(), reverse=True)
        return z, log_det

    def _couple(self, bijection, moved, kept, weights):
        raw = _conditioned(kept, weights).reshape(*moved.shape, self.bijection.num_params)
        moved, log_det = bijection(moved, raw)
        return moved, jnp.sum(log_det, axis=-1)

    def _weights(self):
        of_pairs = [leaf[: self.num_pairs] for leaf in self.second_given_first.stacked()]
        return of_pairs, self.first_given_second.stacked()

    def _last_weights(self):
        return [leaf[self.num_pairs] for leaf in self.second_given_first.stacked()]


class _Conditioners(nnx.Module):
    """Perceptrons of two hidden layers, zero at the start, with their weights stacked along a leading axis."""

    def __init__(self, num: int, size_in: int, width: int, size_out: int, rngs: nnx.Rngs):
        def normal(shape):
            return jax.random.normal(rngs.params(), shape) / math.sqrt(shape[1])

        self.weights_in = nnx.Param(normal((num, size_in, width)))
        self.bias_in = nnx.Param(jnp.zeros((num, width)))
        self.weights_hidden = nnx.Param(normal((num, width, width)))
        self.bias_hidden = nnx.Param(jnp.zeros((num, width)))
        self.weights_out = nnx.Param(jnp.zeros((num, width, size_out)))
        self.bias_out = nnx.Param(jnp.zeros((num, size_out)))

    def stacked(self):
        layers = (self.weights_in, self.bias_in, self.weights_hidden, self.bias_hidden, self.weights_out, self.bias_out)
        return [layer[...] for layer in layers]


def _conditioned(x, weights):
    weights_in, bias_in, weights_hidden, bias_hidden, weights_out, bias_out = weights
    hidden = jnp.tanh(x @ weights_in + bias_in[None, :])
    hidden = jnp.tanh(hidden @ weights_hidden + bias_hidden[None, :])
    return hidden @ weights_out + bias_out[None, :]


def _halves(x):
    return jnp.split(x, [(x.shape[1] + 1) // 2], axis=1)


def _interleave(first, second):
    """[n h], [n d - h] -> [n d]: first_0, second_0, first_1, second_1, ..."""
    missing = first.shape[1] - second.shape[1]
    pairs = jnp.stack((first, jnp.pad(second, ((0, 0), (0, missing)))), axis=2)
    return pairs.reshape(first.shape[0], -1)[:, : first.shape[1] + second.shape[1]]


def _deal(x):
    """The inverse of ``_interleave``."""
    return x[:, 0::2], x[:, 1::2]


class _TriangularAffine(nnx.Module):
    """x -> b + L U x, with unit lower triangular L and upper triangular U of positive diagonal; the identity at the start.

    Every parameter is multiplied by a gain. Adam moves a parameter by about its learning rate whatever the gradient, so the gain is the
    ratio of this layer's rate to the networks'. Means and covariances are most of what a JKO step moves, and 2e-2 beside 3e-3 was worth a
    decade of squared error on Gaussian targets; in high dimension the many entries move together, and the gain falls to keep the product
    stable.
    """

    def __init__(self, dim: int):
        self.gain = 7.0 / max(1.0, math.sqrt(dim / 10.0))
        self.lower = nnx.Param(jnp.zeros((dim, dim)))
        self.upper = nnx.Param(jnp.zeros((dim, dim)))
        self.log_diagonal = nnx.Param(jnp.zeros((dim,)))
        self.bias = nnx.Param(jnp.zeros((dim,)))

    def forward_and_log_det(self, x):
        lower, upper, bias, log_det = self._factors()
        return bias[None, :] + (x @ upper.T) @ lower.T, jnp.broadcast_to(log_det, x.shape[:1])

    def inverse_and_log_det(self, y):
        lower, upper, bias, log_det = self._factors()
        inverse = inverse_of_lower_triangular(upper.T).T @ inverse_of_lower_triangular(lower)
        return (y - bias[None, :]) @ inverse.T, jnp.broadcast_to(-log_det, y.shape[:1])

    def _factors(self):
        log_diagonal = self.gain * self.log_diagonal[...]
        lower = jnp.eye(log_diagonal.shape[0], dtype=log_diagonal.dtype) + self.gain * jnp.tril(self.lower[...], -1)
        upper = jnp.diag(jnp.exp(log_diagonal)) + self.gain * jnp.triu(self.upper[...], 1)
        return lower, upper, self.gain * self.bias[...], jnp.sum(log_diagonal)


class _Perceptron(nnx.Module):
    def __init__(self, latent_dim: int, dim: int, width: int, num_layers: int, residual: bool, rngs: nnx.Rngs):
        self.residual = residual
        sizes = [latent_dim] + [width] * num_layers
        self.hidden = nnx.List([nnx.Linear(before, after, rngs=rngs) for before, after in itertools.pairwise(sizes)])
        last_init = nnx.initializers.zeros_init() if residual else nnx.initializers.lecun_normal()
        self.last = nnx.Linear(width, dim, kernel_init=last_init, rngs=rngs)

    def __call__(self, z: Any) -> Any:
        x = z
        for layer in self.hidden:
            x = nnx.silu(layer(x))
        return z + self.last(x) if self.residual else self.last(x)
