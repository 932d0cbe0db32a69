"""Agreement of draws with those of NUTS, over all marginals of (w, log alpha).

Reported are the largest difference of means in posterior standard deviations, the range of the
ratios of standard deviations, and the difference of the log-likelihood of the rows held out, per
row. If the training rows are linearly separable, the posterior has no variance: along w = r u with
u separating, the likelihood tends to 1 and the prior, alpha integrated out, falls as r^-(p + 2), so
r has a density of r^-3. Means and deviations of draws then say little. Medians, in halves of the
central 68 %, and ratios of these widths do; both are given for all sets. Two chains of NUTS against
the other two show how far NUTS is from itself.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
from matplotlib.figure import Figure

from benchmarks import common
from swjko.cli.scores import held_out_scores
from swjko.problems import Table

# Draws times rows held out.
_MAX_PREDICTIONS = 30_000_000


class Marginals(NamedTuple):
    """Statistics of draws [p], and their scores on the rows held out.

    ``width`` is half the distance between the quantiles at 16 % and 84 %.
    """

    mean: np.ndarray
    deviation: np.ndarray
    median: np.ndarray
    width: np.ndarray
    scores: dict[str, float]


def marginals(points: np.ndarray, test: Table) -> Marginals:
    """Statistics of draws [s p + 1] of (w, log alpha)."""
    low, median, high = np.quantile(points, (0.16, 0.5, 0.84), axis=0)
    stride = math.ceil(len(points) * len(test.labels) / _MAX_PREDICTIONS)
    scores = held_out_scores(points[::stride, :-1], test)
    return Marginals(points.mean(axis=0), points.std(axis=0), median, (high - low) / 2, scores)


def agreement(ours: Marginals, exact: Marginals) -> dict[str, Any]:
    """How far our marginals are from the exact ones."""
    difference = (ours.mean - exact.mean) / exact.deviation
    ratio, width = ours.deviation / exact.deviation, ours.width / exact.width
    name = "held-out log-likelihood"
    return {
        "mean": np.max(np.abs(difference)),
        "smallest_ratio": ratio.min(),
        "largest_ratio": ratio.max(),
        "median": np.max(np.abs(ours.median - exact.median) / exact.width),
        "smallest_width": width.min(),
        "largest_width": width.max(),
        "log_alpha": {"mean": difference[-1], "ratio": ratio[-1]},
        "log_likelihood_minus_nuts": ours.scores[name] - exact.scores[name],
    }


def separable(table: Table) -> bool:
    """Whether some w has y_i <x_i, w> >= 1 for all rows, by a linear program."""
    signed = table.features * table.labels[:, None]
    bounds: Any = {"A_ub": -signed, "b_ub": -np.ones(len(signed)), "bounds": (None, None)}
    return scipy.optimize.linprog(np.zeros(signed.shape[1]), **bounds).status == 0


def summary(rows: Sequence[Mapping[str, Any]], methods: Iterable[str]) -> dict[str, Any]:
    """The worst agreement over the splits of each set and method, and mean scores."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(row["set"] for row in rows):
        splits = [row for row in rows if row["set"] == name]
        itself = [row["nuts"]["two_chains_against_two"] for row in splits]
        largest = max(abs(run["log_likelihood_minus_nuts"]) for run in itself)
        unsure = [row["seed"] for row in splits if not row["nuts"]["converged"]]
        found[name] = {
            "separable": any(row["separable"] for row in splits),
            "splits_without_reference": unsure,
            "two_chains_against_two": _worst(itself) | {"log_likelihood": largest},
            "methods": {},
        }
        for method in methods:
            runs = [row["methods"][method] for row in splits]
            seconds = max(run["run_seconds"] + run["compile_seconds"] for run in runs)
            scores = ("held-out accuracy", "held-out log-likelihood")
            means = {score: np.mean([run[score] for run in runs]) for score in scores}
            found[name]["methods"][method] = _worst(runs) | {"seconds": seconds} | means
    return found


def _worst(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def least(name: str) -> float:
        return min(run[name] for run in runs)

    def most(name: str) -> float:
        return max(run[name] for run in runs)

    return {
        "mean": most("mean"),
        "ratio": (least("smallest_ratio"), most("largest_ratio")),
        "median": most("median"),
        "width": (least("smallest_width"), most("largest_width")),
        "log_likelihood": least("log_likelihood_minus_nuts"),
    }


def figure(found: Mapping[str, Any], methods: Sequence[str]) -> Figure:
    """Worst difference and range of ratios of each set, a colour for each method."""
    drawing, ((left, right),) = common.new_figure(9.5, 4.6, columns=2, sharey=True)
    for index, method in enumerate(methods):
        places = np.arange(len(found)) + 0.18 * (index - (len(methods) - 1) / 2)
        for place, entry in zip(places, found.values(), strict=True):
            location, spread = ("median", "width") if entry["separable"] else ("mean", "ratio")
            own, label = entry["methods"][method], method if place == places[0] else None
            left.plot(own[location], place, "o", color=f"C{index}", markersize=5, label=label)
            right.plot(own[spread], [place, place], color=f"C{index}", linewidth=3)
    right.axvline(1.0, color="0.5", linestyle="--", linewidth=1)
    where = "where separable"
    left.set(xscale="log", xlabel=f"worst mean off by, posterior sd\n(median, half width, {where})")
    right.set(xlabel=f"sd over that of NUTS, smallest to largest\n(width of 68 %, {where})")
    names = [f"{name}{', separable' * entry['separable']}" for name, entry in found.items()]
    left.set_yticks(np.arange(len(found)), labels=names)
    left.invert_yaxis()
    drawing.legend(loc="outside upper center", ncols=len(methods), fontsize=8)
    return drawing
