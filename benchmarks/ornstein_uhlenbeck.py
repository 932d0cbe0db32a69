"""Ornstein-Uhlenbeck flows by SW-JKO with a coupling flow, by JKO with convex networks (JKO-ICNN), and by Langevin particles.

All from N(0, I), same problems and seeds; divergences are log10 of KL both ways. Sections, each under its name in the JSON:

- trajectory: targets with covariance ``make_spd_matrix`` as in Mokrov et al. (2021), arXiv 2106.00736, at Wasserstein times 0.5 and 0.9;
  for SW-JKO at the SW times t / d. Each scheme against its own exact step (``own_step``: the JKO iterate in its geometry) and against the
  Ornstein-Uhlenbeck law (``law``); beside the latter, how far the exact SW flow is from that law, which no solver of SW-JKO can undercut.
  Langevin particles get a Gaussian kernel density estimate, and have no step of their own;
- long: to time 5 and for each step its seconds, whose growth is fitted: does the error blow up, and what does the K-th step cost?
- stationary: precision ``make_spd_matrix``; wall seconds until SW-JKO is as near to the stationary law as JKO-ICNN ends, step by step.

Settings are one rule for all dimensions, chosen on problems with seeds from 100 on.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats

import swjko
from benchmarks import common, fokker_planck
from benchmarks.common import Solve
from swjko import closed_form, flows, problems

TIMES = (0.5, 0.9)
# Medians of log10 SymKL of JKO-ICNN at the two times (Mokrov et al. 2021), 526 to 821 seconds each on a GPU.
PUBLISHED = {
    2: (-2.58, -2.39),
    4: (-2.09, -2.08),
    6: (-1.75, -2.11),
    8: (-1.83, -1.99),
    10: (-1.74, -1.87),
    12: (-1.58, -1.72),
}
_ORACLE_DIRECTIONS = 4000


class Network(NamedTuple):
    """One JKO-ICNN run: Adam's rate falls to zero by a cosine in each step."""

    step_size: float
    num_inner_steps: int
    num_samples: int
    num_points: int
    width: int
    learning_rate: float

    def scheme(self, dim: int, functional: swjko.Functional, max_steps: int) -> Any:
        return swjko.icnn_jko(
            dim,
            functional,
            optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.num_inner_steps)),
            step_size=self.step_size,
            num_inner_steps=self.num_inner_steps,
            num_samples=self.num_samples,
            num_points=self.num_points,
            max_steps=max_steps,
            width=self.width,
        )


class Sizes(NamedTuple):
    """Dimensions with how many problems each; what is run in the long and the stationary section."""

    trajectory: tuple[tuple[int, int], ...]
    long: tuple[int, ...]
    stationary: tuple[int, int]
    network: Network
    stationary_network: Network
    stationary_steps: int
    stationary_couplings: tuple[Solve, dict[str, int]]
    particles: int
    evaluated: int
    quick: bool = False


_NETWORK = Network(0.05, 150, 256, 4096, 64, 5e-3)
DEFAULT = Sizes(
    ((2, 3), (6, 3), (10, 3)),
    (2, 10),
    (10, 3),
    _NETWORK,
    Network(10.0, 150, 128, 2048, 64, 1e-2),
    8,
    (Solve(10, 2.0, 100, 128, 20, 1e-2, 10), {"num_layers": 4, "width": 32}),
    10_000,
    5000,
)
FULL = DEFAULT._replace(
    trajectory=tuple((dim, 5) for dim in PUBLISHED), long=(2, 6, 10), stationary=(10, 5)
)
_QUICK_NETWORK = Network(0.1, 5, 32, 64, 8, 5e-3)
QUICK = Sizes(
    ((2, 1),),
    (2,),
    (2, 1),
    _QUICK_NETWORK,
    _QUICK_NETWORK._replace(step_size=1.0),
    2,
    fokker_planck.stationary_settings(2, quick=True),
    100,
    200,
    quick=True,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--quick",
        action="store_true",
        help="one small problem, to see that it runs; written to runs/benchmarks",
    )
    sizes.add_argument("--full", action="store_true", help="six dimensions, five problems in each")
    parser.add_argument(
        "--only", choices=list(_SECTIONS), help="one section, to look at; nothing is written"
    )
    parser.add_argument(
        "--again", choices=list(_SECTIONS), help="one section anew, in place of the one in the JSON"
    )
    parser.add_argument(
        "--first-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the first problem (default 0)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="directory for JSON and PNG (default benchmarks/results)"
    )


