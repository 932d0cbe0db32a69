"""``posterior`` and ``match`` on data that people have: 12 tables and 8 samples.

Each data set is written to a file and goes through the command line's own problem, with its
default settings. The verdict of the command line is then compared with a truth that it does not
see: fresh rows or points of the same law, and, for posteriors, the moments of a long NUTS run.

A posterior is truly good if

- averaged over its draws, in units of the file, the log-likelihood of fresh rows is not worse than
  that of scikit-learn's LogisticRegressionCV on the same training rows by more than 0.01 and two
  standard errors;
- each mean is within 0.2 standard deviations of that of NUTS, and each deviation within 25 %.

A match is truly good if each column's mean is within 0.1 standard deviations of the data's and its
standard deviation within 10 %, and SW_2^2 / 2 between its draws and fresh points exceeds that
between data and fresh points by at most three standard deviations of the latter.

The rules of the verdicts were set on seeds 0 and 100. A wrong "good" calls good what is not, and a
wrong "poor" calls poor what is good.
"""

import argparse
import csv
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import swjko
from benchmarks import common
from benchmarks.user_data.posterior_truth import judge_posterior
from benchmarks.user_data.samples import SAMPLES
from benchmarks.user_data.tables import TABLES, rng_of
from swjko.cli import match, posterior
from swjko.cli.settings import MATCH, POSTERIOR
from swjko.data.tables import DataError, load_named_points, load_table
from swjko.types import Cloud

FLAGS = common.Flags(
    quick="two tables and two samples, few steps",
    only=("posterior", "match"),
    seeds="seeds of each data set (default 3)",
    first_seed="first seed",
)
QUICK = ("unbalanced classes", "dates"), ("ring", "50 rows")
FRESH = 20_000
_LARGEST_SHIFT, _LARGEST_RATIO, _DEVIATIONS, _REPEATS = 0.1, 0.1, 3.0, 32


def main(args: argparse.Namespace) -> None:
    tables, samples = QUICK if args.quick else (tuple(TABLES), tuple(SAMPLES))
    seeds = range(args.first_seed, args.first_seed + (args.seeds or (1 if args.quick else 3)))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        for kind, names, run in (("posterior", tables, _table), ("match", samples, _sample)):
            for name in names if args.only in (None, kind) else ():
                for seed in seeds:
                    start = time.perf_counter()
                    row = {"problem": kind, "data": name, "seed": seed}
                    row |= run(name, seed, Path(directory), args.quick)
                    row["seconds"] = time.perf_counter() - start
                    common.show(f"{kind}, {name}, seed {seed}", row)
                    rows.append(row)
    content = {"quick": args.quick, "rows": rows, "verdicts": _verdicts(rows)}
    common.finish(args, content, ("", _figure(rows)))


def _table(name: str, seed: int, directory: Path, quick: bool) -> dict[str, Any]:
    """One table through ``posterior``."""
    table, path, fresh_path = TABLES[name], directory / "table.csv", directory / "fresh.csv"
    rng = rng_of("table", name, seed)
    for one, count in ((path, table.rows), (fresh_path, FRESH)):
        columns, labels = table.draw(rng, count)
        _write(one, columns | {"outcome": np.where(labels, "yes", "no")})
    if table.refused:
        _require_refusal(path, table.refused)
    settings = POSTERIOR
    if quick:
        settings = settings._replace(steps=3, inner_steps=20)
    start = time.perf_counter()
    loaded = load_table(path, "outcome", **table.options)
    found = posterior.posterior(
        settings, seed=seed, progress=False, data=name, label="outcome", loaded=loaded
    )
    seconds = time.perf_counter() - start
    fresh = load_table(fresh_path, "outcome", **table.options)
    truth = judge_posterior(found, loaded, fresh, seed, quick)
    own, reference = (
        found.figures.get(f"held-out log-likelihood{method}")
        for method in ("", " of LogisticRegressionCV")
    )
    return _row(found, truth, seconds) | {
        "rows": len(loaded.labels),
        "held_out": own,
        "held_out_sklearn": reference,
        "effective": found.figures["effective draws"],
        "pareto_k": found.figures["Pareto k-hat of the weights"],
    }


def _write(path: Path, columns: dict[str, np.ndarray]) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            rows.writerow("" if value != value else value for value in row)


def _require_refusal(path: Path, word: str) -> None:
    """Check that the table is refused by a message with a word if no option is given."""
    try:
        load_table(path, "outcome")
    except DataError as error:
        if word not in str(error):
            raise RuntimeError(f"the message lacks {word!r}: {error}") from error
    else:
        raise RuntimeError(f"a table was accepted that should be refused for {word!r}.")


