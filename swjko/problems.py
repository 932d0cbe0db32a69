"""Named targets and data sets, for the command line, the benchmarks and your own comparisons: each comes with what is known exactly.

Data are bound with ``jax.tree_util.Partial``, so they are leaves of every functional built from them. Random problems take an integer
seed, since scikit-learn draws them on the host; scikit-learn itself is imported only where it is needed.
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko import closed_form, validation
from swjko.data.images import (
    Images,
    digits_images,
    load_array,
    load_cifar10,
    load_idx,
    load_image_folder,
    load_images,
)
from swjko.data.tables import (
    DataError,
    Table,
    breast_cancer,
    digits,
    load_points,
    load_table,
    require_extra,
    wine,
)
from swjko.distances.directions import orthogonal_directions, quasi_directions
from swjko.functionals.energies import (
    WeightedSum,
    expectation,
    interaction,
    negative_entropy,
    potential,
    weighted_sum,
)
from swjko.types import Cloud, Functional, Key, Leaf, Scalar, static_field

__all__ = [
    "DataError",
    "Equilibrium",
    "GaussianTarget",
    "Images",
    "Table",
    "Target",
    "annulus",
    "breast_cancer",
    "digits",
    "digits_images",
    "disk",
    "exact_sw_jko_flow",
    "gaussian",
    "gaussian_mixture",
    "gaussian_target",
    "load_array",
    "load_cifar10",
    "load_idx",
    "load_image_folder",
    "load_images",
    "load_points",
    "load_table",
    "logistic_regression",
    "logistic_regression_kl",
    "random_mixture",
    "ring",
    "wine",
]


class Target(NamedTuple):
    """A law nu on R^dim to flow to by ``kl_divergence(target.log_prob)``, whose minimum is then 0.

    Attributes:
      log_prob: normalised log-density of one point [d].
      sample: ``(key, num) -> [num d]`` independent points.
      dim: dimension.
    """

    log_prob: Partial
    sample: Partial
    dim: int


class GaussianTarget(NamedTuple):
    """N(center, precision^{-1}) and the ``target`` of that law. precision [d d] and center [d] are float64 NumPy arrays."""

    precision: Float[np.ndarray, "d d"]
    center: Float[np.ndarray, " d"]
    target: Target


class Equilibrium(NamedTuple):
    """An energy in the plane, its value at equilibrium, and the radii between which the equilibrium is uniform (equal radii: a circle).

    Attributes:
      functional: F.
      exact_energy: F at the equilibrium.
      inner_radius, outer_radius: the equilibrium is uniform between them.
    """

    functional: Functional
    exact_energy: float
    inner_radius: float
    outer_radius: float


def gaussian(mean: Any, cov: Any) -> Target:
    """N(mean, cov), from arrays [d] and [d d]; factored in float64 on the host. Raises ValueError when cov is not positive definite."""
    mean, cov = (np.asarray(mean, np.float64), np.asarray(cov, np.float64))
    dim = mean.shape[0]
    if cov.shape != (dim, dim):
        raise ValueError(
            f"cov must have shape {(dim, dim)} beside a mean of shape {mean.shape}; received {cov.shape}."
        )
    try:
        factor = np.linalg.cholesky(cov)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "cov must be symmetric positive definite; its Cholesky factor does not exist."
        ) from error
    whitening = jnp.asarray(np.linalg.inv(factor), float)
    log_normaliser = jnp.asarray(
        -np.sum(np.log(np.diag(factor))) - dim * math.log(2 * math.pi) / 2, float
    )
    center = jnp.asarray(mean, float)
    return Target(
        Partial(_gaussian_log_prob, center, whitening, log_normaliser),
        Partial(_gaussian_sample, center, jnp.asarray(factor, float)),
        dim,
    )


def gaussian_target(seed: int, dim: int) -> GaussianTarget:
    """A random Gaussian: precision ``sklearn.datasets.make_spd_matrix(dim)``, center ~ N(0, I); the Fokker-Planck problem of Bonet et al.
    (2022), arXiv 2110.10972, figure 1. Its slowest modes need SW times of about 8.

    Args: seed, of scikit-learn and NumPy on the host; dim, at least 1. Raises ValueError on another dim and ImportError without
    scikit-learn.
    """
    dim = validation.as_count(dim, "dim")
    precision = np.asarray(
        require_extra("sklearn.datasets").make_spd_matrix(dim, random_state=seed), np.float64
    )
    center = np.random.default_rng(seed).standard_normal(dim)
    return GaussianTarget(precision, center, gaussian(center, np.linalg.inv(precision)))


def exact_sw_jko_flow(
    problem: GaussianTarget,
    step_size: float,
    num_steps: int,
    *,
    num_directions: int = 2000,
    second_order: bool = False,
) -> closed_form.Gaussian:
    """The exact SW-JKO iterates from N(0, I) in float64, on the host: means [k d], covariances [k d d], start included, k = num_steps + 1.

    With ``second_order``, those of ``closed_form.gaussian_sw_bdf2_flow``: in small steps, the SW flow in continuous time.
    Directions stand for the average over the sphere: equal angles in the plane, exact there to rounding; whole orthogonal blocks
    elsewhere, whose noise of order 1 / sqrt(num_directions) in the covariances is then the oracle's own.

    Args: problem; step_size in SW time; num_steps; num_directions, at least so many. Errors as ``closed_form.gaussian_sw_jko_flow``.
    """
    dim = len(problem.center)
    directions_of = quasi_directions if dim == 2 else orthogonal_directions
    with jax.enable_x64(True):
        directions = directions_of(jax.random.key(0), dim * math.ceil(num_directions / dim), dim)
        flow = (
            closed_form.gaussian_sw_bdf2_flow if second_order else closed_form.gaussian_sw_jko_flow
        )
        flow = jax.jit(flow, static_argnames="num_steps")
        precision, center = jnp.asarray(problem.precision), jnp.asarray(problem.center)
        return jax.device_get(
            flow(
                jnp.zeros(dim),
                jnp.eye(dim),
                precision,
                center,
                step_size,
                num_steps=num_steps,
                directions=directions,
            )
        )


def gaussian_mixture(centers: Array) -> Target:
    """Equal parts of unit Gaussians: rho = mean_j N(centers_j, I). centers: [k d]; others raise ValueError or TypeError."""
    centers = validation.as_points(centers, "centers")
    return Target(
        Partial(_mixture_log_prob, centers), Partial(_mixture_sample, centers), centers.shape[1]
    )


def random_mixture(seed: int, dim: int, *, num: int = 5) -> Target:
    """``num`` unit Gaussians with centres uniform in [-5, 5]^dim, drawn by NumPy from ``seed``. Raises ValueError on counts below 1.

    Five in the plane are the mixture of Bonet et al. (2022), arXiv 2110.10972; d = 2 to 12 with five to ten those of Mokrov et al.
    (2021), arXiv 2106.00736.
    """
    dim, num = (validation.as_count(dim, "dim"), validation.as_count(num, "num"))
    return gaussian_mixture(
        jnp.asarray(np.random.default_rng(seed).uniform(-5.0, 5.0, (num, dim)), float)
    )


def ring() -> Equilibrium:
    """W = |x|^4/4 - |x|^2/2: the uniform circle of radius 1/sqrt(3)."""
    return Equilibrium(
        interaction(Partial(_ring_kernel)), -1 / 12, 1 / math.sqrt(3), 1 / math.sqrt(3)
    )


def disk() -> Equilibrium:
    """W = |x|^2/2 - log|x|: the uniform unit disk."""
    return Equilibrium(interaction(Partial(_coulomb_kernel)), 3 / 8, 0.0, 1.0)


def annulus() -> Equilibrium:
    """W = |x|^2/2 - log|x| and V = -log|x|/4: uniform on 1/2 < |x| < sqrt(5)/2.

    On it s = |x|^2 is uniform on (1/4, 5/4) and the energy is 3/8 - (1/2) int s log(s) ds: the least of measures that are symmetric about
    0. W knows no origin and V falls with the distance from it, so F has no minimum over all measures: a shift of the cloud grows like
    exp(t / 4) in Wasserstein time. Start centred, and stop at a few units of time.
    """
    functional = weighted_sum(
        (1.0, interaction(Partial(_coulomb_kernel))), (1.0, potential(Partial(_repulsive_center)))
    )
    return Equilibrium(
        functional, 9 / 16 - 25 / 64 * math.log(5 / 4) - math.log(4) / 64, 0.5, math.sqrt(5) / 2
    )


def logistic_regression(features: Array, labels: Array) -> Partial:
    """The log-posterior of (w, log alpha) in R^{p+1}, up to the evidence, of Bayesian logistic regression without intercept.

      sum_i log sigmoid(y_i <x_i, w>) + log N(w; 0, I / alpha) + log Gamma(alpha; shape 1, rate 100) + log alpha,

    the last term since the density is that of log alpha. log alpha is not clipped: a clipped prior would be improper. All data enter each
    evaluation, and under vmap the draws meet them in one matrix product.

    Args: features [n p]; labels [n], each -1 or +1. Returns a function of one point [p + 1]; the last coordinate is log alpha.
    """
    return Partial(_posterior_log_prob, _signed_features(features, labels))


def logistic_regression_kl(
    features: Array, labels: Array, *, batch_size: int | None = None
) -> WeightedSum:
    """KL(mu | posterior) for the posterior of ``logistic_regression``, up to the log-evidence, each evaluation on rows of its own.

    The potential of a draw x is -log prior(x) - (n / batch_size) sum_{i in batch} log p(y_i | x), for each draw by itself and averaged
    over them; the rows of a batch are drawn independently, so value and gradient are unbiased. All draws of an evaluation meet the same
    batch. (A sum over the draws in place of the mean has the posterior to the power of their number as its minimum.)

    Args: features [n p]; labels [n], each -1 or +1; batch_size: rows for each evaluation, None takes all n.
    Raises ValueError or TypeError on shapes and labels that do not fit, and on fewer rows than batch_size.
    Example: ``sw_jko(flows.coupling(dim=p + 1), logistic_regression_kl(features, labels, batch_size=512), ...)``.
    """
    signed_features = _signed_features(features, labels)
    rows = signed_features.shape[0]
    if batch_size is not None and validation.as_count(batch_size, "batch_size") > rows:
        raise ValueError(
            f"batch_size must not exceed the {rows} rows of features; received {batch_size}. Leave it out to take all rows."
        )
    return weighted_sum(
        (1.0, _PosteriorPotential(signed_features, batch_size)), (1.0, negative_entropy())
    )


def _signed_features(features: Array, labels: Array) -> Float[Array, "n p"]:
    features, labels = (
        validation.as_points(features, "features"),
        validation.as_values(labels, "labels"),
    )
    if labels.shape[0] != features.shape[0]:
        raise ValueError(
            f"labels must have one value for each of {features.shape[0]} rows; received {labels.shape[0]}."
        )
    if validation.is_concrete(labels) and not bool(jnp.all(jnp.abs(labels) == 1)):
        raise ValueError(
            f"labels must be -1 or +1; received {np.unique(np.asarray(labels))[:5].tolist()}."
        )
    return features * labels[:, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _PosteriorPotential:
    signed_features: Leaf
    batch_size: int | None = static_field()
    needs_density: ClassVar[bool] = False

    def __call__(self, key: Key, cloud: Cloud) -> Scalar:
        rows, scale = self.signed_features, 1.0
        if self.batch_size is not None:
            scale = rows.shape[0] / self.batch_size
            # With replacement: a permutation of all rows would cost more than the batch.
            rows = rows[jax.random.randint(key, (self.batch_size,), 0, rows.shape[0])]
        values = jax.vmap(lambda point: -_log_prior(point) - scale * _log_likelihood(rows, point))(
            cloud.points
        )
        return expectation(cloud, values)


def _gaussian_log_prob(center, whitening, log_normaliser, x: Float[Array, " d"]) -> Scalar:
    return log_normaliser - 0.5 * jnp.sum((whitening @ (x - center)) ** 2)


def _gaussian_sample(center, factor, key: Key, num: int) -> Float[Array, "m d"]:
    return center[None, :] + jax.random.normal(key, (num, center.shape[0]), center.dtype) @ factor.T


def _mixture_log_prob(centers, x: Float[Array, " d"]) -> Scalar:
    num, dim = centers.shape
    logits = -0.5 * jnp.sum((x[None, :] - centers) ** 2, axis=1)
    return jax.nn.logsumexp(logits) - math.log(num) - dim * math.log(2 * math.pi) / 2


def _mixture_sample(centers, key: Key, num: int) -> Float[Array, "m d"]:
    component_key, noise_key = jax.random.split(key)
    component = jax.random.randint(component_key, (num,), 0, centers.shape[0])
    return centers[component] + jax.random.normal(noise_key, (num, centers.shape[1]), centers.dtype)


def _ring_kernel(x: Float[Array, " d"]) -> Scalar:
    square = jnp.sum(x**2)
    return square**2 / 4 - square / 2


def _coulomb_kernel(x: Float[Array, " d"]) -> Scalar:
    square = jnp.sum(x**2)
    return (square - jnp.log(square)) / 2


def _repulsive_center(x: Float[Array, " d"]) -> Scalar:
    return -jnp.log(jnp.sum(x**2)) / 8


def _posterior_log_prob(signed_features, point: Float[Array, " d"]) -> Scalar:
    return _log_likelihood(signed_features, point) + _log_prior(point)


def _log_likelihood(signed_features, point: Float[Array, " d"]) -> Scalar:
    # The weaker precision of a GPU's matrix product shows in log-likelihoods of hundreds.
    margins = jnp.dot(signed_features, point[:-1], precision=lax.Precision.HIGHEST)
    return jnp.sum(jax.nn.log_sigmoid(margins))


def _log_prior(point: Float[Array, " d"]) -> Scalar:
    w, log_alpha = (point[:-1], point[-1])
    alpha = jnp.exp(log_alpha)
    log_prior_w = 0.5 * (w.shape[0] * (log_alpha - math.log(2 * math.pi)) - alpha * jnp.sum(w**2))
    return log_prior_w + math.log(100.0) - 100.0 * alpha + log_alpha
