"""Ornstein-Uhlenbeck flows by SW-JKO, by JKO with convex networks (JKO-ICNN), and by particles.

All start at N(0, I) and share problems and seeds. Divergences are log10 of SymKL. Sections, each
under its name in the JSON:

- trajectory: targets with covariance ``make_spd_matrix`` as in Mokrov et al. (2021), arXiv
  2106.00736, at Wasserstein times 0.5 and 0.9, which for SW-JKO are SW times t / d. ``own_step`` is
  the divergence to the exact step of the scheme (the JKO iterate in its geometry) and ``law`` that
  to the Ornstein-Uhlenbeck law, beside how far the exact SW flow is from that law. Langevin
  particles get a Gaussian kernel density estimate and have no step of their own.
- long: the same to time 5, and the seconds of each step with a line fitted to them.
- stationary: targets with precision ``make_spd_matrix``. Seconds until each scheme reaches a level
  a tenth of a decade above the best that JKO-ICNN comes to; its last steps gain less than that.

The settings are one rule for all dimensions, chosen on problems with seeds from 100 on. For the
stationary section they were the fastest of those tried for each scheme: steps that nearly end the
flow at once, and as few points and updates as the level needs.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from matplotlib.figure import Figure

import swjko
from benchmarks import common, fokker_planck, gaussian_flows
from benchmarks.common import Solve
from benchmarks.gaussian_flows import ORACLE_DIRECTIONS, TIMES, Network
from swjko import closed_form, problems

# Medians of log10 SymKL of JKO-ICNN at both times (Mokrov et al. 2021), 526 to 821 s each on a GPU.
_MEDIANS = (
    *((-2.58, -2.39), (-2.09, -2.08), (-1.75, -2.11)),
    *((-1.83, -1.99), (-1.74, -1.87), (-1.58, -1.72)),
)
PUBLISHED = dict(zip(range(2, 13, 2), _MEDIANS, strict=True))


class Sizes(NamedTuple):
    """Numbers of problems by dimension, dimensions, settings, and numbers of points."""

    trajectory: dict[int, int]
    long: tuple[int, ...]
    stationary: tuple[int, int]
    network: Network
    stationary_network: Network
    stationary_steps: int
    stationary_couplings: tuple[Solve, dict[str, int]]
    particles: int
    evaluated: int
    quick: bool = False


DEFAULT = Sizes(
    trajectory={2: 3, 6: 3, 10: 3},
    long=(2, 10),
    stationary=(10, 3),
    network=Network(0.05, 150, 256, 4096, 64, 5e-3),
    stationary_network=Network(10.0, 150, 128, 2048, 64, 1e-2),
    stationary_steps=8,
    stationary_couplings=(Solve(10, 2.0, 100, 128, 20, 1e-2, 10), {"num_layers": 4, "width": 32}),
    particles=10_000,
    evaluated=5000,
)
FULL = DEFAULT._replace(trajectory=dict.fromkeys(PUBLISHED, 5), long=(2, 6, 10), stationary=(10, 5))
QUICK = Sizes(
    trajectory={2: 1},
    long=(2,),
    stationary=(2, 1),
    network=Network(0.1, 5, 32, 64, 8, 5e-3),
    stationary_network=Network(1.0, 5, 32, 64, 8, 5e-3),
    stationary_steps=2,
    stationary_couplings=fokker_planck.stationary_settings(2, quick=True),
    particles=100,
    evaluated=200,
    quick=True,
)
FLAGS = common.Flags(
    quick="one small problem",
    full="six dimensions, five problems in each",
    only=("trajectory", "long", "stationary"),
    first_seed="seed of the first problem",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--again``."""
    parser.add_argument("--again", choices=FLAGS.only, help="measure it, and keep the others")


