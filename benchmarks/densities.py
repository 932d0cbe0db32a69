"""Densities fitted to tables: slice matching beside a coupling flow, on held-out rows.

Methods run in turns on another split for each seed, without their compilation:

- slice matching: 50 steps of 0.1 with refined bases, in JAX alone and, where it is installed, with
  swjko-native; the steps up to the largest likelihood on the part for stopping are kept.
- random bases: the same with 300 steps, each in a random basis.
- start: what slice matching does before its first step, the maps of the marginals and a covariance.
- coupling flow: maximum likelihood by Adam until the likelihood on the part for stopping has not
  grown at five checks; a check follows each 50 updates, or two passes over the rows if those are
  more.

Numbers of both methods were chosen by the part for stopping of the tables of breast cancer and of
digits and of the synthetic one, ``like a census``. In the JSON, for each method of a row:

- held_out: log-likelihood of the last 15 % of the rows in nats, of columns standardised by the
  rows for training; mean and deviation over the seeds.
- seconds: median of the compiled runs; compile_seconds: tracing and compilation, once.
- best_seconds (coupling flow): median seconds until the update that is kept.

``near``: the number of steps after which the mean likelihood of slice matching on the held-out rows
is within 10 % of that of the coupling flow; the seconds of a run with this number of steps, at
least one, in JAX alone; and the seconds of the coupling flow over these.

``ratios`` are of the seconds of the coupling flow over those of slice matching in JAX alone and,
where it is installed, with swjko-native: of the runs, of the coupling flow until the update that is
kept, and of the runs with compilation. The Gaussian has the mean and the covariance of the rows for
training.
"""

import argparse
import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from scipy.stats import multivariate_normal

import swjko
from benchmarks import common
from benchmarks.gaussian_flows import Compiled, compiled
from swjko import flows
from swjko.data.tables import require_extra
from swjko.distances.native import native_sorts
from swjko.families.slice_matching import first_steps

_BATCH, _PATIENCE = 128, 5
_JAX, _NATIVE = "slice matching", "slice matching, swjko-native"
_PARTS = (0.7, 0.85)
FLAGS = common.Flags(seeds="number of seeds (default 5)")


class Sizes(NamedTuple):
    """Steps in refined and in random bases, checks of the coupling flow, rows of the census."""

    refined_steps: int = 50
    random_steps: int = 300
    checks: int = 1000
    census_rows: int = 20_640


class _Run(NamedTuple):
    """Held-out likelihood, seconds, and seconds until what is kept was found."""

    held_out: float
    seconds: float = 0.0
    best_seconds: float = 0.0


def main(args: argparse.Namespace) -> None:
    sizes, num_seeds = (Sizes(3, 3, 2, 500), 1) if args.quick else (Sizes(), 5)
    rows = []
    for name in TABLES:
        rows.append(_measured(name, sizes, args.seeds or num_seeds))
        common.show(name, rows[-1])
    common.finish(args, {"quick": args.quick, "settings": sizes, "rows": rows})


def _measured(name: str, sizes: Sizes, num_seeds: int) -> dict[str, Any]:
    """The row of a table; the methods run in turns on the split of each seed."""
    splits = [_parts(TABLES[name](sizes), seed) for seed in range(num_seeds)]
    key, (train, valid, test) = jax.random.key(0), splits[0]
    programs = {"random bases": _compiled(False, sizes.random_steps, 0, key, train, valid)}
    programs |= {
        name: _compiled(name == _NATIVE, sizes.refined_steps, 1, key, train, valid)
        for name in (_JAX, _NATIVE)[: 1 if native_sorts() is None else 2]
    }
    fit = _Training(train, valid, sizes)
    compile_seconds = {method: program.seconds for method, program in programs.items()}
    compile_seconds["coupling flow"] = fit.compile_seconds
    runs: dict[str, list[_Run]] = {method: [] for method in ("Gaussian", "start", *compile_seconds)}
    by_steps = []
    for seed, (train, valid, test) in enumerate(splits):
        key = jax.random.key(seed)
        for method, program in programs.items():
            call = functools.partial(program.call, key, train, valid)
            seconds, law = common.timed(call)
            runs[method].append(_Run(_held_out(law, test), seconds, seconds))
        by_steps.append(np.asarray(_by_steps(law, test)))
        runs["start"].append(_Run(float(by_steps[-1][0])))
        law, best, seconds = fit(key, train, valid)
        runs["coupling flow"].append(_Run(_held_out(law, test), seconds, best))
        runs["Gaussian"].append(_Run(_gaussian(np.asarray(train), np.asarray(test))))
    methods = {
        method: _summary(found, compile_seconds.get(method)) for method, found in runs.items()
    }
    theirs = methods["coupling flow"]
    ratios = {name: _ratios(theirs, methods[name]) for name in (_JAX, _NATIVE) if name in methods}
    shape = {"table": name, "n": len(train), "dim": train.shape[1], "seeds": num_seeds}
    near = _near(np.mean(by_steps, axis=0), theirs, splits)
    return shape | {"methods": methods, "ratios": ratios, "near": near}


