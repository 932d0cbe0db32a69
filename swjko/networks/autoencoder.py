"""A convolutional autoencoder of images, in flax.

rows [n h*w*c] in [0, 1] -> encode -> codes [n latent_dim] -> decode -> rows in [0, 1]

Codes are centred and divided by one common scale, so the codes of the rows of the fit have mean 0
and mean variance 1. They are not whitened. Random projections of a cloud without a preferred
direction are sums of many coordinates and nearly normal, so they show little but its covariance.
Unequal axes keep what is not Gaussian visible to sliced distances. ``swjko.autoencoder`` fits it.
"""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko.types import Key, Params, Scalar, static_field, validation


def autoencoder(
    shape: tuple[int, int, int], *, latent_dim: int = 48, width: int = 16, num_linear: int = 0
) -> "Autoencoder":
    """Makes a convolutional autoencoder of images.

    The encoder is two convolutions of stride 2 and a linear map to the code. The decoder is a
    linear map and two convolutions that each double the sides: channels become 2 x 2 blocks of
    pixels (Shi et al. 2016). That takes a quarter of the work of a convolution of the enlarged
    image, and there is no checkerboard from overlaps. Sizes that are not multiples of 4 are
    cropped from the next multiple.

    Args:
      shape: (height, width, channels) of the images, each at least 1.
      latent_dim: Dimension of the codes.
      width: Channels of the first convolution; the second has twice as many.
      num_linear: Number of square linear maps without bias at the encoder's end. Gradient descent
        then prefers codes of low rank, so codes vary along fewer axes (Jing, Zbontar, LeCun 2020).
        A flow of codes comes nearer to them, and more detail is lost. More updates recover detail.

    Example:
      ``model = swjko.autoencoder.autoencoder((28, 28, 1))``

    References:
      Bonet et al. (2022), arXiv 2110.10972: a bottleneck of 48.
      Shi et al. (2016), arXiv 1609.05158.
      Jing, Zbontar, LeCun (2020), arXiv 2010.00679.
    """
    if not isinstance(shape, tuple) or len(shape) != 3:
        raise ValueError(
            f"shape must be (height, width, channels), such as (28, 28, 1); got {shape!r}."
        )
    height, length, channels = (
        validation.as_count(size, f"shape[{axis}]") for axis, size in enumerate(shape)
    )
    shape = (height, length, channels)
    latent_dim = validation.as_count(latent_dim, "latent_dim")
    width = validation.as_count(width, "width")
    num_linear = validation.as_count(num_linear, "num_linear", minimum=0)

    def make(key: Key) -> tuple[nnx.Module, nnx.Module]:
        rngs = nnx.Rngs(key)
        encoder = _Encoder(shape, latent_dim, width, num_linear, rngs)
        return encoder, _Decoder(shape, latent_dim, width, rngs)

    shapes = nnx.eval_shape(lambda: make(jax.random.key(0)))
    encoder, decoder = (Partial(_apply, nnx.split(part)[0]) for part in shapes)

    def init(key: Key) -> Params:
        encoder, decoder = (nnx.to_pure_dict(nnx.split(part)[1]) for part in make(key))
        standardisation = {"center": jnp.zeros(latent_dim), "scale": jnp.ones(())}
        return {"encoder": encoder, "decoder": decoder} | standardisation

    return Autoencoder(Partial(init), encoder, decoder, shape, latent_dim)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """Made by ``autoencoder``.

    Params are {"encoder", "decoder", "center": [k], "scale": []}. The last two standardise what
    the encoder's network returns; they are 0 and 1 before the fit.

    Attributes:
      init: ``key -> params``.
      encoder: Network of the encoder.
      decoder: Network of the decoder.
      shape: (height, width, channels) of the images.
      latent_dim: Dimension k of the codes.
    """

    init: Partial
    encoder: Partial
    decoder: Partial
    shape: tuple[int, int, int] = static_field()
    latent_dim: int = static_field()

    @property
    def dim(self) -> int:
        """Length of a row, height * width * channels."""
        return math.prod(self.shape)

    def encode(self, params: Params, rows: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Returns the codes of rows in [0, 1]."""
        rows = self.as_rows(rows)
        codes = self.encoder(params["encoder"], rows.reshape(-1, *self.shape))
        return (codes - params["center"][None, :]) / params["scale"]

    def decode(self, params: Params, codes: Float[Array, "n k"]) -> Float[Array, "n d"]:
        """Returns rows in [0, 1]."""
        return jax.nn.sigmoid(self.logits(params, codes))

    def logits(self, params: Params, codes: Float[Array, "n k"]) -> Float[Array, "n d"]:
        """Returns log p / (1 - p) of the rows that ``decode`` returns."""
        codes = validation.as_points(codes, "codes")
        if codes.shape[1] != self.latent_dim:
            raise ValueError(
                f"codes must have shape [n {self.latent_dim}], as encode returns them; "
                f"got {codes.shape}."
            )
        raw = params["center"][None, :] + params["scale"] * codes
        return self.decoder(params["decoder"], raw).reshape(-1, self.dim)

    def loss(self, params: Params, rows: Float[Array, "n d"]) -> Scalar:
        """Returns the binary cross-entropy of ``decode(encode(rows))`` in nats per pixel."""
        logits = self.logits(params, self.encode(params, rows))
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, rows))

    def as_rows(self, rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Returns the rows, or raises ValueError if they do not hold images of this shape."""
        rows = validation.as_points(rows, "rows")
        if rows.shape[1] != self.dim:
            raise ValueError(
                f"rows must have shape [n {self.dim}], one image of shape {self.shape} in each "
                f"row; got {rows.shape}."
            )
        return rows


class _Encoder(nnx.Module):
    """Images to codes: two convolutions of stride 2, then linear maps."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        latent_dim: int,
        width: int,
        num_linear: int,
        rngs: nnx.Rngs,
    ):
        sizes = (shape[2], width, 2 * width)
        self.convolutions = nnx.List(
            [
                nnx.Linear(9 * before, after, rngs=rngs)
                for before, after in itertools.pairwise(sizes)
            ]
        )
        height, length = _quartered(shape)
        self.last = nnx.Linear(height * length * 2 * width, latent_dim, rngs=rngs)
        self.linear = nnx.List(
            [
                nnx.Linear(latent_dim, latent_dim, use_bias=False, rngs=rngs)
                for _ in range(num_linear)
            ]
        )

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n k"]:
        x = images
        for convolution in self.convolutions:
            x = nnx.silu(convolution(_patches(x, stride=2)))
        codes = self.last(x.reshape(x.shape[0], -1))
        for linear in self.linear:
            codes = linear(codes)
        return codes


class _Decoder(nnx.Module):
    """Codes to logits of pixels: a linear map, then two convolutions that double the sides."""

    def __init__(self, shape: tuple[int, int, int], latent_dim: int, width: int, rngs: nnx.Rngs):
        self.shape, self.width = shape, width
        height, length = _quartered(shape)
        self.first = nnx.Linear(latent_dim, height * length * 2 * width, rngs=rngs)
        self.middle = nnx.Linear(9 * 2 * width, 4 * width, rngs=rngs)
        self.last = nnx.Linear(9 * width, 4 * shape[2], rngs=rngs)

    def __call__(self, codes: Float[Array, "n k"]) -> Float[Array, "n h w c"]:
        x = nnx.silu(self.first(codes)).reshape(-1, *_quartered(self.shape), 2 * self.width)
        x = _doubled(nnx.silu(self.middle(_patches(x))))
        return _doubled(self.last(_patches(x)))[:, : self.shape[0], : self.shape[1]]


def _quartered(shape: tuple[int, int, int]) -> tuple[int, int]:
    return math.ceil(shape[0] / 4), math.ceil(shape[1] / 4)


def _patches(x: Float[Array, "n h w c"], stride: int = 1) -> Float[Array, "n h2 w2 c9"]:
    """Returns the zero-padded 3 x 3 neighbourhood of each pixel, or of each ``stride``-th one.

    A linear map of them is a convolution. On a CPU, XLA's own convolutions take several times as
    long inside a loop as outside, and a fit is a loop.
    """
    _, height, length, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [
        padded[:, i : i + height : stride, j : j + length : stride]
        for i in range(3)
        for j in range(3)
    ]
    return jnp.concatenate(shifted, axis=-1)


def _doubled(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c4"]:
    """Turns four channels of a pixel into a block of 2 x 2 pixels."""
    n, height, length, channels = x.shape
    x = x.reshape(n, height, length, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, 2 * height, 2 * length, channels // 4)


def _apply(graph, params, batch):
    return nnx.merge(graph, params)(batch)
