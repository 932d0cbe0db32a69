"""What each choice inside a SW-JKO step is worth, on Fokker-Planck flows to random Gaussians.

One choice is changed at a time. ``rows`` hold, for each dimension and measure, the log10 of SymKL
of the standard choices, and the difference of each variant from them: mean and standard error over
the problems, positive where the change makes it worse. There are two measures, both with few
updates, so that the choices count:

- trajectory: steps of Wasserstein time 0.1 against the exact SW-JKO iterate.
- stationary: steps of SW time 0.4 against the law that the flow ends in.

All variants share numbers of updates, samples and directions, and seeds. The standard has common
latents, path gradients, a jackknifed proximity, recommended directions drawn for each update, a
cosine rate, the last iterate, independent latents, and an affine layer with its own rate.
"""

import argparse
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from jax.tree_util import Partial
from matplotlib.figure import Figure

import swjko
from benchmarks import common, gaussian_flows
from benchmarks.common import Solve
from swjko import problems
from swjko.networks.affine import affine_gain
from swjko.schemes.sw_jko import SWJKO

STANDARD = "standard"
MEASURES = ("trajectory", "stationary")
Variant = Callable[[SWJKO, Solve], SWJKO]


class Sizes(NamedTuple):
    """Pairs of dimension and measure, number of problems, and settings."""

    cases: tuple[tuple[int, str], ...]
    seeds: int
    trajectory: Solve
    stationary: Solve
    num_layers: int
    width: int