def _summary(runs: list[_Run], compile_seconds: float | None) -> dict[str, Any]:
    """Spread of the likelihoods and medians of the seconds; the latter only of what is timed."""
    summary: dict[str, Any] = {"held_out": common.mean_and_deviation(run.held_out for run in runs)}
    if compile_seconds is not None:
        summary["seconds"] = statistics.median(run.seconds for run in runs)
        summary["best_seconds"] = statistics.median(run.best_seconds for run in runs)
        summary["compile_seconds"] = compile_seconds
    return summary


def _compiled(native: bool, num_steps: int, num_refinements: int, *args: Any) -> Compiled:
    with swjko.native_kernels(native):
        return compiled(_match, *args, num_steps=num_steps, num_refinements=num_refinements)


def _ratios(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, float]:
    both = [method["seconds"] + method["compile_seconds"] for method in (theirs, ours)]
    return {
        "runs": theirs["seconds"] / ours["seconds"],
        "to_best": theirs["best_seconds"] / ours["seconds"],
        "with_compilation": both[0] / both[1],
    }


def _held_out(law: swjko.FlowDistribution, test: Any) -> float:
    return float(jnp.mean(law.log_prob(test)))


def _gaussian(train: np.ndarray, test: np.ndarray) -> float:
    covariance: Any = np.cov(train.T) + 1e-4 * np.eye(train.shape[1])
    return float(np.mean(multivariate_normal.logpdf(test, train.mean(axis=0), covariance)))


@jax.jit
def _by_steps(law: swjko.FlowDistribution, test: Any) -> jax.Array:
    """Held-out likelihoods [k + 1] of the law without its steps, with the first, and so on."""
    steps = law.params["steps"]

    def likelihood(num_steps: jax.Array) -> jax.Array:
        params = law.params | {"steps": first_steps(steps, num_steps)}
        return jnp.mean(swjko.FlowDistribution(law.family, params).log_prob(test))

    return lax.map(likelihood, jnp.arange(len(steps[0]) + 1))


def _near(
    likelihoods: np.ndarray, theirs: dict[str, Any], splits: list[list[jax.Array]]
) -> dict[str, Any]:
    """The first number of steps within a tenth of theirs, its median seconds, and their ratio."""
    score, seconds = theirs["held_out"]["mean"], []
    enough = np.flatnonzero(likelihoods >= score - 0.1 * abs(score))
    if not len(enough):
        return {}
    num_steps, (train, valid, _) = int(enough[0]), splits[0]
    run = _compiled(False, max(1, num_steps), 1, jax.random.key(0), train, valid)
    for seed, (train, valid, _) in enumerate(splits):
        call = functools.partial(run.call, jax.random.key(seed), train, valid)
        seconds.append(common.timed(call)[0])
    median = statistics.median(seconds)
    return {"steps": num_steps, "seconds": median, "ratio": theirs["seconds"] / median}


@functools.partial(jax.jit, static_argnames=("num_steps", "num_refinements"))
def _match(key: Any, train: Any, valid: Any, **options: Any) -> swjko.FlowDistribution:
    return swjko.slice_matching(key, train, held_out=valid, **options)


