"""Amortised posteriors of a simulator: two moons, by classifiers between flow and exact draws.

The task is two moons of Lueckmann et al. (2021), arXiv 2101.04653. A conditional spline flow is
fitted to pairs of parameters and simulated data by forward KL. A tenth of the pairs is held out.
The rate falls to zero by a cosine in each step, and the step with the best held-out density counts.
Runs with ``CHOICE_SEEDS`` choose the coordinates: those of the box with rejection of draws outside,
or unbounded ones. The run with ``REPORT_SEED`` is reported.

The score is the accuracy of a classifier between draws of the flow and exact ones (C2ST), 0.5 at
best: scikit-learn's network with two hidden layers of width 10 d, five folds, standardised by the
exact draws. Data come from the prior predictive, with seeds of our own, since those of the
published scores are files of another package. ``PUBLISHED`` has the mean scores of neural posterior
estimation (NPE) over the ten published data sets, also standardised. They are from
``PUBLISHED_FILE`` in a repository under the MIT licence.
"""

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import swjko
from benchmarks import common
from swjko import flows
from swjko.families.preprocessing import Preprocessing, interval, scale

PUBLISHED_FILE = "sbi-benchmark/results, benchmarking_sbi_023/results/re-sbibm_sbi_023.csv"
# Column C2ST_Z of NPE, by number of simulations, from 10,000 draws for each of ten data sets.
PUBLISHED = {1000: 0.7243, 10_000: 0.6113, 100_000: 0.5418}
CHOICE_SEEDS, REPORT_SEED = (0, 1), 2
FLAGS = common.Flags(quick="few simulations, updates and draws")
# Draws outside of the box are drawn again, so the box needs no map.
_COORDINATES = {"box": lambda: scale(0.0, 1.0), "unbounded": lambda: interval(-1.0, 1.0)}
_START_SCALES = {"box": 3**-0.5, "unbounded": np.pi / 3**0.5}


class Sizes(NamedTuple):
    """Updates in each step by number of simulations, and what all runs share."""

    updates: dict[int, int]
    choice: int
    steps: int
    batch: int
    draws: int
    observations: int
    layers: int = 6
    width: int = 64
    rate: float = 1e-3


DEFAULT = Sizes(
    updates={1000: 200, 10_000: 400, 100_000: 1000},
    choice=10_000,
    steps=20,
    batch=256,
    draws=10_000,
    observations=10,
)
QUICK = Sizes(
    updates={200: 5}, choice=200, steps=2, batch=32, draws=50, observations=2, layers=2, width=8
)


class Fit(NamedTuple):
    """A fitted family of the posteriors, and how it was fitted."""

    family: Any
    params: Any
    coordinates: Preprocessing
    report: dict[str, Any]


def main(args: argparse.Namespace) -> None:
    sizes = QUICK if args.quick else DEFAULT
    choice = {
        name: [fit(name, sizes.choice, seed, sizes).report for seed in CHOICE_SEEDS]
        for name in _COORDINATES
    }
    common.show("choice", choice)
    held_out = {name: np.mean([run["held_out"] for run in runs]) for name, runs in choice.items()}
    chosen = max(held_out, key=lambda name: held_out[name])
    observed = two_moons(np.random.default_rng(99), prior(np.random.default_rng(98), 10))
    rows, clouds = [], {}
    for number in sizes.updates:
        fitted = fit(chosen, number, REPORT_SEED, sizes)
        row, clouds[number] = score(fitted, observed[: sizes.observations], sizes.draws)
        rows.append(row | {"simulations": number, "published": PUBLISHED.get(number)})
        common.show(f"{number} simulations", rows[-1])
    content = {"quick": args.quick, "settings": sizes, "choice": choice, "chosen": chosen}
    content |= {"published_file": PUBLISHED_FILE, "observed": observed.tolist(), "rows": rows}
    common.finish(args, content, ("", _figure(clouds)))


# The task. Draws are by NumPy in float64.


def prior(rng: np.random.Generator, num: int) -> np.ndarray:
    """Parameters [num 2], uniform on [-1, 1]^2."""
    return rng.uniform(-1.0, 1.0, (num, 2))


def two_moons(rng: np.random.Generator, parameters: np.ndarray) -> np.ndarray:
    """Data [n 2] of parameters [n 2]: a crescent, moved by (-|t1 + t2|, t2 - t1) / sqrt(2)."""
    first, second = parameters.T
    move = np.stack([-np.abs(first + second), second - first], axis=1) / np.sqrt(2)
    return _crescent(rng, len(parameters)) + move


def _crescent(rng: np.random.Generator, num: int) -> np.ndarray:
    angle, radius = rng.uniform(-np.pi / 2, np.pi / 2, num), rng.normal(0.1, 0.01, num)
    return np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=1)


def exact_posterior(rng: np.random.Generator, observed: np.ndarray, num: int) -> np.ndarray:
    """Exact draws [num 2] of the parameters given data [2].

    A point p of the crescent and the data give |t1 + t2| = sqrt(2) (p1 - x1), if p1 >= x1, and
    t2 - t1 = sqrt(2) (x2 - p2). The map from parameters to p is a rotation for each sign of
    t1 + t2, so a point of the crescent with a random sign has the posterior of a flat prior, and
    rejection outside of the box gives that of ours.
    """
    kept = np.zeros((0, 2))
    while len(kept) < num:
        size, difference = (np.sqrt(2) * (_crescent(rng, 4 * num) - observed)).T * [[1], [-1]]
        total = size * rng.choice([-1.0, 1.0], 4 * num)
        points = np.stack([total - difference, total + difference], axis=1) / 2
        inside = (size >= 0) & np.all(np.abs(points) <= 1, axis=1)
        kept = np.concatenate([kept, points[inside]])
    return kept[:num]