DEFAULT = Sizes(
    cases=tuple((dim, measure) for measure in MEASURES for dim in (2, 10)),
    seeds=3,
    trajectory=Solve(4, 0.1, 100, 512, 32, 5e-3, 10),
    stationary=Solve(6, 0.4, 80, 512, 32, 5e-3, 8),
    num_layers=6,
    width=64,
)
# In 50 dimensions the exact iterate is known only up to the noise of its own directions.
FULL = DEFAULT._replace(cases=(*DEFAULT.cases, (50, "stationary")))
_QUICK = Solve(2, 0.1, 5, 64, 8, 5e-3, 1)
QUICK = Sizes(((2, "trajectory"),), 2, _QUICK, _QUICK._replace(step_size=0.4), 3, 8)
FLAGS = common.Flags(quick="the plane at reduced size", full="50 dimensions too")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--again``."""
    dims = sorted({dim for dim, _ in FULL.cases})
    text = "measure these, and keep the rest"
    parser.add_argument("--again", type=int, nargs="+", choices=dims, help=text)


def main(args: argparse.Namespace) -> None:
    sizes = QUICK if args.quick else FULL if args.full or args.again else DEFAULT
    rows: dict[tuple[int, int], Any] = {}
    if args.again:
        written = common.read_results(args.name, args.directory)["rows"]
        rows = {(MEASURES.index(row["measure"]), row["dim"]): row for row in written}
        sizes = sizes._replace(cases=tuple(case for case in sizes.cases if case[0] in args.again))
    for dim, measure in sizes.cases:
        rows[MEASURES.index(measure), dim] = _row(measure, dim, sizes)
        # Written after each case, because the whole takes long.
        ordered = [rows[case] for case in sorted(rows)]
        common.finish(args, {"quick": args.quick, "rows": ordered}, ("", _figure(ordered)))


def _row(measure: str, dim: int, sizes: Sizes) -> dict[str, Any]:
    settings = gaussian_flows.whole_blocks(getattr(sizes, measure), dim)
    if measure == "trajectory":
        settings = settings._replace(step_size=settings.step_size / dim)
    tasks = [problems.gaussian_target(seed, dim) for seed in range(sizes.seeds)]
    laws = [_law(measure, task, settings) for task in tasks]
    network = {"num_layers": sizes.num_layers, "width": sizes.width}
    found, seconds = {}, {}
    for name, variant in VARIANTS.items():
        options = network | NETWORKS.get(name, {})
        scheme = gaussian_flows.coupling_scheme(tasks[0].target, settings, options)
        run = functools.partial(_log10, variant(scheme, settings), tasks, laws, settings.num_steps)
        seconds[name], found[name] = common.timed(run)
        common.show(f"{measure}, d = {dim}, {name}", found[name])
    difference = {
        name: common.mean_and_error(values - found[STANDARD]) for name, values in found.items()
    }
    del difference[STANDARD]
    return {
        "dim": dim,
        "measure": measure,
        "settings": settings,
        "network": network,
        "seeds": list(range(sizes.seeds)),
        "standard_log10": common.mean_and_error(found[STANDARD]),
        "difference": difference,
        "log10": found,
        "seconds_with_compilation": seconds,
    }


def _law(measure: str, task: problems.GaussianTarget, settings: Solve) -> problems.Target:
    if measure == "stationary":
        return task.target
    options: Any = {"num_directions": gaussian_flows.ORACLE_DIRECTIONS}
    exact = problems.exact_sw_jko_flow(task, settings.step_size, settings.num_steps, **options)
    return problems.gaussian(exact.mean[-1], exact.cov[-1])


def _log10(
    scheme: SWJKO, tasks: list[Any], laws: list[problems.Target], num_steps: int
) -> np.ndarray:
    """log10 SymKL of all problems, in one program; NaN where a flow failed."""

    def flow(seed, functional, law):
        init_key, run_key, energy_key = jax.random.split(jax.random.key(seed), 3)
        own = dataclasses.replace(scheme, functional=functional)
        state, _ = swjko.run(run_key, own, own.init(init_key), num_steps, swjko.infos)
        options = {"num_samples": gaussian_flows.SYMMETRIC_KL_SAMPLES}
        estimate = swjko.symmetric_kl(energy_key, own.family, state.params, *law, **options)
        return jnp.where(state.result == swjko.Result.OK, estimate.value, jnp.nan)

    functionals = _stacked([swjko.kl_divergence(task.target.log_prob) for task in tasks])
    pairs = _stacked([(law.log_prob, law.sample) for law in laws])
    values = jax.jit(jax.vmap(flow))(jnp.arange(len(tasks)), functionals, pairs)
    return np.log10(np.maximum(np.asarray(values, np.float64), gaussian_flows.TINY))


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _with(**changes: Any) -> Variant:
    return lambda scheme, settings: dataclasses.replace(scheme, **changes)


def _with_latents(make: Callable[..., Any]) -> Variant:
    """A variant whose family draws other latents."""

    def change(scheme: SWJKO, settings: Solve) -> SWJKO:
        base = scheme.family
        latent = make(base.latent, settings.num_samples, base.dim)
        parts = (Partial(part) for part in (base.init, latent, base.push, base.log_prob))
        family = swjko.Family(*parts, base.dim, True)
        return dataclasses.replace(scheme, family=family)

    return change


def _antithetic(latent: Any, *_: int) -> Any:
    def draw(key, num):
        half = latent(key, (num + 1) // 2)
        return jnp.concatenate((half, -half))[:num]

    return draw


def _quasi(latent: Any, num_samples: int, dim: int) -> Any:
    """Sobol points shifted at random modulo one, through the quantiles of the normal law.

    Other numbers of points than ``num_samples`` are drawn independently.
    """
    points = scipy.stats.qmc.Sobol(dim, scramble=False).random(num_samples)
    points = jnp.asarray(points, jnp.float32)

    def draw(key, num):
        if num != num_samples:
            return latent(key, num)
        order_key, shift_key = jax.random.split(key)
        # The jackknife takes halves of the batch, which must be alike.
        shuffled = jax.random.permutation(order_key, points)
        shifted = jnp.mod(shuffled + jax.random.uniform(shift_key, (1, dim)), 1.0)
        return jax.scipy.stats.norm.ppf(jnp.clip(shifted, 1e-6, 1 - 1e-6))

    return draw


def _with_optimizer(make: Callable[[SWJKO, Solve], Any]) -> Variant:
    return lambda scheme, settings: dataclasses.replace(scheme, optimizer=make(scheme, settings))


def _constant_rate(scheme: SWJKO, settings: Solve) -> optax.GradientTransformation:
    return optax.adam(settings.learning_rate / 2)


def _averaged(scheme: SWJKO, settings: Solve) -> optax.GradientTransformation:
    return averaging(_constant_rate(scheme, settings), settings.num_inner_steps)


def _slower_affine(scheme: SWJKO, settings: Solve) -> optax.GradientTransformation:
    """Divide the updates of the affine layer by its gain, so that they are those of all others."""

    def update(updates, state, params=None):
        slower = jax.tree.map(lambda leaf: leaf / gain, updates["affine"])
        return {**updates, "affine": slower}, state

    gain = affine_gain(scheme.family.dim)
    slower = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return optax.chain(scheme.optimizer, slower)


def averaging(
    inner: optax.GradientTransformation, num_updates: int
) -> optax.GradientTransformation:
    """An optimizer that ends at the mean of the second half of the iterates of another.

    Args:
      inner: Optimizer that makes the iterates.
      num_updates: Number of updates; the last one moves to the mean.
    """

    def init(params):
        return inner.init(params), jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.int32)

    def update(updates, state, params=None):
        inner_state, mean, count = state
        updates, inner_state = inner.update(updates, inner_state, params)
        num = jnp.maximum(count - num_updates // 2, 0) + 1
        last = count == num_updates - 1
        mean = jax.tree.map(lambda m, at, by: m + (at + by - m) / num, mean, params, updates)
        updates = jax.tree.map(lambda by, at, m: jnp.where(last, m - at, by), updates, params, mean)
        return updates, (inner_state, mean, count + 1)

    return optax.GradientTransformation(init, update)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _FrozenDirections(SWJKO):
    def step(self, key, state):
        direction_key = jax.random.fold_in(key, 1)
        frozen = self.direction_fn(direction_key, self.num_projections, self.family.dim)

        def proximity(cloud, anchor, latent, directions):
            return self.proximity(cloud, anchor, latent, frozen)

        return self.step_with(proximity, key, state, self.step_size)


VARIANTS: dict[str, Variant] = {
    STANDARD: _with(),
    "independent latents for the previous measure": _with(common_latents=False),
    "whole gradient of the density": _with(path_gradient=False),
    "proximity of samples, not jackknifed": _with(debias=False),
    "independent directions": _with(direction_fn=swjko.uniform_directions),
    "directions frozen in each step": lambda scheme, settings: _FrozenDirections(**vars(scheme)),
    "constant rate, half of the peak": _with_optimizer(_constant_rate),
    "constant rate, average of the second half": _with_optimizer(_averaged),
    "antithetic latents": _with_latents(_antithetic),
    "quasi-random latents": _with_latents(_quasi),
    "affine layer at the networks' rate": _with_optimizer(_slower_affine),
    "affine layers between couplings": _with(),
}
# What variants change in the network.
NETWORKS: dict[str, dict[str, Any]] = {"affine layers between couplings": {"mixing": "lu"}}


def _figure(rows: list[dict[str, Any]]) -> Figure:
    """Differences with bars of two standard errors, a panel per measure, a colour per dimension."""
    names = [name for name in VARIANTS if name != STANDARD]
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    figure, (axes,) = common.new_figure(10.0, 4.6, columns=len(measures), sharey=True)
    for axis, measure in zip(axes, measures, strict=True):
        for index, row in enumerate(row for row in rows if row["measure"] == measure):
            found = [row["difference"].get(name, {}) for name in names]
            means = [difference.get("mean", math.nan) for difference in found]
            errors = [2 * (difference.get("standard_error") or 0.0) for difference in found]
            label = f"d = {row['dim']}: standard {row['standard_log10']['mean']:.2f}"
            heights = np.arange(len(names)) + 0.2 * (index - 1)
            style: Any = {"fmt": "o", "color": f"C{index}", "markersize": 4, "capsize": 2}
            axis.errorbar(means, heights, xerr=errors, label=label, **style)
        axis.axvline(0.0, color="0.5", linewidth=0.8)
        axis.set(title=measure, xlabel="change of log10 SymKL; right of 0 is worse")
        axis.set_yticks(np.arange(len(names)), labels=names)
        axis.grid(True, axis="x", alpha=0.3)
        axis.legend(fontsize=7)
    axes[0].invert_yaxis()
    return figure
