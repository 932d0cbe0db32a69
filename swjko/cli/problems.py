"""The three problems of the command line; each takes its settings and returns an ``Outcome``."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from swjko import flows, problems
from swjko.cli import scores
from swjko.cli.flow import Flow, Settings, draw, solve_and_measure
from swjko.cli.report import Outcome
from swjko.diagnostics.evaluate import symmetric_kl
from swjko.families.base import sample
from swjko.families.gaussians import gaussian
from swjko.functionals.entropies import kl_divergence
from swjko.functionals.targets import sw_to_target
from swjko.problems import DataError
from swjko.types import Cloud

_POSTERIOR_DRAWS = 4096
_SYMMETRIC_KL_SAMPLES = 10_000
_symmetric_kl = jax.jit(symmetric_kl, static_argnames=("num_samples",))
_sample = jax.jit(sample, static_argnames=("num",))


# SW time 8: the slowest modes of a random precision have eigenvalues of about 0.1.
FOKKER_PLANCK = Settings(steps=20, step_size=0.4, inner_steps=150, samples=512, projections=64)
POSTERIOR = Settings(steps=20, step_size=0.03, inner_steps=100, samples=256, projections=64)
MATCH = Settings(steps=20, step_size=0.5, inner_steps=100, samples=512, projections=64)


class Moments(NamedTuple):
    """Mean and standard deviation of one coordinate of the posterior."""

    mean: float
    standard_deviation: float


def fokker_planck(settings: Settings, *, seed: int, progress: bool = True, dim: int = 2) -> Outcome:
    """Flow from N(0, I) to a random Gaussian, and compare with the exact SW-JKO iterates.

    Args:
      settings: Numbers of the run.
      seed: Seed of the problem and of the flow.
      progress: Whether to show a progress bar.
      dim: Dimension.
    """
    problem = problems.gaussian_target(seed, dim)
    target = problem.target
    # A coupling needs two coordinates; in one dimension Gaussians hold all exact iterates.
    family = gaussian(1) if dim == 1 else flows.coupling(dim)
    flow_key, stationary_key, exact_key = jax.random.split(jax.random.key(seed), 3)
    functional = kl_divergence(target.log_prob)
    flow = solve_and_measure(flow_key, family, functional, settings, settings.samples, progress)
    iterates = problems.exact_sw_jko_flow(problem, settings.step_size, settings.steps)
    means, covs = map(np.asarray, iterates)
    energies = np.array(
        [scores.gaussian_kl(*law, *problem[:2]) for law in zip(means, covs, strict=True)]
    )
    exact = problems.gaussian(means[-1], covs[-1])
    params, figures = flow.solution.state.params, {}
    for key, law, name in (
        (stationary_key, target, "SymKL against the stationary law"),
        (exact_key, exact, "SymKL against the exact SW-JKO step"),
    ):
        figures[name] = estimate = _symmetric_kl(
            key, family, params, law.log_prob, law.sample, num_samples=_SYMMETRIC_KL_SAMPLES
        )
        # An estimate below its noise may be negative, so the standard error bounds it from below.
        figures[f"log10 {name}, or of its standard error where larger"] = math.log10(max(estimate))
    figures["SymKL of the exact SW-JKO step against the stationary law"] = (
        scores.gaussian_symmetric_kl(problem, means[-1], covs[-1])
    )
    plane = problems.gaussian(problem.center[:2], np.linalg.inv(problem.precision)[:2, :2])
    drawn = draw(
        flow,
        {"log_prob": plane.log_prob, "target_name": "stationary law"},
        {"exact": energies, "exact_name": "exact SW-JKO", "unit": "nats"},
    )
    parts = {"reference": float(energies[-1]), "reference_name": "exact SW-JKO"}
    config = {"seed": seed, "dim": dim}
    return flow.outcome("fokker-planck", settings, config, **parts, figures=figures, plots=drawn)


def posterior(
    settings: Settings,
    *,
    seed: int,
    progress: bool = True,
    data: str | None = None,
    label: str | None = None,
) -> Outcome:
    """Sample the posterior of a Bayesian logistic regression, starting from N(0, I).

    The energy is KL(mu | posterior) up to the log-evidence.

    Args:
      settings: Numbers of the run.
      seed: Seed of the split of the data and of the flow.
      progress: Whether to show a progress bar.
      data: A CSV file; None takes scikit-learn's breast cancer data.
      label: The column of labels; given exactly if ``data`` is given.
    """
    if (data is None) != (label is None):
        raise DataError("--data FILE.csv and --label COLUMN must be given together.")
    table = problems.breast_cancer()
    if data is not None and label is not None:
        table = problems.load_table(data, label)
    train, test = scores.split(table, seed, data or "the default table")
    log_prob = problems.logistic_regression(
        jnp.asarray(train.features, float), jnp.asarray(train.labels, float)
    )
    dim = train.features.shape[1] + 1
    flow_key, draw_key = jax.random.split(jax.random.key(seed))
    functional = kl_divergence(log_prob)
    flow = solve_and_measure(
        flow_key, flows.coupling(dim), functional, settings, settings.samples, progress
    )
    draws = _sample(flow.family, flow.solution.state.params, draw_key, num=_POSTERIOR_DRAWS)
    log_evidence, effective = scores.importance(draws, log_prob)
    coordinates, points = (*table.names, "log alpha"), np.asarray(draws.points, np.float64)
    figures = {
        "rows for training": len(train.labels),
        "rows held out": len(test.labels),
        **scores.held_out_scores(points[:, :-1], test),
        **scores.reference_scores(train, test, seed),
        "effective posterior draws (importance sampling)": effective,
        "posterior marginals": {
            name: Moments(float(points[:, at].mean()), float(points[:, at].std()))
            for at, name in enumerate(coordinates)
        },
    }
    drawn = _posterior_plots(flow, log_prob, log_evidence, coordinates)
    parts = {"reference": -log_evidence, "reference_name": "-log evidence"}
    config = {"seed": seed, "data": data or "sklearn breast cancer", "label": label}
    return flow.outcome("posterior", settings, config, **parts, figures=figures, plots=drawn)


def _posterior_plots(flow: Flow, log_prob, log_evidence, coordinates) -> dict[str, Any]:
    mode, cov = scores.laplace(log_prob, flow.family.dim)
    plane = problems.gaussian(mode[:2], cov[:2, :2])
    names = (f"weight of {name}" if name != "log alpha" else name for name in coordinates[:2])
    return draw(
        flow,
        {"log_prob": plane.log_prob, "target_name": "Laplace approx.", "names": tuple(names)},
        {
            "exact": -log_evidence,
            "exact_name": "-log evidence (importance sampling)",
            "unit": "nats",
            # The first step falls by a thousand nats, and the last ones by a tenth.
            "log": bool(np.all(flow.history.energy > 0)) and log_evidence < 0,
        },
    )


def match(
    settings: Settings,
    *,
    seed: int,
    progress: bool = True,
    data: str | None = None,
    dim: int | None = None,
) -> Outcome:
    """Flow from N(0, I) to a sample of points by F = SW_2^2 / 2.

    The sample is centred and divided by one number, so that its overall standard deviation is 1.

    Args:
      settings: Numbers of the run.
      seed: Seed of the split of the data and of the flow.
      progress: Whether to show a progress bar.
      data: A .npy or .csv file of points; None takes scikit-learn's digits.
      dim: Number of principal components; None takes 2 for the digits and all for ``data``.
    """
    points = problems.digits() if data is None else problems.load_points(data)
    dim = 2 if dim is None and data is None else dim
    points, scale = scores.standardised_components(points, dim, data or "the digits")
    dim = int(points.shape[1])
    order = np.random.default_rng(seed).permutation(len(points))
    cut = max(1, len(points) // 5)
    held_out, target = (jnp.asarray(points[at], float) for at in (order[:cut], order[cut:]))
    functional = sw_to_target(target, settings.projections)
    flow_key, floor_key, held_out_key = jax.random.split(jax.random.key(seed), 3)
    # Evaluated on as many points as are held out, so that both have the same sampling noise.
    flow = solve_and_measure(flow_key, flows.mlp(dim, dim), functional, settings, cut, progress)
    floor_keys = jax.random.split(floor_key, 16)
    floor = float(scores.mean_energy(floor_keys, functional, Cloud(held_out)))
    cloud = _sample(flow.family, flow.solution.state.params, held_out_key, num=len(target))
    to_held_out = sw_to_target(held_out, settings.projections)
    held_out_keys = jax.random.split(held_out_key, 16)
    figures = {
        "points of the target": len(target),
        "points held out": cut,
        "one unit of the flow in units of the data": scale,
        "SW_2^2/2 of the flow to the target": flow.energy_end,
        "SW_2^2/2 of the held-out points to the target": floor,
        "SW_2^2/2 of the flow to the held-out points": float(
            scores.mean_energy(held_out_keys, to_held_out, Cloud(cloud.points))
        ),
    }
    names = ("component 1", "component 2") if data is None else ("first", "second")
    names = tuple(f"{name}{'' if data is None else ' coordinate'} (scaled)" for name in names)
    drawn = draw(
        flow,
        {"target": target, "names": names},
        {"exact": floor, "exact_name": "held-out points", "unit": "scaled data, squared"},
    )
    parts = {"reference": floor, "reference_name": "held-out points"}
    config = {"seed": seed, "data": data or "sklearn digits", "dim": dim}
    return flow.outcome("match", settings, config, **parts, figures=figures, plots=drawn)
