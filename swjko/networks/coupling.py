"""Coupling layers in flax: one half of the coordinates through a bijection of the line whose parameters are functions of the other half.

Their Jacobians are triangular, so log-determinants are sums and inverses cost what the map costs. ``swjko.flows`` makes families of them.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from swjko.linalg import inverse_of_lower_triangular

# exp(+-2) per coupling: wide enough for separated modes after a few layers, and no single layer can overflow.
_LOG_SCALE_BOUND = 2.0
# Smallest bin and slope of a spline, in units where the start has scale 1.
_SPLINE_FLOOR = 0.1


class CouplingFlow(nnx.Module):
    """Pairs of couplings, the second half of the coordinates given the first and the first given the second, scanned over; a triangular
    affine layer at the end.

    After each pair the halves are interleaved like cards. Two coordinates of one half are then twice as far apart as before, and no two
    can stay in one half for log2(dim) pairs: each comes to be a function of each other. With ``lu_mixing`` an affine layer comes after
    each interleaving that a coupling follows. The last ``num_fixed`` coordinates take no part: they are inputs of every conditioner.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        width: int,
        bijection: "Affine | RationalQuadratic",
        rngs: nnx.Rngs,
        *,
        lu_mixing: bool = False,
        num_fixed: int = 0,
    ):
        self.bijection, self.num_pairs, self.odd = bijection, num_layers // 2, num_layers % 2 == 1
        self.num_moved = dim - num_fixed
        first = (self.num_moved + 1) // 2
        second = self.num_moved - first
        sizes = (first + num_fixed, width, second * bijection.num_params)
        self.second_given_first = _Conditioners(self.num_pairs + self.odd, *sizes, rngs)
        self.first_given_second = _Conditioners(
            self.num_pairs, second + num_fixed, width, first * bijection.num_params, rngs
        )
        self.affine = TriangularAffine(self.num_moved)
        if lu_mixing:
            self.mixings = _Mixings(self.num_pairs - (not self.odd), self.num_moved)

    def forward_and_log_det(
        self, z: Float[Array, "n d"]
    ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        mixings = self._mixings(inverse=False)
        z, fixed = self._parts(z)

        def pair(carry, weights):
            (first, second), log_det = _halves(carry[0]), carry[1]
            second, second_log_det = self._couple(
                self.bijection.forward, second, (first, fixed), weights[0]
            )
            first, first_log_det = self._couple(
                self.bijection.forward, first, (second, fixed), weights[1]
            )
            x, mixing_log_det = _interleave(first, second), 0.0
            if mixings is not None:
                matrix, bias, mixing_log_det = weights[2]
                x = x @ matrix.T + bias[None, :]
            return (x, log_det + second_log_det + first_log_det + mixing_log_det), None

        (x, log_det), _ = lax.scan(pair, (z, jnp.zeros_like(z[:, 0])), (*self._weights(), mixings))
        x, log_det = self._couple_last(self.bijection.forward, x, fixed, log_det)
        for _ in range(self.num_pairs):
            x = jnp.concatenate(_deal(x), axis=1)
        x, affine_log_det = self.affine.forward_and_log_det(x)
        return jnp.concatenate((x, fixed), axis=1), log_det + affine_log_det

    def inverse_and_log_det(
        self, x: Float[Array, "n d"]
    ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        mixings = self._mixings(inverse=True)
        x, fixed = self._parts(x)

        def pair(carry, weights):
            x, log_det = carry
            if mixings is not None:
                matrix, bias, mixing_log_det = weights[2]
                x, log_det = (x - bias[None, :]) @ matrix.T, log_det - mixing_log_det
            first, second = _deal(x)
            first, first_log_det = self._couple(
                self.bijection.inverse, first, (second, fixed), weights[1]
            )
            second, second_log_det = self._couple(
                self.bijection.inverse, second, (first, fixed), weights[0]
            )
            return (
                jnp.concatenate((first, second), axis=1),
                log_det + second_log_det + first_log_det,
            ), None

        x, log_det = self.affine.inverse_and_log_det(x)
        for _ in range(self.num_pairs):
            x = _interleave(*_halves(x))
        x, log_det = self._couple_last(self.bijection.inverse, x, fixed, log_det)
        (z, log_det), _ = lax.scan(pair, (x, log_det), (*self._weights(), mixings), reverse=True)
        return jnp.concatenate((z, fixed), axis=1), log_det

    def _parts(self, points):
        return points[:, : self.num_moved], points[:, self.num_moved :]

    def _couple(self, bijection, moved, kept, weights):
        raw = _conditioned(jnp.concatenate(kept, axis=1), weights).reshape(
            *moved.shape, self.bijection.num_params
        )
        moved, log_det = bijection(moved, raw)
        return moved, jnp.sum(log_det, axis=-1)

    def _weights(self):
        of_pairs = [leaf[: self.num_pairs] for leaf in self.second_given_first.stacked()]
        return of_pairs, self.first_given_second.stacked()

    def _mixings(self, inverse):
        """Matrices, biases and log-determinants, one for each pair; without an odd coupling the last pair's is the identity."""
        return self.mixings.stacked(self.num_pairs, inverse) if hasattr(self, "mixings") else None

    def _couple_last(self, bijection, x, fixed, log_det):
        """The coupling that an odd number of layers has beyond its pairs."""
        if not self.odd:
            return x, log_det
        first, second = _halves(x)
        weights = [leaf[self.num_pairs] for leaf in self.second_given_first.stacked()]
        second, second_log_det = self._couple(bijection, second, (first, fixed), weights)
        return jnp.concatenate((first, second), axis=1), log_det + second_log_det


@dataclasses.dataclass(frozen=True)
class Affine:
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
class RationalQuadratic:
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
            raw,
            -self.bound,
            self.bound,
            boundary_slopes="identity",
            min_bin_size=_SPLINE_FLOOR,
            min_knot_slope=_SPLINE_FLOOR,
        )


class TriangularAffine(nnx.Module):
    """x -> b + L U x, with unit lower triangular L and upper triangular U of positive diagonal; the identity at the start.

    Every parameter is multiplied by a gain. Adam moves a parameter by about its learning rate whatever the gradient, so the gain is the
    ratio of this layer's rate to the networks'. Means and covariances are most of what a JKO step moves, and 2e-2 beside 3e-3 was worth a
    decade of squared error on Gaussian targets; in high dimension the many entries move together, and the gain falls to keep the product
    stable.
    """

    def __init__(self, dim: int):
        self.gain = affine_gain(dim)
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
        lower, upper = _triangular_factors(
            self.gain * self.lower[...], self.gain * self.upper[...], log_diagonal
        )
        return lower, upper, self.gain * self.bias[...], jnp.sum(log_diagonal)


class _Mixings(nnx.Module):
    """Layers x -> b + L U x as ``TriangularAffine``, stacked along a leading axis, at the rate of the networks beside them."""

    def __init__(self, num: int, dim: int):
        self.lower = nnx.Param(jnp.zeros((num, dim, dim)))
        self.upper = nnx.Param(jnp.zeros((num, dim, dim)))
        self.log_diagonal = nnx.Param(jnp.zeros((num, dim)))
        self.bias = nnx.Param(jnp.zeros((num, dim)))

    def stacked(self, num: int, inverse: bool):
        """L U or its inverse, b and log det L U, followed by identities to the number asked for."""

        def matrix(lower, upper, log_diagonal):
            lower, upper = _triangular_factors(lower, upper, log_diagonal)
            return (
                inverse_of_lower_triangular(upper.T).T @ inverse_of_lower_triangular(lower)
                if inverse
                else lower @ upper
            )

        leaves = (self.lower[...], self.upper[...], self.log_diagonal[...], self.bias[...])
        lower, upper, log_diagonal, bias = (
            jnp.pad(leaf, [(0, num - leaf.shape[0])] + [(0, 0)] * (leaf.ndim - 1))
            for leaf in leaves
        )
        return jax.vmap(matrix)(lower, upper, log_diagonal), bias, jnp.sum(log_diagonal, axis=-1)


def _triangular_factors(lower, upper, log_diagonal):
    """Unit lower triangular, and upper triangular of diagonal exp(log_diagonal)."""
    lower = jnp.eye(log_diagonal.shape[0], dtype=log_diagonal.dtype) + jnp.tril(lower, -1)
    return lower, jnp.diag(jnp.exp(log_diagonal)) + jnp.triu(upper, 1)


def affine_gain(dim: int) -> float:
    """How much faster than its networks the affine part of a flow in ``dim`` dimensions moves; the reasons are ``TriangularAffine``'s."""
    return 7.0 / max(1.0, math.sqrt(dim / 10.0))


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
        layers = (
            self.weights_in,
            self.bias_in,
            self.weights_hidden,
            self.bias_hidden,
            self.weights_out,
            self.bias_out,
        )
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
