"""Bases of flows: laws of latents other than N(0, I), and families that are images of them.

A base is a family, whose params are learned with those of the map, or a fixed distribution, such
as the end of another flow.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from swjko.families.base import Family
from swjko.families.pushforward import Pushforward
from swjko.types import Cloud, Key, Leaf, Params, static_field, validation


@runtime_checkable
class Distribution(Protocol):
    """A fixed measure, such as ``solution.distribution``."""

    def sample(self, key: Key, num: int) -> Cloud:
        """Draws ``num`` points with their log-densities."""
        ...

    def log_prob(self, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Returns the log-density at points."""
        ...


def student_t(
    dim: int,
    *,
    init_mean: ArrayLike = 0.0,
    init_scale: ArrayLike = 1.0,
    init_degrees_of_freedom: ArrayLike = 10.0,
) -> "StudentT":
    """Makes the family of products of Student t laws, with degrees of freedom that are learned.

    Coordinate i is mean_i + scale_i t_i, where t_i has nu_i degrees of freedom. It is a base for
    targets with heavy tails: ``swjko.flows.coupling(dim, base=swjko.student_t(dim))``. Params are
    {"mean": [d], "log_scale": [d], "log_degrees_of_freedom": [d]}.

    Args:
      dim: Dimension, at least 1.
      init_mean: Location of mu_0, a number or one for each coordinate [d].
      init_scale: Scale of mu_0, a number or one for each coordinate [d]; not its deviation, which
        is infinite for nu <= 2.
      init_degrees_of_freedom: nu of mu_0, positive, a number or one for each coordinate [d].

    References:
      Bailey (1994), doi 10.2307/2153537: the polar method by which points depend on nu.
    """
    dim = validation.as_count(dim, "dim")
    mean, scale = validation.as_start(dim, init_mean, init_scale)
    degrees = jnp.broadcast_to(jnp.asarray(init_degrees_of_freedom, float), (dim,))
    degrees = validation.as_positive(degrees, "init_degrees_of_freedom", shape=None)
    return StudentT(mean, scale, degrees, dim)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StudentT(Family):
    """Made by ``student_t``. init_mean, init_scale and init_degrees_of_freedom are leaves [d]."""

    init_mean: Leaf
    init_scale: Leaf
    init_degrees_of_freedom: Leaf
    dim: int = static_field()

    def init(self, key: Key) -> Params:
        del key
        return {
            "mean": self.init_mean,
            "log_scale": jnp.log(self.init_scale),
            "log_degrees_of_freedom": jnp.log(self.init_degrees_of_freedom),
        }

    def latent(self, key: Key, num: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        radius_key, angle_key = jax.random.split(key)
        shape, dtype = (num, self.dim), self.init_mean.dtype
        # -log u of a uniform u, and the cosine of a uniform angle.
        angle = jax.random.uniform(angle_key, shape, dtype, 0.0, 2 * jnp.pi)
        return jax.random.exponential(radius_key, shape, dtype), jnp.cos(angle)

    def push(self, params: Params, z: tuple[Float[Array, "n d"], Float[Array, "n d"]]) -> Cloud:
        exponential, cosine = z
        degrees = jnp.exp(params["log_degrees_of_freedom"])[None, :]
        standard = jnp.sqrt(degrees * jnp.expm1(2 * exponential / degrees)) * cosine
        points = params["mean"][None, :] + jnp.exp(params["log_scale"])[None, :] * standard
        return Cloud(points, None, self.log_prob(params, points))

    def log_prob(self, params: Params, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        log_degrees = params["log_degrees_of_freedom"]
        degrees = jnp.exp(log_degrees)
        standard = (points - params["mean"][None, :]) * jnp.exp(-params["log_scale"])[None, :]
        tails = (degrees[None, :] + 1) / 2 * jnp.log1p(standard**2 / degrees[None, :])
        constant = gammaln((degrees + 1) / 2) - gammaln(degrees / 2)
        constant -= 0.5 * (log_degrees + jnp.log(jnp.pi)) + params["log_scale"]
        return jnp.sum(constant) - jnp.sum(tails, axis=1)


def with_base(family: Pushforward, base: Family | Distribution | None) -> Family:
    """Returns the images of a base under the maps of a family; the family itself for None.

    Args:
      family: Family of images of N(0, I).
      base: Family of the latents, whose params are learned too, or a fixed distribution.

    Raises:
      ValueError: If the base has another dimension.
    """
    if base is None:
        return family
    law = base if isinstance(base, Family) else _fixed(base, family.latent_dim)
    if law.dim != family.latent_dim:
        raise ValueError(
            f"base must have the dimension of the latents, {family.latent_dim}; got {law.dim}."
        )
    return Composed(family, law, family.dim)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Composed(Family):
    """The images of a base under the maps of a family. Params are {"base": ..., "map": ...}.

    Attributes:
      map: Family of images of N(0, I). Only its maps are used.
      base: Family of the latents.
      dim: Dimension of the images.
    """

    map: Pushforward
    base: Family
    dim: int = static_field()

    @property
    def has_density(self) -> bool:
        return self.map.inverse is not None and self.base.has_density

    def init(self, key: Key) -> Params:
        base_key, map_key = jax.random.split(key)
        return {"base": self.base.init(base_key), "map": self.map.init(map_key)}

    def latent(self, key: Key, num: int) -> Any:
        return self.base.latent(key, num)

    def push(self, params: Params, z: Any) -> Cloud:
        return self._image(params, self.base.push(params["base"], z))

    def draw(self, params: Params, key: Key, num: int) -> Cloud:
        return self._image(params, self.base.draw(params["base"], key, num))

    def _image(self, params: Params, cloud: Cloud) -> Cloud:
        if self.map.inverse is None:
            return Cloud(self.map.transform(params["map"], cloud.points), cloud.weights)
        points, log_det = self.map.transform(params["map"], cloud.points)
        density = cloud.log_density
        return Cloud(points, cloud.weights, None if density is None else density - log_det)

    @property
    def push_with_score(self) -> Partial | None:
        if self.map.transform_with_score is None or self.base.log_prob is None:
            return None
        return Partial(self._push_with_score, self.base, self.map.transform_with_score)

    @staticmethod
    def _push_with_score(
        base: Family, transform: Partial, params: Params, z: Any
    ) -> tuple[Cloud, Float[Array, "n d"]]:
        if base.push_with_score is None:
            cloud = base.push(params["base"], z)
            score = jax.grad(lambda x: jnp.sum(base.log_prob(params["base"], x)))(cloud.points)
        else:
            cloud, score = base.push_with_score(params["base"], z)
        points, log_det, score = transform(params["map"], cloud.points, score)
        return Cloud(points, cloud.weights, cloud.log_density - log_det), score

    @property
    def log_prob(self) -> Partial | None:
        if self.map.inverse is None or self.base.log_prob is None:
            return None
        return Partial(self._log_prob, self.base, self.map.inverse)

    @staticmethod
    def _log_prob(
        base: Family, inverse: Partial, params: Params, points: Float[Array, "n d"]
    ) -> Float[Array, " n"]:
        latents, log_det = inverse(params["map"], points)
        return base.log_prob(params["base"], latents) + log_det


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fixed(Family):
    """One measure as a family without params. A latent is a draw of it."""

    distribution: Leaf
    dim: int = static_field()

    def init(self, key: Key) -> Params:
        del key
        return {}

    def latent(self, key: Key, num: int) -> Cloud:
        return self.distribution.sample(key, num)

    def push(self, params: Params, z: Cloud) -> Cloud:
        del params
        return z

    def log_prob(self, params: Params, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        del params
        return self.distribution.log_prob(points)


def _fixed(base: object, dim: int) -> Fixed:
    if not isinstance(base, Distribution):
        raise TypeError(
            "base must be a family or a distribution with sample(key, num) -> Cloud and "
            f"log_prob(points); got {type(base).__name__}. Use one such as swjko.student_t({dim}) "
            "or solution.distribution."
        )
    key = jax.eval_shape(lambda: jax.random.key(0))
    cloud = jax.eval_shape(lambda key: base.sample(key, 2), key)
    return Fixed(base, cloud.points.shape[1])
