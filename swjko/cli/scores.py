"""Numbers that the command line reports beside the energies: references, scores and splits."""

import math
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax import lax
from jaxtyping import Array, Float

from swjko.data.tables import DataError, Table, require_extra
from swjko.problems import GaussianTarget
from swjko.types import Cloud, Functional, Key, Scalar


@jax.jit
def mean_energy(keys: Key, functional: Functional, cloud: Cloud) -> Scalar:
    """Return the mean of F(cloud) over keys [k], evaluated one after another."""
    return jnp.mean(lax.map(lambda key: functional(key, cloud), keys))


def gaussian_kl(
    mean: Float[np.ndarray, " d"],
    cov: Float[np.ndarray, "d d"],
    precision: Float[np.ndarray, "d d"],
    center: Float[np.ndarray, " d"],
) -> float:
    """Return KL(N(mean, cov) | N(center, precision^{-1}))."""
    shift, product = mean - center, precision @ cov
    log_determinant = np.linalg.slogdet(product)[1]
    quadratic = shift @ precision @ shift
    return float(np.trace(product) + quadratic - len(mean) - log_determinant) / 2


def gaussian_symmetric_kl(
    problem: GaussianTarget, mean: Float[np.ndarray, " d"], cov: Float[np.ndarray, "d d"]
) -> float:
    """Return the symmetric KL divergence between N(mean, cov) and the problem's target."""
    forward = gaussian_kl(mean, cov, problem.precision, problem.center)
    target_cov = np.linalg.inv(problem.precision)
    return forward + gaussian_kl(problem.center, target_cov, np.linalg.inv(cov), mean)


def split(table: Table, seed: int, source: str) -> tuple[Table, Table]:
    """Split a table into 80 % for training and the rest, and standardise both.

    Args:
      table: The table.
      seed: Seed of the permutation of the rows.
      source: Name of the table, for the message.

    Returns:
      The training part and the rest, both standardised by the mean and the standard deviation of
      the training part.

    Raises:
      DataError: If the training part has only one class.
    """
    order = np.random.default_rng(seed).permutation(len(table.labels))
    cut = max(1, len(order) // 5)
    test, train = order[:cut], order[cut:]
    if len(np.unique(table.labels[train])) < 2:
        raise DataError(
            f"{source}: the training rows (80 %) must have two classes; got one. "
            "Use more rows or another --seed."
        )
    mean, deviation = table.features[train].mean(axis=0), table.features[train].std(axis=0)
    # A column may vary only in the rows that are held out.
    features = (table.features - mean) / np.where(deviation > 0, deviation, 1.0)
    part, rest = (
        table._replace(features=features[rows], labels=table.labels[rows]) for rows in (train, test)
    )
    return part, rest


def held_out_scores(weights: Float[np.ndarray, "s p"], test: Table) -> dict[str, float]:
    """Return accuracy and mean log-likelihood of the prediction averaged over draws of weights."""
    log_prob = -np.logaddexp(0.0, -(weights @ (test.features * test.labels[:, None]).T))
    averaged = np.logaddexp.reduce(log_prob, axis=0) - math.log(len(weights))
    return {
        "held-out accuracy": float(np.mean(averaged > math.log(0.5))),
        "held-out log-likelihood": float(np.mean(averaged)),
    }


def reference_scores(train: Table, test: Table, seed: int) -> dict[str, float]:
    """Return the scores of scikit-learn's LogisticRegressionCV; none if a class is too small."""
    folds = int(min(5, np.sum(train.labels == 1), np.sum(train.labels == -1)))
    if folds < 2:
        return {}
    model = require_extra("sklearn.linear_model").LogisticRegressionCV
    splits = require_extra("sklearn.model_selection").StratifiedKFold(
        folds, shuffle=True, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = model(cv=splits, scoring="neg_log_loss", max_iter=5000)
        fitted.fit(train.features, train.labels)
    column = (test.labels > 0).astype(int)
    log_prob = fitted.predict_log_proba(test.features)[np.arange(len(column)), column]
    return {
        "held-out accuracy of LogisticRegressionCV": float(np.mean(log_prob > math.log(0.5))),
        "held-out log-likelihood of LogisticRegressionCV": float(np.mean(log_prob)),
    }


def importance(
    draws: Cloud, log_prob: Callable[[Float[Array, " d"]], Scalar]
) -> tuple[float, float]:
    """Return log int exp(log_prob) by importance sampling, and the effective number of draws."""
    target = np.asarray(jax.vmap(log_prob)(draws.points), np.float64)
    log_weights = target - np.asarray(draws.log_density, np.float64)
    total = np.logaddexp.reduce(log_weights)
    effective = math.exp(2 * total - np.logaddexp.reduce(2 * log_weights))
    return float(total - math.log(len(log_weights))), effective


def laplace(
    log_prob: Callable[[Float[Array, " d"]], Scalar], dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mode and the inverse Hessian of -log_prob, which do not depend on the flow."""
    value_and_grad = jax.jit(jax.value_and_grad(lambda log_prob, x: -log_prob(x), argnums=1))

    def cost(x):
        value, gradient = value_and_grad(log_prob, jnp.asarray(x, float))
        return float(value), np.asarray(gradient, np.float64)

    mode = scipy.optimize.minimize(
        cost, np.zeros(dim), jac=True, method="BFGS", options={"maxiter": 1000}
    ).x
    hessian = jax.jit(jax.hessian(lambda x: -log_prob(x)))(jnp.asarray(mode, float))
    hessian = np.asarray(hessian, np.float64)
    return mode, np.linalg.inv((hessian + hessian.T) / 2)


def standardised_components(
    points: Float[np.ndarray, "n d"], dim: int | None, source: str
) -> tuple[np.ndarray, float]:
    """Centre points, project them on principal components and divide by one common scale.

    Args:
      points: [n d].
      dim: Number of principal components; None keeps the points as they are.
      source: Name of the points, for the message.

    Returns:
      The points and the scale, after which their overall standard deviation is 1.

    Raises:
      DataError: If ``dim`` is larger than the number of components.
    """
    if dim is not None and dim > min(points.shape):
        raise DataError(
            f"{source}: --dim must be at most {min(points.shape)} for {points.shape[0]} points in "
            f"dimension {points.shape[1]}; got {dim}."
        )
    points = points - points.mean(axis=0)
    if dim is not None:
        _, _, components = np.linalg.svd(points, full_matrices=False)
        # The sign of a component is arbitrary; its largest entry is made positive.
        largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
        points = points @ (components * np.sign(largest))[:dim].T
    scale = float(np.sqrt(np.mean(points**2)))
    return points / scale, scale
