"""Mixtures of unit Gaussians in dimensions 2 to 12, by splines, couplings and sums of Gaussians.

The problems of Mokrov et al. (2021), arXiv 2106.00736, and in the plane of Bonet et al. (2022),
arXiv 2110.10972: 4 + d / 2 Gaussians with centres uniform in [-5, 5]^d, and a start at N(0, 16 I).
``rows`` hold the SymKL to the target at the end, over the problems of each dimension and family,
and seconds with compilation, beside the published SymKL.

Mass passes slowly between separated modes, whatever the family: at the same SW time all families
end with the same energy. So the step size grows from step to step. Small steps at first let the
flow fill all modes. The last steps are as large as if there were no proximity, so that the weights
of the modes even out. The settings were chosen on problems with seeds from 100 on.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import swjko
from benchmarks import common, gaussian_flows
from benchmarks.common import Solve
from swjko import flows, problems

START_SCALE = 4.0
NUM_COMPONENTS = {2: 5, 4: 6, 6: 7, 8: 8, 10: 9, 12: 10}
# SymKL of JKO-ICNN and of Euler-Maruyama with 50,000 particles (Mokrov et al. 2021); log10 SymKL of
# SW-JKO in the plane (Bonet et al. 2022).
_JKO_ICNN = (0.0615, 0.176, 0.301, 0.396, 0.329, 0.509)
_PARTICLES = (0.077, 0.440, 1.505, 3.445, 5.584, 10.24)
PUBLISHED = {
    "JKO-ICNN": dict(zip(NUM_COMPONENTS, _JKO_ICNN, strict=True)),
    "Euler-Maruyama, 50000": dict(zip(NUM_COMPONENTS, _PARTICLES, strict=True)),
    "SW-JKO, log10": {2: -0.82},
}


class Method(NamedTuple):
    """A family by dimension, settings, and the factor from one step size to the next."""

    family: Callable[[int], swjko.Family]
    settings: Solve
    growth: float
    max_dim: int = 12


class Sizes(NamedTuple):
    """Numbers of problems by dimension, and the methods."""

    problems: dict[int, int]
    methods: dict[str, Method]


def _methods(network: Solve, sums: Solve, width: int) -> dict[str, Method]:
    options: Any = {"width": width, "init_scale": START_SCALE}
    coupling = functools.partial(flows.coupling, num_layers=12, **options)
    spline = functools.partial(flows.spline, num_layers=4, **options)
    mixture: Any = functools.partial(swjko.gaussian_mixture, init_scale=START_SCALE)
    return {
        "coupling": Method(coupling, network, 1.5, max_dim=6),
        "spline": Method(spline, network, 1.5, max_dim=2),
        "gaussian_mixture": Method(mixture, sums, 1.4),
    }


METHODS = _methods(
    network=Solve(12, 0.2, 250, 512, 36, 5e-3, 20, 1e-4),
    sums=Solve(14, 0.1, 100, 512, 36, 1e-1, 20),
    width=32,
)
QUICK_METHODS = _methods(
    network=Solve(2, 0.2, 10, 64, 8, 5e-3, 2), sums=Solve(2, 0.1, 10, 64, 8, 1e-1, 2), width=8
)
DEFAULT = Sizes({2: 5, 6: 5, 12: 5}, METHODS)
FULL = Sizes(dict.fromkeys(NUM_COMPONENTS, 5) | {2: 15}, METHODS)
QUICK = Sizes({2: 1}, QUICK_METHODS)
FLAGS = common.Flags(
    quick="one small problem",
    full="all six dimensions, 15 problems in the plane",
    only=tuple(METHODS),
    first_seed="seed of the first problem",
)


def main(args: argparse.Namespace) -> None:
    sizes = QUICK if args.quick else FULL if args.full else DEFAULT
    rows, points = [], {}
    for name, method in sizes.methods.items():
        for dim, count in sizes.problems.items():
            if args.only in (None, name) and dim <= method.max_dim:
                found = [solve(method, dim, args.first_seed + index) for index in range(count)]
                rows.append(_row(name, method, dim, [run for run, _ in found]))
                shown = {key: rows[-1][key] for key in ("mean", "standard_error", "mean_seconds")}
                common.show(f"{name}, d = {dim}", shown)
                if dim == 2:
                    points[name] = found[0][1]
    content = {"quick": args.quick, "full": args.full, "published": PUBLISHED, "rows": rows}
    common.finish(args, content, ("", _figure(rows, points, args.first_seed)))


def solve(method: Method, dim: int, seed: int) -> tuple[dict[str, Any], np.ndarray]:
    """Report of one run for the JSON, and points of the final measure."""
    target = problems.random_mixture(seed, dim, num=NUM_COMPONENTS[dim])
    settings, family = method.settings, method.family(dim)
    scheme = gaussian_flows.kl_scheme(family, target, settings)
    step_sizes = settings.step_size * method.growth ** jnp.arange(settings.num_steps)
    init_key, run_key, energy_key, draw_key = jax.random.split(jax.random.key(seed), 4)
    start = jax.jit(type(scheme).init)(scheme, init_key)
    run, compile_seconds = gaussian_flows.compiled(
        gaussian_flows.run_with_step_sizes, run_key, scheme, start, step_sizes
    )
    run_seconds, (state, _) = common.timed(lambda: run(run_key, scheme, start, step_sizes))
    laws = target.log_prob, target.sample
    options = {"num_samples": gaussian_flows.SYMMETRIC_KL_SAMPLES}
    value = gaussian_flows.symmetric_kl(energy_key, family, state.params, *laws, **options)
    return {
        "seed": seed,
        "symmetric_kl": value,
        "result": swjko.Result(int(state.result)).name,
        "time": state.time,
        "compile_seconds": compile_seconds,
        "run_seconds": run_seconds,
    }, np.asarray(swjko.sample(family, state.params, draw_key, 2000).points)


def _row(name: str, method: Method, dim: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    values = [float(run["symmetric_kl"].value) for run in runs]
    return {
        "family": name,
        "dim": dim,
        "settings": method.settings,
        "growth": method.growth,
        **common.mean_and_error(values),
        "worst": max(values),
        "mean_log10": np.mean([gaussian_flows.log10_of(value) for value in values]),
        "published_jko_icnn": PUBLISHED["JKO-ICNN"][dim],
        "mean_seconds": np.mean([run["run_seconds"] + run["compile_seconds"] for run in runs]),
        "runs": runs,
    }


def _figure(rows: list[dict[str, Any]], points: dict[str, np.ndarray], seed: int) -> Figure:
    """SymKL against dimension, and the final points of the first problem in the plane."""
    ratios = [1.5] + [1.0] * len(points)
    figure, ((curves, *clouds),) = common.new_figure(
        13.0, 3.6, columns=len(ratios), width_ratios=ratios
    )
    for index, name in enumerate(dict.fromkeys(row["family"] for row in rows)):
        own, color = [row for row in rows if row["family"] == name], f"C{index}"
        x, y = ([row[key] for row in own] for key in ("dim", "mean"))
        curves.plot(x, y, "o-", color=color, label=name)
        for row in own:
            values = [max(float(run["symmetric_kl"].value), 1e-4) for run in row["runs"]]
            curves.plot([row["dim"]] * len(values), values, ".", color=color, alpha=0.4)
    for index, name in enumerate(("JKO-ICNN", "Euler-Maruyama, 50000"), start=3):
        style: Any = {"color": f"C{index}", "markersize": 3, "label": f"{name} (published)"}
        curves.plot(*zip(*PUBLISHED[name].items(), strict=True), "s--", **style)
    curves.set(xlabel="dimension", ylabel="SymKL, nats", yscale="log", ylim=(1e-5, 20))
    curves.set_xticks(list(NUM_COMPONENTS))
    curves.grid(True, which="major", alpha=0.3)
    curves.legend(fontsize=7, loc="lower right")
    centers = np.asarray(problems.random_mixture(seed, 2, num=NUM_COMPONENTS[2]).log_prob.args[0])
    for axis, (name, cloud) in zip(clouds, points.items(), strict=True):
        axis.plot(*cloud.T, ".", markersize=1.2, color="C0")
        axis.plot(*centers.T, "+", color="C1", label="centres")
        axis.set(xlabel="first coordinate", ylabel="second coordinate")
        axis.set(xlim=(-9, 9), ylim=(-9, 9), aspect="equal")
        axis.set_title(f"{name}, final points", fontsize=9)
        axis.legend(fontsize=7)
    return figure
