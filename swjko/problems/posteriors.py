"""Posteriors of Bayesian logistic regressions."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko.functionals.base import expectation
from swjko.functionals.entropies import negative_entropy
from swjko.functionals.sums import WeightedSum, weighted_sum
from swjko.types import Cloud, Key, Leaf, Scalar, static_field, validation


def logistic_regression(
    features: Array, labels: Array, *, intercept_scale: float | None = None
) -> Partial:
    """Returns the log-posterior of Bayesian logistic regression, up to the evidence.

    It is a function of one point (w, b, log alpha) in R^{p+2}:

      sum_i log sigmoid(y_i (<x_i, w> + b)) + log N(w; 0, I / alpha)
        + log N(b; 0, intercept_scale^2) + log Gamma(alpha; shape 1, rate 100) + log alpha,

    with the last term since the density is that of log alpha. log alpha is not clipped: a clipped
    prior would be improper. Each evaluation uses all rows, and under vmap the draws meet them in
    one matrix product.

    Args:
      features: Features [n p].
      labels: Labels [n], each -1 or +1.
      intercept_scale: Prior standard deviation of the intercept b. None leaves b out, as in the
        published experiments: points are then (w, log alpha) in R^{p+1}.
    """
    return Partial(_posterior_log_prob, *_model(features, labels, intercept_scale))


def logistic_regression_kl(
    features: Array,
    labels: Array,
    *,
    batch_size: int | None = None,
    intercept_scale: float | None = None,
) -> WeightedSum:
    """Returns KL(mu | posterior) for ``logistic_regression``, up to the log-evidence.

    The potential of a draw x is -log prior(x) - (n / batch_size) sum_{i in batch} log p(y_i | x), a
    mean over draws. The rows of a batch are drawn independently for each evaluation, so value and
    gradient are unbiased. All draws of an evaluation use the same batch. (A sum over the draws
    instead of the mean would have a power of the posterior as its minimum.)

    Args:
      features: Features [n p].
      labels: Labels [n], each -1 or +1.
      batch_size: Rows for each evaluation; None uses all n.
      intercept_scale: As in ``logistic_regression``.

    Example::

        energy = logistic_regression_kl(features, labels, batch_size=512)
        scheme = sw_jko(flows.coupling(dim=p + 1), energy, ...)
    """
    signed_features, prior_scale = _model(features, labels, intercept_scale)
    rows = signed_features.shape[0]
    if batch_size is not None and validation.as_count(batch_size, "batch_size") > rows:
        raise ValueError(
            f"batch_size must not exceed the {rows} rows of features; got {batch_size}. "
            "Omit it to use all rows."
        )
    energy = _PosteriorPotential(signed_features, prior_scale, batch_size)
    return weighted_sum((1.0, energy), (1.0, negative_entropy()))


def _model(
    features: Array, labels: Array, intercept_scale: float | None
) -> tuple[Float[Array, "n q"], Scalar | None]:
    """Returns the signed design matrix and the prior scale of the intercept.

    Its rows are y_i (x_i, 1), or y_i x_i without an intercept; the scale is then None.
    """
    features = validation.as_points(features, "features")
    given, labels = labels, validation.as_values(labels, "labels")
    if labels.shape[0] != features.shape[0]:
        raise ValueError(
            f"labels must have one value for each of {features.shape[0]} rows; "
            f"got {labels.shape[0]}."
        )
    # NumPy, because jnp would stage the check of concrete labels inside a trace.
    found = np.unique(np.asarray(given)) if validation.is_concrete(given) else np.ones(1)
    if not np.all(np.abs(found) == 1):
        raise ValueError(
            f"labels must be -1 or +1; got {found[:5].tolist()}. "
            "Use 2.0 * labels - 1.0 if they are 0 and 1."
        )
    if intercept_scale is None:
        return features * labels[:, None], None
    features = jnp.concatenate([features, jnp.ones_like(features[:, :1])], axis=1)
    prior_scale = validation.as_positive(intercept_scale, "intercept_scale")
    return features * labels[:, None], prior_scale


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _PosteriorPotential:
    signed_features: Leaf
    intercept_scale: Leaf | None
    batch_size: int | None = static_field()
    needs_density: ClassVar[bool] = False

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        rows, scale = self.signed_features, 1.0
        if self.batch_size is not None:
            scale = rows.shape[0] / self.batch_size
            # With replacement, since a permutation of all rows would cost more than the batch.
            rows = rows[jax.random.randint(key, (self.batch_size,), 0, rows.shape[0])]

        def potential(point):
            return -_log_prior(point, self.intercept_scale) - scale * _log_likelihood(rows, point)

        return expectation(cloud, jax.vmap(potential)(cloud.points))


def _posterior_log_prob(signed_features, intercept_scale, point: Float[Array, " d"]) -> Scalar:
    return _log_likelihood(signed_features, point) + _log_prior(point, intercept_scale)


def _log_likelihood(signed_features, point: Float[Array, " d"]) -> Scalar:
    # A GPU's default precision of products is too low for log-likelihoods of hundreds.
    margins = jnp.dot(signed_features, point[:-1], precision=lax.Precision.HIGHEST)
    return jnp.sum(jax.nn.log_sigmoid(margins))


def _log_prior(point: Float[Array, " d"], intercept_scale: Scalar | None) -> Scalar:
    w, log_alpha = point[:-1], point[-1]
    log_prior_b = 0.0
    if intercept_scale is not None:
        w, b = w[:-1], w[-1]
        log_prior_b = jax.scipy.stats.norm.logpdf(b, scale=intercept_scale)
    alpha = jnp.exp(log_alpha)
    log_prior_w = 0.5 * (w.shape[0] * (log_alpha - math.log(2 * math.pi)) - alpha * jnp.sum(w**2))
    return log_prior_w + log_prior_b + math.log(100.0) - 100.0 * alpha + log_alpha
