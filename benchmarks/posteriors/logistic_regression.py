"""Posteriors of Bayesian logistic regression by five methods, compared with NUTS.

Data sets, model and split are those of Bonet et al. (2022), arXiv 2110.10972, table 1: 80 % of the
rows for training, standardised by them; (w, log alpha) with w | alpha ~ N(0, I / alpha),
alpha ~ Gamma(1, rate 100), no intercept, and log alpha not clipped. All methods start from one law
and move in the coordinates in which it is N(0, I); see ``benchmarks.posteriors.start``. Finding it
takes some tenths of a second, which the seconds of each method include. The law itself is the row
"start". The coupling flow moves w given log alpha and keeps the law of log alpha, because
KL(flow | posterior) would rather lose the alpha at which w is hardest to fit. One rule in the
numbers of rows and parameters serves all data sets. It was chosen on splits with seeds from 100 on,
and for few rows on parts of german, image, splice and twonorm, not on the sets of scikit-learn.

``benchmarks.posteriors.agreement`` says how draws are compared with four chains of NUTS (blackjax)
on the same split. Data sets that are not found are named and left out. If a set has more than
20,000 rows, that many are drawn, for all methods.
"""

import argparse
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import common
from benchmarks.data import load_logreg
from benchmarks.posteriors import agreement
from benchmarks.posteriors import start as starts
from benchmarks.posteriors.methods import METHODS, QUICK, Problem, Sizes, nuts
from swjko import problems
from swjko.cli.scores import split
from swjko.problems import DataError, Table

UNTUNED: dict[str, Callable[[], Table]] = {
    "breast cancer (scikit-learn)": problems.breast_cancer,
    **{
        f"wine {cultivar} (scikit-learn)": functools.partial(problems.wine, cultivar)
        for cultivar in range(3)
    },
}
_PUBLISHED_NAMES = (
    *("SW-JKO accuracy", "SW-JKO seconds"),
    *("JKO-ICNN accuracy", "JKO-ICNN log-likelihood", "JKO-ICNN seconds"),
)
# SW-JKO from Bonet et al. (2022), JKO-ICNN from Mokrov et al. (2021); seconds on a GPU.
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
SETS = (*PUBLISHED, *UNTUNED)
_MAX_ROWS = 20_000


FLAGS = common.Flags(
    quick="one small set in tiny settings",
    full="five splits of each set instead of three: more than an hour on two cores",
    seeds="splits of each set",
    first_seed="seed of the first split; the settings were chosen on 100",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose data sets."""
    parser.add_argument("--sets", nargs="+", metavar="NAME", help=f"some of {', '.join(SETS)}")
    text = "keep what the JSON has of the other sets and splits"
    parser.add_argument("--again", action="store_true", help=text)
    data, text = os.environ.get("SWJKO_DATA"), "where the data sets are (default: SWJKO_DATA)"
    parser.add_argument("--data-dir", default=data, help=text)


def main(args: argparse.Namespace) -> None:
    sizes = QUICK if args.quick else Sizes()
    count = args.seeds or (1 if args.quick else 5 if args.full else 3)
    names = args.sets or (["wine 0 (scikit-learn)"] if args.quick else SETS)
    seeds = range(args.first_seed, args.first_seed + count)
    content: dict[str, Any] = {"quick": args.quick, "full": args.full, "settings": sizes}
    content |= {"missing": [], "rows": []}
    if args.again:
        written = common.read_results(args.name, args.directory)
        if written["settings"] != common.finite_json(sizes):
            raise ValueError(
                f"`--out` must hold results of the same settings; got others in {args.directory}. "
                "Leave --again out, or take another --out."
            )
        content["missing"] = [name for name in written["missing"] if name not in names]
        content["rows"] = [
            row for row in written["rows"] if row["set"] not in names or row["seed"] not in seeds
        ]
    for name in names:
        try:
            table = load(name, args.data_dir)
        except DataError as error:
            content["missing"].append(name)
            print(f"left out: {error}", flush=True)
        else:
            for seed in seeds:
                content["rows"].append(measure(make_problem(name, table, seed), seed, sizes))
                # Each split compiles anew, and the memory maps of a process are limited.
                jax.clear_caches()
        # Written after each set, because a run of an hour may be cut short.
        _finish(args, content)


def _finish(args: argparse.Namespace, content: dict[str, Any]) -> None:
    content["rows"].sort(key=lambda row: (SETS.index(row["set"]), row["seed"]))
    content["summary"] = agreement.summary(content["rows"], METHODS)
    common.finish(args, content, ("", agreement.figure(content["summary"], list(METHODS))))


def load(name: str, data_dir: str | None) -> Table:
    """Read a data set; raises DataError if it is not found."""
    if name in UNTUNED:
        return UNTUNED[name]()
    if data_dir is None:
        raise DataError(f"{name}: its directory is unknown. Pass --data-dir or set SWJKO_DATA.")
    return load_logreg(name, data_dir)


def make_problem(name: str, table: Table, seed: int) -> Problem:
    """Draw the rows, split them and find the start."""
    if len(table.labels) > _MAX_ROWS:
        kept = np.random.default_rng(seed).choice(len(table.labels), _MAX_ROWS, replace=False)
        table = table._replace(features=table.features[kept], labels=table.labels[kept])
    train, test, _ = split(table, seed, name)
    began = time.perf_counter()
    start = starts.make_start(train.features, train.labels)
    return Problem(name, train, test, start, time.perf_counter() - began)


def measure(problem: Problem, seed: int, sizes: Sizes) -> dict[str, Any]:
    """All methods on one split, compared with NUTS."""
    reference, chains = nuts(problem, seed, sizes)
    exact = agreement.marginals(reference, problem.test)
    halves = [agreement.marginals(half, problem.test) for half in np.split(reference, 2)]
    itself = {"two_chains_against_two": agreement.agreement(*halves)}
    methods = {}
    for name, method in METHODS.items():
        draws = method(problem, seed, sizes)
        points = starts.parameters(problem.start, draws.points)
        marginals = agreement.marginals(points, problem.test)
        methods[name] = agreement.agreement(marginals, exact) | marginals.scores
        methods[name] |= draws._replace(
            run_seconds=problem.start_seconds + draws.run_seconds
        )._asdict()
        del methods[name]["points"]
        common.show(f"{problem.name}, seed {seed}, {name}", methods[name])
    published = PUBLISHED.get(problem.name, ())
    return {
        "set": problem.name,
        "seed": seed,
        "rows": len(problem.train.labels),
        "parameters": problem.dim,
        "nuts": chains | exact.scores | itself,
        "separable": agreement.separable(problem.train),
        "published": dict(zip(_PUBLISHED_NAMES, published, strict=False)),
        "methods": methods,
    }
