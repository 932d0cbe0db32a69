"""What the proximity buys: modes held and log Z error against tau, beside direct minimisation.

A coupling flow goes from N(0, s^2 I) to mixtures of Gaussians by reverse KL, which prunes modes.
All runs have the same updates. SW-JKO takes steps of tau, 1.5 tau, 1.5^2 tau and so on. Direct
minimisation is the limit of large tau. log Z is by importance weights, whose error includes the
modes that are missed. Nothing is corrected here.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import swjko
from benchmarks import common
from benchmarks.gaussian_flows import run_with_step_sizes
from benchmarks.sampling import methods
from benchmarks.sampling.benchmark import count_modes
from benchmarks.sampling.target import Target, in_units_of_the_start
from benchmarks.sampling.targets import make

FLAGS = common.Flags(quick="one target, few updates", seeds="seeds (default 3)")
_TARGETS = ("8 modes", "MoG-40")
_STEP_SIZES = (0.001, 0.01, 0.1, 1.0, 10.0)
_STEPS, _UPDATES, _QUICK_UPDATES, _GROWTH, _DRAWS = 10, 300, 10, 1.5, 10_000
_importance = jax.jit(swjko.importance, static_argnames="num_samples")


def main(args: argparse.Namespace) -> None:
    updates = _QUICK_UPDATES if args.quick else _UPDATES
    seeds = range(args.seeds or (1 if args.quick else 3))
    rows = []
    for name in _TARGETS[:1] if args.quick else _TARGETS:
        target = in_units_of_the_start(make(name, None))
        for step_size in (*_STEP_SIZES, None):
            runs = [_measure(target, step_size, seed, updates) for seed in seeds]
            rows.append(_row(name, target, step_size, runs))
            common.show(f"{name}, tau {step_size}", runs)
    content = {"quick": args.quick, "steps": _STEPS, "updates": updates, "rows": rows}
    common.finish(args, content, ("", _figure(rows)))


def _measure(target: Target, step_size: float | None, seed: int, updates: int) -> dict[str, Any]:
    """Modes held and log Z of one run; no step size means direct minimisation."""
    sizes = methods.Sizes(steps=_STEPS, updates=updates, total_updates=_STEPS * updates)
    if step_size is None:
        law = methods.direct(target, seed, sizes).distribution
    else:
        scheme = methods.jko_of_coupling(target, sizes, updates)
        start_key, run_key = jax.random.split(jax.random.key(seed))
        step_sizes = step_size * _GROWTH ** jnp.arange(_STEPS)
        state, _ = run_with_step_sizes(run_key, scheme, scheme.init(start_key), step_sizes)
        law = swjko.FlowDistribution(scheme.family, state.params)
    key = jax.random.fold_in(jax.random.key(seed), 9)
    found = _importance(key, law, target.log_prob, num_samples=_DRAWS)
    return {
        "modes": count_modes(np.asarray(found.cloud.points), np.asarray(target.centers)),
        "log_evidence": float(found.log_evidence),
        "elbo": float(found.elbo.value),
        "effective_fraction": float(found.effective_fraction),
    }


def _row(
    name: str, target: Target, step_size: float | None, runs: list[dict[str, Any]]
) -> dict[str, Any]:
    modes = [run["modes"] for run in runs]
    errors = [abs(run["log_evidence"]) for run in runs]
    return {
        "target": name,
        "num_modes": len(target.centers) if target.centers is not None else None,
        "step_size": step_size,
        "method": "direct minimisation"
        if step_size is None
        else f"SW-JKO, first tau {step_size:g}",
        "modes": float(np.mean(modes)),
        "least_modes": min(modes),
        "most_modes": max(modes),
        "mean_absolute_error": float(np.mean(errors)),
        "elbo": float(np.mean([run["elbo"] for run in runs])),
        "runs": runs,
    }


def _figure(rows: list[dict[str, Any]]) -> Figure:
    """Modes held and |log Z error| against the first tau; a line is direct minimisation."""
    figure, (axes,) = common.new_figure(10.0, 3.6, columns=2)
    parts = (("modes", "modes held, of all"), ("log_evidence", "|log Z error|, nats"))
    for axis, (key, label) in zip(axes, parts, strict=True):
        for index, name in enumerate(dict.fromkeys(row["target"] for row in rows)):
            color, own = f"C{index}", [row for row in rows if row["target"] == name]
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
