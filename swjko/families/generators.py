"""Images of Gaussian noise under networks, without a density."""

import functools

import jax
from jax.tree_util import Partial
from jax.typing import ArrayLike

from swjko.families.adapters import standardised
from swjko.families.base import Family
from swjko.families.bases import Distribution
from swjko.families.pushforward import Mapped
from swjko.networks.convolutional import ConvolutionalGenerator
from swjko.networks.perceptron import Perceptron
from swjko.types import validation


def mlp(
    latent_dim: int,
    dim: int,
    *,
    width: int = 64,
    num_layers: int = 3,
    init_mean: ArrayLike = 0.0,
    init_scale: ArrayLike = 1.0,
    base: Family | Distribution | None = None,
) -> Family:
    """Makes the family of images of N(0, I_latent_dim) under a perceptron; no density.

    If latent_dim == dim, the map is x = init_mean + init_scale (z + net(z)) with a zero last
    layer, so it starts at N(init_mean, init_scale^2 I). Otherwise it starts at a random network;
    fit it first if the flow is to start elsewhere.

    Args:
      latent_dim: Dimension of the latents.
      dim: Dimension of the points.
      width: Hidden units.
      num_layers: Hidden layers.
      init_mean: Mean of mu_0, a number or one for each coordinate.
      init_scale: Standard deviation of mu_0, a number or one for each coordinate.
      base: Law of the latents in place of N(0, I), as for ``swjko.flows.coupling``. Such as a
        mixture, from which a perceptron reaches modes that are far apart.
    """
    latent_dim = validation.as_count(latent_dim, "latent_dim")
    dim = validation.as_count(dim, "dim")
    num_layers = validation.as_count(num_layers, "num_layers")
    width = validation.as_count(width, "width")
    return standardised(
        functools.partial(Perceptron, latent_dim, dim, width, num_layers),
        dim,
        init_mean,
        init_scale,
        latent_dim,
        base,
    )


def convolutional(
    latent_dim: int,
    shape: tuple[int, int, int],
    *,
    width: int = 32,
    output: str = "linear",
    init_mean: ArrayLike = 0.0,
    init_scale: ArrayLike = 1.0,
    base: Family | Distribution | None = None,
) -> Family:
    """Makes the images of N(0, I_latent_dim) under a convolutional generator; no density.

    A linear map takes the latent to a grid of a quarter of the height and width. The grid is
    doubled twice by nearest neighbours, each time with a 3 x 3 convolution, group normalisation
    and silu. A last convolution gives the image, cropped to its height and width.

    mu_0 is not N(init_mean, init_scale^2 I). It is the image of the latents under a random
    network, around a surface of ``latent_dim`` dimensions, and neighbouring pixels are correlated.
    Before the sigmoid, pixels have mean about init_mean and a standard deviation of the order of
    init_scale. Fit the family first (``swjko.families``) if the flow is to start elsewhere.

    Args:
      latent_dim: Dimension of the latents. Points have dimension h w c, as the rows of
        ``swjko.images.Images.rows``.
      shape: (height, width, channels) of an image.
      width: Channels after the first doubling. The grid has twice as many, and the last layer half
        as many.
      output: "linear" for x = init_mean + init_scale net(z), or "sigmoid" for the logistic
        function of that, with pixels in (0, 1).
      init_mean: A number or one for each pixel.
      init_scale: A number or one for each pixel.
      base: Law of the latents in place of N(0, I), as for ``swjko.flows.coupling``.

    Example:
      ``convolutional(32, (28, 28, 1), output="sigmoid", init_mean=-2.0)`` starts at dark images.
    """
    latent_dim = validation.as_count(latent_dim, "latent_dim")
    width = validation.as_count(width, "width")
    if not isinstance(shape, (tuple, list)) or len(shape) != 3:
        raise ValueError(
            "shape must be (height, width, channels) of an image, such as (28, 28, 1); "
            f"got {shape!r}."
        )
    sides = zip(shape, ("height", "width", "channels"), strict=True)
    h, w, c = (
        validation.as_count(size, f"shape[{axis}] ({side})")
        for axis, (size, side) in enumerate(sides)
    )
    squashed = validation.as_choice(output, "output", ("linear", "sigmoid")) == "sigmoid"
    family = standardised(
        functools.partial(ConvolutionalGenerator, latent_dim, (h, w, c), width),
        h * w * c,
        init_mean,
        init_scale,
        latent_dim,
        base,
    )
    return Mapped(family, Partial(jax.nn.sigmoid), None, family.dim) if squashed else family