def main(args: argparse.Namespace) -> None:
    sizes = QUICK if args.quick else FULL if args.full else DEFAULT
    content: dict[str, Any] = {"quick": args.quick, "full": args.full}
    content["published_jko_icnn"] = PUBLISHED
    if args.again:
        written = common.read_results(args.name, args.directory)
        content |= {name: written[name] for name in FLAGS.only}
    for name, section in zip(FLAGS.only, (trajectory, long, stationary), strict=True):
        if (args.only or args.again) in (None, name):
            content[name] = section(sizes, args.first_seed)
            if not args.only:
                common.write_results(args.name, content, args.directory)
    common.finish(args, content, *([] if args.only else [("", _figure(content))]))


def trajectory(sizes: Sizes, first_seed: int) -> dict[str, Any]:
    """Divergences at two times, and their medians over the problems."""
    rows = []
    for dim, count in sizes.trajectory.items():
        methods = {"sw_jko": _sw_jko, "icnn_jko": _icnn_jko, "langevin": _langevin}
        runs: dict[str, list[Any]] = {name: [] for name in methods}
        geometry = []
        for seed in range(first_seed, first_seed + count):
            problem = gaussian_flows.covariance_target(seed, dim)
            geometry.append(gaussian_flows.geometries(problem))
            for name, method in methods.items():
                runs[name].append(method(problem, seed, sizes, TIMES))
        row = {"dim": dim, "times": TIMES}
        row["exact_sw_flow_to_law_median"] = np.median(geometry, axis=0)
        for name, found in runs.items():
            for against in {"own_step", "law"} & set(found[0]):
                values = [run[against] for run in found]
                row[f"{name}_{against}_median"] = np.median(values, axis=0)
        common.show("trajectory", row)
        rows.append({**row, "published_jko_icnn_law": PUBLISHED.get(dim), "runs": runs})
    plane = {"sw_jko_settings_in_the_plane": gaussian_flows.trajectory_settings(2, sizes.quick)}
    return {"rows": rows, "icnn_jko_settings": sizes.network, **plane}


def long(sizes: Sizes, first_seed: int) -> dict[str, Any]:
    """Divergences and seconds over many steps."""
    times = (0.2, 0.5) if sizes.quick else (1.0, 2.0, 3.0, 4.0, 5.0)
    sizes = sizes._replace(network=sizes.network._replace(step_size=0.1))
    rows = []
    for dim in sizes.long:
        problem = gaussian_flows.covariance_target(first_seed, dim)
        runs = {
            "icnn_jko": _icnn_jko(problem, first_seed, sizes, times),
            "sw_jko": _sw_jko(problem, first_seed, sizes, times),
        }
        runs["icnn_jko"]["cost"] = _linear_fit(runs["icnn_jko"]["step_seconds"])
        rows.append({"dim": dim, "seed": first_seed, "times": times, **runs})
        for name, run in runs.items():
            shown = {key: run.get(key) for key in ("own_step", "law", "run_seconds", "cost")}
            common.show(f"long, d = {dim}, {name}", shown)
    return {"rows": rows, "icnn_jko_settings": sizes.network}


