"""Families that are images: of N(0, I) under a map with parameters, of a family under a map."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from swjko.families.base import Family, check_family, standard_normal_log_prob
from swjko.types import Cloud, Key, Params, as_partial, static_field, validation


def pushforward(
    init: Callable[[Key], Params],
    transform: Callable[[Params, Array], Array | tuple[Array, Array]],
    *,
    dim: int,
    inverse: Callable[[Params, Array], tuple[Array, Array]] | None = None,
    latent_dim: int | None = None,
) -> "Pushforward":
    """Makes the family of images of N(0, I) under a map of yours.

    The shapes of what the functions return are checked here, without computing anything.

    Args:
      init: ``key -> params``, any pytree of float arrays. mu_0 is the image under these.
      transform: ``(params, z [n latent_dim]) -> points [n dim]``. With ``inverse`` it must return
        ``(points, log_det [n])``, where log_det = log |det d points / d z|.
      dim: Dimension of the points.
      inverse: ``(params, points [n dim]) -> (z [n dim], log_det [n])``, where
        log_det = log |det d z / d points|. The family then has a density.
      latent_dim: Dimension of z; None means ``dim``. A density needs latent_dim == dim.
    """
    dim = validation.as_count(dim, "dim")
    latent_dim = dim if latent_dim is None else validation.as_count(latent_dim, "latent_dim")
    validation.require_callable(init, "init", "from a key to params")
    validation.require_callable(transform, "transform", "from (params, z) to points")
    if inverse is not None:
        validation.require_callable(inverse, "inverse", "from (params, points) to (z, log_det)")
        inverse = as_partial(inverse)
        if latent_dim != dim:
            raise ValueError(
                f"`latent_dim` must be dim = {dim} for a pushforward with an inverse; "
                f"got {latent_dim}."
            )
    dtype = jnp.zeros(()).dtype
    family = Pushforward(as_partial(init), as_partial(transform), inverse, dim, latent_dim, dtype)
    check_family(family)
    return family


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pushforward(Family):
    """Made by ``pushforward``. The data bound to the functions are leaves.

    ``transform_with_score`` is ``(params, points, score) -> (images, log_det, score of images)``,
    or None.
    """

    init: Partial = dataclasses.field(repr=False)
    transform: Partial = dataclasses.field()
    inverse: Partial | None = dataclasses.field()
    dim: int = static_field()
    latent_dim: int = static_field()
    dtype: DTypeLike = static_field(repr=False)
    transform_with_score: Partial | None = dataclasses.field(default=None, repr=False)

    def latent(self, key: Key, num: int) -> Float[Array, "n d"]:
        return jax.random.normal(key, (num, self.latent_dim), self.dtype)

    def push(self, params: Params, z: Float[Array, "n d"]) -> Cloud:
        if self.inverse is None:
            return Cloud(self.transform(params, z))
        points, log_det = _with_log_det(self.transform(params, z), z, "transform")
        return Cloud(points, None, standard_normal_log_prob(z) - log_det)

    @property
    def push_with_score(self) -> Partial | None:
        if self.inverse is None or self.transform_with_score is None:
            return None
        return Partial(self._push_with_score, self.transform_with_score)

    @staticmethod
    def _push_with_score(
        transform: Partial, params: Params, z: Float[Array, "n d"]
    ) -> tuple[Cloud, Float[Array, "n d"]]:
        points, log_det, score = transform(params, z, -z)
        return Cloud(points, None, standard_normal_log_prob(z) - log_det), score

    @property
    def log_prob(self) -> Partial | None:
        return None if self.inverse is None else Partial(self._log_prob, self.inverse)

    @staticmethod
    def _log_prob(
        inverse: Partial, params: Params, points: Float[Array, "n d"]
    ) -> Float[Array, " n"]:
        z, log_det = _with_log_det(inverse(params, points), points, "inverse")
        return standard_normal_log_prob(z) + log_det


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mapped(Family):
    """The images of a family's measures under a fixed map of points.

    Params and latents are those of ``base``.

    Attributes:
      base: Family of the points that are mapped.
      forward: ``points [n d] -> (images [n dim], log_det)``, where log_det, [n] or a number, is
        log |det d image / d point|. Without ``inverse`` it returns the images alone.
      inverse: ``images -> (points, log_det)``, where log_det = log |det d point / d image|; None
        means that the images have no density.
      dim: Dimension of the images.
    """

    base: Family
    forward: Partial
    inverse: Partial | None
    dim: int = static_field()

    @property
    def is_finite(self) -> bool:
        return self.base.is_finite

    @property
    def has_density(self) -> bool:
        return self.inverse is not None and self.base.has_density

    def init(self, key: Key) -> Params:
        return self.base.init(key)

    def latent(self, key: Key, num: int):
        return self.base.latent(key, num)

    def push(self, params: Params, z) -> Cloud:
        return self._image(self.base.push(params, z))

    def draw(self, params: Params, key: Key, num: int) -> Cloud:
        return self._image(self.base.draw(params, key, num))

    def _image(self, cloud: Cloud) -> Cloud:
        if self.inverse is None:
            return Cloud(self.forward(cloud.points), cloud.weights)
        images, log_det = self.forward(cloud.points)
        density = cloud.log_density
        return Cloud(images, cloud.weights, None if density is None else density - log_det)

    @property
    def push_with_score(self) -> Partial | None:
        if self.inverse is None or self.base.push_with_score is None:
            return None
        return Partial(self._push_with_score, self.base, self.forward, self.inverse)

    @staticmethod
    def _push_with_score(
        base: Family, forward: Partial, inverse: Partial, params: Params, z
    ) -> tuple[Cloud, Float[Array, "n d"]]:
        cloud, score = base.push_with_score(params, z)
        images, log_det = forward(cloud.points)
        # log rho(image) = log rho_base(inverse(image)) + log_det of the inverse.
        (_, inverse_log_det), pull = jax.vjp(inverse, images)
        (score,) = pull((score, jnp.ones_like(inverse_log_det)))
        return Cloud(images, cloud.weights, cloud.log_density - log_det), score

    @property
    def log_prob(self) -> Partial | None:
        if self.inverse is None or self.base.log_prob is None:
            return None
        return Partial(self._log_prob, self.base, self.inverse)

    @staticmethod
    def _log_prob(
        base: Family, inverse: Partial, params: Params, points: Float[Array, "n d"]
    ) -> Float[Array, " n"]:
        images, log_det = inverse(points)
        return base.log_prob(params, images) + log_det


def _with_log_det(
    result: object, batch: Float[Array, "n d"], name: str
) -> tuple[Array, Float[Array, " n"]]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"`{name}` of a pushforward with a density must return a pair, its image and log_det; "
            f"got {type(result).__name__}."
        )
    image, log_det = result
    if jnp.shape(log_det) != batch.shape[:1]:
        raise ValueError(
            f"`{name}` must return log_det with one value for each point, shape "
            f"{batch.shape[:1]}; got shape {jnp.shape(log_det)}."
        )
    return image, log_det
