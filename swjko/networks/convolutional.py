"""A convolutional generator of images in flax.

``swjko.flows.convolutional`` makes a family of it.
"""

import itertools
import math

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

_DOUBLINGS = 2
# [shift of the coarse grid, half of a doubled pixel, tap]: 1 if the tap meets that coarse pixel.
_TAPS = np.zeros((3, 2, 3), np.float32)
for _half, _tap in itertools.product(range(2), range(3)):
    _TAPS[(_half + _tap - 1) // 2 + 1, _half, _tap] = 1.0


class ConvolutionalGenerator(nnx.Module):
    """A coarse grid of features from noise, doubled twice, with a convolution to the image.

    z -> linear -> [h/4 w/4 2k] -> (double, convolution, group norm, silu) twice
      -> convolution -> [h w c]

    Pixels are repeated and then convolved, because transposed convolutions of stride 2 leave
    checkerboard patterns (Odena, Dumoulin, Olah 2016). Group norm is used because it keeps no
    running averages, which would be lost between steps.
    """

    def __init__(self, latent_dim: int, shape: tuple[int, int, int], width: int, rngs: nnx.Rngs):
        self.shape = shape
        h, w, c = shape
        self.coarse = (-(-h // 2**_DOUBLINGS), -(-w // 2**_DOUBLINGS), 2 * width)
        features = (2 * width, width, max(1, width // 2))
        self.first = nnx.Linear(latent_dim, math.prod(self.coarse), rngs=rngs)
        self.norms = nnx.List([_norm(size, rngs) for size in features])
        self.convolutions = nnx.List(
            [_Convolution(before, after, rngs) for before, after in itertools.pairwise(features)]
        )
        self.last = _Convolution(features[-1], c, rngs)

    def __call__(self, z: Float[Array, "n e"]) -> Float[Array, "n d"]:
        x = nnx.silu(self.norms[0](self.first(z).reshape(-1, *self.coarse)))
        for convolution, norm in zip(self.convolutions, self.norms[1:], strict=True):
            x = nnx.silu(norm(convolution.of_doubled(x)))
        h, w, _ = self.shape
        return self.last(x)[:, :h, :w].reshape(z.shape[0], -1)


class _Convolution(nnx.Module):
    """A 3 x 3 convolution with zero padding."""

    def __init__(self, size_in: int, size_out: int, rngs: nnx.Rngs):
        self.kernel = nnx.Param(
            nnx.initializers.lecun_normal()(rngs.params(), (3, 3, size_in, size_out))
        )
        self.bias = nnx.Param(jnp.zeros((size_out,)))

    def __call__(self, x: Float[Array, "n h w k"]) -> Float[Array, "n h w o"]:
        return _convolved(x, self.kernel[...]) + self.bias[...][None, None, None, :]

    def of_doubled(self, x: Float[Array, "n h w k"]) -> Float[Array, "n h2 w2 o"]:
        """Returns the convolution of x with each pixel repeated to 2 x 2.

        The four results of a pixel are one convolution of x itself, at half the work.
        """
        kernel = self.kernel[...]
        size_in, size_out = kernel.shape[2:]
        taps = _TAPS.astype(kernel.dtype)
        coarse = jnp.einsum("apu,bqv,uvio->abipqo", taps, taps, kernel).reshape(
            3, 3, size_in, 4 * size_out
        )
        n, h, w, _ = x.shape
        parts = _convolved(x, coarse).reshape(n, h, w, 2, 2, size_out)
        return (
            parts.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, size_out)
            + self.bias[...][None, None, None, :]
        )


def _norm(size: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Returns a group norm with groups of about eight channels."""
    groups = next(groups for groups in range(max(1, size // 8), 0, -1) if size % groups == 0)
    return nnx.GroupNorm(size, num_groups=groups, rngs=rngs)


def _convolved(
    x: Float[Array, "n h w k"], kernel: Float[Array, "3 3 k o"]
) -> Float[Array, "n h w o"]:
    # A JKO step is a loop, and in a loop XLA's convolutions on a CPU leave their fast path: they
    # were ten times slower than these products.
    return lax.platform_dependent(x, kernel, cpu=_by_products, default=_by_library)


def _by_library(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _by_products(x, kernel):
    """Convolves by three matrix products, one for each row of the kernel."""
    n, h, w, size = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    columns = jnp.concatenate([padded[:, :, shift : shift + w] for shift in range(3)], axis=-1)
    rows = [
        columns[:, shift : shift + h].reshape(-1, 3 * size) @ kernel[shift].reshape(3 * size, -1)
        for shift in range(3)
    ]
    return (rows[0] + rows[1] + rows[2]).reshape(n, h, w, -1)
