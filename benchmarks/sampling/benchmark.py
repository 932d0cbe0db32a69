"""Samplers on the field's targets, each with what shows whether its answer is right.

For each target, method and seed, on fresh draws of the final measure: ELBO, and EUBO where exact
draws exist; log Z by Pareto-smoothed weights, and its error where log Z is known; effective draws
and Pareto k-hat, which do not see modes that are missed; the modes that have at least a quarter of
their mass; and the energy distance E|X - Y| - E|X - X'| / 2 - E|Y - Y'| / 2 to exact draws, as a
V-statistic, of draws as they are and of draws resampled by their weights, beside its floor, that of
two sets of exact draws. Seconds are with compilation.

*Both, by log Z and ELBO* is corrected SW-JKO of a mixture or SW-JKO of a coupling: the one with
the larger estimate of log Z, which is too small if modes are missed, or within 0.1 the one with the
larger ELBO among those with k-hat up to 0.7. Its seconds are those of both.

A row is *wrong* if |log Z error| > 0.3 or a mode is missed. It is *told* if the weights say so
(k-hat above 0.7, or fewer than 10 % of the draws are effective), if the last correction did not
reach the whole target, if draws of N(0, s^2 I) find more mass, if two runs from different seeds
differ in log Z by more than 0.1, or if the two families do.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import swjko
from benchmarks import common
from benchmarks.sampling import methods
from benchmarks.sampling.phases import Run
from benchmarks.sampling.target import Target, in_units_of_the_start
from benchmarks.sampling.targets import LARGE, make, names

FLAGS = common.Flags(
    quick="two targets, few updates",
    full="five seeds, and LGCP",
    seeds="seeds of each target and method (default 2)",
    first_seed="first seed",
)
_BLOCK = 1000
_WRONG_LOG_Z, _LEAST_EFFECTIVE, _LARGEST_DISAGREEMENT = 0.3, 0.1, 0.1
_BOTH = "both, by log Z and ELBO"
_importance = jax.jit(swjko.importance, static_argnames="num_samples")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--targets", nargs="+", metavar="NAME", help="only these targets")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these methods")
    text = "keep all other rows of a result that was written with the same sizes"
    parser.add_argument("--keep", action="store_true", help=text)
    text = "directory of german.data-numeric, ionosphere.csv, sonar.csv and the mixtures' means"
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=text)


def main(args: argparse.Namespace) -> None:
    sizes = methods.QUICK if args.quick else methods.DEFAULT
    num = 2000 if args.quick else 50_000 if args.full else 20_000
    count = args.seeds or (1 if args.quick else 5 if args.full else 2)
    known = [name for name in names(args.data_dir) if args.full or name != LARGE]
    chosen = args.targets or (["8 peaky", "eight schools"] if args.quick else known)
    chosen_methods = args.methods or list(methods.METHODS)
    rows = _kept(args, sizes, {(name, method) for name in chosen for method in chosen_methods})
    for name in chosen:
        target = in_units_of_the_start(make(name, args.data_dir))
        found: dict[str, list[dict[str, Any]]] = {}
        for method in chosen_methods:
            found[method] = []
            for seed in range(args.first_seed, args.first_seed + count):
                run = methods.METHODS[method](target, seed, sizes)
                found[method].append(
                    {"seed": seed, "method": method, **_measure(run, target, seed, num)}
                )
                common.show(f"{name}, {method}", found[method][-1])
        rows += [_row(name, target, method, runs) for method, runs in found.items()]
    rows = _with_both(rows, args.data_dir)
    common.finish(args, {"quick": args.quick, "sizes": sizes, "rows": rows}, ("", _figure(rows)))


def _kept(args: argparse.Namespace, sizes: Any, chosen: set[Any]) -> list[dict[str, Any]]:
    """Other rows of the result that is replaced; none without ``--keep``."""
    if not args.keep:
        return []
    written = common.read_results(args.name, args.directory)
    if written["sizes"] != sizes._asdict():
        raise SystemExit(f"--keep needs a result with the same sizes; got {written['sizes']}.")
    own = [row for row in written["rows"] if row["method"] in methods.METHODS]
    return [row for row in own if (row["target"], row["method"]) not in chosen]


def _with_both(rows: Sequence[dict[str, Any]], directory: Path | None) -> list[dict[str, Any]]:
    """The rows of each target, after one that chooses between two families where both ran."""
    ordered: list[dict[str, Any]] = []
    for name in names(Path()):
        own = {row["method"]: row for row in rows if row["target"] == name}
        if all(method in own for method in methods.PAIR):
            pairs = zip(*(own[method]["runs"] for method in methods.PAIR), strict=True)
            runs = [_better(*pair) for pair in pairs]
            ordered.append(_row(name, make(name, directory), _BOTH, runs))
        ordered += [own[method] for method in methods.METHODS if method in own]
    return ordered


def _better(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The run with the larger log Z or, within 0.1, with usable weights and the larger ELBO.

    It takes the seconds of both, and holds their difference in log Z.
    """
    largest = np.nanmax([one["log_evidence"], other["log_evidence"]])
    near = [run for run in (one, other) if run["log_evidence"] >= largest - _LARGEST_DISAGREEMENT]
    chosen = max(
        near, key=lambda run: (run["weights_usable"], np.nan_to_num(run["elbo"], nan=-np.inf))
    )
    sums = {key: one[key] + other[key] for key in ("seconds", "compile_seconds")}
    disagreement = abs(one["log_evidence"] - other["log_evidence"])
    return chosen | sums | {"disagreement": disagreement, "chosen": chosen["method"]}


