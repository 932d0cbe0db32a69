"""Fokker-Planck flows to random Gaussians in dimensions 2 to 100, compared with exact laws.

SW-JKO by coupling flows on the problems of Bonet et al. (2022), arXiv 2110.10972, figures 1 and 10:
precision ``make_spd_matrix``, center ~ N(0, I), start N(0, I). Divergences are log10 of SymKL, and
means over problems are means of these logarithms. Sections, each under its name in the JSON:

- stationary: divergence to the stationary law at the end of the run, beside the published values of
  SW-JKO and of Euler-Maruyama with a kernel density estimate, our own run of the latter, and the
  same flow with its affine layer frozen, since that layer alone contains these targets.
- trajectory: divergence to the exact SW-JKO iterate at Wasserstein times 0.5 and 0.9, which are SW
  times t / d; and how far the exact SW flow itself is from Ornstein-Uhlenbeck at time t.
- gaussian: worst relative errors of mean and covariance of the ``gaussian`` family over the steps.
- speed: seconds of runs in d = 10 that end no worse than the published mean. The published
  configuration makes 16,200 updates. Their distances and gradients alone, re-expressed in torch,
  are timed here; a whole update took 257 ms where it was first measured.

The settings follow rules in d that were chosen on problems with seeds from 100 on.
"""

import argparse
import dataclasses
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

import swjko
from benchmarks import common, gaussian_flows, peers
from benchmarks.common import Solve
from benchmarks.flow_tables import PUBLISHED_UPDATES
from swjko import problems

# Means of log10 SymKL in dimensions 2 to 12 (Bonet et al. 2022, figure 1).
_PUBLISHED_MEANS = {
    "SW-JKO": (
        *(-2.29, -2.08, -1.70, -1.84, -1.78, -1.74),
        *(-1.68, -1.53, -1.47, -1.42, -1.46),
    ),
    "Euler-Maruyama, 1000": (
        *(-1.40, -0.90, -0.57, -0.39, -0.20, -0.06),
        *(0.07, 0.19, 0.30, 0.38, 0.47),
    ),
    "Euler-Maruyama, 50000": (
        *(-2.27, -1.60, -1.05, -0.89, -0.65, -0.48),
        *(-0.32, -0.16, -0.02, 0.08, 0.18),
    ),
}
PUBLISHED = {
    name: dict(zip(range(2, 13), means, strict=True)) for name, means in _PUBLISHED_MEANS.items()
}
_PUBLISHED_UPDATE_SECONDS = 0.257
_PUBLISHED_CASE = peers.Case(1024, 1024, 10, 1000)


class Sizes(NamedTuple):
    """Numbers of problems by dimension; dimensions; numbers of Euler-Maruyama's particles."""

    stationary: dict[int, int]
    trajectory: dict[int, int]
    gaussian: tuple[int, ...]
    particles: tuple[int, ...]
    quick: bool = False


