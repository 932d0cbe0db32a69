"""Coupling layers in flax, which move half of the coordinates given the other half.

Each moved coordinate goes through a bijection of the line. A perceptron of the kept coordinates
gives the parameters of the bijections. The Jacobian is triangular, so its log-determinant is a
sum, and the inverse costs as much as the map. ``swjko.flows`` makes families of them.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from swjko.networks.affine import StackedAffine, TriangularAffine, WithLogDet

# A layer scales by exp(-2) to exp(2). A few layers separate modes, and no layer can overflow.
_LOG_SCALE_BOUND = 2.0
# Smallest bin and slope of a spline, in units of the starting scale.
_SPLINE_FLOOR = 0.1


class CouplingFlow(nnx.Module):
    """Pairs of couplings in a scan, followed by a triangular affine layer.

    The first coupling of a pair moves the second half of the coordinates given the first, and the
    second moves the first half given the second. The halves are then interleaved like cards. After
    log2(dim) pairs every two coordinates have been in different halves.
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
        """Makes the layers.

        Args:
          dim: Dimension of the points.
          num_layers: Number of couplings.
          width: Hidden units of each conditioner.
          bijection: Bijection of the line.
          rngs: Random streams of flax.
          lu_mixing: Whether an affine layer follows each interleaving that a coupling follows.
          num_fixed: Number of trailing coordinates that are left unchanged. They are inputs of
            every conditioner.
        """
        self.bijection, self.num_pairs, self.odd = bijection, num_layers // 2, num_layers % 2 == 1
        self.num_moved = dim - num_fixed
        first = (self.num_moved + 1) // 2
        second = self.num_moved - first
        num_params = bijection.num_params
        self.second_given_first = _Conditioners(
            self.num_pairs + self.odd, first + num_fixed, width, second * num_params, rngs
        )
        self.first_given_second = _Conditioners(
            self.num_pairs, second + num_fixed, width, first * num_params, rngs
        )
        self.affine = TriangularAffine(self.num_moved)
        if lu_mixing:
            self.mixings = StackedAffine(self.num_pairs - (not self.odd), self.num_moved)

    def forward_and_log_det(self, z: Float[Array, "n d"]) -> WithLogDet:
        x, log_det, _ = self._forward(z, None)
        return x, log_det

    def forward_with_score(
        self, z: Float[Array, "n d"], score: Float[Array, "n d"]
    ) -> tuple[Float[Array, "n d"], Float[Array, " n"], Float[Array, "n d"]]:
        """Returns images, log-determinants, and the score of the law of the images at them.

        A coupling y = f(x; r) of moved coordinates, whose r is a function of the kept ones, takes
        the score (s, k) of moved and kept coordinates to

            s' = (s - d log f' / dx) / f',   k' = k - [d r / d kept]^T (s' df/dr + d log f' / dr).

        For y = x exp(a) + b that is s' = s exp(-a), and the bracket is applied to (1 + x s, s').

        Args:
          z: Points.
          score: Gradient of the log-density of the law of z at the points.
        """
        return self._forward(z, score)

    def _forward(self, z, score) -> Any:
        mixings, forward = self._mixings(inverse=False), self.bijection.forward
        inverses = None
        if score is not None:
            inverses, score = self._mixings(inverse=True), self._parts(score)
        z, fixed = self._parts(z)

        def pair(carry, weights):
            x, log_det, score = carry
            for half in (1, 0):
                x, half_log_det, score = self._move(
                    forward, half, x, fixed, weights[1 - half], score
                )
                log_det += half_log_det
            x, score = _interleaved(x), _of_moved(_interleaved, score)
            if mixings is not None:
                matrix, bias, mixing_log_det = weights[2]
                x, log_det = x @ matrix.T + bias[None, :], log_det + mixing_log_det
                score = _of_moved(lambda score: score @ weights[3][0], score)
            return (x, log_det, score), None

        start = z, jnp.zeros_like(z[:, 0]), score
        x, log_det, score = self._over_pairs(pair, start, (mixings, inverses))
        if self.odd:
            weights = self._second_weights(self.num_pairs)
            x, last_log_det, score = self._move(forward, 1, x, fixed, weights, score)
            log_det += last_log_det
        for _ in range(self.num_pairs):
            x, score = _dealt(x), _of_moved(_dealt, score)
        x, affine_log_det = self.affine.forward_and_log_det(x)
        if score is not None:
            score = jnp.concatenate((self.affine.score_of_image(score[0]), score[1]), axis=1)
        return jnp.concatenate((x, fixed), axis=1), log_det + affine_log_det, score

    def _move(self, bijection, half, x, fixed, weights, score=None):
        """Moves half 0 or 1 of the coordinates by a bijection of the line, and a score along."""
        halves = _halves(x)
        moved, kept = halves[half], jnp.concatenate((halves[1 - half], fixed), axis=1)

        def conditioned(kept):
            return _conditioned(kept, weights).reshape(*moved.shape, self.bijection.num_params)

        if score is None:
            halves[half], log_slopes = bijection(moved, conditioned(kept))
            return jnp.concatenate(halves, axis=1), jnp.sum(log_slopes, axis=-1), None
        raw, pull_kept = jax.vjp(conditioned, kept)
        (halves[half], log_slopes), pull = jax.vjp(bijection, moved, raw)
        ones, scores = jnp.ones_like(moved), _halves(score[0])
        bend, _ = pull((jnp.zeros_like(moved), ones))
        scores[half] = (scores[half] - bend) * jnp.exp(-log_slopes)
        _, of_raw = pull((scores[half], ones))
        (of_kept,) = pull_kept(of_raw)
        of_half, of_fixed = jnp.split(of_kept, [scores[1 - half].shape[1]], axis=1)
        scores[1 - half] -= of_half
        score = jnp.concatenate(scores, axis=1), score[1] - of_fixed
        return jnp.concatenate(halves, axis=1), jnp.sum(log_slopes, axis=-1), score

    def inverse_and_log_det(self, x: Float[Array, "n d"]) -> WithLogDet:
        mixings, inverse = self._mixings(inverse=True), self.bijection.inverse
        x, fixed = self._parts(x)

        def pair(carry, weights):
            x, log_det = carry
            if mixings is not None:
                matrix, bias, mixing_log_det = weights[2]
                x, log_det = (x - bias[None, :]) @ matrix.T, log_det - mixing_log_det
            x = _dealt(x)
            for half in (0, 1):
                x, half_log_det, _ = self._move(inverse, half, x, fixed, weights[1 - half])
                log_det += half_log_det
            return (x, log_det), None

        x, log_det = self.affine.inverse_and_log_det(x)
        for _ in range(self.num_pairs):
            x = _interleaved(x)
        if self.odd:
            weights = self._second_weights(self.num_pairs)
            x, last_log_det, _ = self._move(inverse, 1, x, fixed, weights)
            log_det += last_log_det
        x, log_det = self._over_pairs(pair, (x, log_det), (mixings,), reverse=True)
        return jnp.concatenate((x, fixed), axis=1), log_det

    def _over_pairs(self, pair, carry, beside, reverse=False):
        if not self.num_pairs:  # a loop over none cannot run without jit
            return carry
        second = self._second_weights(slice(self.num_pairs))
        stacked = (second, self.first_given_second.stacked(), *beside)
        # A GPU takes time by the number of kernels, and loops have many more, which cut and stack.
        unroll = self.num_pairs if jax.default_backend() == "gpu" else 1
        return lax.scan(pair, carry, stacked, reverse=reverse, unroll=unroll)[0]

    def _parts(self, points):
        return points[:, : self.num_moved], points[:, self.num_moved :]

    def _mixings(self, inverse):
        """Returns matrices, biases and log-determinants, one for each pair, or None."""
        return self.mixings.stacked(self.num_pairs, inverse) if hasattr(self, "mixings") else None

    def _second_weights(self, at):
        return [leaf[at] for leaf in self.second_given_first.stacked()]


