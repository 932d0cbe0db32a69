"""The command-line problem ``posterior``: a Bayesian logistic regression for a table."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko import flows, problems
from swjko.cli import posterior_report, scores
from swjko.cli.flow import solve_and_measure
from swjko.cli.posterior_report import INTERCEPT_SCALE, Coordinates, Fit
from swjko.cli.report import Outcome
from swjko.cli.settings import Settings
from swjko.cli.terminal import say
from swjko.data.tables import Table, require_narrow
from swjko.diagnostics.importance import importance
from swjko.families.distribution import FlowDistribution
from swjko.families.gaussians import gaussian_moments
from swjko.functionals.entropies import kl_divergence
from swjko.interop.laplace import laplace
from swjko.types import Scalar

_SAMPLES, _LEAST_SAMPLES, _FULL_COST_ROWS = 256, 64, 16_000
_DRAWS, _LEAST_DRAWS, _DRAWS_BYTES = 4096, 1024, 2**30
_importance = jax.jit(importance, static_argnames="num_samples")


def posterior(
    settings: Settings,
    *,
    seed: int,
    progress: bool = True,
    data: str | None = None,
    label: str | None = None,
    intercept: bool = True,
    loaded: Table | None = None,
    **columns: Any,
) -> Outcome:
    """Sample the posterior of a Bayesian logistic regression.

    The energy is KL(mu | posterior) up to the log-evidence. The flow starts at the Laplace
    approximation, whose own figures are in the report.

    Args:
      settings: Numbers of the run; a zero step size or number of samples means the default.
      seed: Seed of the split of the data and of the flow.
      progress: Whether to show progress.
      data: Name of the table, for messages and the report.
      label: The column of labels, for the report.
      intercept: Whether the model has an intercept.
      loaded: The table; None takes scikit-learn's breast cancer data.
      columns: Options by which the table was loaded, for the report.
    """
    table = problems.breast_cancer() if loaded is None else loaded
    require_narrow(data or "the default table", len(table.names), "Use --drop-columns.")
    train, test, scaling = scores.split(table, seed, data or "the default table")
    flow_key, draw_key = jax.random.split(jax.random.key(seed))
    say("fitting the Laplace approximation, where the flow starts", progress)
    coordinates, log_prob = _coordinates(train, scaling, intercept)
    dim, rows = len(coordinates.mode), len(train.labels)
    settings = settings._replace(
        step_size=settings.step_size or 1.0 / dim, samples=settings.samples or _num_samples(rows)
    )
    flow = solve_and_measure(
        flow_key, flows.coupling(dim), kl_divergence(log_prob), settings, settings.samples, progress
    )
    say("weighing draws by the posterior", progress)
    num = int(np.clip(_DRAWS_BYTES // (4 * rows), _LEAST_DRAWS, _DRAWS))
    start, end = (
        jax.device_get(_importance(draw_key, law, log_prob, num_samples=num))
        for law in (
            FlowDistribution(flow.family, flow.family.init(draw_key)),
            flow.solution.distribution,
        )
    )
    fit = Fit(train, test, coordinates, end, intercept)
    own = scores.predicted_log_prob(fit.points[:, :-1], test, intercept)
    reference = scores.reference_scores(own, train, test, seed)
    figures = posterior_report.figures(fit, start, reference)
    drawn = posterior_report.plots(flow, fit)
    parts = {"reference": -float(end.log_evidence), "reference_name": "-log evidence"}
    config = {"seed": seed, "data": data or "sklearn breast cancer", "label": label}
    config |= {"intercept": intercept, "num_draws": num, **columns}
    return flow.outcome(
        "posterior",
        settings,
        config,
        **parts,
        figures=figures,
        plots=drawn,
        verdict=posterior_report.verdict(fit, figures, flow.advice),
        files=posterior_report.files(fit, flow),
    )


def _num_samples(rows: int) -> int:
    """Return fewer samples for many rows, so that an update costs no more than at 16,000 rows."""
    return int(np.clip(_SAMPLES * _FULL_COST_ROWS // rows, _LEAST_SAMPLES, _SAMPLES))


def _coordinates(
    train: Table, scaling: scores.Scaling, intercept: bool
) -> tuple[Coordinates, Partial]:
    """Return the coordinates, and the log-posterior as a function of z."""
    scale = INTERCEPT_SCALE if intercept else None

    def log_posterior():
        data = (jnp.asarray(part, float) for part in (train.features, train.labels))
        return problems.logistic_regression(*data, intercept_scale=scale)

    p = train.features.shape[1]
    with jax.enable_x64(True):
        law = laplace(log_posterior(), jnp.zeros(p + 1 + intercept))
        mode, cov = (np.asarray(part) for part in gaussian_moments(law.params))
    to_data = np.diag(np.append(1 / scaling.deviation, np.ones(1 + intercept)))
    if intercept:
        to_data[p, :p] = -scaling.mean / scaling.deviation
    coordinates = Coordinates(mode, np.linalg.cholesky(cov), to_data)
    bound = (jnp.asarray(part, float) for part in coordinates[:2])
    return coordinates, Partial(_log_prob, log_posterior(), *bound)


def _log_prob(log_posterior, mode: Array, factor: Array, z: Float[Array, " d"]) -> Scalar:
    point = mode + jnp.dot(factor, z, precision=jax.lax.Precision.HIGHEST)
    return log_posterior(point) + jnp.sum(jnp.log(jnp.diagonal(factor)))