FULL = Sizes(
    stationary=dict.fromkeys(range(2, 13), 15) | dict.fromkeys((20, 30, 40, 50, 75, 100), 5),
    trajectory={2: 15, 10: 15},
    gaussian=(2, 6, 10, 12),
    particles=(1000, 50_000),
)
DEFAULT = Sizes(
    stationary={2: 3, 6: 3, 10: 3, 12: 3, 20: 1, 50: 1, 100: 1},
    trajectory={2: 2, 10: 2},
    gaussian=(2, 6, 12),
    particles=(1000,),
)
QUICK = Sizes({2: 1}, {2: 1}, (2,), (100,), quick=True)
FLAGS = common.Flags(
    quick="one small problem",
    full="15 problems in each dimension up to 12, five above: some hours on two cores",
    only=("stationary", "trajectory", "gaussian", "speed"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that concern the stationary section."""
    text = "measure these dimensions of the stationary section, and keep the rest of the JSON"
    parser.add_argument("--again", type=int, nargs="+", metavar="DIM", help=text)
    text = "problems in each dimension of the stationary section"
    parser.add_argument("--problems", type=int, metavar="N", help=text)


def main(args: argparse.Namespace) -> int:
    sizes = QUICK if args.quick else FULL if args.full else DEFAULT
    if args.problems:
        sizes = sizes._replace(stationary=dict.fromkeys(sizes.stationary, args.problems))
    content: dict[str, Any] = {"quick": args.quick, "full": args.full, "published": PUBLISHED}
    if args.again:
        if not set(args.again) <= set(sizes.stationary):
            known = list(sizes.stationary)
            print(f"`--again` must be among {known}; got {args.again}.", file=sys.stderr)
            return 2
        written = common.read_results(args.name, args.directory)
        content = {name: written[name] for name in (*content, *FLAGS.only)}
        new = stationary(sizes._replace(stationary={d: sizes.stationary[d] for d in args.again}))
        rows = {row["dim"]: row for row in (*written["stationary"]["rows"], *new["rows"])}
        content["stationary"]["rows"] = [rows[dim] for dim in sorted(rows)]
    else:
        sections = (stationary, trajectory, gaussian, speed)
        for name, section in zip(FLAGS.only, sections, strict=True):
            if args.only in (None, name):
                seconds, content[name] = common.timed(lambda section=section: section(sizes))
                content[name]["seconds"] = seconds
    figures = [] if args.only else [("", _figure(content["stationary"]["rows"]))]
    common.finish(args, content, *figures)
    return 0


def stationary_settings(dim: int, quick: bool = False) -> tuple[Solve, dict[str, int]]:
    """Twenty steps of SW time 0.4, and the network: one rule for all dimensions."""
    if quick:
        return Solve(2, 0.4, 20, 64, 8, 3e-3), {"num_layers": 2, "width": 16}
    settings = gaussian_flows.whole_blocks(Solve(20, 0.4, 150, 512, 64, 5e-3, 20), dim)
    return settings, {"num_layers": 8, "width": 64}


def stationary(sizes: Sizes) -> dict[str, Any]:
    """Divergences at the end, and those of particles in up to twelve dimensions."""
    rows = []
    for dim, count in sizes.stationary.items():
        settings, network = stationary_settings(dim, sizes.quick)
        row = _runs_to_the_end(dim, count, settings, network)
        row["euler_maruyama_log10"] = {
            str(num): [
                gaussian_flows.euler_maruyama_log10(seed, dim, num, sizes.quick)
                for seed in range(count)
            ]
            for num in (sizes.particles if dim <= 12 else ())
        }
        row["worst_log10"] = max(run["log10"] for run in row["runs"])
        row["frozen_affine_log10"] = None
        if dim <= 12:
            frozen = _runs_to_the_end(dim, count, settings, network, freeze_affine=True)
            row["frozen_affine_log10"] = [run["log10"] for run in frozen["runs"]]
        rows.append(row | {"date": time.strftime("%Y-%m-%d", time.gmtime())})
        shown = ("dim", "mean_log10", "worst_log10", "published_log10", "mean_seconds")
        common.show("stationary", {name: row[name] for name in shown})
    return {"rows": rows}


def _runs_to_the_end(
    dim: int, count: int, settings: Solve, network: Any, *, freeze_affine: bool = False
) -> dict[str, Any]:
    """Runs on the first problems; seconds include compilation.

    ``freeze_affine`` keeps the affine layer at the identity.
    """
    runs = []
    for seed in range(count):
        target = problems.gaussian_target(seed, dim).target
        scheme = gaussian_flows.coupling_scheme(target, settings, network)
        if freeze_affine:
            optimizer = optax.chain(scheme.optimizer, optax.stateless(_without_affine))
            scheme = dataclasses.replace(scheme, optimizer=optimizer)
        solution = gaussian_flows.solve(scheme, seed, settings.num_steps)
        found = gaussian_flows.divergence(seed, scheme.family, solution.state.params, target)
        result = {"result": solution.result.name, **solution.timing._asdict()}
        runs.append({"seed": seed, **found, **result})
    return {
        "dim": dim,
        "settings": settings,
        "network": network,
        "runs": runs,
        "mean_log10": np.mean([run["log10"] for run in runs]),
        "mean_seconds": np.mean([run["run_seconds"] + run["compile_seconds"] for run in runs]),
        "published_log10": PUBLISHED["SW-JKO"].get(dim),
    }


def _without_affine(updates: Any, params: Any) -> Any:
    """Updates of a coupling flow with those of its affine layer at zero."""
    del params
    return {**updates, "affine": jax.tree.map(jnp.zeros_like, updates["affine"])}


def trajectory(sizes: Sizes) -> dict[str, Any]:
    """Divergences on the way to the exact SW-JKO iterates."""
    oracle: Any = {"num_directions": gaussian_flows.ORACLE_DIRECTIONS}
    rows = []
    geometry = "exact_sw_flow_to_ornstein_uhlenbeck_log10"
    for dim, count in sizes.trajectory.items():
        settings, network = gaussian_flows.trajectory_settings(dim, sizes.quick)
        steps = [round(t / (dim * settings.step_size)) for t in gaussian_flows.TIMES]
        runs = []
        for seed in range(count):
            problem = problems.gaussian_target(seed, dim)
            scheme = gaussian_flows.coupling_scheme(problem.target, settings, network)
            record = gaussian_flows.params_alone
            solution = gaussian_flows.solve(scheme, seed, settings.num_steps, record)
            exact = problems.exact_sw_jko_flow(
                problem, settings.step_size, settings.num_steps, **oracle
            )
            own = []
            for step in steps:
                params = jax.tree.map(lambda leaf, step=step: leaf[step - 1], solution.history)
                law = problems.gaussian(exact.mean[step], exact.cov[step])
                own.append(gaussian_flows.divergence(seed, scheme.family, params, law)["log10"])
            found = {"log10": own, geometry: gaussian_flows.geometries(problem)}
            runs.append({"seed": seed, **found, **solution.timing._asdict()})
        means = {name: np.mean([run[name] for run in runs], axis=0) for name in ("log10", geometry)}
        row = {"dim": dim, "settings": settings, "network": network, "mean": means, "runs": runs}
        times = [step * settings.step_size * dim for step in steps]
        rows.append(row | {"wasserstein_times": times})
        common.show(f"trajectory, d = {dim}, times {times}", means)
    return {"oracle_directions": gaussian_flows.ORACLE_DIRECTIONS, "rows": rows}


def gaussian(sizes: Sizes) -> dict[str, Any]:
    """Worst errors of the Gaussian family's moments over the steps."""
    base = Solve(10, 0.1, 300, 2048, 64, 3e-2, 20)
    base = Solve(10, 0.1, 20, 256, 16, 3e-2) if sizes.quick else base
    rows = []
    for dim in sizes.gaussian:
        problem = problems.gaussian_target(0, dim)
        settings = gaussian_flows.whole_blocks(base, dim)
        scheme = gaussian_flows.kl_scheme(swjko.gaussian(dim), problem.target, settings)
        solution = swjko.solve(
            jax.random.key(0),
            scheme,
            settings.num_steps,
            progress=False,
            record=gaussian_flows.params_alone,
        )
        means, covs = (
            np.asarray(part) for part in jax.vmap(swjko.gaussian_moments)(solution.history)
        )
        exact = problems.exact_sw_jko_flow(
            problem, settings.step_size, settings.num_steps, num_directions=20_000
        )
        mean, cov = exact.mean[1:], np.asarray(exact.cov[1:])
        distance = np.linalg.norm(means - mean, axis=1)
        norms = [np.linalg.norm(part, axis=(1, 2)) for part in (covs - cov, cov)]
        errors = {
            "mean_in_standard_deviations": np.max(
                distance / np.sqrt(np.trace(cov, axis1=1, axis2=2))
            ),
            "covariance": np.max(norms[0] / norms[1]),
        }
        row = {"dim": dim, "seed": 0, "settings": settings, "worst_relative_error": errors}
        rows.append(row | solution.timing._asdict())
        common.show(f"gaussian, d = {dim}", errors)
    return {"rows": rows}


def speed(sizes: Sizes) -> dict[str, Any]:
    """Seconds of a run, and of the published configuration."""
    settings = Solve(5, 0.4, 60, 256, 30, 1e-2, 6)
    settings = Solve(2, 0.4, 10, 64, 10, 1e-2, 2) if sizes.quick else settings
    network = {"num_layers": 4, "width": 64}
    found = _runs_to_the_end(10, 1 if sizes.quick else 5, settings, network)
    whole = PUBLISHED_UPDATES * _PUBLISHED_UPDATE_SECONDS
    seconds = {"measured elsewhere, whole updates": whole}
    case = peers.Case(64, 64, 10, 8) if sizes.quick else _PUBLISHED_CASE
    methods = peers.methods(peers.make_inputs(case))
    methods = {name: call for name, call in methods.items() if name.startswith("three sorts")}
    if methods:
        best = min(common.interleaved_medians(methods, repeats=5).values())
        seconds["measured here, distance and gradient alone"] = PUBLISHED_UPDATES * best
    ratio = {name: value / found["mean_seconds"] for name, value in seconds.items()}
    found |= {"published_seconds": seconds, "ratio": ratio}
    common.show("speed", {name: found[name] for name in ("mean_log10", "mean_seconds", "ratio")})
    return found


def _figure(rows: list[Any]) -> Figure:
    """log10 SymKL at the end against dimension, a dot per problem, beside the published means."""
    figure, ((axis,),) = common.new_figure(6.4, 4.2)
    dims, means = ([row[key] for row in rows] for key in ("dim", "mean_log10"))
    axis.plot(dims, means, "o-", color="C0", label="swjko, coupling flow")
    for row in rows:
        values = [run["log10"] for run in row["runs"]]
        axis.plot([row["dim"]] * len(values), values, ".", color="C0", alpha=0.4, markersize=4)
    for index, (name, values) in enumerate(PUBLISHED.items(), start=1):
        options: Any = {"color": f"C{index}", "markersize": 3, "label": f"{name} (published)"}
        axis.plot(list(values), list(values.values()), "s--", **options)
    axis.set_xscale("log")
    axis.xaxis.set_minor_formatter(NullFormatter())
    ticks = (2, 3, 5, 10, 20, 50, 100)
    axis.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axis.set(xlabel="dimension", ylabel="log10 SymKL to the stationary law")
    axis.grid(True, which="major", alpha=0.3)
    axis.legend(fontsize=8)
    return figure
