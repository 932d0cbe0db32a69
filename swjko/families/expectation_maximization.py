"""Fits of Gaussians and their mixtures to weighted points, in closed form.

A step of expectation-maximisation raises sum_i w_i log q(x_i) and has no learning rate. The prior
of a component is the component before the fit. It counts as nu points for the covariance and as
kappa points for the mean:

    mean'_k = (sum_i r_ki x_i + kappa mean_k) / (n_k + kappa)
    cov'_k = (sum_i r_ki (x_i - mean'_k)(x_i - mean'_k)^T + kappa m m^T + nu cov_k) / (n_k + nu)

with m = mean_k - mean'_k, responsibilities r of sum n_k over the points, scaled so that all n_k
add up to the effective number of points, and kappa = nu / d. So a component with few points stays
where it was: this is the proximity of the fit.

A mixture gets stuck where one component covers several modes. Before the fit, components of small
weight may therefore become halves of those whose points have the largest squared weights. A half
lies 0.8 deviations along the longest axis to either side, so the mean and the covariance of both
halves together are those of the component.

References:
  Dempster, Laird, Rubin (1977). Cappe, Douc, Guillin, Marin, Robert (2008), arXiv 0710.4242, on
  mixtures as proposals. Ueda, Nakano, Ghahramani, Hinton (2000), on splits.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from swjko.families.base import Family
from swjko.families.gaussians import Gaussian, GaussianMixture, gaussian_moments
from swjko.types import Params, Scalar, validation

# A component of less than this part of the mean weight may be given up for a split.
_SMALL_WEIGHT = 0.2
# Distance of a half from the centre of a split component, in deviations.
_SPLIT_DISTANCE = 0.8
# Points that a component of no points counts for in the weights.
_LEAST_POINTS = 1e-3


def expectation_maximization(
    *, pseudo_count: float | None = None, split_fraction: float = 0.1
) -> "ExpectationMaximization":
    """Makes a refit in closed form for ``corrected``, of Gaussians and their mixtures.

    It stands in place of an optimizer, and takes a few steps where that takes hundreds of updates.

    Args:
      pseudo_count: Points that a component before the refit counts for, in its covariance. None
        is d^2, which keeps the noise of the d (d + 1) / 2 numbers of a covariance small. Larger
        ones average over more steps of the scheme.
      split_fraction: Largest part of the components that one refit may give up, if their weight is
        below a fifth of the mean, for splits of others. Only with learned weights; 0 is none.

    Example::

        family = gaussian_mixture(2, 100, learned_weights=True)
        jko = sw_jko(family, kl_divergence(log_prob), optax.adam(1e-2), step_size=0.01, ...)
        scheme = corrected(jko, log_prob, expectation_maximization(), num_inner_steps=3)
    """
    if pseudo_count is not None:
        pseudo_count = float(validation.as_positive(pseudo_count, "pseudo_count"))
    if split_fraction:
        text = "the part of the components"
        split_fraction = validation.as_fraction(split_fraction, "split_fraction", text)
    return ExpectationMaximization(pseudo_count, float(split_fraction))


@dataclasses.dataclass(frozen=True)
class ExpectationMaximization:
    """Made by ``expectation_maximization``."""

    pseudo_count: float | None
    split_fraction: float

    def fit(
        self,
        family: Family,
        params: Params,
        points: Float[Array, "n d"],
        weights: Float[Array, " n"],
        num_steps: int,
    ) -> Params:
        """Returns parameters after some steps.

        Args:
          family: ``gaussian`` or ``gaussian_mixture``.
          params: Parameters before.
          points: Points [n d].
          weights: Their weights [n], of sum one.
          num_steps: Steps of expectation-maximisation.
        """
        if isinstance(family, Gaussian):
            one = GaussianMixture(family.init_mean, family.init_scale, family.dim, 1, False)
            stacked = jax.tree.map(lambda leaf: leaf[None], params)
            fitted = self.fit(one, stacked, points, weights, num_steps)
            return jax.tree.map(lambda leaf: leaf[0], fitted)
        mixture = require_mixture(family)
        if mixture.learned_weights and self.split_fraction:
            num = max(1, round(self.split_fraction * mixture.num_components))
            params = _split(mixture, params, points, weights, num)
        count = float(mixture.dim**2) if self.pseudo_count is None else self.pseudo_count
        before = params

        def step(params, _):
            return _maximized(mixture, params, before, points, weights, count), None

        return lax.scan(step, params, None, length=num_steps)[0]


def require_mixture(family: Family) -> GaussianMixture:
    """Returns the mixture, or raises TypeError if the family is not one."""
    if not isinstance(family, GaussianMixture):
        raise TypeError(
            "expectation_maximization needs a Gaussian or a mixture of Gaussians; the family of "
            f"the scheme is {type(family).__name__}. Use an optimizer, such as optax.adam(1e-3)."
        )
    return family


def _maximized(
    mixture: GaussianMixture,
    params: Params,
    before: Params,
    points: Float[Array, "n d"],
    weights: Float[Array, " n"],
    count: float,
) -> Params:
    """Returns the parameters after one step, with those ``before`` the fit as the prior."""
    num_points = 1.0 / jnp.sum(weights**2)
    mean_count = count / mixture.dim
    shares = num_points * _responsibilities(mixture, params, points) * weights[None, :]

    def of_component(arguments):
        share, own = arguments
        num = jnp.sum(share)
        new = (share @ points + mean_count * own["mean"]) / (num + mean_count)
        centred, moved = points - new[None, :], own["mean"] - new
        cov = (centred.T * share[None, :]) @ centred + count * gaussian_moments(own)[1]
        cov = (cov + mean_count * jnp.outer(moved, moved)) / (num + count)
        found = {"mean": new} | _of_covariance(cov)
        return _kept_if_singular(own, found), num

    found, num = lax.map(of_component, (shares, _without_weights(before)))
    if mixture.learned_weights:
        found["logits"] = jax.nn.log_softmax(jnp.log(num + _LEAST_POINTS))
    return found


def _responsibilities(
    mixture: GaussianMixture, params: Params, points: Float[Array, "n d"]
) -> Float[Array, "k n"]:
    """Returns the part of each point that is each component's. The sum over components is one."""
    component = Gaussian(mixture.init_mean, mixture.init_scale, mixture.dim)
    log_probs = lax.map(lambda one: component.log_prob(one, points), _without_weights(params))
    if mixture.learned_weights:
        log_probs += jax.nn.log_softmax(params["logits"])[:, None]
    return jax.nn.softmax(log_probs, axis=0)