def main(args: argparse.Namespace) -> int:
    sizes = QUICK if args.quick else FULL if args.full else DEFAULT
    directory = Path(args.out or (Path("runs/benchmarks") if args.quick else common.RESULTS))
    payload: dict[str, Any] = {
        "quick": args.quick,
        "full": args.full,
        "published_jko_icnn": PUBLISHED,
    }
    if args.again:
        written = json.loads((directory / "ornstein_uhlenbeck.json").read_text())
        payload |= {name: written[name] for name in _SECTIONS}
    for name, section in _SECTIONS.items():
        if (args.only or args.again) in (None, name):
            payload[name] = section(sizes, args.first_seed)
            if args.only is None:
                path = common.write_results("ornstein_uhlenbeck", payload, directory)
    if args.only is None:
        print(path)
        _figure(payload).savefig(directory / "ornstein_uhlenbeck.png", dpi=150)
    return 0


def trajectory(sizes: Sizes, first_seed: int) -> dict[str, Any]:
    rows = []
    for dim, count in sizes.trajectory:
        found: dict[str, list[dict[str, Any]]] = {"sw_jko": [], "icnn_jko": [], "langevin": []}
        geometry = []
        for seed in range(first_seed, first_seed + count):
            problem = covariance_target(seed, dim)
            geometry.append(fokker_planck.geometries(problem))
            for name, run in (
                ("sw_jko", _sw_jko(problem, seed, sizes, TIMES)),
                ("icnn_jko", _icnn_jko(problem, seed, sizes, TIMES)),
            ):
                found[name].append({"seed": seed, **run})
            found["langevin"].append({"seed": seed, **_langevin(problem, seed, sizes)})
        row: dict[str, Any] = {
            "dim": dim,
            "times": TIMES,
            "exact_sw_flow_to_law_median": np.median(geometry, axis=0),
        }
        for name, runs in found.items():
            for against in ("own_step", "law"):
                if against in runs[0]:
                    row[f"{name}_{against}_median"] = np.median(
                        [run[against] for run in runs], axis=0
                    )
        rows.append({**row, "published_jko_icnn_law": PUBLISHED.get(dim), "runs": found})
        print(f"trajectory: {common.finite_json(row)}", flush=True)
    settings = fokker_planck.trajectory_settings(2, sizes.quick)
    return {
        "rows": rows,
        "icnn_jko_settings": sizes.network,
        "sw_jko_settings_in_the_plane": settings,
    }


def long(sizes: Sizes, first_seed: int) -> dict[str, Any]:
    times = (0.2, 0.5) if sizes.quick else (1.0, 2.0, 3.0, 4.0, 5.0)
    network = sizes.network._replace(step_size=0.1)
    rows = []
    for dim in sizes.long:
        problem = covariance_target(first_seed, dim)
        networks = _icnn_jko(problem, first_seed, sizes._replace(network=network), times)
        networks["cost"] = _linear_fit(networks["step_seconds"])
        row = {
            "dim": dim,
            "seed": first_seed,
            "times": times,
            "icnn_jko": networks,
            "sw_jko": _sw_jko(problem, first_seed, sizes, times),
        }
        rows.append(row)
        shown = {
            name: {key: row[name][key] for key in ("own_step", "law", "run_seconds")}
            for name in ("icnn_jko", "sw_jko")
        }
        print(
            f"long, d = {dim}: {common.finite_json(shown)}, cost of the steps {common.finite_json(networks['cost'])}",
            flush=True,
        )
    return {"rows": rows, "icnn_jko_settings": network}


