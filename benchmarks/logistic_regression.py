"""Posteriors of Bayesian logistic regression against NUTS: SW-JKO by a coupling flow, JKO-ICNN, Langevin, direct minimisation, the start.

The data sets, model and split of Bonet et al. (2022), arXiv 2110.10972, table 1: 80 % of the rows for training, standardised by them;
(w, log alpha) with w | alpha ~ N(0, I / alpha), alpha ~ Gamma(1, rate 100), no intercept, log alpha not clipped. All methods start from one
law and move in the coordinates in which it is N(0, I): for each alpha a Gaussian of w by expectation propagation, and the law of log alpha
that its evidences give (``benchmarks.posterior_start``). This takes some tenths of a second, which each method's seconds include, and is
the row "start". The coupling flow moves w given log alpha and leaves the law of log alpha as it is: KL(flow | posterior) would rather lose
the alpha at which w is hardest to fit. One rule in the numbers of rows and parameters serves all data sets; it was chosen on splits with
seeds from 100 on, and for few rows on parts of german, image, splice and twonorm, not on the sets of scikit-learn.

Agreement, over all marginals of (w, log alpha), with four chains of NUTS (blackjax) on the same split: the largest difference of means in
posterior standard deviations, the range of the ratios of standard deviations, and the difference of the log-likelihood of the rows held
out, per row. Where the training rows are linearly separable the posterior has no variance: along w = r u with u separating, the
likelihood tends to 1 and the prior, alpha integrated out, falls as r^-(p + 2), so r has a density of r^-3. Means and deviations of draws
then say little, and what counts are medians, in halves of the central 68 %, and the ratios of these widths; both are given for all. How far
NUTS is from itself is measured by two of its chains against the other two. Data sets that are not found are named and left out; of more
than 20,000 rows that many are drawn, for all methods.
"""

import argparse
import functools
import importlib
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.optimize
from jax.tree_util import Partial

import swjko
from benchmarks import common, posterior_start
from benchmarks.common import Solve
from benchmarks.ornstein_uhlenbeck import Network
from swjko import flows
from swjko.cli import problems as experiments
from swjko.data import tables as datasets

SETS = (
    "covtype",
    "german",
    "diabetis",
    "twonorm",
    "ringnorm",
    "banana",
    "splice",
    "waveform",
    "image",
)
UNTUNED: dict[str, Callable[[], datasets.Table]] = {
    "breast cancer (scikit-learn)": datasets.breast_cancer,
    **{
        f"wine {cultivar} (scikit-learn)": lambda cultivar=cultivar: datasets.wine(cultivar)
        for cultivar in range(3)
    },
}
# Accuracy and GPU seconds of SW-JKO (Bonet et al. 2022); accuracy, log-likelihood and GPU seconds of JKO-ICNN (Mokrov et al. 2021).
PUBLISHED = {
    "covtype": (0.755, 104, 0.756, -0.516, 26136),
    "german": (0.680, 83, 0.670, -0.599, 3965),
    "diabetis": (0.778, 122, 0.773, -0.451, 7618),
    "twonorm": (0.981, 301, 0.982, -0.058, 10116),
    "ringnorm": (0.741, 83, 0.740, -0.499, 1971),
    "banana": (0.559, 67, 0.561, -0.691, 1102),
    "splice": (0.850, 114, 0.835, -0.366, 5091),
    "waveform": (0.776, 121, 0.781, -0.487, 1897),
    "image": (0.821, 72, 0.818, -0.444, 3794),
}
_PUBLISHED_NAMES = (
    "SW-JKO accuracy",
    "SW-JKO seconds",
    "JKO-ICNN accuracy",
    "JKO-ICNN log-likelihood",
    "JKO-ICNN seconds",
)
# (at least, ambition); seconds include compilation.
TARGETS = {
    "mean": (0.08, 0.03),
    "ratio": ((0.92, 1.08), (0.97, 1.03)),
    "log_likelihood": (-0.003, None),
    "seconds": (40.0, 15.0),
}
_MAX_ROWS = 20_000
_MAX_RHAT = 1.01
# Draws times rows held out.
_PREDICTIONS = 30_000_000