def _split(
    mixture: GaussianMixture,
    params: Params,
    points: Float[Array, "n d"],
    weights: Float[Array, " n"],
    num: int,
) -> Params:
    """Makes components of small weight halves of those that fit worst, at most ``num``."""
    spread = _responsibilities(mixture, params, points) @ weights**2
    worst = lax.top_k(spread, num)[1]
    log_weights = jax.nn.log_softmax(params["logits"])
    given_up = jnp.argsort(log_weights)[:num]
    small = log_weights[given_up] < math.log(_SMALL_WEIGHT / mixture.num_components)
    is_split = small & ~jnp.isin(worst, given_up)
    one = {name: leaf[worst] for name, leaf in _without_weights(params).items()}
    half, shift = jax.vmap(_half)(one)
    is_split &= jnp.all(jnp.isfinite(half["log_diagonal"]), axis=1)
    half["logits"] = log_weights[worst] - math.log(2.0)
    params = params | {"logits": log_weights}
    for at, sign in ((given_up, 1), (worst, -1)):
        new = half | {"mean": one["mean"] + sign * shift}
        params = {name: _put(leaf, at, new[name], is_split) for name, leaf in params.items()}
    return params


def _half(params: Params) -> tuple[Params, Float[Array, " d"]]:
    """Returns the covariance of a half of a Gaussian, as params, and the shift to its mean."""
    _, cov = gaussian_moments(params)
    squares, axes = jnp.linalg.eigh(cov)
    shift = _SPLIT_DISTANCE * jnp.sqrt(squares[-1]) * axes[:, -1]
    return _of_covariance(cov - jnp.outer(shift, shift)), shift


def _put(leaf: Array, at: Array, new: Array, condition: Array) -> Array:
    condition = jnp.reshape(condition, (-1,) + (1,) * (leaf.ndim - 1))
    return leaf.at[at].set(jnp.where(condition, new, leaf[at]))


def _without_weights(params: Params) -> Params:
    return {name: leaf for name, leaf in params.items() if name != "logits"}


def _of_covariance(cov: Float[Array, "d d"]) -> Params:
    factor = jnp.linalg.cholesky(cov)
    return {"log_diagonal": jnp.log(jnp.diagonal(factor)), "lower": jnp.tril(factor, -1)}


def _kept_if_singular(old: Params, new: Params) -> Params:
    """Returns ``new``, or ``old`` if rounding has made the new covariance singular."""
    regular = jnp.all(jnp.isfinite(new["log_diagonal"])) & jnp.all(jnp.isfinite(new["lower"]))
    return jax.tree.map(lambda one, other: jnp.where(regular, one, other), new, old)


def require_fit(family: Family, step_size: Scalar | None) -> None:
    """Raises an error if a scheme cannot refit its family by expectation-maximisation."""
    if not isinstance(family, Gaussian):
        require_mixture(family)
    if step_size is not None:
        raise ValueError(
            "step_size must be None with expectation_maximization, whose proximity is its "
            "pseudo_count; leave it out, or use an optimizer."
        )
