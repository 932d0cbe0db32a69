"""What each choice inside a SW-JKO step is worth: one changed at a time, on Fokker-Planck flows to random Gaussians.

``rows``: for each dimension and measure the log10 of SymKL (KL both ways) of the standard choices, and of each variant its difference from
them, problem by problem: mean and standard error of the differences over the problems, positive where the change makes it worse.
Measures: ``trajectory``, steps of Wasserstein time 0.1 against the exact SW-JKO iterate; ``stationary``, steps of SW time 0.4
against the law that the flow ends in. Both with few updates, so that the choices count. All variants of a problem share the
updates, samples, directions and seeds.

Standard: common latents, path gradients, jackknifed proximity, recommended directions drawn for each update, a rate that rises and
falls by a cosine in each step, the last iterate, independent latents, an affine layer with its own rate.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from jax.tree_util import Partial

import swjko
from benchmarks import common
from benchmarks.common import Solve
from swjko import flows, problems
from swjko.networks import coupling as couplings
from swjko.schemes.sw_jko import SWJKO

_SYMMETRIC_KL_SAMPLES = 10_000
_ORACLE_DIRECTIONS = 4000
STANDARD = "standard"


class Sizes(NamedTuple):
    """cases: dimensions, each with what is measured there."""

    cases: tuple[tuple[int, str], ...]
    seeds: int
    trajectory: Solve
    stationary: Solve
    num_layers: int
    width: int


MEASURES = ("trajectory", "stationary")
_CASES = tuple((dim, measure) for measure in MEASURES for dim in (2, 10))
DEFAULT = Sizes(
    _CASES, 3, Solve(4, 0.1, 100, 512, 32, 5e-3, 10), Solve(6, 0.4, 80, 512, 32, 5e-3, 8), 6, 64
)
# In 50 dimensions the exact iterate is known only up to the noise of its own directions.
FULL = DEFAULT._replace(cases=(*_CASES, (50, MEASURES[1])))
QUICK = Sizes(
    ((2, MEASURES[0]),), 2, Solve(2, 0.1, 5, 64, 8, 5e-3, 1), Solve(2, 0.4, 5, 64, 8, 5e-3, 1), 3, 8
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--quick",
        action="store_true",
        help="the plane at reduced size, to see that it runs; written to runs/benchmarks",
    )
    sizes.add_argument("--full", action="store_true", help="50 dimensions too")
    dims = sorted({dim for dim, _ in FULL.cases})
    sizes.add_argument(
        "--again",
        type=int,
        nargs="+",
        choices=dims,
        help="these dimensions alone, in place of those in the JSON",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="directory for JSON and PNG (default benchmarks/results)"
    )


def main(args: argparse.Namespace) -> int:
    sizes = QUICK if args.quick else FULL if args.full or args.again else DEFAULT
    directory = Path(args.out or (Path("runs/benchmarks") if args.quick else common.RESULTS))
    rows: dict[tuple[str, int], Any] = {}
    if args.again:
        sizes = sizes._replace(cases=tuple(case for case in sizes.cases if case[0] in args.again))
        rows = {
            (row["measure"], row["dim"]): row
            for row in json.loads((directory / "ablation.json").read_text())["rows"]
        }
    for dim, measure in sizes.cases:
        rows[measure, dim] = _row(measure, dim, sizes)
        # After each case: the whole takes long, and what is there can be looked at.
        print(
            _write(
                [
                    rows[case]
                    for case in sorted(rows, key=lambda case: (MEASURES.index(case[0]), case[1]))
                ],
                args.quick,
                directory,
            )
        )
    return 0


def _write(rows: list[dict[str, Any]], quick: bool, directory: Path) -> Path:
    path = common.write_results("ablation", {"quick": quick, "rows": rows}, directory)
    _figure(rows).savefig(directory / "ablation.png", dpi=150)
    return path


def _row(measure: str, dim: int, sizes: Sizes) -> dict[str, Any]:
    settings: Solve = getattr(sizes, measure)
    settings = settings._replace(num_projections=dim * math.ceil(settings.num_projections / dim))
    if measure == "trajectory":
        settings = settings._replace(step_size=settings.step_size / dim)
    tasks = [problems.gaussian_target(seed, dim) for seed in range(sizes.seeds)]
    laws = [_law(measure, task, settings) for task in tasks]
    found, seconds = {}, {}
    for name, variant in VARIANTS.items():
        start = time.perf_counter()
        scheme = variant(_base(dim, settings, sizes, **NETWORKS.get(name, {})), settings)
        found[name] = _log10_symmetric_kl(scheme, tasks, laws, settings.num_steps)
        seconds[name] = time.perf_counter() - start
        print(
            f"{measure}, d = {dim}, {name}: {np.round(found[name], 2)}, {seconds[name]:.0f} s",
            flush=True,
        )
    differences = {
        name: values - found[STANDARD] for name, values in found.items() if name != STANDARD
    }
    return {
        "dim": dim,
        "measure": measure,
        "settings": settings,
        "network": {"num_layers": sizes.num_layers, "width": sizes.width},
        "seeds": list(range(sizes.seeds)),
        "standard_log10": {
            "mean": found[STANDARD].mean(),
            "standard_error": _standard_error(found[STANDARD]),
        },
        "difference": {
            name: {"mean": value.mean(), "standard_error": _standard_error(value)}
            for name, value in differences.items()
        },
        "log10": found,
        "seconds_with_compilation": seconds,
    }


def _law(measure: str, task: problems.GaussianTarget, settings: Solve) -> problems.Target:
    if measure == "stationary":
        return task.target
    exact = problems.exact_sw_jko_flow(
        task, settings.step_size, settings.num_steps, num_directions=_ORACLE_DIRECTIONS
    )
    return problems.gaussian(exact.mean[-1], exact.cov[-1])


def _base(dim: int, settings: Solve, sizes: Sizes, **network: Any) -> SWJKO:
    family = flows.coupling(dim, num_layers=sizes.num_layers, width=sizes.width, **network)
    functional = swjko.kl_divergence(problems.gaussian_target(0, dim).target.log_prob)
    return settings.scheme(family, functional, direction_fn=swjko.recommended_directions)


def _log10_symmetric_kl(
    scheme: SWJKO, tasks: list[Any], laws: list[problems.Target], num_steps: int
) -> np.ndarray:
    """Of all problems at once: one program, the problems along a leading axis. NaN where a flow failed."""

    def flow(seed, functional, law):
        init_key, run_key, energy_key = jax.random.split(jax.random.key(seed), 3)
        own = dataclasses.replace(scheme, functional=functional)
        state, _ = swjko.run(run_key, own, own.init(init_key), num_steps, swjko.infos)
        log_prob, sample = law
        estimate = swjko.symmetric_kl(
            energy_key,
            own.family,
            state.params,
            log_prob,
            sample,
            num_samples=_SYMMETRIC_KL_SAMPLES,
        )
        return jnp.where(state.result == swjko.Result.OK, estimate.value, jnp.nan)

    functionals = _stacked([swjko.kl_divergence(task.target.log_prob) for task in tasks])
    values = jax.jit(jax.vmap(flow))(
        jnp.arange(len(tasks)), functionals, _stacked([(law.log_prob, law.sample) for law in laws])
    )
    return np.log10(np.maximum(np.asarray(values, np.float64), np.finfo(np.float32).tiny))


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _with(**changes: Any) -> Callable[[SWJKO, Solve], SWJKO]:
    return lambda scheme, settings: dataclasses.replace(scheme, **changes)


def _with_latents(latent: Callable[..., Any]) -> Callable[[SWJKO, Solve], SWJKO]:
    def change(scheme: SWJKO, settings: Solve) -> SWJKO:
        own = Partial(latent(scheme.family.latent, settings.num_samples, scheme.family.dim))
        return dataclasses.replace(scheme, family=dataclasses.replace(scheme.family, latent=own))

    return change


def _antithetic(latent: Any, num_samples: int, dim: int) -> Any:
    del num_samples, dim

    def draw(key, num):
        half = latent(key, (num + 1) // 2)
        return jnp.concatenate((half, -half))[:num]

    return draw


def _quasi(latent: Any, num_samples: int, dim: int) -> Any:
    """Sobol points shifted at random modulo one, through the quantiles of the normal law; other numbers of points are independent."""
    points = jnp.asarray(
        scipy.stats.qmc.Sobol(dim, scramble=False).random(num_samples), jnp.float32
    )

    def draw(key, num):
        if num != num_samples:
            return latent(key, num)
        order_key, shift_key = jax.random.split(key)
        # The jackknife takes halves of the batch, which must be alike.
        shifted = jnp.mod(
            jax.random.permutation(order_key, points) + jax.random.uniform(shift_key, (1, dim)), 1.0
        )
        return jax.scipy.stats.norm.ppf(jnp.clip(shifted, 1e-6, 1 - 1e-6))

    return draw


def _constant_rate(scheme: SWJKO, settings: Solve) -> SWJKO:
    return dataclasses.replace(scheme, optimizer=optax.adam(settings.learning_rate / 2))


def _averaged(scheme: SWJKO, settings: Solve) -> SWJKO:
    """A constant rate, and the mean of the second half of the iterates in place of the last."""
    inner, num = optax.adam(settings.learning_rate / 2), settings.num_inner_steps

    def init(params):
        return inner.init(params), jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.int32)

    def update(updates, state, params=None):
        inner_state, mean, count = state
        updates, inner_state = inner.update(updates, inner_state, params)
        index = jnp.maximum(count - num // 2, 0)
        mean = jax.tree.map(
            lambda old, at, by: old + (at + by - old) / (index + 1), mean, params, updates
        )
        last = count == num - 1
        updates = jax.tree.map(
            lambda by, at, to: jnp.where(last, to - at, by), updates, params, mean
        )
        return updates, (inner_state, mean, count + 1)

    return dataclasses.replace(scheme, optimizer=optax.GradientTransformation(init, update))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _FrozenDirections(SWJKO):
    def _solve_inner(self, key, anchor):
        direction_key, inner_key = jax.random.split(key)
        directions = self.direction_fn(direction_key, self.num_projections, self.family.dim)
        own: dict[str, Any] = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        own["direction_fn"] = lambda *_: directions
        return SWJKO(**own)._solve_inner(inner_key, anchor)


def _frozen_directions(scheme: SWJKO, settings: Solve) -> SWJKO:
    del settings
    return _FrozenDirections(
        **{field.name: getattr(scheme, field.name) for field in dataclasses.fields(scheme)}
    )


def _affine_at_the_rate_of_the_networks(scheme: SWJKO, settings: Solve) -> SWJKO:
    """The affine layer's parameters divided by their gain: their updates are then those of all others."""
    del settings
    gain = couplings.affine_gain(scheme.family.dim)

    def update(updates, state, params=None):
        del params
        return {
            **updates,
            "affine": jax.tree.map(lambda leaf: leaf / gain, updates["affine"]),
        }, state

    slower = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return dataclasses.replace(scheme, optimizer=optax.chain(scheme.optimizer, slower))