# Fit and score.


def fit(name: str, number: int, seed: int, sizes: Sizes) -> Fit:
    """Fit the posteriors of all data to simulations, nine tenths of ``number``."""
    rng = np.random.default_rng([seed, number])
    parameters = prior(rng, number)
    data = jnp.asarray(two_moons(rng, parameters), float)
    coordinates = _COORDINATES[name]()
    moved, log_slope = coordinates.forward(jnp.asarray(parameters, float))
    pairs, held = jnp.concatenate([moved, data], axis=1), number // 10
    scale_of_start = _START_SCALES[name]
    family = flows.conditional(
        2, data[held:], num_layers=sizes.layers, width=sizes.width, init_scale=scale_of_start
    )
    updates = sizes.updates[number]
    energy: Any = swjko.forward_kl(pairs[held:], batch_size=min(sizes.batch, number // 4))
    scheme = swjko.direct_minimization(
        family,
        energy,
        optax.adam(optax.cosine_decay_schedule(sizes.rate, updates)),
        num_inner_steps=updates,
        num_samples=1,
    )
    key = jax.random.key(seed)
    solution = swjko.solve(key, scheme, sizes.steps, record="trajectory", progress=False)
    trajectory = solution.history[0].params
    scores = _log_densities(family, trajectory, pairs[:held]) + jnp.mean(log_slope[:held])
    best = int(jnp.argmax(scores))
    report = {"coordinates": name, "seed": seed, "held_out": float(scores[best])}
    report |= {"updates": (best + 1) * updates, "held_out_steps": np.asarray(scores).tolist()}
    report |= solution.timing._asdict()
    return Fit(family, jax.tree.map(lambda leaf: leaf[best], trajectory), coordinates, report)


@jax.jit
def _log_densities(family: Any, trajectory: Any, points: Any) -> Any:
    """Mean log-density of the points for the parameters of each step."""
    return jax.lax.map(lambda params: jnp.mean(family.log_prob(params, points)), trajectory)


def score(fitted: Fit, observed: np.ndarray, num: int) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The row of the JSON, and draws and exact draws given the first data."""
    scores, inside, clouds = [], [], []
    for index, data in enumerate(observed):
        points, share = posterior_draws(fitted, jax.random.key(index), data, num)
        exact = exact_posterior(np.random.default_rng([7, index]), data, num)
        scores.append(c2st(exact, points))
        inside.append(share)
        clouds = clouds or [points, exact]
        common.show(f"data {index}", scores[-1])
    row = fitted.report | {"c2st": common.mean_and_error(scores), "c2st_each": scores}
    return row | {"worst": max(scores), "inside": float(np.mean(inside))}, clouds


def posterior_draws(
    fitted: Fit, key: Any, observed: np.ndarray, num: int
) -> tuple[np.ndarray, float]:
    """Draws [num 2] inside the box, and the share of all draws that is inside."""
    law = fitted.family.given(fitted.params, jnp.asarray(observed, float))
    sample = jax.jit(lambda key: fitted.coordinates.inverse(law.sample(key, 2 * num).points)[0])
    kept, drawn = np.zeros((0, 2)), 0
    while len(kept) < num:
        key, own_key = jax.random.split(key)
        points = np.asarray(sample(own_key), np.float64)
        kept = np.concatenate([kept, points[np.all(np.abs(points) <= 1, axis=1)]])
        drawn += len(points)
    return kept[:num], len(kept) / drawn


def c2st(exact: np.ndarray, points: np.ndarray) -> float:
    """Accuracy of a classifier between two clouds on held-out folds, 0.5 at best."""
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    center, deviation = exact.mean(axis=0), exact.std(axis=0)
    features = (np.concatenate([exact, points]) - center) / deviation
    labels = np.repeat([0, 1], [len(exact), len(points)])
    width = 10 * exact.shape[1]
    classifier = MLPClassifier((width, width), max_iter=1000, random_state=1)
    folds = KFold(n_splits=5, shuffle=True, random_state=1)
    return float(np.mean(cross_val_score(classifier, features, labels, cv=folds, n_jobs=-1)))


def _figure(clouds: dict[int, list[np.ndarray]]) -> Figure:
    """Draws of the flows and exact ones, given the first data."""
    columns = {f"flow, {number:,} simulations": pair[0] for number, pair in clouds.items()}
    columns["exact"] = next(iter(clouds.values()))[1]
    figure, (axes,) = common.new_figure(3.0 * len(columns), 3.2, columns=len(columns))
    exact = columns["exact"]
    middle, half = (exact.max(axis=0) + exact.min(axis=0)) / 2, 0.6 * np.ptp(exact, axis=0).max()
    for axis, (label, points) in zip(axes, columns.items(), strict=True):
        axis.plot(*points[:2000].T, ".", markersize=1, color="C0" if label != "exact" else "0.3")
        axis.set(title=label, xlim=middle[0] + half * np.array([-1, 1]), xlabel="$t_1$")
        axis.set(ylim=middle[1] + half * np.array([-1, 1]), ylabel="$t_2$", aspect="equal")
    return figure
