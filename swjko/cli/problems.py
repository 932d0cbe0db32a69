"""The three problems of the command line: each takes its settings and returns an ``Outcome`` with energies, a reference and figures."""

import functools
import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from jax import lax

from swjko import flows, plots, problems
from swjko.cli.report import Outcome
from swjko.diagnostics.evaluate import evaluate, replay, symmetric_kl
from swjko.families.base import Family, gaussian, sample
from swjko.functionals.energies import kl_divergence, sw_to_target
from swjko.problems import DataError, Table
from swjko.running.solve import Solution, solve
from swjko.schemes.base import Info, both
from swjko.schemes.sw_jko import sw_jko
from swjko.types import Cloud, Estimate, Functional, Key, Scalar

_PLOTTED_TIMES = 5
_PLOTTED_POINTS = 1000
_POSTERIOR_DRAWS = 4096
_SYMMETRIC_KL_SAMPLES = 10_000
_symmetric_kl = jax.jit(symmetric_kl, static_argnames=("num_samples",))
_replay = jax.jit(replay, static_argnames=("num",))
_sample = jax.jit(sample, static_argnames=("num",))


class Settings(NamedTuple):
    """The numbers of a run. learning_rate starts Adam's cosine schedule, which ends at zero within each JKO step."""

    steps: int
    step_size: float
    inner_steps: int
    samples: int
    projections: int
    learning_rate: float = 3e-3


# SW time 8: the slowest modes of a random precision have eigenvalues of about 0.1.
FOKKER_PLANCK = Settings(steps=20, step_size=0.4, inner_steps=150, samples=512, projections=64)
POSTERIOR = Settings(steps=20, step_size=0.03, inner_steps=100, samples=256, projections=64)
MATCH = Settings(steps=20, step_size=0.5, inner_steps=100, samples=512, projections=64)


class Moments(NamedTuple):
    """Of one coordinate of the posterior."""

    mean: float
    standard_deviation: float


class _Flow(NamedTuple):
    """What all problems measure. history: the steps, with their energies evaluated anew on more points than the solver reports from."""

    family: Family
    solution: Solution
    energy_start: Estimate
    energy_end: Estimate
    history: Info
    clouds: Cloud
    times: np.ndarray


def fokker_planck(settings: Settings, *, seed: int, progress: bool = True, dim: int = 2) -> Outcome:
    """KL(mu | N(center, precision^{-1})) from N(0, I), beside the exact SW-JKO iterates."""
    problem = problems.gaussian_target(seed, dim)
    target = problem.target
    # One coordinate leaves a coupling nothing to condition on; there all Gaussians are the whole answer.
    family = gaussian(1) if dim == 1 else flows.coupling(dim)
    flow_key, stationary_key, exact_key = jax.random.split(jax.random.key(seed), 3)
    flow = _flow(
        flow_key, family, kl_divergence(target.log_prob), settings, settings.samples, progress
    )
    means, covs = problems.exact_sw_jko_flow(problem, settings.step_size, settings.steps)
    energies = np.array(
        [
            _gaussian_kl(mean, cov, problem.precision, problem.center)
            for mean, cov in zip(means, covs, strict=True)
        ]
    )
    exact = problems.gaussian(means[-1], covs[-1])
    divergences = {
        "SymKL against the stationary law": (stationary_key, target),
        "SymKL against the exact SW-JKO step": (exact_key, exact),
    }
    figures: dict[str, Any] = {}
    for name, (key, law) in divergences.items():
        estimate = _symmetric_kl(
            key,
            family,
            flow.solution.state.params,
            law.log_prob,
            law.sample,
            num_samples=_SYMMETRIC_KL_SAMPLES,
        )
        figures[name] = estimate
        # An estimate below its noise may be negative; its standard error is then what can be said.
        figures[f"log10 {name}, or of its standard error where larger"] = math.log10(max(estimate))
    figures["SymKL of the exact SW-JKO step against the stationary law"] = _gaussian_symmetric_kl(
        problem, means[-1], covs[-1]
    )
    plane = problems.gaussian(problem.center[:2], np.linalg.inv(problem.precision)[:2, :2])
    drawn = {
        "clouds": plots.clouds(
            flow.clouds.points, flow.times, log_prob=plane.log_prob, target_name="stationary law"
        ),
        "energy": plots.progress(
            flow.history,
            start=float(flow.energy_start.value),
            exact=energies,
            exact_name="exact SW-JKO",
            unit="nats",
        ),
    }
    config = {**settings._asdict(), "seed": seed, "dim": dim}
    return Outcome(
        "fokker-planck",
        dim,
        config,
        flow.solution,
        flow.energy_start,
        flow.energy_end,
        float(energies[-1]),
        "exact SW-JKO",
        figures,
        drawn,
    )