class Sizes(NamedTuple):
    """Everything that ``--quick`` makes smaller. Steps are in the coordinates of the start."""

    solve: Solve = Solve(5, 0.5, 150, 128, 32, 5e-3, 15)
    num_layers: int = 6
    width: int = 64
    # Steps, and what each is; its time is Wasserstein's.
    icnn: tuple[int, Network] = (3, Network(2.0, 150, 128, 2048, 64, 5e-3))
    draws: int = 65_536
    particles: int = 512
    # One unit of time in each step, the points of the last ones pooled.
    langevin_steps: int = 14
    langevin_pooled: int = 10
    langevin_inner_steps: int = 40
    # With so few rows for a parameter posteriors are far from normal: so many times the updates, and the points of each.
    few_rows: int = 20
    few_rows_updates: int = 4
    few_rows_samples: int = 2
    chains: int = 4
    warmup: int = 500
    samples: int = 5000
    acceptance: float = 0.8
    # Walls where rows are separable, and tails of slow mixing.
    few_rows_draws: int = 4
    few_rows_acceptance: float = 0.95


QUICK = Sizes(
    Solve(1, 0.5, 10, 32, 8, 5e-3, 2),
    2,
    16,
    (1, Network(2.0, 5, 32, 64, 8, 5e-3)),
    500,
    32,
    3,
    2,
    5,
    1,
    1,
    1,
    2,
    50,
    50,
)


class Problem(NamedTuple):
    name: str
    train: datasets.Table
    test: datasets.Table
    start: posterior_start.Start
    start_seconds: float

    @property
    def dim(self) -> int:
        return self.start.dim

    def log_prob(self) -> Partial:
        """Of one point in the coordinates of the start, in the default precision."""
        return posterior_start.log_prob(self.start, self.train.features, self.train.labels)


class Draws(NamedTuple):
    """points [s d] in the coordinates of the start, and what they took."""

    points: np.ndarray
    run_seconds: float
    compile_seconds: float
    result: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one small set in tiny settings, to see that it runs; written to runs/benchmarks",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="five splits of each set instead of three: more than an hour on two cores",
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="splits of each set, seeds 0 to N - 1"
    )
    parser.add_argument(
        "--first-seed",
        type=int,
        default=0,
        metavar="S",
        help="another first seed; the settings were chosen on 100",
    )
    parser.add_argument(
        "--sets", nargs="+", metavar="NAME", help=f"some of {', '.join((*SETS, *UNTUNED))}"
    )
    parser.add_argument(
        "--again", action="store_true", help="keep what the JSON has of the other sets and splits"
    )
    parser.add_argument(
        "--data-dir",
        default=os.environ.get("SWJKO_DATA"),
        help="where the data sets are (default: SWJKO_DATA)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="directory for JSON and PNG (default benchmarks/results)"
    )


def main(args: argparse.Namespace) -> int:
    sizes = QUICK if args.quick else Sizes()
    count = args.seeds or (1 if args.quick else 5 if args.full else 3)
    names = args.sets or (["wine 0 (scikit-learn)"] if args.quick else [*SETS, *UNTUNED])
    directory = Path(args.out or (Path("runs/benchmarks") if args.quick else common.RESULTS))
    payload: dict[str, Any] = {
        "quick": args.quick,
        "full": args.full,
        "settings": sizes,
        "targets": TARGETS,
        "missing": [],
    }
    payload |= {"rows": [], "summary": {}}
    seeds = range(args.first_seed, args.first_seed + count)
    if args.again:
        written = json.loads((directory / "logistic_regression.json").read_text())
        if written["settings"] != common.finite_json(sizes):
            raise ValueError(
                f"{directory} has results of other settings; leave --again out, or take another --out."
            )
        payload["missing"] = [name for name in written["missing"] if name not in names]
        payload["rows"] = [
            row for row in written["rows"] if row["set"] not in names or row["seed"] not in seeds
        ]
    for name in names:
        try:
            table = load(name, args.data_dir)
        except datasets.DataError as error:
            payload["missing"].append(name)
            print(f"left out: {error}", flush=True)
            continue
        for seed in seeds:
            payload["rows"].append(measure(make_problem(name, table, seed), seed, sizes))
            # The programs of one split are of no use to the next, and a process may map only so many.
            jax.clear_caches()
        # After each set: a run of an hour may be cut short.
        _write(payload, directory)
    print(_write(payload, directory))
    return 0


