"""Gaussians and mixtures with exact densities and draws."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko import closed_form
from swjko.distances.directions import orthogonal_directions, quasi_directions
from swjko.types import Key, Scalar, validation


class Target(NamedTuple):
    """A law nu on R^dim; the minimum of ``kl_divergence(target.log_prob)`` is 0.

    Attributes:
      log_prob: Normalised log-density of one point [d].
      sample: ``(key, num) -> [num d]`` independent points.
      dim: Dimension.
    """

    log_prob: Partial
    sample: Partial
    dim: int


class GaussianTarget(NamedTuple):
    """The law N(center, precision^{-1}).

    Attributes:
      precision: Precision matrix [d d], a float64 NumPy array.
      center: Mean [d], a float64 NumPy array.
      target: The law as a ``Target``.
    """

    precision: Float[np.ndarray, "d d"]
    center: Float[np.ndarray, " d"]
    target: Target


def gaussian(mean: Any, cov: Any) -> Target:
    """Returns the law N(mean, cov), factored in float64 on the host.

    Args:
      mean: Mean [d].
      cov: Positive definite covariance [d d].
    """
    mean, cov = _on_host(mean, "mean"), _on_host(cov, "cov")
    if mean.ndim != 1 or mean.size == 0:
        raise ValueError(f"mean must have rank 1 and at least one value; got shape {mean.shape}.")
    dim = mean.shape[0]
    if cov.shape != (dim, dim):
        raise ValueError(
            f"cov must have shape {(dim, dim)} for a mean of shape {mean.shape}; got {cov.shape}."
        )
    try:
        factor = np.linalg.cholesky(cov)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "cov must be symmetric positive definite; its Cholesky factor does not exist."
        ) from error
    whitening = jnp.asarray(np.linalg.inv(factor), float)
    log_normaliser = -np.sum(np.log(np.diag(factor))) - dim * math.log(2 * math.pi) / 2
    log_normaliser, center = jnp.asarray(log_normaliser, float), jnp.asarray(mean, float)
    return Target(
        Partial(_gaussian_log_prob, center, whitening, log_normaliser),
        Partial(_gaussian_sample, center, jnp.asarray(factor, float)),
        dim,
    )


def gaussian_target(seed: int, dim: int) -> GaussianTarget:
    """Returns a random Gaussian, the Fokker-Planck problem of Bonet et al. (2022), figure 1.

    The precision is that of ``sklearn.datasets.make_spd_matrix(dim, random_state=seed)``, bit for
    bit, without that import: U (1 1^T + diag(r)) V^T, where A has entries uniform in [0, 1],
    U S V^T = A^T A and r is uniform in [0, 1]. Its slowest modes need SW times of about 8. center
    ~ N(0, I).

    Args:
      seed: Seed of NumPy on the host.
      dim: Dimension, at least 1.

    References:
      Bonet et al. (2022), arXiv 2110.10972.
    """
    dim = validation.as_count(dim, "dim")
    uniform = np.random.RandomState(seed).uniform
    entries = uniform(size=(dim, dim))
    left, _, right = scipy.linalg.svd(entries.T @ entries)
    precision = left @ (1.0 + np.diag(uniform(size=dim))) @ right
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
    """Returns the exact SW-JKO iterates from N(0, I), in float64 on the host.

    Directions approximate the average over the sphere: equal angles in the plane, which are exact
    there to rounding, and whole orthogonal blocks elsewhere, whose noise in the covariances is of
    order 1 / sqrt(num_directions).

    Args:
      problem: The target.
      step_size: Step size in SW time.
      num_steps: Number of steps.
      num_directions: Smallest number of directions.
      second_order: Whether to return those of ``closed_form.gaussian_sw_bdf2_flow``, which for
        small steps are the SW flow in continuous time.

    Returns:
      Means [num_steps + 1, d] and covariances [num_steps + 1, d, d], start included.
    """
    dim = len(problem.center)
    draw = quasi_directions if dim == 2 else orthogonal_directions
    flow = closed_form.gaussian_sw_bdf2_flow if second_order else closed_form.gaussian_sw_jko_flow
    with jax.enable_x64(True):
        directions = draw(jax.random.key(0), dim * math.ceil(num_directions / dim), dim)
        law = (jnp.asarray(problem.precision), jnp.asarray(problem.center))
        run = jax.jit(flow, static_argnames="num_steps")
        start = (jnp.zeros(dim), jnp.eye(dim))
        return jax.device_get(
            run(*start, *law, step_size, num_steps=num_steps, directions=directions)
        )


def gaussian_mixture(centers: Array) -> Target:
    """Returns equal parts of unit Gaussians, rho = mean_j N(centers_j, I).

    Args:
      centers: Centres [k d].
    """
    centers = validation.as_points(centers, "centers")
    log_prob, sample = Partial(_mixture_log_prob, centers), Partial(_mixture_sample, centers)
    return Target(log_prob, sample, centers.shape[1])


def random_mixture(seed: int, dim: int, *, num: int = 5) -> Target:
    """Returns ``num`` unit Gaussians with centres uniform in [-5, 5]^dim, drawn by NumPy.

    Args:
      seed: Seed of NumPy.
      dim: Dimension, at least 1.
      num: Number of Gaussians, at least 1.

    References:
      Five in the plane: Bonet et al. (2022), arXiv 2110.10972. d = 2 to 12 with five to ten:
      Mokrov et al. (2021), arXiv 2106.00736.
    """
    dim, num = validation.as_count(dim, "dim"), validation.as_count(num, "num")
    centers = np.random.default_rng(seed).uniform(-5.0, 5.0, (num, dim))
    return gaussian_mixture(jnp.asarray(centers, float))


def _on_host(values: Any, name: str) -> np.ndarray:
    """Returns finite float64 numbers, or raises an error that names the argument."""
    if not all(map(validation.is_concrete, jax.tree.leaves(values))):
        raise TypeError(
            f"{name} must be known, since it is factored in float64 on the host; got a traced "
            "value. Call swjko.problems.gaussian outside of jit, vmap and grad."
        )
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of numbers; got {values!r}.") from error
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite; got NaN or infinity. Remove or replace them.")
    return array


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