def _measure(run: Run, target: Target, seed: int, num: int) -> dict[str, Any]:
    """The figures of one run."""
    rng = np.random.default_rng([seed, 5])
    reference = None
    if target.draw is not None:
        reference = jnp.asarray(target.draw(rng, num), float)
    compiling = run.compile_seconds
    measured: dict[str, Any] = {
        "result": run.result,
        "exponent": run.exponent,
        "seconds": (compiling or 0.0) + run.run_seconds,
        "compile_seconds": compiling,
    }
    if run.distribution is None:
        sets = {"": run.points[:num]}
        measured |= _evidence(run.log_evidence, target)
    else:
        figures, sets = _weigh(run, target, seed, num, reference)
        measured |= figures
    if target.centers is not None:
        measured["modes"] = count_modes(sets[""], target.centers)
    if target.draw is not None and reference is not None:
        sets["_floor"] = np.asarray(target.draw(rng, num), np.float32)
        own = _mean_distance(reference, reference)
        for kind, values in sets.items():
            parts = _mean_distance(values, reference), _mean_distance(values, values)
            distance = parts[0] - parts[1] / 2 - own / 2
            measured[f"energy_distance{kind}"] = target.start_scale * distance
    return measured


def _evidence(log_evidence: float | None, target: Target) -> dict[str, Any]:
    error = None
    if log_evidence is not None and target.log_evidence is not None:
        error = log_evidence - target.log_evidence
    return {"log_evidence": log_evidence, "log_evidence_error": error}


