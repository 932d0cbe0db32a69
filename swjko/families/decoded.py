"""Families of codes, seen through the decoder of an autoencoder."""

from jax.tree_util import Partial

from swjko.families.base import Family, require_family
from swjko.families.pushforward import Mapped
from swjko.networks.autoencoder import Autoencoder
from swjko.types import Params


def decoded(family: Family, model: Autoencoder, params: Params) -> Family:
    """Makes the family of decoded images from a family of codes; it has no density.

    Its params are those of ``family``.

    Args:
      family: Family of codes, of dimension latent_dim.
      model: Autoencoder of the images.
      params: Parameters of the autoencoder.

    Example::

        images = decoded(scheme.family, model, fit.params)
        rows = sample(images, solution.state.params, key, 100).points
    """
    require_family(family)
    if family.dim != model.latent_dim:
        raise ValueError(
            f"family must have dimension {model.latent_dim}, that of the codes; got {family.dim}."
        )
    return Mapped(family, Partial(_decode, model, params), None, model.dim)


def _decode(model, params, codes):
    return model.decode(params, codes)