VARIANTS: dict[str, Callable[[SWJKO, Solve], SWJKO]] = {
    STANDARD: lambda scheme, settings: scheme,
    "independent latents for the previous measure": _with(common_latents=False),
    "whole gradient of the density": _with(path_gradient=False),
    "proximity of samples, not jackknifed": _with(debias=False),
    "independent directions": _with(direction_fn=swjko.uniform_directions),
    "directions frozen in each step": _frozen_directions,
    "constant rate, half of the peak": _constant_rate,
    "constant rate, average of the second half": _averaged,
    "antithetic latents": _with_latents(_antithetic),
    "quasi-random latents": _with_latents(_quasi),
    "affine layer at the networks' rate": _affine_at_the_rate_of_the_networks,
    "affine layers between couplings": _with(),
}
# What variants change in the network.
NETWORKS: dict[str, dict[str, Any]] = {"affine layers between couplings": {"mixing": "lu"}}


def _standard_error(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def _figure(rows: list[dict[str, Any]]) -> Any:
    """The differences as dots with bars of two standard errors, one panel for each measure, one colour for each dimension."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    names = [name for name in VARIANTS if name != STANDARD]
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axis, measure in zip(axes, measures, strict=True):
        for index, row in enumerate(row for row in rows if row["measure"] == measure):
            heights = np.arange(len(names)) + 0.2 * (index - 1)
            measured = [
                row["difference"].get(name, {"mean": math.nan, "standard_error": None})
                for name in names
            ]
            means = [difference["mean"] for difference in measured]
            errors = [2 * (difference["standard_error"] or 0.0) for difference in measured]
            label = f"d = {row['dim']}: standard {row['standard_log10']['mean']:.2f}"
            axis.errorbar(
                means,
                heights,
                xerr=errors,
                fmt="o",
                color=f"C{index}",
                markersize=4,
                capsize=2,
                label=label,
            )
        axis.axvline(0.0, color="0.5", linewidth=0.8)
        axis.set(title=measure, xlabel="change of log10 SymKL")
        axis.set_yticks(np.arange(len(names)), labels=names)
        axis.grid(True, axis="x", alpha=0.3)
        axis.legend(fontsize=7)
    axes[0].invert_yaxis()
    figure.suptitle(
        "one choice changed at a time: right of the line is worse, bars are two standard errors",
        fontsize=10,
    )
    return figure