def _write(payload: dict[str, Any], directory: Path) -> Path:
    payload["rows"].sort(key=lambda row: ([*SETS, *UNTUNED].index(row["set"]), row["seed"]))
    payload["summary"] = summary(payload["rows"])
    path = common.write_results("logistic_regression", payload, directory)
    _figure(payload["summary"]).savefig(directory / "logistic_regression.png", dpi=150)
    return path


def load(name: str, data_dir: str | None) -> datasets.Table:
    if name in UNTUNED:
        return UNTUNED[name]()
    if data_dir is None:
        raise datasets.DataError(f"{name}: no --data-dir and no SWJKO_DATA say where it is.")
    return datasets.load_logreg(name, data_dir)


def make_problem(name: str, table: datasets.Table, seed: int) -> Problem:
    if len(table.labels) > _MAX_ROWS:
        kept = np.random.default_rng(seed).choice(len(table.labels), _MAX_ROWS, replace=False)
        table = table._replace(features=table.features[kept], labels=table.labels[kept])
    train, test = experiments.split(table, seed, name)
    began = time.perf_counter()
    start = posterior_start.make_start(train.features, train.labels)
    return Problem(name, train, test, start, time.perf_counter() - began)


def measure(problem: Problem, seed: int, sizes: Sizes) -> dict[str, Any]:
    """All methods on one split, beside NUTS."""
    draws_of_nuts, chains = nuts(problem, seed, sizes)
    exact = _marginals(draws_of_nuts, problem.test)
    first, second = (_marginals(half, problem.test) for half in np.split(draws_of_nuts, 2))
    row: dict[str, Any] = {
        "set": problem.name,
        "seed": seed,
        "rows": len(problem.train.labels),
        "parameters": problem.dim,
        "nuts": chains | exact.scores | {"two_chains_against_two": _agreement(first, second)},
    }
    row["separable"] = separable(problem.train)
    row["published"] = dict(zip(_PUBLISHED_NAMES, PUBLISHED.get(problem.name, ()), strict=False))
    row["methods"] = {}
    for name, method in METHODS.items():
        draws = method(problem, seed, sizes)
        marginals = _marginals(
            posterior_start.parameters(problem.start, draws.points), problem.test
        )
        found = _agreement(marginals, exact) | marginals.scores
        found |= {
            "run_seconds": problem.start_seconds + draws.run_seconds,
            "compile_seconds": draws.compile_seconds,
            "result": draws.result,
        }
        row["methods"][name] = found
        print(
            f"{problem.name}, seed {seed}, {name}: mean {found['mean']:.3f} sd, "
            f"ratios {found['smallest_ratio']:.3f} to {found['largest_ratio']:.3f}, "
            f"medians {found['median']:.3f}, widths {found['smallest_width']:.3f} to {found['largest_width']:.3f}, "
            f"log-likelihood {found['log_likelihood_minus_nuts']:+.5f}, {found['run_seconds']:.1f} + {draws.compile_seconds:.1f} s",
            flush=True,
        )
    return row


class _Marginals(NamedTuple):
    mean: np.ndarray
    deviation: np.ndarray
    median: np.ndarray
    width: np.ndarray
    scores: dict[str, float]


def _marginals(points: np.ndarray, test: datasets.Table) -> _Marginals:
    return _Marginals(
        points.mean(axis=0), points.std(axis=0), *_central(points), _scores(points, test)
    )