@dataclasses.dataclass(frozen=True)
class Affine:
    """The bijection x -> x exp(s) + t with -2 <= s <= 2."""

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
    """A monotone rational-quadratic spline on [-bound, bound] and the identity outside."""

    num_bins: int
    bound: float

    @property
    def num_params(self) -> int:
        return 3 * self.num_bins + 1

    def forward(self, x: Array, raw: Array) -> tuple[Array, Array]:
        with jax.numpy_dtype_promotion("standard"):  # distrax mixes dtypes
            image, log_det = self._spline(raw).forward_and_log_det(x)
        return jnp.asarray(image), jnp.asarray(log_det)

    def inverse(self, y: Array, raw: Array) -> tuple[Array, Array]:
        with jax.numpy_dtype_promotion("standard"):
            image, log_det = self._spline(raw).inverse_and_log_det(y)
        return jnp.asarray(image), jnp.asarray(log_det)

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


class _Conditioners(nnx.Module):
    """A stack of perceptrons with two hidden layers, which start at zero."""

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
        names = ("weights_in", "bias_in", "weights_hidden", "bias_hidden", "weights_out")
        return [getattr(self, name)[...] for name in (*names, "bias_out")]


def _conditioned(x, weights):
    weights_in, bias_in, weights_hidden, bias_hidden, weights_out, bias_out = weights
    hidden = jnp.tanh(x @ weights_in + bias_in[None, :])
    hidden = jnp.tanh(hidden @ weights_hidden + bias_hidden[None, :])
    return hidden @ weights_out + bias_out[None, :]


def _halves(x):
    return jnp.split(x, [(x.shape[1] + 1) // 2], axis=1)


def _interleave(first, second):
    """Returns [n d] from [n h] and [n d-h]: first_0, second_0, first_1, second_1, ..."""
    missing = first.shape[1] - second.shape[1]
    pairs = jnp.stack((first, jnp.pad(second, ((0, 0), (0, missing)))), axis=2)
    return pairs.reshape(first.shape[0], -1)[:, : first.shape[1] + second.shape[1]]


def _interleaved(x):
    return _interleave(*_halves(x))


def _deal(x):
    """Inverts ``_interleave``."""
    return x[:, 0::2], x[:, 1::2]


def _dealt(x):
    return jnp.concatenate(_deal(x), axis=1)


def _of_moved(function, score):
    return None if score is None else (function(score[0]), score[1])
