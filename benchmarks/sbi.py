"""Amortised posteriors of a simulator, by classifiers between draws of flows and exact ones.

The tasks, two moons and SLCP, are in ``benchmarks.sbi_tasks``. A conditional spline flow is fitted
to pairs of parameters and simulated data by forward KL. A tenth of the pairs is held out. The rate
falls to zero by a cosine in each step, and the step with the best held-out density counts. Runs
with ``CHOICE_SEEDS`` choose the coordinates: those of the box with rejection of draws outside, or
unbounded ones. The run with ``REPORT_SEED`` is reported.

The score is the accuracy of a classifier between draws of the flow and exact ones (C2ST), 0.5 at
best: scikit-learn's network with two hidden layers of width 10 d, five folds, standardised by the
exact draws. Data come from the prior predictive, with seeds of our own, since those of the
published scores are files of another package. The published scores are means over ten data sets,
also standardised.
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
from benchmarks.sbi_tasks import PUBLISHED_FILE, TASKS, Task
from swjko import flows
from swjko.families.preprocessing import Preprocessing, interval, scale

CHOICE_SEEDS, REPORT_SEED = (0, 1), 2
FLAGS = common.Flags(quick="few simulations, updates and draws")
# Draws outside of the box are drawn again, so [-1, 1] needs no more than the unit of the box.
_COORDINATES = {
    "box": lambda half: scale(0.0, 1.0 / half),
    "unbounded": lambda half: interval(-half, half),
}
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

    task: Task
    family: Any
    params: Any
    coordinates: Preprocessing
    report: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--task``."""
    names = ", ".join(TASKS)
    parser.add_argument("--task", choices=list(TASKS), default="two_moons", help=names)


def main(args: argparse.Namespace) -> None:
    sizes, task = QUICK if args.quick else DEFAULT, TASKS[args.task]
    choice = {
        name: [fit(task, name, sizes.choice, seed, sizes).report for seed in CHOICE_SEEDS]
        for name in _COORDINATES
    }
    common.show("choice", choice)
    held_out = {name: np.mean([run["held_out"] for run in runs]) for name, runs in choice.items()}
    chosen = max(held_out, key=lambda name: held_out[name])
    observed = task.observed(sizes.observations)
    rows, clouds = [], {}
    for number in sizes.updates:
        fitted = fit(task, chosen, number, REPORT_SEED, sizes)
        row, clouds[number] = score(fitted, observed, sizes.draws)
        rows.append(row | {"simulations": number, "published": task.published.get(number)})
        common.show(f"{number} simulations", rows[-1])
    content = {"quick": args.quick, "task": args.task, "settings": sizes, "choice": choice}
    content |= {"chosen": chosen, "published_file": PUBLISHED_FILE}
    content |= {"observed": observed.tolist(), "rows": rows}
    name = None if args.task == "two_moons" else f"{args.name}_{args.task}"
    common.finish(args, content, ("", _figure(clouds)), name=name)


# Fit and score.


def fit(task: Task, name: str, number: int, seed: int, sizes: Sizes) -> Fit:
    """Fit the posteriors of all data to simulations, nine tenths of ``number``."""
    rng = np.random.default_rng([seed, number])
    parameters = task.prior(rng, number)
    data = jnp.asarray(task.simulate(rng, parameters), float)
    coordinates = _COORDINATES[name](task.half)
    moved, log_slope = coordinates.forward(jnp.asarray(parameters, float))
    pairs, held = jnp.concatenate([moved, data], axis=1), number // 10
    scale_of_start = _START_SCALES[name]
    family = flows.conditional(
        task.dim, data[held:], num_layers=sizes.layers, width=sizes.width, init_scale=scale_of_start
    )
    updates = sizes.updates[number]
    energy = swjko.forward_kl(pairs[held:], batch_size=min(sizes.batch, number // 4))
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
    params = jax.tree.map(lambda leaf: leaf[best], trajectory)
    return Fit(task, family, params, coordinates, report)


@jax.jit
def _log_densities(family: Any, trajectory: Any, points: Any) -> Any:
    """Mean log-density of the points for the parameters of each step."""
    return jax.lax.map(lambda params: jnp.mean(family.log_prob(params, points)), trajectory)


def score(fitted: Fit, observed: np.ndarray, num: int) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The row of the JSON, and draws and exact draws given the first data."""
    scores, inside, clouds = [], [], []
    for index, data in enumerate(observed):
        points, share = posterior_draws(fitted, jax.random.key(index), data, num)
        exact = fitted.task.exact(np.random.default_rng([7, index]), data, num)
        scores.append(c2st(exact, points))
        inside.append(share)
        clouds = clouds or [points, exact]
        common.show(f"data {index}", scores[-1])
    row = fitted.report | {"c2st": common.mean_and_error(scores), "c2st_each": scores}
    return row | {"worst": max(scores), "inside": float(np.mean(inside))}, clouds


def posterior_draws(
    fitted: Fit, key: Any, observed: np.ndarray, num: int
) -> tuple[np.ndarray, float]:
    """Draws [num dim] inside the box, and the share of all draws that is inside."""
    law = fitted.family.given(fitted.params, jnp.asarray(observed, float))
    sample = jax.jit(lambda key: fitted.coordinates.inverse(law.sample(key, 2 * num).points)[0])
    kept, drawn = np.zeros((0, fitted.task.dim)), 0
    while len(kept) < num:
        key, own_key = jax.random.split(key)
        points = np.asarray(sample(own_key), np.float64)
        kept = np.concatenate([kept, points[fitted.task.inside(points)]])
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
    """The first two parameters of draws of the flows and of exact ones, given the first data."""
    columns = {f"flow, {number:,} simulations": pair[0] for number, pair in clouds.items()}
    columns["exact"] = next(iter(clouds.values()))[1]
    figure, (axes,) = common.new_figure(3.0 * len(columns), 3.2, columns=len(columns))
    exact = columns["exact"][:, :2]
    middle, half = (exact.max(axis=0) + exact.min(axis=0)) / 2, 0.6 * np.ptp(exact, axis=0).max()
    for axis, (label, points) in zip(axes, columns.items(), strict=True):
        color = "0.3" if label == "exact" else "C0"
        axis.plot(*points[:2000, :2].T, ".", markersize=1, color=color)
        axis.set(title=label, xlim=middle[0] + half * np.array([-1, 1]), xlabel="$t_1$")
        axis.set(ylim=middle[1] + half * np.array([-1, 1]), ylabel="$t_2$", aspect="equal")
    return figure
