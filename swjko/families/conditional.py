"""Conditional flows: one network for the laws of x given a context c, for all c at once.

The family's measures are the laws of pairs (x, c), where c is a row of given contexts and
x = f(z, c) with z ~ N(0, I). Functionals of pairs, such as ``forward_kl`` of simulated pairs, then
fit all conditional laws together (amortised inference), and ``given`` returns one of them.
"""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from swjko.families.adapters import standardised
from swjko.families.base import Family, standard_normal_log_prob
from swjko.networks.coupling import Affine, CouplingFlow, RationalQuadratic
from swjko.types import Cloud, Key, Leaf, Params, static_field, validation
from swjko.types.readable import Readable

# End of the interval of splines, in starting standard deviations.
_BOUND = 4.0


def conditional(
    dim: int,
    contexts: Float[Array, "m k"],
    *,
    kind: str = "spline",
    num_layers: int = 6,
    width: int = 64,
    num_bins: int = 8,
    init_mean: ArrayLike = 0.0,
    init_scale: ArrayLike = 1.0,
) -> "Conditional":
    """Makes the family of laws of pairs (x, c) whose x given c comes from one conditional flow.

    Points of the family are pairs [n dim + k], x first. Their log-density is that of x given c,
    with respect to the law of the contexts. The flow starts at x ~ N(init_mean, init_scale^2 I)
    for every c.

    Args:
      dim: Dimension of x.
      contexts: Contexts [m k] whose rows are drawn with equal weight. Conditioners see them
        standardised.
      kind: "spline" or "coupling", the couplings between halves of x.
      num_layers: Number of couplings.
      width: Hidden units of each conditioner, which reads half of x and c.
      num_bins: Bins of each spline.
      init_mean: Mean of x at the start, a number or one for each coordinate.
      init_scale: Standard deviation of x at the start, a number or one for each coordinate.

    Example::

        family = flows.conditional(2, data)  # data [m k] simulated from parameters [m 2]
        energy = swjko.forward_kl(jnp.concatenate([parameters, data], axis=1))
        scheme = swjko.direct_minimization(family, energy, optax.adam(1e-3), ...)
        posterior = family.given(solution.state.params, observed)
        cloud = posterior.sample(key, 1000)

    References:
      Papamakarios and Murray (2016), arXiv 1605.06376, on the posterior of simulators.
    """
    dim = validation.as_count(dim, "dim")
    contexts = validation.as_points(contexts, "contexts")
    k = contexts.shape[1]
    mean, scale = validation.as_start(dim, init_mean, init_scale)
    num_layers = validation.as_count(num_layers, "num_layers")
    width = validation.as_count(width, "width")
    if validation.as_choice(kind, "kind", ("spline", "coupling")) == "spline":
        importlib.import_module("distrax")  # a missing one is found before anything is traced
        bins = validation.as_count(num_bins, "num_bins", minimum=2)
        bijection = RationalQuadratic(bins, _BOUND)
    else:
        bijection = Affine()
    joint = standardised(
        functools.partial(CouplingFlow, dim + k, num_layers, width, bijection, num_fixed=k),
        dim + k,
        jnp.concatenate([mean, jnp.zeros(k, mean.dtype)]),
        jnp.concatenate([scale, jnp.ones(k, scale.dtype)]),
    )
    deviation = jnp.std(contexts, axis=0)
    deviation = jnp.where(deviation > 0, deviation, 1.0)
    return Conditional(joint, contexts, jnp.mean(contexts, axis=0), deviation, dim + k)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conditional(Family):
    """Made by ``conditional``. contexts, shift and scale are leaves.

    Attributes:
      joint: Images of (z, c) for standard normal z and c, which leave c as it is.
      contexts: Contexts [m k].
      shift: Mean [k] of the contexts.
      scale: Standard deviation [k] of the contexts.
      dim: Dimension of the pairs.
    """

    joint: Family
    contexts: Leaf
    shift: Leaf
    scale: Leaf
    dim: int = static_field()

    @property
    def num_moved(self) -> int:
        """Dimension of x."""
        return self.dim - self.contexts.shape[1]

    def init(self, key: Key) -> Params:
        return self.joint.init(key)

    def latent(self, key: Key, num: int) -> tuple[Float[Array, "n d"], Float[Array, "n k"]]:
        noise_key, row_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (num,), 0, len(self.contexts))
        return self.noise(noise_key, num), self.contexts[rows]

    def noise(self, key: Key, num: int) -> Float[Array, "n d"]:
        """Draws the latents of x."""
        return jax.random.normal(key, (num, self.num_moved), self.contexts.dtype)

    def push(self, params: Params, z: tuple[Float[Array, "n d"], Float[Array, "n k"]]) -> Cloud:
        noise, contexts = z
        standard = self._standardised(contexts)
        cloud = self.joint.push(params, jnp.concatenate([noise, standard], axis=1))
        points = jnp.concatenate([cloud.points[:, : self.num_moved], contexts], axis=1)
        log_density = jnp.asarray(cloud.log_density) - standard_normal_log_prob(standard)
        return Cloud(points, None, log_density)

    def log_prob(self, params: Params, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        if points.shape[1] != self.dim:
            raise ValueError(
                f"`points` must be pairs (x, context) of {self.num_moved} and "
                f"{self.dim - self.num_moved} coordinates; got {points.shape[1]} in all. "
                "Put the context after x, as in jnp.concatenate([x, contexts], axis=1)."
            )
        x, contexts = points[:, : self.num_moved], points[:, self.num_moved :]
        standard = self._standardised(contexts)
        joint = self.joint.log_prob(params, jnp.concatenate([x, standard], axis=1))
        return joint - standard_normal_log_prob(standard)

    def _standardised(self, contexts: Float[Array, "n k"]) -> Float[Array, "n k"]:
        return (contexts - self.shift[None, :]) / self.scale[None, :]

    def given(self, params: Params, context: Float[Array, " k"]) -> "Given":
        """Returns the law of x given one context, a distribution.

        Args:
          params: Parameters of the family, such as ``solution.state.params``.
          context: Context [k].

        Raises:
          ValueError: If the context has another length.
        """
        context = validation.as_values(context, "context")
        k = self.contexts.shape[1]
        if context.shape != (k,):
            raise ValueError(
                f"context must have the length of the contexts, {k}; got {len(context)}. "
                "Pass one context, and vmap over more."
            )
        return Given(self, params, context)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Given(Readable):
    """The law of x given a context, made by ``Conditional.given``. It is a pytree."""

    family: Conditional
    params: Leaf
    context: Leaf

    @property
    def dim(self) -> int:
        """Dimension of x."""
        return self.family.num_moved

    def sample(self, key: Key, num: int) -> Cloud:
        """Draws ``num`` points x with their log-densities.

        Args:
          key: Random key.
          num: Number of points, at least 1.
        """
        noise = self.family.noise(key, validation.as_count(num, "num"))
        cloud = self.family.push(self.params, (noise, self._contexts(num)))
        return cloud._replace(points=cloud.points[:, : self.dim])

    def log_prob(self, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Returns the log-density of x given the context.

        Args:
          points: Points x [n d].
        """
        points = validation.as_points(points, "points")
        if points.shape[1] != self.dim:
            raise ValueError(
                f"`points` must have the {self.dim} coordinates of x; got {points.shape[1]}. "
                "Leave out the context."
            )
        contexts = self._contexts(len(points))
        return self.family.log_prob(self.params, jnp.concatenate([points, contexts], axis=1))

    def _contexts(self, num: int) -> Float[Array, "n k"]:
        return jnp.broadcast_to(self.context[None, :], (num, len(self.context)))