def stationary(sizes: Sizes, first_seed: int) -> dict[str, Any]:
    """seconds: of the steps until the level is reached, and with compilation; ratio: JKO-ICNN's over SW-JKO's, medians of problems. The
    level is a tenth of a decade above the best that JKO-ICNN came to: its last steps gain less than that, and would flatter SW-JKO.

    Each scheme in the settings that were fastest, of those tried on seeds from 100 on: steps that nearly end the flow at once, and as few
    points and updates as the level needs.
    """
    dim, count = sizes.stationary
    runs = []
    for seed in range(first_seed, first_seed + count):
        problem = problems.gaussian_target(seed, dim)
        networks = sizes.stationary_network.scheme(
            dim, swjko.kl_divergence(problem.target.log_prob), sizes.stationary_steps
        )
        settings, network = sizes.stationary_couplings
        couplings = _couplings(problem, settings, network)
        run: dict[str, Any] = {"seed": seed}
        for name, scheme, num in (
            ("icnn_jko", networks, sizes.stationary_steps),
            ("sw_jko", couplings, settings.num_steps),
        ):
            steps = _timed_steps(scheme, seed, num)
            errors = [
                _log10(seed, scheme.family, _after(scheme, steps, k), problem.target, sizes)
                for k in range(1, num + 1)
            ]
            run[name] = {
                "log10": errors,
                "step_seconds": steps.seconds,
                "compile_seconds": steps.compile_seconds,
                "memory": steps.memory,
            }
        level = min(run["icnn_jko"]["log10"]) + 0.1
        for name in ("icnn_jko", "sw_jko"):
            reached = next(
                (k for k, value in enumerate(run[name]["log10"]) if value <= level), None
            )
            seconds = (
                None if reached is None else float(np.sum(run[name]["step_seconds"][: reached + 1]))
            )
            run[name]["seconds_to_level"] = seconds
            run[name]["seconds_to_level_with_compilation"] = (
                None if seconds is None else seconds + run[name]["compile_seconds"]
            )
        runs.append(run | {"level_log10": level})
        shown = {name: run[name]["seconds_to_level"] for name in ("icnn_jko", "sw_jko")}
        print(
            f"stationary, d = {dim}, seed {seed}: level {level:.2f}, seconds to it {common.finite_json(shown)}",
            flush=True,
        )
    found: dict[str, Any] = {
        "dim": dim,
        "icnn_jko_settings": sizes.stationary_network,
        "runs": runs,
    }
    for key in ("seconds_to_level", "seconds_to_level_with_compilation"):
        # A run that never reaches the level counts as infinitely slow.
        ratios = [run["icnn_jko"][key] / (run["sw_jko"][key] or math.inf) for run in runs]
        found[f"ratio_of_{key}"] = {"median": np.median(ratios), "all": ratios}
    print(
        f"stationary: {common.finite_json({key: value for key, value in found.items() if key.startswith('ratio')})}",
        flush=True,
    )
    return found


_SECTIONS = {"trajectory": trajectory, "long": long, "stationary": stationary}


def covariance_target(seed: int, dim: int) -> problems.GaussianTarget:
    """``problems.gaussian_target`` with the random matrix as covariance: the problem of Mokrov et al. (2021)."""
    problem = problems.gaussian_target(seed, dim)
    covariance, center = problem.precision, problem.center
    return problems.GaussianTarget(
        np.linalg.inv(covariance), center, problems.gaussian(center, covariance)
    )


class _Steps(NamedTuple):
    """params: after each step, where each has its own; the last ones, of all maps, for JKO-ICNN."""

    params: list[Any]
    seconds: list[float]
    compile_seconds: float
    result: str
    memory: dict[str, int]


def _timed_steps(scheme: Any, seed: int, num: int) -> _Steps:
    init_key, run_key = jax.random.split(jax.random.key(seed))
    state = jax.jit(type(scheme).init)(scheme, init_key)
    start = time.perf_counter()
    step = jax.jit(type(scheme).step).lower(scheme, run_key, state).compile()
    compile_seconds = time.perf_counter() - start
    params, seconds = [], []
    for index in range(num):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(scheme, jax.random.fold_in(run_key, index), state))
        seconds.append(time.perf_counter() - start)
        params.append(state.params)
    analysis: Any = step.memory_analysis()
    memory = {
        "temporary_bytes": analysis.temp_size_in_bytes,
        "state_bytes": analysis.output_size_in_bytes,
    }
    return _Steps(params, seconds, compile_seconds, swjko.Result(int(state.result)).name, memory)