def posterior(
    settings: Settings,
    *,
    seed: int,
    progress: bool = True,
    data: str | None = None,
    label: str | None = None,
) -> Outcome:
    """KL(mu | posterior) of a Bayesian logistic regression from N(0, I), up to the log-evidence."""
    if (data is None) != (label is None):
        raise DataError("--data FILE.csv and --label COLUMN go together.")
    table = (
        problems.breast_cancer()
        if data is None or label is None
        else problems.load_table(data, label)
    )
    train, test = split(table, seed, data or "the default table")
    log_prob = problems.logistic_regression(
        jnp.asarray(train.features, float), jnp.asarray(train.labels, float)
    )
    dim = train.features.shape[1] + 1
    flow_key, draw_key = jax.random.split(jax.random.key(seed))
    flow = _flow(
        flow_key, flows.coupling(dim), kl_divergence(log_prob), settings, settings.samples, progress
    )
    draws = _sample(flow.family, flow.solution.state.params, draw_key, num=_POSTERIOR_DRAWS)
    log_evidence, effective = _importance(draws, log_prob)
    coordinates = (*table.names, "log alpha")
    points = np.asarray(draws.points, np.float64)
    figures = {
        "rows for training": len(train.labels),
        "rows held out": len(test.labels),
        **held_out_scores(points[:, :-1], test),
        **_reference_scores(train, test, seed),
        "effective posterior draws (importance sampling)": effective,
        "posterior marginals": {
            name: Moments(float(points[:, at].mean()), float(points[:, at].std()))
            for at, name in enumerate(coordinates)
        },
    }
    mode, cov = _laplace(log_prob, dim)
    plane = problems.gaussian(mode[:2], cov[:2, :2])
    names = tuple(f"weight of {name}" if name != "log alpha" else name for name in coordinates[:2])
    drawn = {
        "clouds": plots.clouds(
            flow.clouds.points,
            flow.times,
            log_prob=plane.log_prob,
            target_name="Laplace approx.",
            names=names,
        ),
        "energy": plots.progress(
            flow.history,
            start=float(flow.energy_start.value),
            exact=-log_evidence,
            exact_name="-log evidence (importance sampling)",
            unit="nats",
            # The first step falls by a thousand nats, and the last ones by a tenth.
            log=bool(np.all(flow.history.energy > 0)) and log_evidence < 0,
        ),
    }
    config = {
        **settings._asdict(),
        "seed": seed,
        "data": data or "sklearn breast cancer",
        "label": label,
    }
    return Outcome(
        "posterior",
        dim,
        config,
        flow.solution,
        flow.energy_start,
        flow.energy_end,
        -log_evidence,
        "-log evidence",
        figures,
        drawn,
    )