def _agreement(ours: _Marginals, exact: _Marginals) -> dict[str, Any]:
    difference, ratio, width = (
        (ours.mean - exact.mean) / exact.deviation,
        ours.deviation / exact.deviation,
        ours.width / exact.width,
    )
    found: dict[str, Any] = {
        "mean": np.max(np.abs(difference)),
        "smallest_ratio": ratio.min(),
        "largest_ratio": ratio.max(),
    }
    found["median"] = np.max(np.abs(ours.median - exact.median) / exact.width)
    found |= {"smallest_width": width.min(), "largest_width": width.max()}
    found["log_alpha"] = {"mean": difference[-1], "ratio": ratio[-1]}
    name = "held-out log-likelihood"
    return found | {"log_likelihood_minus_nuts": ours.scores[name] - exact.scores[name]}


def separable(table: datasets.Table) -> bool:
    """Whether some w has y_i <x_i, w> >= 1 for all rows: a linear program."""
    signed = table.features * table.labels[:, None]
    program = scipy.optimize.linprog(
        np.zeros(signed.shape[1]), A_ub=-signed, b_ub=-np.ones(len(signed)), bounds=(None, None)
    )
    return program.status == 0


def nuts(problem: Problem, seed: int, sizes: Sizes) -> tuple[np.ndarray, dict[str, Any]]:
    """Draws of (w, log alpha), all chains in one, and what is to be known of them; in float64. Warns where R-hat is too large."""
    blackjax: Any = importlib.import_module("blackjax")
    num_samples, acceptance = sizes.samples, sizes.acceptance
    if _has_few_rows(problem, sizes):
        num_samples, acceptance = num_samples * sizes.few_rows_draws, sizes.few_rows_acceptance

    def chain(key, log_prob):
        start_key, warmup_key, run_key = jax.random.split(key, 3)
        warmup = blackjax.window_adaptation(
            blackjax.nuts, log_prob, target_acceptance_rate=acceptance
        )
        start = 2.0 * jax.random.normal(start_key, (problem.dim,))
        (state, parameters), _ = warmup.run(warmup_key, start, num_steps=sizes.warmup)
        kernel = blackjax.nuts(log_prob, **parameters)

        def step(state, key):
            state, info = kernel.step(key, state)
            return state, (state.position, info.is_divergent)

        return jax.lax.scan(step, state, jax.random.split(run_key, num_samples))[1]

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), sizes.chains)
        began = time.perf_counter()
        points, divergent = jax.device_get(
            jax.jit(jax.vmap(chain, in_axes=(0, None)))(keys, problem.log_prob())
        )
        seconds = time.perf_counter() - began
        sampled = posterior_start.parameters(problem.start, points)
        rhat = float(np.max(blackjax.rhat(sampled)))
        effective = float(np.min(blackjax.ess(sampled)))
    info = {
        "seconds_with_compilation": seconds,
        "largest_rhat": rhat,
        "smallest_effective_draws": effective,
    }
    info |= {"divergent": int(divergent.sum()), "converged": rhat < _MAX_RHAT}
    if not info["converged"]:
        print(
            f"{problem.name}, seed {seed}: NUTS has an R-hat of {rhat:.3f}, no reference",
            flush=True,
        )
    return sampled.reshape(-1, problem.dim), info


def sw_jko(problem: Problem, seed: int, sizes: Sizes) -> Draws:
    family, functional = _flow(problem, sizes)
    settings = _for_rows(sizes.solve, problem, sizes)
    settings = settings._replace(
        num_projections=problem.dim * math.ceil(settings.num_projections / problem.dim)
    )
    scheme = settings.scheme(family, functional, direction_fn=swjko.recommended_directions)
    return _solved(scheme, settings.num_steps, seed, sizes)


def direct(problem: Problem, seed: int, sizes: Sizes) -> Draws:
    """The same family, optimiser, updates and points."""
    family, functional = _flow(problem, sizes)
    settings = _for_rows(sizes.solve, problem, sizes)
    optimizer = settings.scheme(family, functional).optimizer
    scheme = swjko.direct_minimization(
        family,
        functional,
        optimizer,
        num_inner_steps=settings.num_inner_steps,
        num_samples=settings.num_samples,
    )
    return _solved(scheme, settings.num_steps, seed, sizes)