def _weigh(
    run: Run, target: Target, seed: int, num: int, reference: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Figures by importance weights, and draws as they are and resampled by their weights."""
    key, resample_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 9))
    wide = swjko.gaussian(target.dim)
    found = _importance(
        key,
        run.distribution,
        target.log_prob,
        num_samples=num,
        reference=reference,
        wide=swjko.FlowDistribution(wide, wide.init(key)),
    )
    figures = {
        "elbo": float(found.elbo.value),
        "eubo": None if found.eubo is None else float(found.eubo.value),
        **_evidence(float(found.log_evidence), target),
        "effective_fraction": float(found.effective_fraction),
        "pareto_k": float(found.pareto_k),
        "weights_usable": found.weights_usable,
        "misses_mass": found.misses_mass,
    }
    weighted = np.asarray(found.resample(resample_key, num))
    return figures, {"": np.asarray(found.cloud.points), "_weighted": weighted}


def count_modes(points: np.ndarray, centers: np.ndarray) -> int:
    """Number of modes that have at least a quarter of their mass."""
    squares = np.sum(centers**2, axis=1)[None, :] - 2 * points @ centers.T
    share = np.bincount(np.argmin(squares, axis=1), minlength=len(centers)) / len(points)
    return int(np.sum(share >= 0.25 / len(centers)))


def _mean_distance(x: Any, y: Any) -> float:
    """Mean distance between points [n d] and [m d], with n and m multiples of the block."""
    total = 0.0
    for first in range(0, len(x), _BLOCK):
        total += float(_sum_of_distances(jnp.asarray(x[first : first + _BLOCK]), jnp.asarray(y)))
    return total / (len(x) * len(y))


@jax.jit
def _sum_of_distances(x, y):
    def of_block(part):
        if x.shape[1] > 2:
            products = jnp.matmul(x, part.T, precision=jax.lax.Precision.HIGHEST)
            norms = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(part**2, axis=1)[None, :]
            squares = jnp.maximum(norms - 2 * products, 0.0)
        else:
            squares = sum((x[:, None, at] - part[None, :, at]) ** 2 for at in range(x.shape[1]))
        return jnp.sum(jnp.sum(jnp.sqrt(squares), axis=1))

    return jnp.sum(jax.lax.map(of_block, jnp.reshape(y, (-1, _BLOCK, y.shape[1]))))


def _row(name: str, target: Target, method: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table: means, and whether wrong answers were told."""
    values = [run["log_evidence"] for run in runs if run["log_evidence"] is not None]
    spread = max(values) - min(values) if values else None
    for run in runs:
        error, modes = run["log_evidence_error"], run.get("modes")
        lost = modes is not None and target.centers is not None and modes < len(target.centers)
        run["wrong"] = lost or (error is not None and not abs(error) <= _WRONG_LOG_Z)
        run["told"] = bool(
            run.get("misses_mass", False)
            or not run.get("weights_usable", True)
            or not run.get("effective_fraction", 1.0) >= _LEAST_EFFECTIVE
            or (run["exponent"] is not None and run["exponent"] < 1)
            or not run.get("disagreement", 0.0) <= _LARGEST_DISAGREEMENT
            or (spread is not None and not spread <= _LARGEST_DISAGREEMENT)
            or run["result"] != "OK"
        )
    keys = [key for key in runs[0] if all(isinstance(run.get(key), float) for run in runs)]
    means = {key: float(np.mean([run[key] for run in runs])) for key in keys}
    errors = [
        abs(run["log_evidence_error"]) for run in runs if run["log_evidence_error"] is not None
    ]
    return {
        "target": name,
        "dim": target.dim,
        "method": method,
        "log_evidence_true": target.log_evidence,
        "num_modes": None if target.centers is None else len(target.centers),
        "published": target.published,
        "start_scale": target.start_scale,
        **means,
        "modes": None if target.centers is None else min(run["modes"] for run in runs),
        "log_evidence_spread": spread,
        "mean_absolute_error": float(np.mean(errors)) if errors else None,
        "wrong": sum(run["wrong"] for run in runs),
        "silent": sum(run["wrong"] and not run["told"] for run in runs),
        "runs": list(runs),
    }


def _figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """|log Z error| and effective draws by target and method, without the choice between two."""
    rows = [row for row in rows if row["method"] in methods.METHODS]
    figure, (axes,) = common.new_figure(12.0, 4.5, columns=2)
    order = list(dict.fromkeys(row["target"] for row in rows))
    parts = (
        ("log_evidence_error", "|log Z error|, nats", True),
        ("effective_fraction", "effective draws, fraction of all", False),
    )
    for axis, (key, label, is_log) in zip(axes, parts, strict=True):
        for index, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
            own = [row for row in rows if row["method"] == method]
            points = [
                (abs(run[key]), order.index(row["target"]))
                for row in own
                for run in row["runs"]
                if run.get(key) is not None
            ]
            if points:
                axis.plot(*zip(*points, strict=True), "o", color=f"C{index}", label=method)
        axis.set_yticks(range(len(order)), order)
        axis.set_ylim(len(order) - 0.5, -0.5)
        if is_log:
            axis.set_xscale("log")
        axis.set(xlabel=label)
        axis.grid(True, axis="x", alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return figure