def _after(scheme: Any, steps: _Steps, num: int) -> Any:
    return (
        scheme.after(steps.params[-1], num) if hasattr(scheme, "after") else steps.params[num - 1]
    )


def _couplings(problem: problems.GaussianTarget, settings: Any, network: dict[str, Any]) -> Any:
    family = flows.coupling(len(problem.center), **network)
    return settings.scheme(
        family,
        swjko.kl_divergence(problem.target.log_prob),
        direction_fn=swjko.recommended_directions,
    )


def _sw_jko(
    problem: problems.GaussianTarget, seed: int, sizes: Sizes, times: Sequence[float]
) -> dict[str, Any]:
    dim = len(problem.center)
    settings, network = fokker_planck.trajectory_settings(dim, sizes.quick)
    at = [round(t / (dim * settings.step_size)) for t in times]
    exact = problems.exact_sw_jko_flow(
        problem, settings.step_size, at[-1], num_directions=_ORACLE_DIRECTIONS
    )
    return _compared(_couplings(problem, settings, network), problem, seed, sizes, times, at, exact)


def _icnn_jko(
    problem: problems.GaussianTarget, seed: int, sizes: Sizes, times: Sequence[float]
) -> dict[str, Any]:
    at = [round(t / sizes.network.step_size) for t in times]
    with jax.enable_x64(True):
        start = jnp.zeros(len(problem.center)), jnp.eye(len(problem.center))
        law = jnp.asarray(problem.precision), jnp.asarray(problem.center)
        exact = jax.device_get(
            closed_form.gaussian_jko_flow(*start, *law, sizes.network.step_size, at[-1])
        )
    scheme = sizes.network.scheme(
        len(problem.center), swjko.kl_divergence(problem.target.log_prob), at[-1]
    )
    return _compared(scheme, problem, seed, sizes, times, at, exact)


def _compared(
    scheme, problem, seed, sizes: Sizes, times, at: list[int], exact: closed_form.Gaussian
) -> dict[str, Any]:
    steps = _timed_steps(scheme, seed, at[-1])
    own, laws = [], []
    for t, k in zip(times, at, strict=True):
        params = _after(scheme, steps, k)
        own.append(
            _log10(
                seed, scheme.family, params, problems.gaussian(exact.mean[k], exact.cov[k]), sizes
            )
        )
        laws.append(
            _log10(seed, scheme.family, params, problems.gaussian(*_law(problem, t)), sizes)
        )
    return {
        "own_step": own,
        "law": laws,
        "run_seconds": float(np.sum(steps.seconds)),
        "step_seconds": steps.seconds,
        "compile_seconds": steps.compile_seconds,
        "result": steps.result,
        "memory": steps.memory,
    }


def _langevin(problem: problems.GaussianTarget, seed: int, sizes: Sizes) -> dict[str, Any]:
    """Moves of 1e-3, of 1e-2 in a quick run."""
    points = jax.random.normal(jax.random.key(seed), (sizes.particles, len(problem.center)))
    inner = 10 if sizes.quick else 100
    scheme = swjko.langevin(points, problem.target.log_prob, step_size=0.1, num_inner_steps=inner)
    steps = _timed_steps(scheme, seed, round(TIMES[-1] / 0.1))
    found = []
    for t in TIMES:
        mean, cov = _law(problem, t)
        moved = np.asarray(steps.params[round(t / 0.1) - 1], np.float64)
        found.append(
            fokker_planck.kernel_density_log10(
                moved, mean, cov, sizes.evaluated, np.random.default_rng(seed)
            )
        )
    return {
        "law": found,
        "run_seconds": float(np.sum(steps.seconds)),
        "compile_seconds": steps.compile_seconds,
        "memory": steps.memory,
    }