def icnn_jko(problem: Problem, seed: int, sizes: Sizes) -> Draws:
    num_steps, network = sizes.icnn
    scheme = _for_rows(network, problem, sizes).scheme(
        problem.dim, _flow(problem, sizes)[1], num_steps
    )
    return _solved(scheme, num_steps, seed, sizes)


def langevin(problem: Problem, seed: int, sizes: Sizes) -> Draws:
    start_key, run_key = jax.random.split(jax.random.key(seed))
    points = jax.random.normal(start_key, (sizes.particles, problem.dim))
    scheme = swjko.langevin(
        points, problem.log_prob(), step_size=1.0, num_inner_steps=sizes.langevin_inner_steps
    )
    solution = swjko.solve(
        run_key, scheme, sizes.langevin_steps, progress=False, throw=False, record=_points
    )
    pooled = solution.history[-sizes.langevin_pooled :].reshape(-1, problem.dim)
    return Draws(pooled, *_seconds(solution), solution.result.name)


def start(problem: Problem, seed: int, sizes: Sizes) -> Draws:
    return Draws(
        np.random.default_rng(seed).standard_normal((sizes.draws, problem.dim)), 0.0, 0.0, "OK"
    )


# Each gives draws in the coordinates of the start.
METHODS: dict[str, Callable[[Problem, int, Sizes], Draws]] = {
    "sw_jko": sw_jko,
    "icnn_jko": icnn_jko,
    "direct minimisation": direct,
    "Langevin": langevin,
    "start": start,
}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """For each set and method the worst over the splits of what has a target, and means of the rest; sets in order."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(row["set"] for row in rows):
        splits = [row for row in rows if row["set"] == name]
        found[name] = {"separable": any(row["separable"] for row in splits)}
        found[name] |= {
            "splits_without_reference": [
                row["seed"] for row in splits if not row["nuts"]["converged"]
            ]
        }
        itself = [row["nuts"]["two_chains_against_two"] for row in splits]
        largest = max(abs(run["log_likelihood_minus_nuts"]) for run in itself)
        found[name] |= {
            "two_chains_against_two": _worst(itself) | {"log_likelihood": largest},
            "methods": {},
        }
        for method in METHODS:
            runs = [row["methods"][method] for row in splits]
            entry = _worst(runs)
            entry["seconds"] = max(run["run_seconds"] + run["compile_seconds"] for run in runs)
            entry["met"] = _met(entry, 0, found[name]["separable"])
            entry["ambition"] = _met(entry, 1, found[name]["separable"])
            for score in ("held-out accuracy", "held-out log-likelihood"):
                entry[score] = np.mean([run[score] for run in runs])
            found[name]["methods"][method] = entry
    return found


def _worst(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "mean": max(run["mean"] for run in runs),
        "ratio": (
            min(run["smallest_ratio"] for run in runs),
            max(run["largest_ratio"] for run in runs),
        ),
        "median": max(run["median"] for run in runs),
        "width": (
            min(run["smallest_width"] for run in runs),
            max(run["largest_width"] for run in runs),
        ),
        "log_likelihood": min(run["log_likelihood_minus_nuts"] for run in runs),
    }


def _judged(entry: dict[str, Any], separable: bool) -> tuple[float, tuple[float, float]]:
    """The difference and the ratios: of medians and widths where means and deviations say little."""
    return (entry["median"], entry["width"]) if separable else (entry["mean"], entry["ratio"])


def _met(entry: dict[str, Any], which: int, separable: bool) -> dict[str, bool]:
    (low, high), least = TARGETS["ratio"][which], TARGETS["log_likelihood"][which]
    location, (smallest, largest) = _judged(entry, separable)
    met = {"mean": location <= TARGETS["mean"][which], "ratio": low <= smallest and largest <= high}
    met["seconds"] = entry["seconds"] <= TARGETS["seconds"][which]
    return met if least is None else met | {"log_likelihood": entry["log_likelihood"] >= least}


def _central(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians, and half the distance between the quantiles at 16 % and 84 %."""
    low, median, high = np.quantile(points, (0.16, 0.5, 0.84), axis=0)
    return median, (high - low) / 2


