"""Numbers that the command line reports beside the energies: references, scores and splits."""

import math
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from swjko.data.tables import DataError, Table, require_extra
from swjko.problems import GaussianTarget
from swjko.types import Cloud, Functional, Key, Scalar

# Margins of draws and rows that are held in memory at once.
_MOST_MARGINS = 20_000_000


@jax.jit
def mean_energy(keys: Key, functional: Functional, cloud: Cloud) -> Scalar:
    """Return the mean of F(cloud) over keys [k], evaluated one after another."""
    return jnp.mean(lax.map(lambda key: functional(key, cloud), keys))


@jax.jit
def energies(keys: Key, functional: Functional, clouds: Cloud) -> Float[Array, " k"]:
    """Return F of each of k clouds, stacked, with one of keys [k] for each."""
    return lax.map(lambda pair: functional(*pair), (keys, clouds))


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


class Scaling(NamedTuple):
    """Mean and standard deviation [p] of columns, by which they are standardised."""

    mean: np.ndarray
    deviation: np.ndarray


def split(table: Table, seed: int, source: str) -> tuple[Table, Table, Scaling]:
    """Split a table into 80 % for training and the rest, and standardise both.

    Args:
      table: The table.
      seed: Seed of the permutation of the rows.
      source: Name of the table, for the message.

    Returns:
      The training part and the rest, both standardised by the mean and the standard deviation of
      the training part, and these.

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
    scaling = Scaling(mean, np.where(deviation > 0, deviation, 1.0))
    features = (table.features - scaling.mean) / scaling.deviation
    part, rest = (
        table._replace(features=features[rows], labels=table.labels[rows]) for rows in (train, test)
    )
    return part, rest, scaling


def held_out_scores(
    weights: Float[np.ndarray, "s q"], test: Table, intercept: bool = False
) -> dict[str, float]:
    """Return accuracy and mean log-likelihood of the prediction averaged over draws.

    Args:
      weights: Draws [s q] as for ``predicted_log_prob``.
      test: Rows that are held out.
      intercept: Whether there is an intercept.
    """
    return _scores(predicted_log_prob(weights, test, intercept))


def predicted_log_prob(
    weights: Float[np.ndarray, "s q"], test: Table, intercept: bool = False
) -> Float[np.ndarray, " n"]:
    """Return the log-probability [n] of each label by the prediction averaged over draws.

    Args:
      weights: Draws [s q] of the weights, and of the intercept as the last one if there is one.
      test: Rows that are held out.
      intercept: Whether there is an intercept.
    """
    rows = test.features
    if intercept:
        rows = np.concatenate([rows, np.ones_like(rows[:, :1])], axis=1)
    total = np.full(len(rows), -np.inf)
    for part in np.array_split(weights, max(1, weights.shape[0] * len(rows) // _MOST_MARGINS)):
        log_prob = -np.logaddexp(0.0, -(part @ (rows * test.labels[:, None]).T))
        total = np.logaddexp(total, np.logaddexp.reduce(log_prob, axis=0))
    return total - math.log(len(weights))


def _scores(log_prob: Float[np.ndarray, " n"], method: str = "") -> dict[str, float]:
    return {
        f"held-out accuracy{method}": float(np.mean(log_prob > math.log(0.5))),
        f"held-out log-likelihood{method}": float(np.mean(log_prob)),
    }


def majority_scores(train: Table, test: Table) -> dict[str, float]:
    """Return the scores of predicting the frequencies of the classes for every row."""
    share = np.mean(train.labels > 0)
    of_label = np.where(test.labels > 0, share, 1 - share)
    return {
        "held-out accuracy of the larger class": float(np.mean(of_label > 0.5)),
        "held-out log-likelihood of the class frequencies": float(np.mean(np.log(of_label))),
    }


def reference_scores(
    own: Float[np.ndarray, " n"], train: Table, test: Table, seed: int
) -> dict[str, float]:
    """Return the scores of scikit-learn's LogisticRegressionCV; none if a class is too small.

    Args:
      own: Log-probability [n] of each label of ``test``, which the scores are compared with.
      train: Rows for the fit.
      test: Rows that are held out.
      seed: Seed of the folds.
    """
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
    error = np.std(own - log_prob) / math.sqrt(len(own))
    return {
        **_scores(log_prob, " of LogisticRegressionCV"),
        "standard error of the difference of both log-likelihoods": float(error),
    }
