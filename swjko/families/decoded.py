"""Families of codes, seen through a decoder."""

from collections.abc import Callable

import jax
from jax.tree_util import Partial
from jaxtyping import Array

from swjko.families.base import Family, require_family
from swjko.families.pushforward import Mapped
from swjko.networks.autoencoder import Autoencoder
from swjko.types import Params, as_partial, validation


def decoded(
    family: Family, decode: Autoencoder | Callable[[Array], Array], params: Params = None
) -> Family:
    """Makes the family of decoded points from a family of codes; it has no density.

    Its params are those of ``family``.

    Args:
      family: Family of codes.
      decode: Function from codes [n k] to points [n d], with its weights bound by
        ``jax.tree_util.Partial``, or an autoencoder of ``swjko.autoencoder``.
      params: Parameters of the autoencoder; None for a function.

    Example::

        images = decoded(scheme.family, model, fit.params)
        rows = sample(images, solution.state.params, key, 100).points
        points = decoded(swjko.gaussian(8), Partial(decoder.apply, variables))
    """
    require_family(family)
    if isinstance(decode, Autoencoder):
        if family.dim != decode.latent_dim:
            raise ValueError(
                f"family must have dimension {decode.latent_dim}, that of the codes; "
                f"got {family.dim}."
            )
        return Mapped(family, Partial(_decode, decode, params), None, decode.dim)
    validation.require_callable(decode, "decode", "from codes [n k] to points [n d]")
    function = as_partial(decode)
    points = jax.eval_shape(function, jax.ShapeDtypeStruct((3, family.dim), float))
    shape = getattr(points, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 3:
        raise ValueError(
            f"`decode` must map codes of shape (3, {family.dim}) to points of shape (3, d); got "
            f"{type(points).__name__ if shape is None else shape}. Reshape them in the function."
        )
    return Mapped(family, function, None, shape[1])


def _decode(model, params, codes):
    return model.decode(params, codes)
