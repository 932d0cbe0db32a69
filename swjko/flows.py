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


def coupling(dim: int, *, num_layers: int = 6, width: int = 64, init_mean: ArrayLike = 0.0, init_scale: ArrayLike = 1.0) -> Family:
    """A RealNVP flow: ``num_layers`` affine couplings, then an invertible affine layer b + L U x; density and inverse are exact.

    x -> m x + (1 - m) (x exp(s(m x)) + t(m x)) with a binary mask m; s is bounded by 2 in modulus, s and t come from one perceptron of
    two hidden layers. Masks split coordinates by the binary digits of their index, so that any two are separated by some layer. Starts at
    the identity, that is at N(init_mean, init_scale^2 I). Source: Dinh, Sohl-Dickstein, Bengio (2017), arXiv 1605.08803; the triangular
    layer after Kingma and Dhariwal (2018), arXiv 1807.03039.

    Args:
      dim: dimension, at least 2 (one coordinate leaves nothing to condition on: take ``swjko.gaussian`` or ``mlp(1, 1)``).
      num_layers: couplings; even numbers treat all coordinates alike.
      width: hidden units of each conditioner.
      init_mean, init_scale: numbers, or one per coordinate.
    """
    if validation.as_count(dim, "dim") == 1:
        raise ValueError(
            "flows.coupling needs dim >= 2: with one coordinate there is nothing to condition on. Take swjko.gaussian or flows.mlp(1, 1)."
        )
    num_layers, width = (validation.as_count(num_layers, "num_layers"), validation.as_count(width, "width"))
    return _standardised(lambda rngs: _CouplingFlow(dim, num_layers, width, rngs), dim, init_mean, init_scale)


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


class _CouplingFlow(nnx.Module):
    """Couplings with their weights stacked along a leading axis, scanned over, and a triangular affine layer at the end."""

    def __init__(self, dim: int, num_layers: int, width: int, rngs: nnx.Rngs):
        self.dim, self.num_layers = dim, num_layers
        normal = nnx.initializers.lecun_normal(in_axis=-2, out_axis=-1, batch_axis=0)
        self.weights_in = nnx.Param(normal(rngs.params(), (num_layers, dim, width)))
        self.bias_in = nnx.Param(jnp.zeros((num_layers, width)))
        self.weights_hidden = nnx.Param(normal(rngs.params(), (num_layers, width, width)))
        self.bias_hidden = nnx.Param(jnp.zeros((num_layers, width)))
        self.weights_out = nnx.Param(jnp.zeros((num_layers, width, 2 * dim)))
        self.bias_out = nnx.Param(jnp.zeros((num_layers, 2 * dim)))
        self.affine = _TriangularAffine(dim)

    def forward_and_log_det(self, z: Float[Array, "n d"]) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        def layer(carry, stacked):
            x, log_det = carry
            log_scale, shift = self._conditioned(x, stacked)
            return (x * jnp.exp(log_scale) + shift, log_det + jnp.sum(log_scale, axis=-1)), None

        (x, log_det), _ = lax.scan(layer, (z, jnp.zeros_like(z[:, 0])), self._stacked())
        x, affine_log_det = self.affine.forward_and_log_det(x)
        return x, log_det + affine_log_det

    def inverse_and_log_det(self, x: Float[Array, "n d"]) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        def layer(carry, stacked):
            x, log_det = carry
            log_scale, shift = self._conditioned(x, stacked)
            return ((x - shift) * jnp.exp(-log_scale), log_det - jnp.sum(log_scale, axis=-1)), None

        x, affine_log_det = self.affine.inverse_and_log_det(x)
        (z, log_det), _ = lax.scan(layer, (x, jnp.zeros_like(x[:, 0])), self._stacked(), reverse=True)
        return z, log_det + affine_log_det

    def _stacked(self):
        layers = (self.weights_in, self.bias_in, self.weights_hidden, self.bias_hidden, self.weights_out, self.bias_out)
        return self._masks(), *(layer[...] for layer in layers)

    def _masks(self) -> Float[Array, "layers d"]:
        """1 where a layer keeps a coordinate: pairs of layers split by one binary digit of the index, once each way round."""
        layer = lax.broadcasted_iota(jnp.int32, (self.num_layers, self.dim), 0)
        index = lax.broadcasted_iota(jnp.int32, (self.num_layers, self.dim), 1)
        digit = (layer // 2) % math.ceil(math.log2(self.dim))
        return (((index >> digit) & 1) == layer % 2).astype(self.bias_out.dtype)

    def _conditioned(self, x, stacked):
        """log-scale and shift [n d], zero on the coordinates that the layer keeps."""
        mask, weights_in, bias_in, weights_hidden, bias_hidden, weights_out, bias_out = stacked
        mask = mask[None, :]
        hidden = jnp.tanh((x * mask) @ weights_in + bias_in[None, :])
        hidden = jnp.tanh(hidden @ weights_hidden + bias_hidden[None, :])
        raw_log_scale, shift = jnp.split(hidden @ weights_out + bias_out[None, :], 2, axis=-1)
        return (1 - mask) * _LOG_SCALE_BOUND * jnp.tanh(raw_log_scale / _LOG_SCALE_BOUND), (1 - mask) * shift


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