class _Training:
    """Maximum likelihood of a coupling flow with early stopping, compiled for rows like these."""

    def __init__(self, train: Any, valid: Any, sizes: Sizes) -> None:
        self.family = flows.coupling(train.shape[1], num_layers=6, width=64, mixing="lu")
        self.optimizer, self.checks = optax.adam(1e-3), sizes.checks
        self.updates = max(50, 2 * len(train) // _BATCH)
        key = jax.random.key(0)
        params = jax.jit(self.family.init)(key)
        state = params, self.optimizer.init(params)
        self.train, first = compiled(jax.jit(self._train), key, state, train)
        self.score, second = compiled(jax.jit(self._score), params, valid)
        self.compile_seconds = first + second

    def __call__(self, key: Any, train: Any, valid: Any) -> Any:
        """The flow that is kept, seconds until it was found, and seconds of the run."""
        params = jax.block_until_ready(jax.jit(self.family.init)(key))
        state, start = (params, self.optimizer.init(params)), time.perf_counter()
        best, kept, since = (-math.inf, 0.0), params, 0
        for index in range(self.checks):
            state = self.train(jax.random.fold_in(key, index), state, train)
            found, since = float(self.score(state[0], valid)), since + 1
            if found > best[0]:
                best, kept, since = (found, time.perf_counter() - start), state[0], 0
            if since == _PATIENCE:
                break
        law = swjko.FlowDistribution(self.family, kept)
        return law, best[1], time.perf_counter() - start

    def _train(self, key: Any, state: Any, train: Any) -> Any:
        def updated(state: Any, key: Any) -> Any:
            rows = train[jax.random.randint(key, (_BATCH,), 0, len(train))]
            gradient = jax.grad(lambda params: -self._score(params, rows))(state[0])
            updates, optimizer_state = self.optimizer.update(gradient, state[1], state[0])
            return (optax.apply_updates(state[0], updates), optimizer_state), None

        return lax.scan(updated, state, jax.random.split(key, self.updates))[0]

    def _score(self, params: Any, rows: Any) -> Any:
        return jnp.mean(self.family.log_prob(params, rows))


def _parts(rows: np.ndarray, seed: int) -> list[jax.Array]:
    """Standardised parts for training, stopping and the test."""
    rows = rows[np.random.default_rng(seed).permutation(len(rows))]
    parts = np.split(rows, [int(part * len(rows)) for part in _PARTS])
    mean, scale = parts[0].mean(axis=0), parts[0].std(axis=0)
    return [jnp.asarray((part - mean) / scale, jnp.float32) for part in parts]


def _of_scikit_learn(name: str) -> Callable[[Sizes], np.ndarray]:
    def load(sizes: Sizes) -> np.ndarray:
        del sizes
        return getattr(require_extra("sklearn.datasets"), f"load_{name}")().data

    return load


def _digits(sizes: Sizes) -> np.ndarray:
    """Pixels smeared over their bins."""
    del sizes
    rows = require_extra("sklearn.datasets").load_digits().data
    return rows + np.random.default_rng(0).random(rows.shape)


def _census(sizes: Sizes) -> np.ndarray:
    """Eight columns as of the blocks of a census of housing: towns along a coast, skewed counts."""
    rng, num = np.random.default_rng(1), sizes.census_rows
    towns, shares = rng.uniform(size=12), rng.dirichlet(np.full(12, 0.7))
    along = rng.choice(towns, num, p=shares) + 0.02 * rng.normal(size=num)
    inland = rng.gamma(1.5, 0.4, num)
    latitude = 33 + 8 * along + 0.3 * inland
    longitude = -117 - 6 * along + inland + 0.1 * rng.normal(size=num)
    log_income = 0.05 - 0.25 * inland + 0.45 * rng.normal(size=num)
    age = 50 * rng.beta(2, 2, num) * np.exp(-0.1 * inland)
    log_rooms = 0.25 * log_income + 0.2 * rng.normal(size=num)
    log_bedrooms = 0.1 * log_rooms + 0.07 * rng.standard_t(4, num)
    log_population = 7 - 0.01 * age + 0.7 * rng.normal(size=num)
    log_occupancy = 1 - 0.1 * log_income + 0.2 * rng.standard_t(5, num)
    skewed = np.exp([log_income, log_rooms, log_bedrooms, log_population, log_occupancy])
    return np.stack([*skewed, age, latitude, longitude], axis=1)


TABLES: dict[str, Callable[[Sizes], np.ndarray]] = {
    "breast cancer": _of_scikit_learn("breast_cancer"),
    "digits": _digits,
    "like a census": _census,
    "wine": _of_scikit_learn("wine"),
    "diabetes": _of_scikit_learn("diabetes"),
}
