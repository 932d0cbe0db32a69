"""What the proximity buys: modes held and log Z error against tau, beside direct minimisation.

Flows go from N(0, s^2 I) by reverse KL, which prunes modes: a coupling flow to mixtures of
Gaussians, a spline flow to a product of double wells. All runs have the same updates. SW-JKO takes
steps of tau, 2.5 tau, 2.5^2 tau and so on. Direct minimisation is the limit of large tau. log Z is
by importance weights, whose error includes the modes that are missed. Nothing is corrected here.
"""

import argparse
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import swjko
from benchmarks import common
from benchmarks.sampling import methods
from benchmarks.sampling.benchmark import count_modes
from benchmarks.sampling.target import Target, in_units_of_the_start
from benchmarks.sampling.targets import make

FLAGS = common.Flags(quick="one target, few updates", seeds="seeds (default 3)")
_FLOWS = {
    "8 modes": methods.COUPLING,
    "MoG-40": methods.COUPLING,
    "many-well 32": methods.SPLINE,
}
_STEP_SIZES = (0.0005, 0.005, 0.05, 0.5, 5.0)
_STEPS, _UPDATES, _QUICK_UPDATES, _DRAWS = 10, 240, 10, 10_000
_importance = jax.jit(swjko.importance, static_argnames="num_samples")


def main(args: argparse.Namespace) -> None:
    updates = _QUICK_UPDATES if args.quick else _UPDATES
    seeds = range(args.seeds or (1 if args.quick else 3))
    rows = []
    for name in list(_FLOWS)[:1] if args.quick else _FLOWS:
        target, flow = in_units_of_the_start(make(name, None)), _FLOWS[name]
        for step_size in (*_STEP_SIZES, None):
            runs = [_measure(target, flow, step_size, seed, updates) for seed in seeds]
            rows.append(_row(name, target, step_size, runs))
            common.show(f"{name}, tau {step_size}", runs)
    content = {"quick": args.quick, "steps": _STEPS, "updates": updates, "rows": rows}
    common.finish(args, content, ("", _figure(rows)))


def _measure(
    target: Target, flow: methods.Flow, step_size: float | None, seed: int, updates: int
) -> dict[str, Any]:
    """Modes held and log Z of one run; no step size means direct minimisation."""
    sizes = methods.Sizes(steps=_STEPS)
    if step_size is None:
        run = methods.direct(target, flow, seed, sizes, updates)
    else:
        run = methods.sw_jko(target, flow, seed, sizes, updates, step_size)
    key = jax.random.fold_in(jax.random.key(seed), 9)
    found = _importance(key, run.distribution, target.log_prob, num_samples=_DRAWS)
    modes = None
    if target.centers is not None:
        modes = count_modes(np.asarray(found.cloud.points), np.asarray(target.centers))
    return {
        "modes": modes,
        "log_evidence_error": float(found.log_evidence) - (target.log_evidence or 0.0),
        "elbo": float(found.elbo.value),
        "effective_fraction": float(found.effective_fraction),
    }


def _row(
    name: str, target: Target, step_size: float | None, runs: list[dict[str, Any]]
) -> dict[str, Any]:
    modes = [run["modes"] for run in runs if run["modes"] is not None]
    errors = [abs(run["log_evidence_error"]) for run in runs]
    return {
        "target": name,
        "num_modes": len(target.centers) if target.centers is not None else None,
        "step_size": step_size,
        "method": "direct minimisation"
        if step_size is None
        else f"SW-JKO, first tau {step_size:g}",
        "modes": float(np.mean(modes)) if modes else None,
        "least_modes": min(modes, default=None),
        "most_modes": max(modes, default=None),
        "mean_absolute_error": float(np.mean(errors)),
        "elbo": float(np.mean([run["elbo"] for run in runs])),
        "runs": runs,
    }


def _figure(rows: list[dict[str, Any]]) -> Figure:
    """Modes held and |log Z error| against the first tau; a line is direct minimisation."""
    figure, (axes,) = common.new_figure(10.0, 3.6, columns=2)
    parts = (("modes", "modes held, of all"), ("log_evidence_error", "|log Z error|, nats"))
    for axis, (key, label) in zip(axes, parts, strict=True):
        for index, name in enumerate(dict.fromkeys(row["target"] for row in rows)):
            color, own = f"C{index}", [row for row in rows if row["target"] == name]
            if own[0]["runs"][0][key] is None:
                continue
            means = {}
            for row in own:
                scale = row["num_modes"] if key == "modes" else 1
                values = [abs(run[key]) / scale for run in row["runs"]]
                means[row["step_size"]] = np.mean(values)
                if row["step_size"] is not None:
                    axis.plot([row["step_size"]] * len(values), values, "o", color=color, alpha=0.4)
            direct = means.pop(None)
            axis.axhline(direct, color=color, linestyle="--", label=f"{name}, direct minimisation")
            axis.plot(list(means), list(means.values()), color=color, label=f"{name}, SW-JKO")
        axis.set(xscale="log", xlabel="first step size tau, units of the start", ylabel=label)
        axis.grid(True, alpha=0.3)
        axis.legend(fontsize=7)
    return figure
