"""Fokker-Planck equations to random Gaussians in dimensions 2 to 100: SW-JKO by coupling flows, against what is known exactly.

The problems of Bonet et al. (2022), arXiv 2110.10972, figures 1 and 10: precision ``make_spd_matrix``, center ~ N(0, I), start N(0, I).
Sections, each under its name in the JSON; divergences are log10 of KL both ways, means over the problems are of the logarithms:

- stationary: to the stationary law at the end of the run, beside the published values of SW-JKO and of Euler-Maruyama with a kernel density
  estimate, and our own run of the latter;
- trajectory: at Wasserstein times 0.5 and 0.9, that is SW times t / d, to the exact SW-JKO iterate; beside it, how far the exact SW flow
  itself is from Ornstein-Uhlenbeck at time t, which no solver of SW-JKO can undercut;
- gaussian: the ``gaussian`` family against the exact iterates, worst relative error of mean and covariance over the steps;
- speed: d = 10 to no worse than the published value, against the published configuration: 16,200 updates whose distance and gradient
  alone, re-expressed in torch, are timed here, and which took 257 ms each as a whole where they were measured first.

Settings follow rules in d, chosen on problems with seeds from 100 on.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

import swjko
from benchmarks import common, peers
from benchmarks.common import Solve, gaussian_symmetric_kl
from swjko import closed_form, flows, problems

TIMES = (0.5, 0.9)
_SYMMETRIC_KL_SAMPLES = 10_000
_ORACLE_DIRECTIONS = 4000
_GEOMETRIES = "exact_sw_flow_to_ornstein_uhlenbeck_log10"
_symmetric_kl = jax.jit(swjko.symmetric_kl, static_argnames=("num_samples",))

# Means of log10 SymKL in dimensions 2 to 12 (Bonet et al. 2022, figure 1).
_PUBLISHED_MEANS = {
    "SW-JKO": (-2.29, -2.08, -1.70, -1.84, -1.78, -1.74, -1.68, -1.53, -1.47, -1.42, -1.46),
    "Euler-Maruyama, 1000": (
        -1.40,
        -0.90,
        -0.57,
        -0.39,
        -0.20,
        -0.06,
        0.07,
        0.19,
        0.30,
        0.38,
        0.47,
    ),
    "Euler-Maruyama, 50000": (
        -2.27,
        -1.60,
        -1.05,
        -0.89,
        -0.65,
        -0.48,
        -0.32,
        -0.16,
        -0.02,
        0.08,
        0.18,
    ),
}
PUBLISHED = {
    name: dict(zip(range(2, 13), means, strict=True)) for name, means in _PUBLISHED_MEANS.items()
}
_PUBLISHED_UPDATES, _PUBLISHED_UPDATE_SECONDS, _PUBLISHED_CASE = (
    16_200,
    0.257,
    peers.Case(1024, 1024, 10, 1000),
)


class Sizes(NamedTuple):
    """Dimensions with how many problems each; particles of Euler-Maruyama."""

    stationary: tuple[tuple[int, int], ...]
    trajectory: tuple[tuple[int, int], ...]
    gaussian: tuple[int, ...]
    particles: tuple[int, ...]
    quick: bool = False


FULL = Sizes(
    (*((dim, 15) for dim in range(2, 13)), *((dim, 5) for dim in (20, 30, 40, 50, 75, 100))),
    ((2, 15), (10, 15)),
    (2, 6, 10, 12),
    (1000, 50_000),
)
DEFAULT = Sizes(
    (*((dim, 3) for dim in (2, 6, 10, 12)), *((dim, 1) for dim in (20, 50, 100))),
    ((2, 2), (10, 2)),
    (2, 6, 12),
    (1000,),
)
QUICK = Sizes(((2, 1),), ((2, 1),), (2,), (100,), quick=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--quick",
        action="store_true",
        help="one small problem, to see that it runs; written to runs/benchmarks",
    )
    sizes.add_argument(
        "--full",
        action="store_true",
        help="15 problems in each dimension up to 12, five above: some hours on two cores",
    )
    parser.add_argument(
        "--only", choices=list(_SECTIONS), help="one section, to look at; nothing is written"
    )
    parser.add_argument(
        "--again",
        type=int,
        nargs="+",
        metavar="DIM",
        help="these dimensions' stationary rows alone, in place of those in the JSON",
    )
    parser.add_argument(
        "--problems",
        type=int,
        metavar="N",
        help="how many for each stationary row (default: by size and dimension)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="directory for JSON and PNG (default benchmarks/results)"
    )


def main(args: argparse.Namespace) -> int:
    sizes = QUICK if args.quick else FULL if args.full else DEFAULT
    if args.problems:
        sizes = sizes._replace(
            stationary=tuple((dim, args.problems) for dim, _ in sizes.stationary)
        )
    directory = Path(args.out or (Path("runs/benchmarks") if args.quick else common.RESULTS))
    if args.again:
        known = [dim for dim, _ in sizes.stationary]
        if not set(args.again) <= set(known):
            print(
                f"benchmarks fokker_planck: error: --again takes dimensions of this size's rows, {known}; received {args.again}.",
                file=sys.stderr,
            )
            return 2
        return _again(
            sizes._replace(
                stationary=tuple(pair for pair in sizes.stationary if pair[0] in args.again)
            ),
            directory,
        )
    payload: dict[str, Any] = {"quick": args.quick, "full": args.full, "published": PUBLISHED}
    for name, section in _SECTIONS.items():
        if args.only in (None, name):
            start = time.perf_counter()
            payload[name] = section(sizes)
            payload[name]["seconds"] = time.perf_counter() - start
    if args.only is None:
        print(common.write_results("fokker_planck", payload, directory))
        _figure(payload).savefig(directory / "fokker_planck.png", dpi=150)
    return 0


def _again(sizes: Sizes, directory: Path) -> int:
    """Measures some rows anew; each says when. Machine and versions in the JSON become those of now."""
    payload = json.loads((directory / "fokker_planck.json").read_text())
    new = stationary(sizes)["rows"]
    rows = {row["dim"]: row for row in (*payload["stationary"]["rows"], *new)}
    payload["stationary"]["rows"] = [rows[dim] for dim in sorted(rows)]
    kept = {
        name: value
        for name, value in payload.items()
        if name not in ("benchmark", "date", "machine", "versions")
    }
    print(common.write_results("fokker_planck", kept, directory))
    _figure(kept).savefig(directory / "fokker_planck.png", dpi=150)
    return 0


def stationary_settings(dim: int, quick: bool = False) -> tuple[Solve, dict[str, int]]:
    """Twenty steps of SW time 0.4, in one rule for all dimensions."""
    directions = dim * math.ceil(64 / dim)
    if quick:
        return Solve(2, 0.4, 20, 64, 8, 3e-3), {"num_layers": 2, "width": 16}
    return Solve(20, 0.4, 150, 512, directions, 5e-3, 20), {"num_layers": 8, "width": 64}


def trajectory_settings(dim: int, quick: bool = False) -> tuple[Solve, dict[str, int]]:
    """Nine steps of Wasserstein time 0.1. What they have to resolve is a displacement against the spacing of points: many points."""
    if quick:
        return Solve(9, 0.1 / dim, 5, 64, 8, 5e-3, 1), {"num_layers": 2, "width": 16}
    return Solve(9, 0.1 / dim, 200, 1024, dim * math.ceil(32 / dim), 5e-3, 20), {
        "num_layers": 8,
        "width": 64,
    }


def stationary(sizes: Sizes) -> dict[str, Any]:
    rows = []
    for dim, count in sizes.stationary:
        settings, network = stationary_settings(dim, sizes.quick)
        runs = []
        for seed in range(count):
            problem = problems.gaussian_target(seed, dim)
            family, solution = _solve(problem, settings, network, seed)
            divergence = _log10_symmetric_kl(seed, family, solution.state.params, problem.target)
            runs.append(
                {"seed": seed, **divergence, "result": solution.result.name, **_seconds(solution)}
            )
        baseline = {
            str(num): [_euler_maruyama(seed, dim, num, sizes.quick) for seed in range(count)]
            for num in sizes.particles
            if dim <= 12
        }
        row = {
            "dim": dim,
            "settings": settings,
            "network": network,
            "runs": runs,
            "euler_maruyama_log10": baseline,
        }
        row |= {
            "mean_log10": np.mean([run["log10"] for run in runs]),
            "worst_log10": max(run["log10"] for run in runs),
        }
        row["mean_seconds"] = np.mean([run["run_seconds"] + run["compile_seconds"] for run in runs])
        row |= {
            "published_log10": PUBLISHED["SW-JKO"].get(dim),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        rows.append(row)
        shown = {
            name: row[name]
            for name in ("dim", "mean_log10", "worst_log10", "published_log10", "mean_seconds")
        }
        print(
            f"stationary: {common.finite_json(shown | {name: np.mean(values) for name, values in baseline.items()})}",
            flush=True,
        )
    return {"rows": rows}


def trajectory(sizes: Sizes) -> dict[str, Any]:
    rows = []
    for dim, count in sizes.trajectory:
        settings, network = trajectory_settings(dim, sizes.quick)
        steps = [round(t / (dim * settings.step_size)) for t in TIMES]
        runs = []
        for seed in range(count):
            problem = problems.gaussian_target(seed, dim)
            family, solution = _solve(problem, settings, network, seed, record=_params)
            exact = problems.exact_sw_jko_flow(
                problem, settings.step_size, settings.num_steps, num_directions=_ORACLE_DIRECTIONS
            )
            own, times = [], []
            for step in steps:
                params = jax.tree.map(lambda leaf, step=step: leaf[step - 1], solution.history)
                own.append(
                    _log10_symmetric_kl(
                        seed, family, params, problems.gaussian(exact.mean[step], exact.cov[step])
                    )["log10"]
                )
                times.append(step * settings.step_size * dim)
            runs.append(
                {
                    "seed": seed,
                    "log10": own,
                    "exact_sw_flow_to_ornstein_uhlenbeck_log10": geometries(problem),
                    **_seconds(solution),
                }
            )
        means = {
            name: np.mean([run[name] for run in runs], axis=0)
            for name in ("log10", "exact_sw_flow_to_ornstein_uhlenbeck_log10")
        }
        rows.append(
            {
                "dim": dim,
                "settings": settings,
                "network": network,
                "wasserstein_times": times,
                "mean": means,
                "runs": runs,
            }
        )
        print(
            f"trajectory d = {dim}, times {TIMES}: {common.finite_json(means)}, {runs[-1]['run_seconds']:.0f} s",
            flush=True,
        )
    return {"oracle_directions": _ORACLE_DIRECTIONS, "rows": rows}


def gaussian(sizes: Sizes) -> dict[str, Any]:
    base = (
        Solve(10, 0.1, 20, 256, 16, 3e-2)
        if sizes.quick
        else Solve(10, 0.1, 300, 2048, 64, 3e-2, 20)
    )
    rows = []
    for dim in sizes.gaussian:
        problem = problems.gaussian_target(0, dim)
        settings = base._replace(num_projections=dim * math.ceil(base.num_projections / dim))
        functional = swjko.kl_divergence(problem.target.log_prob)
        scheme = settings.scheme(
            swjko.gaussian(dim), functional, direction_fn=swjko.recommended_directions
        )
        solution = swjko.solve(
            jax.random.key(0), scheme, settings.num_steps, progress=False, record=_params
        )
        means, covs = jax.vmap(swjko.gaussian_moments)(solution.history)
        exact = problems.exact_sw_jko_flow(
            problem, settings.step_size, settings.num_steps, num_directions=20_000
        )
        deviation = np.sqrt(np.trace(exact.cov[1:], axis1=1, axis2=2))
        errors = {
            "mean_in_standard_deviations": np.max(
                np.linalg.norm(np.asarray(means) - exact.mean[1:], axis=1) / deviation
            ),
            "covariance": np.max(
                _norms(np.asarray(covs) - exact.cov[1:]) / _norms(np.asarray(exact.cov[1:]))
            ),
        }
        rows.append(
            {
                "dim": dim,
                "seed": 0,
                "settings": settings,
                "worst_relative_error": errors,
                **_seconds(solution),
            }
        )
        print(f"gaussian d = {dim}: {common.finite_json(errors)}", flush=True)
    return {"rows": rows}


def speed(sizes: Sizes) -> dict[str, Any]:
    """``mean_seconds``: of solve, compilation included, for runs whose mean ends no worse than the published one."""
    dim = 10
    settings, network = (
        (
            Solve(2, 0.4, 10, 64, 10, 1e-2, 2)
            if sizes.quick
            else Solve(5, 0.4, 60, 256, 30, 1e-2, 6)
        ),
        {"num_layers": 4, "width": 64},
    )
    runs = []
    for seed in range(1 if sizes.quick else 5):
        problem = problems.gaussian_target(seed, dim)
        family, solution = _solve(problem, settings, network, seed)
        runs.append(
            {
                "seed": seed,
                **_log10_symmetric_kl(seed, family, solution.state.params, problem.target),
                **_seconds(solution),
            }
        )
    seconds = np.mean([run["run_seconds"] + run["compile_seconds"] for run in runs])
    found: dict[str, Any] = {
        "dim": dim,
        "settings": settings,
        "network": network,
        "runs": runs,
        "mean_seconds": seconds,
    }
    found |= {
        "mean_log10": np.mean([run["log10"] for run in runs]),
        "published_log10": PUBLISHED["SW-JKO"][dim],
    }
    found["published_seconds"] = {
        "measured elsewhere, whole updates": _PUBLISHED_UPDATES * _PUBLISHED_UPDATE_SECONDS
    }
    methods = peers.methods(
        peers.make_inputs(peers.Case(64, 64, 10, 8) if sizes.quick else _PUBLISHED_CASE)
    )
    estimators = {name: call for name, call in methods.items() if name.startswith("three sorts")}
    if estimators:
        best = min(common.interleaved_medians(estimators, repeats=5).values())
        found["published_seconds"]["measured here, distance and gradient alone"] = (
            _PUBLISHED_UPDATES * best
        )
    found["ratio"] = {name: value / seconds for name, value in found["published_seconds"].items()}
    print(
        f"speed: {common.finite_json({key: found[key] for key in ('mean_log10', 'mean_seconds', 'ratio')})}",
        flush=True,
    )
    return found


_SECTIONS = {
    "stationary": stationary,
    "trajectory": trajectory,
    "gaussian": gaussian,
    "speed": speed,
}


def _solve(
    problem: problems.GaussianTarget,
    settings: Solve,
    network: dict[str, Any],
    seed: int,
    record: Any = swjko.infos,
) -> Any:
    dim = len(problem.center)
    family = flows.coupling(dim, **network)
    scheme = settings.scheme(
        family,
        swjko.kl_divergence(problem.target.log_prob),
        direction_fn=swjko.recommended_directions,
    )
    solution = swjko.solve(
        jax.random.key(seed), scheme, settings.num_steps, progress=False, throw=False, record=record
    )
    return family, solution


def _log10_symmetric_kl(
    seed: int, family: swjko.Family, params: Any, law: problems.Target
) -> dict[str, Any]:
    key = jax.random.fold_in(jax.random.key(seed), 1)
    estimate = _symmetric_kl(
        key, family, params, law.log_prob, law.sample, num_samples=_SYMMETRIC_KL_SAMPLES
    )
    return {
        "symmetric_kl": estimate,
        "log10": math.log10(max(float(estimate.value), float(np.finfo(np.float32).tiny))),
    }


def geometries(problem: problems.GaussianTarget) -> list[float]:
    """log10 SymKL of the exact SW flow at t / d, by small second-order steps, to Ornstein-Uhlenbeck at t."""
    dim = len(problem.center)
    found = []
    with jax.enable_x64(True):
        start, scale = jnp.zeros(dim), jnp.eye(dim)
        steps = 18
        flow = problems.exact_sw_jko_flow(
            problem,
            max(TIMES) / dim / steps,
            steps,
            num_directions=_ORACLE_DIRECTIONS,
            second_order=True,
        )
        for t in TIMES:
            law = closed_form.ornstein_uhlenbeck(
                start, scale, jnp.asarray(problem.precision), jnp.asarray(problem.center), t
            )
            at = round(t / max(TIMES) * steps)
            found.append(
                math.log10(
                    gaussian_symmetric_kl(
                        flow.mean[at], flow.cov[at], np.asarray(law.mean), np.asarray(law.cov)
                    )
                )
            )
    return found


def _euler_maruyama(seed: int, dim: int, num: int, quick: bool) -> float:
    """log10 SymKL of a Gaussian kernel density estimate on particles at time 8, steps of 1e-3, by 10,000 points on each side."""
    problem = problems.gaussian_target(seed, dim)
    particles = np.asarray(
        _langevin(
            jax.random.key(seed),
            problem.precision,
            problem.center,
            num=num,
            num_steps=80 if quick else 8000,
        )
    )
    count = 200 if quick else _SYMMETRIC_KL_SAMPLES
    return kernel_density_log10(
        particles,
        problem.center,
        np.linalg.inv(problem.precision),
        count,
        np.random.default_rng(seed),
    )


def kernel_density_log10(
    particles: np.ndarray, mean: np.ndarray, cov: np.ndarray, count: int, rng: np.random.Generator
) -> float:
    """log10 SymKL of a Gaussian kernel density estimate on particles [n d] to N(mean, cov), by ``count`` points on each side."""
    density = scipy.stats.gaussian_kde(particles.T)
    law: Any = scipy.stats.multivariate_normal(mean, cov)  # pyright: ignore[reportArgumentType]
    own, exact = density.resample(count, rng).T, law.rvs(count, rng)
    own_ratio, exact_ratio = (
        density.logpdf(points.T) - law.logpdf(points) for points in (own, exact)
    )
    return math.log10(np.mean(own_ratio) - np.mean(exact_ratio))


def _langevin_step(precision, center, step_size, x, key):
    return (
        x
        - step_size * (x - center) @ precision
        + jnp.sqrt(2 * step_size) * jax.random.normal(key, x.shape)
    )


def _run_langevin(key, precision, center, num, num_steps):
    start_key, run_key = jax.random.split(key)
    x = jax.random.normal(start_key, (num, center.shape[0]))

    def step(x, index):
        return _langevin_step(
            precision, center[None, :], 1e-3, x, jax.random.fold_in(run_key, index)
        ), None

    return jax.lax.scan(step, x, jnp.arange(num_steps))[0]


_langevin = jax.jit(_run_langevin, static_argnames=("num", "num_steps"))


def _norms(matrices: np.ndarray) -> np.ndarray:
    return np.linalg.norm(matrices, axis=(1, 2))


def _params(state: swjko.State, info: swjko.Info) -> Any:
    del info
    return state.params


def _seconds(solution: swjko.Solution) -> dict[str, float]:
    return {
        "run_seconds": solution.timing.run_seconds,
        "compile_seconds": solution.timing.compile_seconds,
    }


def _figure(payload: dict[str, Any]) -> Any:
    """log10 SymKL at the end against dimension, each problem a dot, beside the published means."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    rows: Sequence[Any] = payload["stationary"]["rows"]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    dims = [row["dim"] for row in rows]
    axis.plot(
        dims,
        [row["mean_log10"] for row in rows],
        color="C0",
        marker="o",
        label="swjko, coupling flow",
    )
    for row in rows:
        axis.plot(
            [row["dim"]] * len(row["runs"]),
            [run["log10"] for run in row["runs"]],
            ".",
            color="C0",
            alpha=0.4,
            markersize=4,
        )
    for index, (name, values) in enumerate(PUBLISHED.items(), start=1):
        axis.plot(
            list(values),
            list(values.values()),
            color=f"C{index}",
            linestyle="--",
            marker="s",
            markersize=3,
            label=f"{name} (published)",
        )
    axis.set_xscale("log")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks([2, 3, 5, 10, 20, 50, 100], labels=["2", "3", "5", "10", "20", "50", "100"])
    axis.set(xlabel="dimension", ylabel="log10 of KL both ways to the stationary law")
    axis.grid(True, which="major", alpha=0.3)
    axis.legend(fontsize=8)
    return figure