def stationary(sizes: Sizes, first_seed: int) -> dict[str, Any]:
    """Seconds until the level is reached, and their ratio, JKO-ICNN's over SW-JKO's."""
    dim, count = sizes.stationary
    keys = ("seconds_to_level", "seconds_to_level_with_compilation")
    runs = []
    for seed in range(first_seed, first_seed + count):
        target = problems.gaussian_target(seed, dim).target
        functional = swjko.kl_divergence(target.log_prob)
        num, (settings, network) = sizes.stationary_steps, sizes.stationary_couplings
        networks = sizes.stationary_network.scheme(dim, functional, num)
        couplings = gaussian_flows.coupling_scheme(target, settings, network)
        run = {
            "icnn_jko": _each_step(networks, seed, num, target, sizes),
            "sw_jko": _each_step(couplings, seed, settings.num_steps, target, sizes),
        }
        level = min(run["icnn_jko"]["log10"]) + 0.1
        for found in run.values():
            reached = [step for step, value in enumerate(found["log10"], 1) if value <= level]
            seconds = float(np.sum(found["step_seconds"][: reached[0]])) if reached else None
            whole = None if seconds is None else seconds + found["compile_seconds"]
            found |= dict(zip(keys, (seconds, whole), strict=True))
        runs.append({"seed": seed, **run, "level_log10": level})
        common.show(f"stationary, seed {seed}", [found[keys[0]] for found in run.values()])
    found = {"dim": dim, "icnn_jko_settings": sizes.stationary_network, "runs": runs}
    for key in keys:
        # A run that never reaches the level counts as infinitely slow.
        ratios = [run["icnn_jko"][key] / (run["sw_jko"][key] or math.inf) for run in runs]
        found[f"ratio_of_{key}"] = {"median": np.median(ratios), "all": ratios}
    return found


def _each_step(scheme: Any, seed: int, num: int, target: Any, sizes: Sizes) -> dict[str, Any]:
    """Divergence to the target after each step."""
    steps = gaussian_flows.timed_steps(scheme, seed, num)
    params = [steps.after(scheme, step) for step in range(1, num + 1)]
    errors = [_log10(seed, scheme.family, at, target, sizes) for at in params]
    return {"log10": errors, "step_seconds": steps.seconds, **steps.cost}


def _sw_jko(problem: Any, seed: int, sizes: Sizes, times: Sequence[float]) -> dict[str, Any]:
    dim = problem.target.dim
    settings, network = gaussian_flows.trajectory_settings(dim, sizes.quick)
    at = [round(t / (dim * settings.step_size)) for t in times]
    exact = problems.exact_sw_jko_flow(
        problem, settings.step_size, at[-1], num_directions=ORACLE_DIRECTIONS
    )
    scheme = gaussian_flows.coupling_scheme(problem.target, settings, network)
    return _compared(scheme, problem, seed, sizes, dict(zip(times, at, strict=True)), exact)


def _icnn_jko(problem: Any, seed: int, sizes: Sizes, times: Sequence[float]) -> dict[str, Any]:
    dim, step_size = problem.target.dim, sizes.network.step_size
    at = [round(t / step_size) for t in times]
    with jax.enable_x64(True):
        start = jnp.zeros(dim), jnp.eye(dim)
        law = jnp.asarray(problem.precision), jnp.asarray(problem.center)
        exact = jax.device_get(closed_form.gaussian_jko_flow(*start, *law, step_size, at[-1]))
    scheme = sizes.network.scheme(dim, swjko.kl_divergence(problem.target.log_prob), at[-1])
    return _compared(scheme, problem, seed, sizes, dict(zip(times, at, strict=True)), exact)


def _compared(
    scheme: Any, problem: Any, seed: int, sizes: Sizes, steps_at: dict[float, int], exact: Any
) -> dict[str, Any]:
    """One run, against its exact steps and against the law."""
    steps = gaussian_flows.timed_steps(scheme, seed, max(steps_at.values()))
    found: dict[str, Any] = {"seed": seed, "own_step": [], "law": []}
    for t, step in steps_at.items():
        params = steps.after(scheme, step)
        law = gaussian_flows.ornstein_uhlenbeck(problem, t)
        for name, moments in (("own_step", (exact.mean[step], exact.cov[step])), ("law", law)):
            target = problems.gaussian(*moments)
            found[name].append(_log10(seed, scheme.family, params, target, sizes))
    return found | steps.cost | {"step_seconds": steps.seconds, "result": steps.result}