def match(
    settings: Settings,
    *,
    seed: int,
    progress: bool = True,
    data: str | None = None,
    dim: int | None = None,
) -> Outcome:
    """SW_2^2(mu, sample) / 2 from N(0, I), the sample shifted to mean 0 and divided by one number to standard deviation 1 overall."""
    points = problems.digits() if data is None else problems.load_points(data)
    if dim is None and data is None:
        dim = 2
    points, scale = _standardised_components(points, dim, data or "the digits")
    dim = int(points.shape[1])
    order = np.random.default_rng(seed).permutation(len(points))
    cut = max(1, len(points) // 5)
    held_out, target = (
        jnp.asarray(points[order[:cut]], float),
        jnp.asarray(points[order[cut:]], float),
    )
    functional = sw_to_target(target, settings.projections)
    flow_key, floor_key, held_out_key = jax.random.split(jax.random.key(seed), 3)
    # As many points as were held out, so that flow and held-out points meet the target with the same sampling noise.
    flow = _flow(flow_key, flows.mlp(dim, dim), functional, settings, cut, progress)
    floor = float(mean_energy(jax.random.split(floor_key, 16), functional, Cloud(held_out)))
    drawn_points = _sample(
        flow.family, flow.solution.state.params, held_out_key, num=len(target)
    ).points
    held_out_keys = jax.random.split(held_out_key, 16)
    against_held_out = float(
        mean_energy(
            held_out_keys, sw_to_target(held_out, settings.projections), Cloud(drawn_points)
        )
    )
    figures = {
        "points of the target": len(target),
        "points held out": cut,
        "one unit of the flow in units of the data": scale,
        "SW_2^2/2 of the flow to the target": flow.energy_end,
        "SW_2^2/2 of the held-out points to the target": floor,
        "SW_2^2/2 of the flow to the held-out points": against_held_out,
    }
    names = (
        ("first coordinate", "second coordinate")
        if data is not None
        else ("component 1", "component 2")
    )
    drawn = {
        "clouds": plots.clouds(
            flow.clouds.points,
            flow.times,
            target=target,
            names=tuple(f"{name} (scaled)" for name in names),
        ),
        "energy": plots.progress(
            flow.history,
            start=float(flow.energy_start.value),
            exact=floor,
            exact_name="held-out points",
            unit="scaled data, squared",
        ),
    }
    config = {**settings._asdict(), "seed": seed, "data": data or "sklearn digits", "dim": dim}
    return Outcome(
        "match",
        dim,
        config,
        flow.solution,
        flow.energy_start,
        flow.energy_end,
        floor,
        "held-out points",
        figures,
        drawn,
    )


def _flow(
    key: Key,
    family: Family,
    functional: Functional,
    settings: Settings,
    num_evaluated: int,
    progress: bool,
) -> _Flow:
    """Solves, and evaluates and replays what was solved."""
    solve_key, start_key, energy_key, replay_key = jax.random.split(key, 4)
    optimizer = optax.adam(
        optax.cosine_decay_schedule(settings.learning_rate, settings.inner_steps)
    )
    scheme = sw_jko(
        family,
        functional,
        optimizer,
        step_size=settings.step_size,
        num_inner_steps=settings.inner_steps,
        num_samples=settings.samples,
        num_projections=settings.projections,
    )
    solution = solve(solve_key, scheme, settings.steps, progress=progress, record=both)
    states, infos = solution.history
    # Whatever the key, a family starts at mu_0; the networks behind it differ in weights that do not matter there.
    start = jax.jit(family.init)(start_key)
    trajectory = jax.tree.map(
        lambda first, rest: np.concatenate([np.asarray(first)[None], rest]), start, states.params
    )
    energies = jax.device_get(
        _energies(energy_key, family, functional, trajectory, num_samples=num_evaluated)
    )
    energy_start, energy_end = (Estimate(*(part[at] for part in energies)) for at in (0, -1))
    times = np.concatenate([[0.0], states.time])
    shown = np.unique(np.linspace(0, len(times) - 1, _PLOTTED_TIMES).round().astype(int))
    clouds = _replay(
        replay_key, family, jax.tree.map(lambda leaf: leaf[shown], trajectory), num=_PLOTTED_POINTS
    )
    return _Flow(
        family,
        solution,
        energy_start,
        energy_end,
        infos._replace(energy=energies.value[1:]),
        clouds,
        times[shown],
    )


@functools.partial(jax.jit, static_argnames=("num_samples",))
def _energies(key, family, functional, trajectory, num_samples):
    """An ``Estimate`` [t] of F along a trajectory of params, all from the same draws."""
    return lax.map(
        lambda params: evaluate(key, family, functional, params, num_samples=num_samples),
        trajectory,
    )


@jax.jit
def mean_energy(keys: Key, functional: Functional, cloud: Cloud) -> Scalar:
    """The mean of F(cloud) over keys [k], one after another."""
    return jnp.mean(lax.map(lambda key: functional(key, cloud), keys))


def _gaussian_kl(mean, cov, precision, center) -> float:
    """KL(N(mean, cov) | N(center, precision^{-1}))."""
    shift = mean - center
    product = precision @ cov
    return (
        float(
            np.trace(product)
            + shift @ precision @ shift
            - len(mean)
            - np.linalg.slogdet(product)[1]
        )
        / 2
    )


def _gaussian_symmetric_kl(problem: problems.GaussianTarget, mean, cov) -> float:
    forward = _gaussian_kl(mean, cov, problem.precision, problem.center)
    return forward + _gaussian_kl(
        problem.center, np.linalg.inv(problem.precision), np.linalg.inv(cov), mean
    )


def split(table: Table, seed: int, source: str) -> tuple[Table, Table]:
    """80 % for training and the rest, both standardised by the mean and standard deviation of the training part."""
    order = np.random.default_rng(seed).permutation(len(table.labels))
    cut = max(1, len(order) // 5)
    test, train = (order[:cut], order[cut:])
    if len(np.unique(table.labels[train])) < 2:
        raise DataError(
            f"{source}: the 80 % drawn for training hold one class only; take more rows or another --seed."
        )
    mean, deviation = (table.features[train].mean(axis=0), table.features[train].std(axis=0))
    # A column may vary in the rows held out alone.
    features = (table.features - mean) / np.where(deviation > 0, deviation, 1.0)
    part, rest = (
        table._replace(features=features[rows], labels=table.labels[rows]) for rows in (train, test)
    )
    return part, rest


def held_out_scores(weights: np.ndarray, test: Table) -> dict[str, float]:
    """Accuracy and mean log-likelihood of the prediction averaged over draws of the weights [s p]."""
    log_prob = -np.logaddexp(0.0, -(weights @ (test.features * test.labels[:, None]).T))
    averaged = np.logaddexp.reduce(log_prob, axis=0) - math.log(len(weights))
    return {
        "held-out accuracy": float(np.mean(averaged > math.log(0.5))),
        "held-out log-likelihood": float(np.mean(averaged)),
    }


def _reference_scores(train: Table, test: Table, seed: int) -> dict[str, float]:
    """The same scores of scikit-learn's cross-validated logistic regression; none where a class is too small to be split."""
    folds = int(min(5, np.sum(train.labels == 1), np.sum(train.labels == -1)))
    if folds < 2:
        return {}
    model = problems.require_extra("sklearn.linear_model").LogisticRegressionCV
    splits = problems.require_extra("sklearn.model_selection").StratifiedKFold(
        folds, shuffle=True, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = model(cv=splits, scoring="neg_log_loss", max_iter=5000).fit(
            train.features, train.labels
        )
    log_prob = fitted.predict_log_proba(test.features)[
        np.arange(len(test.labels)), (test.labels > 0).astype(int)
    ]
    return {
        "held-out accuracy of LogisticRegressionCV": float(np.mean(log_prob > math.log(0.5))),
        "held-out log-likelihood of LogisticRegressionCV": float(np.mean(log_prob)),
    }


def _importance(draws: Cloud, log_prob: Any) -> tuple[float, float]:
    """log int exp(log_prob) by importance sampling from the flow, and how many independent draws the weights are worth."""
    log_weights = np.asarray(jax.vmap(log_prob)(draws.points), np.float64) - np.asarray(
        draws.log_density, np.float64
    )
    total = np.logaddexp.reduce(log_weights)
    effective = math.exp(2 * total - np.logaddexp.reduce(2 * log_weights))
    return float(total - math.log(len(log_weights))), effective


def _laplace(log_prob: Any, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Mode and inverse Hessian of -log_prob: a picture of the posterior that owes nothing to the flow."""
    value_and_grad = jax.jit(jax.value_and_grad(lambda log_prob, x: -log_prob(x), argnums=1))

    def cost(x):
        value, gradient = value_and_grad(log_prob, jnp.asarray(x, float))
        return float(value), np.asarray(gradient, np.float64)

    mode = scipy.optimize.minimize(
        cost, np.zeros(dim), jac=True, method="BFGS", options={"maxiter": 1000}
    ).x
    hessian = np.asarray(
        jax.jit(jax.hessian(lambda x: -log_prob(x)))(jnp.asarray(mode, float)), np.float64
    )
    return mode, np.linalg.inv((hessian + hessian.T) / 2)


def _standardised_components(
    points: np.ndarray, dim: int | None, source: str
) -> tuple[np.ndarray, float]:
    """Centred points, on their first ``dim`` principal components when given, over one common scale; and that scale."""
    if dim is not None and dim > min(points.shape):
        raise DataError(
            f"{source}: --dim {dim} principal components asked of {points.shape[0]} points in dimension {points.shape[1]}."
        )
    points = points - points.mean(axis=0)
    if dim is not None:
        _, _, components = np.linalg.svd(points, full_matrices=False)
        # The sign of a component is arbitrary; its largest entry is made positive.
        largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
        points = points @ (components * np.sign(largest))[:dim].T
    scale = float(np.sqrt(np.mean(points**2)))
    return points / scale, scale