def _flow(problem: Problem, sizes: Sizes) -> tuple[swjko.Family, Any]:
    """The flow moves w given log alpha, whose law the start has from the evidence."""
    family = flows.coupling(
        problem.dim, num_layers=sizes.num_layers, width=sizes.width, num_fixed=1
    )
    return family, swjko.kl_divergence(problem.log_prob())


def _has_few_rows(problem: Problem, sizes: Sizes) -> bool:
    return len(problem.train.labels) < sizes.few_rows * problem.dim


def _for_rows(settings: Any, problem: Problem, sizes: Sizes) -> Any:
    if not _has_few_rows(problem, sizes):
        return settings
    updates, samples = (
        settings.num_inner_steps * sizes.few_rows_updates,
        settings.num_samples * sizes.few_rows_samples,
    )
    return settings._replace(num_inner_steps=updates, num_samples=samples)


def _solved(scheme: Any, num_steps: int, seed: int, sizes: Sizes) -> Draws:
    solution = swjko.solve(jax.random.key(seed), scheme, num_steps, progress=False, throw=False)
    key = jax.random.fold_in(jax.random.key(seed), 2)
    points = _sample_points(scheme.family, solution.state.params, key, num=sizes.draws)
    return Draws(np.asarray(points), *_seconds(solution), solution.result.name)


@functools.partial(jax.jit, static_argnames="num")
def _sample_points(family, params, key, num):
    """Without densities, which nothing reads and which cost convex networks a Hessian for each point."""
    return swjko.sample(family, params, key, num).points


def _scores(points: np.ndarray, test: datasets.Table) -> dict[str, float]:
    stride = math.ceil(len(points) * len(test.labels) / _PREDICTIONS)
    return experiments.held_out_scores(points[::stride, :-1], test)


def _seconds(solution: swjko.Solution) -> tuple[float, float]:
    return solution.timing.run_seconds, solution.timing.compile_seconds


def _points(state: swjko.State, info: swjko.Info) -> Any:
    del info
    return state.params


def _figure(found: dict[str, Any]) -> Any:
    """Worst difference and range of ratios for each set, as the targets judge them; a colour for each method, and the bounds asked for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for index, method in enumerate(METHODS):
        places = np.arange(len(found)) + 0.18 * (index - (len(METHODS) - 1) / 2)
        agreements = [
            _judged(entry["methods"][method], entry["separable"]) for entry in found.values()
        ]
        left.plot(
            [off for off, _ in agreements],
            places,
            "o",
            color=f"C{index}",
            markersize=5,
            label=method,
        )
        for place, (_, ratios) in zip(places, agreements, strict=True):
            right.plot(ratios, [place, place], color=f"C{index}", linewidth=3)
    for bound, style in zip(TARGETS["mean"], ("--", ":"), strict=True):
        left.axvline(bound, color="0.5", linestyle=style, linewidth=1)
    for bounds, style in zip(TARGETS["ratio"], ("--", ":"), strict=True):
        for bound in bounds:
            right.axvline(bound, color="0.5", linestyle=style, linewidth=1)
    left.set(
        xscale="log",
        xlabel="worst difference of means from NUTS (posterior sd);\nof medians (half the central 68 %) where separable",
    )
    right.set(
        xlabel="sd / that of NUTS, smallest to largest;\nwidth of the central 68 % where separable"
    )
    names = [
        f"{name}{', separable' if entry['separable'] else ''}" for name, entry in found.items()
    ]
    left.set_yticks(np.arange(len(found)), labels=names)
    left.invert_yaxis()
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside upper center",
        ncols=len(METHODS),
        fontsize=8,
    )
    return figure
