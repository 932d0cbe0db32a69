"""What all families of measures share.

key -> init -> params
key -> latent -> z
(params, z) -> push -> Cloud
(params, points) -> log_prob -> log-densities [n]

Pushing the same z with two sets of parameters gives two clouds that are coupled point by point.
``init`` starts at mu_0, so the first JKO step starts where the flow does.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from swjko.types import Cloud, Key, Params, as_partial, static_field, validation
from swjko.types.readable import Readable


class Family(Readable):
    """A parametrised set of measures on R^dim.

    ``Family(init, latent, push, log_prob, dim, has_density)`` makes one from functions. Data that
    they need belong in ``jax.tree_util.Partial``. ``pushforward`` makes one from a map.

    Attributes:
      init: ``key -> params`` of mu_0.
      latent: ``(key, num) -> z``, a batch of ``num`` latents.
      push: ``(params, z) -> Cloud`` of ``num`` points, with ``log_density`` if ``has_density``.
      log_prob: ``(params, points [n dim]) -> [n]``; None without a density at given points.
      push_with_score: ``(params, z) -> (Cloud, score [n dim])``, where score is the gradient of the
        log-density at the points; None if the family finds it by ``log_prob`` alone.
      dim: Dimension of the points.
      has_density: Whether pushed clouds have a log-density.
      is_finite: Whether a measure is finitely many points that ``latent`` enumerates. Clouds are
        then not samples of anything larger.
    """

    init: Callable[[Key], Params]
    latent: Callable[[Key, int], PyTree]
    push: Callable[[Params, PyTree], Cloud]
    log_prob: Any = None
    push_with_score: Any = None
    dim: int
    is_finite: bool = False

    def __new__(cls, *args: object, **kwargs: object) -> "Family":
        del args, kwargs
        return object.__new__(FunctionFamily if cls is Family else cls)

    # Not a property: the field of FunctionFamily could not be set over one.
    @functools.cached_property
    def has_density(self) -> bool:
        return self.log_prob is not None

    def draw(self, params: Params, key: Key, num: int) -> Cloud:
        """Draws ``num`` points of equal weight, unless the measure is finitely many points."""
        return self.push(params, self.latent(key, num))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FunctionFamily(Family):
    """A family made from functions, by ``Family(...)``."""

    init: Callable[..., Params]
    latent: Callable[..., PyTree]
    push: Callable[..., Cloud]
    log_prob: Callable[..., Array | None] | None = dataclasses.field()
    dim: int = static_field()
    has_density: bool = static_field()
    is_finite: bool = dataclasses.field(default=False, metadata={"static": True})

    def __post_init__(self):
        for name in ("init", "latent", "push", "log_prob"):
            function = getattr(self, name)
            owner = getattr(function, "__self__", None)
            if isinstance(owner, Family):  # so that the arrays of that family are leaves
                function = Partial(function.__func__, owner)
            if callable(function):
                object.__setattr__(self, name, as_partial(function))


def sample(family: Family, params: Params, key: Key, num: int) -> Cloud:
    """Draws a cloud of a family's measure.

    Args:
      family: Family of measures.
      params: Parameters of the measure.
      key: Random key.
      num: Number of points, at least 1.

    Returns:
      A cloud of points [num d], with ``log_density`` [num] if the family has a density.
    """
    require_family(family)
    return family.draw(params, key, validation.as_count(num, "num"))


def require_family(family: object) -> None:
    """Raises TypeError if ``family`` is not a family."""
    if not isinstance(family, Family):
        names = [base.__module__ for base in type(family).__mro__]
        model = validation.model_cure(family) or any(name.startswith("flax.nnx") for name in names)
        raise TypeError(
            f"`family` must be a swjko Family, such as swjko.gaussian(2); "
            f"got {type(family).__name__}."
            + (
                " Make a family of a model: swjko.flows.from_nnx, from_linen or from_equinox, "
                "or swjko.pushforward for haiku."
                if model
                else ""
            )
        )


def check_family(family: Family) -> None:
    """Raises ValueError if push or log_prob return a wrong shape. Only shapes are evaluated."""
    num = 3
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(family.init, key)
    cloud = jax.eval_shape(
        lambda params, key: family.push(params, family.latent(key, num)), params, key
    )
    if not isinstance(cloud, Cloud) or cloud.points.shape != (num, family.dim):
        got = cloud.points.shape if isinstance(cloud, Cloud) else type(cloud).__name__
        raise ValueError(
            f"the map of a family of dimension {family.dim} must send {num} latents to shape "
            f"{(num, family.dim)}; got {got}."
        )
    if family.log_prob is not None:
        log_prob = jax.eval_shape(family.log_prob, params, cloud.points)
        values = {"log_density of the pushed cloud": cloud.log_density, "log_prob": log_prob}
        for name, value in values.items():
            if value is None or value.shape != (num,):
                raise ValueError(
                    f"{name} must have one value for each of {num} points; "
                    f"got {value and value.shape}."
                )


def standard_normal_log_prob(z: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Returns the log-density of N(0, I) at each point."""
    return -0.5 * (jnp.sum(z**2, axis=-1) + z.shape[-1] * jnp.log(2 * jnp.pi))
