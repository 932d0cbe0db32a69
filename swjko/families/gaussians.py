"""Gaussians, and mixtures of Gaussians."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from swjko.families.base import Family, standard_normal_log_prob
from swjko.linalg import inverse_of_lower_triangular
from swjko.types import Cloud, Key, Leaf, Params, static_field, validation


def gaussian(dim: int, *, init_mean: ArrayLike = 0.0, init_scale: ArrayLike = 1.0) -> "Gaussian":
    """Makes the family of all Gaussians N(mean, F F^T).

    x = mean + F z with z ~ N(0, I), F lower triangular with a positive diagonal. Params are
    {"mean": [d], "log_diagonal": [d], "lower": [d d]}, of which the strictly lower part is used.
    The family starts at mu_0 = N(init_mean, init_scale^2 I).

    Args:
      dim: Dimension, at least 1.
      init_mean: Mean of mu_0, a number or one for each coordinate [d].
      init_scale: Standard deviation of mu_0, a number or one for each coordinate [d].
    """
    dim = validation.as_count(dim, "dim")
    return Gaussian(*validation.as_start(dim, init_mean, init_scale), dim)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gaussian(Family):
    """Made by ``gaussian``. init_mean and init_scale are leaves [d]."""

    init_mean: Leaf
    init_scale: Leaf
    dim: int = static_field()

    def init(self, key: Key) -> Params:
        del key
        return {
            "mean": self.init_mean,
            "log_diagonal": jnp.log(self.init_scale),
            "lower": jnp.zeros((self.dim, self.dim), self.init_mean.dtype),
        }

    def latent(self, key: Key, num: int) -> Float[Array, "n d"]:
        return jax.random.normal(key, (num, self.dim), self.init_mean.dtype)

    def push(self, params: Params, z: Float[Array, "n d"]) -> Cloud:
        points = params["mean"][None, :] + z @ _factor(params).T
        return Cloud(points, None, standard_normal_log_prob(z) - jnp.sum(params["log_diagonal"]))

    def log_prob(self, params: Params, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        z = (points - params["mean"][None, :]) @ inverse_of_lower_triangular(_factor(params)).T
        return standard_normal_log_prob(z) - jnp.sum(params["log_diagonal"])


def gaussian_moments(params: Params) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """Returns the mean [d] and the covariance [d d] of the ``gaussian`` family.

    Args:
      params: Params of that family.
    """
    if not isinstance(params, dict) or not {"mean", "log_diagonal", "lower"} <= set(params):
        raise TypeError(
            "params must be those of the gaussian family, with mean, log_diagonal and lower; "
            f"got {type(params).__name__}. Use solution.state.params."
        )
    factor = _factor(params)
    return params["mean"], factor @ factor.T


def gaussian_mixture(
    dim: int,
    num_components: int = 32,
    *,
    learned_weights: bool = False,
    init_mean: ArrayLike = 0.0,
    init_scale: ArrayLike = 1.0,
) -> "GaussianMixture":
    """Makes the family of mixtures of Gaussians, with equal or learned weights.

    log rho = logsumexp_k (log pi_k + log N(mean_k, F_k F_k^T)), with pi_k = 1 / num_components or
    softmax(logits). Each component has a mean and a covariance of its own. A batch of latents holds
    the components in equal numbers, in a random order; if they do not divide the batch, the rest
    are random. With learned weights the points of a pushed cloud carry pi, so that functionals and
    distances have gradients in it; ``swjko.sample`` draws points of equal weight. Separated modes
    are easy for this family and hard for networks.

    Params are those of ``gaussian`` with a leading axis of components, and "logits" [k] if weights
    are learned. Equal components would
    stay equal. So centres are drawn from N(init_mean, init_scale^2 I / 2), and each component has
    the other half of the variance around its centre. mu_0 is thus N(init_mean, init_scale^2 I) on
    average over keys and for many components, not exactly.

    Args:
      dim: Dimension, at least 1.
      num_components: Number of Gaussians.
      learned_weights: Whether weights are params. Otherwise they stay 1 / num_components, and the
        weight of a mode is the share of the components that are there.
      init_mean: Mean of mu_0, a number or one for each coordinate [d].
      init_scale: Standard deviation of mu_0, a number or one for each coordinate [d].

    References:
      Lambert, Chewi, Bach, Bonnabel, Rigollet (2022), arXiv 2205.15902.
    """
    dim = validation.as_count(dim, "dim")
    num_components = validation.as_count(num_components, "num_components")
    start = validation.as_start(dim, init_mean, init_scale)
    return GaussianMixture(*start, dim, num_components, bool(learned_weights))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianMixture(Family):
    """Made by ``gaussian_mixture``. init_mean and init_scale are leaves [d]."""

    init_mean: Leaf
    init_scale: Leaf
    dim: int = static_field()
    num_components: int = static_field()
    learned_weights: bool = static_field()

    def init(self, key: Key) -> Params:
        shape, dtype = (self.num_components, self.dim), self.init_mean.dtype
        noise = jax.random.normal(key, shape, dtype)
        logits = {"logits": jnp.zeros(shape[0], dtype)} if self.learned_weights else {}
        return logits | {
            "mean": self.init_mean[None, :] + self.init_scale[None, :] * noise / jnp.sqrt(2.0),
            "log_diagonal": jnp.broadcast_to(jnp.log(self.init_scale) - jnp.log(2.0) / 2, shape),
            "lower": jnp.zeros((*shape, self.dim), dtype),
        }

    def latent(self, key: Key, num: int) -> tuple[Int[Array, " n"], Float[Array, "n d"]]:
        component_key, noise_key = jax.random.split(key)
        components = jax.random.permutation(component_key, self.num_components)
        noise = jax.random.normal(noise_key, (num, self.dim), self.init_mean.dtype)
        return components[jnp.arange(num) % self.num_components], noise

    def push(self, params: Params, z: tuple[Int[Array, " n"], Float[Array, "n d"]]) -> Cloud:
        component, noise = z
        cloud = self._cloud(params, component, noise)
        if not self.learned_weights:
            return cloud
        weights = jnp.exp(self._log_weights(params))[component]
        return cloud._replace(weights=weights / jnp.sum(weights))

    def draw(self, params: Params, key: Key, num: int) -> Cloud:
        if not self.learned_weights:
            return self.push(params, self.latent(key, num))
        order_key, level_key, noise_key = jax.random.split(key, 3)
        # One level in each of ``num`` equal parts of [0, 1], in a random order.
        order = jax.random.permutation(order_key, num)
        levels = jax.random.uniform(level_key, (num,))
        levels += order.astype(levels.dtype)
        passed = jnp.cumsum(jnp.exp(self._log_weights(params)))
        component = jnp.searchsorted(passed, levels / num * passed[-1], side="right")
        component = jnp.minimum(component, self.num_components - 1)
        noise = jax.random.normal(noise_key, (num, self.dim), self.init_mean.dtype)
        return self._cloud(params, component, noise)

    def _cloud(
        self, params: Params, component: Int[Array, " n"], noise: Float[Array, "n d"]
    ) -> Cloud:
        factors = jax.vmap(_factor)(params)
        shifts = jnp.einsum("nij,nj->ni", factors[component], noise)
        points = params["mean"][component] + shifts
        # A point does not hold the digits of its noise if its component is very narrow.
        own = standard_normal_log_prob(noise) - jnp.sum(params["log_diagonal"], axis=1)[component]
        is_own = component[:, None] == jnp.arange(self.num_components)[None, :]
        log_probs = jnp.where(is_own, own[:, None], self._of_components(params, points))
        return Cloud(points, None, self._of_mixture(params, log_probs))

    def log_prob(self, params: Params, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        return self._of_mixture(params, self._of_components(params, points))

    def _of_components(self, params: Params, points: Float[Array, "n d"]) -> Float[Array, "n k"]:
        components = Gaussian(self.init_mean, self.init_scale, self.dim)
        return jax.vmap(components.log_prob, in_axes=(0, None), out_axes=1)(params, points)

    def _of_mixture(self, params: Params, log_probs: Float[Array, "n k"]) -> Float[Array, " n"]:
        return jax.nn.logsumexp(log_probs + self._log_weights(params)[None, :], axis=1)

    def _log_weights(self, params: Params) -> Float[Array, " k"]:
        if self.learned_weights:
            return jax.nn.log_softmax(params["logits"])
        equal = -jnp.log(float(self.num_components))
        return jnp.full(self.num_components, equal, params["mean"].dtype)


def _factor(params: Params) -> Float[Array, "d d"]:
    return jnp.tril(params["lower"], -1) + jnp.diag(jnp.exp(params["log_diagonal"]))