def _langevin(problem: Any, seed: int, sizes: Sizes, times: Sequence[float]) -> dict[str, Any]:
    """Moves of 1e-3, or of 1e-2 in a quick run."""
    points = jax.random.normal(jax.random.key(seed), (sizes.particles, problem.target.dim))
    options = {"step_size": 0.1, "num_inner_steps": 10 if sizes.quick else 100}
    scheme = swjko.langevin(points, problem.target.log_prob, **options)
    steps = gaussian_flows.timed_steps(scheme, seed, round(times[-1] / 0.1))
    found = []
    for t in times:
        moved = np.asarray(steps.params[round(t / 0.1) - 1], np.float64)
        law = gaussian_flows.ornstein_uhlenbeck(problem, t)
        found.append(gaussian_flows.kernel_density_log10(moved, *law, sizes.evaluated, seed))
    return {"seed": seed, "law": found, **steps.cost}


def _log10(seed: int, family: swjko.Family, params: Any, law: Any, sizes: Sizes) -> float:
    """log10 SymKL to a law, on points of it that all schemes share."""
    draw_key, key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
    points = law.sample(draw_key, sizes.evaluated)
    options = {"num_samples": sizes.evaluated}
    estimate = gaussian_flows.symmetric_kl(key, family, params, law.log_prob, points, **options)
    return gaussian_flows.log10_of(estimate.value)


def _linear_fit(seconds: Sequence[float]) -> dict[str, Any]:
    """Fit a line to the seconds of the steps.

    The growth is what the slope adds over the run, relative to the first step.
    """
    fit: Any = scipy.stats.linregress(np.arange(len(seconds)), seconds)
    return {
        "first_step_seconds": fit.intercept,
        "seconds_more_each_step": fit.slope,
        "standard_error": fit.stderr,
        "relative_growth_over_the_run": fit.slope * len(seconds) / fit.intercept,
    }


def _figure(content: dict[str, Any]) -> Figure:
    """Divergences against dimension and against time, and the seconds of JKO-ICNN's steps."""
    figure, (axes,) = common.new_figure(12.0, 3.8, columns=3)
    rows = content["trajectory"]["rows"]
    dims = [row["dim"] for row in rows]
    lines = {
        "SW-JKO to its exact step": "sw_jko_own_step",
        "JKO-ICNN to its exact step": "icnn_jko_own_step",
        "JKO-ICNN to OU": "icnn_jko_law",
        "Langevin, KDE, to OU": "langevin_law",
        "exact SW flow to OU": "exact_sw_flow_to_law",
    }
    for label, name in lines.items():
        values = [row[f"{name}_median"][-1] for row in rows]
        axes[0].plot(dims, values, "o-", markersize=4, label=label)
    published = {dim: values[-1] for dim, values in PUBLISHED.items() if dim <= max(dims)}
    style: Any = {"color": "0.5", "markersize": 3, "label": "JKO-ICNN to OU (published)"}
    axes[0].plot(list(published), list(published.values()), "s--", **style)
    for index, row in enumerate(content["long"]["rows"]):
        color, seconds = f"C{index}", row["icnn_jko"]["step_seconds"]
        for name, style in (("icnn_jko", "o-"), ("sw_jko", "s--")):
            label = f"{name}, d = {row['dim']}"
            axes[1].plot(row["times"], row[name]["own_step"], style, color=color, label=label)
        label = f"icnn_jko, d = {row['dim']}"
        axes[2].plot(np.arange(1, len(seconds) + 1), seconds, ".", color=color, label=label)
    axes[0].set(xlabel="dimension", ylabel="log10 SymKL", title=f"Wasserstein time {TIMES[-1]}")
    axes[1].set(xlabel="Wasserstein time", ylabel="log10 SymKL", title="to each exact step")
    axes[2].set(xlabel="step", ylabel="seconds", ylim=(0, None), title="steps of icnn_jko")
    for axis, room in zip(axes, (2.2, 0.5, 0.0), strict=True):
        axis.set_ylim(top=axis.get_ylim()[1] + room)
        axis.legend(fontsize=6, ncols=2, loc="upper center" if room else "best")
        axis.grid(True, alpha=0.3)
    return figure
