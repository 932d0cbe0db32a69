"""The truth about a posterior of a user's table: fresh rows, and moments of a long NUTS run."""

import csv
import importlib
import io
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import swjko
from swjko import problems
from swjko.cli import scores
from swjko.cli.posterior_report import INTERCEPT_SCALE
from swjko.problems import Table

_TOLERANCE, _STANDARD_ERRORS = 0.01, 2.0
_LARGEST_SHIFT, _LARGEST_RATIO, _LARGEST_RHAT = 0.2, 1.25, 1.02
_CHAINS, _WARMUP, _DRAWS, _MANY_ROWS = 4, 500, 2500, 20_000


def judge_posterior(
    found: Any, table: Table, fresh: Table, seed: int, quick: bool
) -> dict[str, Any]:
    """Judge the result of ``swjko.cli.posterior.posterior``.

    Args:
      found: The outcome.
      table: The table that was given.
      fresh: Further rows of the same law, with the same columns.
      seed: Seed of the run, by which the table was split.
      quick: Whether NUTS takes few draws.

    Returns:
      Whether the result is truly good, and the figures by which it was judged.
    """
    train, _, scaling = scores.split(table, seed, "the table")
    gain, error = _gain(found, train, scaling, fresh, seed)
    shift, ratio, rhat = _moments(found, train, seed, quick)
    return {
        "good": bool(
            gain >= -_TOLERANCE - _STANDARD_ERRORS * error
            and shift <= _LARGEST_SHIFT
            and 1 / _LARGEST_RATIO <= ratio <= _LARGEST_RATIO
        ),
        "log_likelihood_gain": gain,
        "standard_error": error,
        "shift": shift,
        "ratio": ratio,
        "nuts_rhat": rhat,
        "nuts_converged": rhat < _LARGEST_RHAT,
    }


def _gain(found, train: Table, scaling, fresh: Table, seed: int) -> tuple[float, float]:
    """Log-likelihood of fresh rows by the draws in draws.npz, minus scikit-learn's."""
    arrays = np.load(io.BytesIO(found.files["draws.npz"]))
    names, points = list(arrays["names"]), arrays["points"]
    weights = points[:, [names.index(f"weight of {name}") for name in fresh.names]]
    margins = fresh.features @ weights[:1000].T + points[:1000, names.index("intercept")]
    log_prob = -np.logaddexp(0.0, -fresh.labels[:, None] * margins)
    own = np.logaddexp.reduce(log_prob, axis=1) - math.log(log_prob.shape[1])
    linear: Any = importlib.import_module("sklearn.linear_model")
    folds = int(min(5, np.sum(train.labels == 1), np.sum(train.labels == -1)))
    model = linear.LogisticRegressionCV(cv=folds, scoring="neg_log_loss", max_iter=5000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.fit(train.features, train.labels)
    rows = (fresh.features - scaling.mean) / scaling.deviation
    chosen = (fresh.labels > 0).astype(int)
    reference = model.predict_log_proba(rows)[np.arange(len(chosen)), chosen]
    difference = own - reference
    return float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))


def _moments(found, train: Table, seed: int, quick: bool) -> tuple[float, float, float]:
    """Largest shift of a mean in deviations of NUTS, extreme ratio of deviations, and R-hat."""
    draws, rhat = _nuts(train, seed, quick)
    rows = list(csv.DictReader(io.StringIO(found.files["marginals.csv"].decode())))
    kinds = ("mean, standardised columns", "standard deviation, standardised columns")
    mean, deviation = (np.array([float(row[kind]) for row in rows]) for kind in kinds)
    shift = np.max(np.abs(mean - draws.mean(0)) / draws.std(0))
    ratios = deviation / draws.std(0)
    return float(shift), float(ratios[np.argmax(np.abs(np.log(ratios)))]), rhat


def _nuts(train: Table, seed: int, quick: bool) -> tuple[np.ndarray, float]:
    """Draws [n d] of the posterior in standardised columns, and the largest R-hat."""
    blackjax: Any = importlib.import_module("blackjax")
    few = quick or len(train.labels) > _MANY_ROWS
    warmup, count = (100, 200) if few else (_WARMUP, _DRAWS)

    def log_posterior():
        data = (jnp.asarray(part, float) for part in (train.features, train.labels))
        return problems.logistic_regression(*data, intercept_scale=INTERCEPT_SCALE)

    with jax.enable_x64(True):
        law = swjko.laplace(log_posterior(), jnp.zeros(train.features.shape[1] + 2))
        mode, cov = (np.asarray(part) for part in swjko.gaussian_moments(law.params))
    factor = np.linalg.cholesky(cov)

    def chain(key, log_prob, mode, factor):
        # Coordinates in which the posterior is near N(0, I).
        def density(z):
            return log_prob(mode + factor @ z)

        start_key, warmup_key, run_key = jax.random.split(key, 3)
        adaptation = blackjax.window_adaptation(blackjax.nuts, density, target_acceptance_rate=0.9)
        start = 2.0 * jax.random.normal(start_key, mode.shape)
        (state, parameters), _ = adaptation.run(warmup_key, start, num_steps=warmup)
        kernel = blackjax.nuts(density, **parameters)

        def step(state, key):
            state, _ = kernel.step(key, state)
            return state, state.position

        return jax.lax.scan(step, state, jax.random.split(run_key, count))[1]

    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 7), _CHAINS)
    with jax.enable_x64(not few):
        law = (jnp.asarray(mode, float), jnp.asarray(factor, float))
        run = jax.jit(jax.vmap(chain, in_axes=(0, None, None, None)))
        points = np.asarray(run(keys, log_posterior(), *law), np.float64)
        rhat = float(np.max(blackjax.rhat(jnp.asarray(points))))
    return (points @ factor.T + mode).reshape(-1, len(mode)), rhat