def _sample(name: str, seed: int, directory: Path, quick: bool) -> dict[str, Any]:
    """One sample through ``match``."""
    sample, path = SAMPLES[name], directory / "points.npy"
    rng = rng_of("sample", name, seed)
    data, fresh = sample.draw(rng, sample.count), sample.draw(rng, FRESH)
    np.save(path, data)
    settings = MATCH
    if quick:
        settings = settings._replace(steps=3, inner_steps=20)
    start = time.perf_counter()
    loaded = load_named_points(path)
    found = match.match(settings, seed=seed, progress=False, data=name, loaded=loaded)
    seconds = time.perf_counter() - start
    draws = np.load(io.BytesIO(found.files["draws.npz"]))["points"]
    deviation = data.std(0)
    shift = float(np.max(np.abs(draws.mean(0) - data.mean(0)) / deviation))
    ratios = draws.std(0) / deviation
    ratio = float(ratios[np.argmax(np.abs(np.log(ratios)))])
    excess = _excess(draws / deviation, data / deviation, fresh / deviation, seed)
    is_good = shift <= _LARGEST_SHIFT and abs(ratio - 1) <= _LARGEST_RATIO
    truth = {"good": is_good and excess <= _DEVIATIONS, "shift": shift, "ratio": ratio}
    return _row(found, truth | {"excess": excess}, seconds) | {"rows": sample.count}


def _excess(draws: np.ndarray, data: np.ndarray, fresh: np.ndarray, seed: int) -> float:
    """How much farther draws are from fresh points than data are, in standard deviations."""
    rng, size = np.random.default_rng(seed), min(2000, len(data))

    @jax.jit
    def distance(key, points, target):
        return swjko.sw_to_target(target, 64)(key, Cloud(points))

    moved, floor = np.empty((2, _REPEATS))
    for at, key in enumerate(jax.random.split(jax.random.key(seed), _REPEATS)):
        target = rng.choice(fresh, size, replace=False).astype(np.float32)
        for values, points in ((moved, draws), (floor, data)):
            chosen = rng.choice(points, size, replace=False).astype(np.float32)
            values[at] = distance(key, chosen, target)
    return float((moved.mean() - floor.mean()) / floor.std(ddof=1))


def _row(found: Any, truth: dict[str, Any], seconds: float) -> dict[str, Any]:
    fit = found.verdict.fit
    wrong = {"good": not truth["good"], "poor": truth["good"]}.get(fit, False)
    return {
        "dim": found.dim,
        "fit": fit,
        "reasons": "; ".join(found.verdict.reasons),
        "truth": truth,
        "wrong": wrong,
        "run_seconds": seconds,
    }


def _verdicts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Counts of verdicts, by problem and over all."""
    counts = []
    for problem in ("posterior", "match", "all"):
        own = [row for row in rows if problem in ("all", row["problem"])]
        counts.append(
            {
                "problem": problem,
                "runs": len(own),
                **{fit: sum(row["fit"] == fit for row in own) for fit in ("good", "poor")},
                "unknown": sum(row["fit"] not in ("good", "poor") for row in own),
                "truly_good": sum(row["truth"]["good"] for row in own),
                "wrong_good": sum(row["wrong"] and row["fit"] == "good" for row in own),
                "wrong_poor": sum(row["wrong"] and row["fit"] == "poor" for row in own),
            }
        )
    return counts


def _figure(rows: list[dict[str, Any]]) -> Figure:
    """Distance from the truth by data set; colours are verdicts."""
    figure, (axes,) = common.new_figure(12.0, 4.2, columns=2)
    colors = {"good": "C2", "poor": "C3", "unknown": "C7"}
    parts = (
        ("posterior", "log_likelihood_gain", "log-likelihood of fresh rows minus scikit-learn's"),
        ("match", "shift", "largest error of a mean, standard deviations"),
    )
    for axis, (problem, key, label) in zip(axes, parts, strict=True):
        own = [row for row in rows if row["problem"] == problem]
        names = list(dict.fromkeys(row["data"] for row in own))
        for fit, color in colors.items():
            chosen = [row for row in own if row["fit"] == fit]
            x = [row["truth"][key] for row in chosen]
            y = [names.index(row["data"]) for row in chosen]
            axis.plot(x, y, "o", color=color, alpha=0.7, label=f"verdict {fit}")
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
        bound = -0.01 if problem == "posterior" else _LARGEST_SHIFT
        axis.axvline(bound, color="black", linewidth=0.8, linestyle=":", label="bound")
        axis.set(xlabel=label, title=problem)
        axis.grid(True, axis="x", alpha=0.3)
        axis.legend(fontsize=7)
    return figure