def _law(problem: problems.GaussianTarget, t: float) -> tuple[np.ndarray, np.ndarray]:
    with jax.enable_x64(True):
        start = jnp.zeros(len(problem.center)), jnp.eye(len(problem.center))
        law = closed_form.ornstein_uhlenbeck(
            *start, jnp.asarray(problem.precision), jnp.asarray(problem.center), t
        )
        return np.asarray(law.mean), np.asarray(law.cov)


@jax.jit
def _estimate(key, family, params, log_prob, points):
    return swjko.symmetric_kl(key, family, params, log_prob, points, num_samples=points.shape[0])


def _log10(
    seed: int, family: swjko.Family, params: Any, law: problems.Target, sizes: Sizes
) -> float:
    draw_key, key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
    value = float(
        _estimate(key, family, params, law.log_prob, law.sample(draw_key, sizes.evaluated)).value
    )
    return math.log10(max(value, float(np.finfo(np.float32).tiny)))


def _linear_fit(seconds: list[float]) -> dict[str, float]:
    """A line through seconds against the number of the step: the first step's, what each one more adds, and the latter over a run relative
    to the former, zero where K steps cost K times as much as one."""
    slope, intercept = np.polyfit(np.arange(len(seconds)), seconds, 1)
    fit = scipy.stats.linregress(np.arange(len(seconds)), seconds)
    growth = slope * len(seconds) / intercept
    return {
        "first_step_seconds": intercept,
        "seconds_more_each_step": slope,
        "standard_error": fit.stderr,  # pyright: ignore[reportAttributeAccessIssue]
        "relative_growth_over_the_run": growth,
    }


def _figure(payload: dict[str, Any]) -> Any:
    """log10 SymKL to the law against dimension and against time, and the seconds of the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    by_dim, by_time, cost = figure.subplots(1, 3)
    rows = payload["trajectory"]["rows"]
    dims = [row["dim"] for row in rows]
    lines = {
        "SW-JKO to its exact step": "sw_jko_own_step_median",
        "JKO-ICNN to its exact step": "icnn_jko_own_step_median",
        "JKO-ICNN to OU": "icnn_jko_law_median",
        "Langevin, KDE, to OU": "langevin_law_median",
        "exact SW flow to OU": "exact_sw_flow_to_law_median",
    }
    for index, (label, key) in enumerate(lines.items()):
        by_dim.plot(
            dims, [row[key][-1] for row in rows], "o-", color=f"C{index}", markersize=4, label=label
        )
    published = {dim: PUBLISHED[dim][-1] for dim in PUBLISHED if dim <= max(dims)}
    by_dim.plot(
        list(published),
        list(published.values()),
        "s--",
        color="0.5",
        markersize=3,
        label="JKO-ICNN to OU (published)",
    )
    by_dim.set(
        xlabel="dimension", ylabel="log10 of KL both ways", title=f"Wasserstein time {TIMES[-1]}"
    )
    by_dim.set_ylim(top=by_dim.get_ylim()[1] + 2.2)
    by_dim.legend(fontsize=6, ncols=2, loc="upper center")
    for index, row in enumerate(payload["long"]["rows"]):
        for name, style in (("icnn_jko", "o-"), ("sw_jko", "s--")):
            by_time.plot(
                row["times"],
                row[name]["own_step"],
                style,
                color=f"C{index}",
                markersize=4,
                label=f"{name}, d = {row['dim']}",
            )
        seconds = row["icnn_jko"]["step_seconds"]
        cost.plot(
            np.arange(1, len(seconds) + 1),
            seconds,
            ".",
            color=f"C{index}",
            label=f"icnn_jko, d = {row['dim']}",
        )
    by_time.set(
        xlabel="Wasserstein time",
        ylabel="log10 of KL both ways",
        title="to the exact step of each scheme",
    )
    by_time.set_ylim(top=by_time.get_ylim()[1] + 0.5)
    by_time.legend(fontsize=7, ncols=2, loc="upper center")
    cost.set(
        xlabel="number of the step",
        ylabel="seconds",
        ylim=(0, None),
        title="cost of the steps of icnn_jko",
    )
    cost.legend(fontsize=7)
    for axis in (by_dim, by_time, cost):
        axis.grid(True, alpha=0.3)
    return figure
