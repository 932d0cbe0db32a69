"""Methods that draw from a posterior of logistic regression, and the reference draws of NUTS.

Each method returns draws in the coordinates of ``benchmarks.posteriors.start``.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

import swjko
from benchmarks import common, gaussian_flows
from benchmarks.common import Solve
from benchmarks.gaussian_flows import Network
from benchmarks.posteriors import start as starts
from swjko import flows
from swjko.problems import Table

_MAX_RHAT = 1.01


class Sizes(NamedTuple):
    """Everything that ``--quick`` makes smaller; steps are in the coordinates of the start.

    With fewer than ``few_rows`` rows per parameter, posteriors are far from normal. Updates and
    points are then multiplied by ``few_rows_updates`` and ``few_rows_samples``. NUTS gets
    ``few_rows_draws`` times the draws, against slow mixing in tails, and ``few_rows_acceptance``,
    because the posterior has walls where rows are separable. ``icnn`` holds the number of steps, in
    Wasserstein time, and their settings. Each step of Langevin is one unit of time; the points of
    the last ``langevin_pooled`` steps are pooled.
    """

    solve: Solve = Solve(5, 0.5, 150, 128, 32, 5e-3, 15)
    num_layers: int = 6
    width: int = 64
    icnn: tuple[int, Network] = (3, Network(2.0, 150, 128, 2048, 64, 5e-3))
    draws: int = 65_536
    particles: int = 512
    langevin_steps: int = 14
    langevin_pooled: int = 10
    langevin_inner_steps: int = 40
    few_rows: int = 20
    few_rows_updates: int = 4
    few_rows_samples: int = 2
    chains: int = 4
    warmup: int = 500
    samples: int = 5000
    acceptance: float = 0.8
    few_rows_draws: int = 4
    few_rows_acceptance: float = 0.95


QUICK = Sizes(
    solve=Solve(1, 0.5, 10, 32, 8, 5e-3, 2),
    num_layers=2,
    width=16,
    icnn=(1, Network(2.0, 5, 32, 64, 8, 5e-3)),
    draws=500,
    particles=32,
    langevin_steps=3,
    langevin_pooled=2,
    langevin_inner_steps=5,
    few_rows=1,
    few_rows_updates=1,
    few_rows_samples=1,
    chains=2,
    warmup=50,
    samples=50,
)


class Problem(NamedTuple):
    """One split of a data set, and the start of all methods."""

    name: str
    train: Table
    test: Table
    start: starts.Start
    start_seconds: float

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return self.start.dim

    def log_prob(self) -> Partial:
        """Log-density of one point in the coordinates of the start, in the default precision."""
        return starts.log_prob(self.start, self.train.features, self.train.labels)


class Draws(NamedTuple):
    """Points [s d] in the coordinates of the start, and what they took."""

    points: np.ndarray
    run_seconds: float
    compile_seconds: float
    result: str


def nuts(problem: Problem, seed: int, sizes: Sizes) -> tuple[np.ndarray, dict[str, Any]]:
    """Draws of (w, log alpha) in float64, chain after chain, and a report on the chains."""
    blackjax: Any = importlib.import_module("blackjax")
    num_samples, acceptance = sizes.samples, sizes.acceptance
    if _has_few_rows(problem, sizes):
        num_samples, acceptance = num_samples * sizes.few_rows_draws, sizes.few_rows_acceptance

    def chain(key, log_prob):
        start_key, warmup_key, run_key = jax.random.split(key, 3)
        adaptation = blackjax.window_adaptation(
            blackjax.nuts, log_prob, target_acceptance_rate=acceptance
        )
        start = 2.0 * jax.random.normal(start_key, (problem.dim,))
        (state, parameters), _ = adaptation.run(warmup_key, start, num_steps=sizes.warmup)
        kernel = blackjax.nuts(log_prob, **parameters)

        def step(state, key):
            state, info = kernel.step(key, state)
            return state, (state.position, info.is_divergent)

        return jax.lax.scan(step, state, jax.random.split(run_key, num_samples))[1]

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), sizes.chains)
        chains = jax.jit(jax.vmap(chain, in_axes=(0, None)))
        seconds, found = common.timed(lambda: chains(keys, problem.log_prob()))
        points, divergent = jax.device_get(found)
        sampled = starts.parameters(problem.start, points)
        rhat = float(np.max(blackjax.rhat(sampled)))
        effective = float(np.min(blackjax.ess(sampled)))
    if rhat >= _MAX_RHAT:
        print(f"{problem.name}, seed {seed}: NUTS has R-hat {rhat:.3f}, no reference", flush=True)
    return sampled.reshape(-1, problem.dim), {
        "seconds_with_compilation": seconds,
        "largest_rhat": rhat,
        "smallest_effective_draws": effective,
        "divergent": int(divergent.sum()),
        "converged": rhat < _MAX_RHAT,
    }


def sw_jko(problem: Problem, seed: int, sizes: Sizes) -> Draws:
    """SW-JKO by a coupling flow."""
    settings = gaussian_flows.whole_blocks(_for_rows(sizes.solve, problem, sizes), problem.dim)
    directions: Any = {"direction_fn": swjko.recommended_directions}
    scheme = settings.scheme(*_flow(problem, sizes), **directions)
    return _solved(scheme, settings.num_steps, seed, sizes)


def direct(problem: Problem, seed: int, sizes: Sizes) -> Draws:
    """Direct minimisation over the same family, with the same optimizer, updates and points."""
    settings = _for_rows(sizes.solve, problem, sizes)
    family, functional = _flow(problem, sizes)
    scheme = swjko.direct_minimization(
        family,
        functional,
        settings.scheme(family, functional).optimizer,
        num_inner_steps=settings.num_inner_steps,
        num_samples=settings.num_samples,
    )
    return _solved(scheme, settings.num_steps, seed, sizes)


def icnn_jko(problem: Problem, seed: int, sizes: Sizes) -> Draws:
    """JKO by convex networks."""
    (num_steps, network), functional = sizes.icnn, _flow(problem, sizes)[1]
    scheme = _for_rows(network, problem, sizes).scheme(problem.dim, functional, num_steps)
    return _solved(scheme, num_steps, seed, sizes)


def langevin(problem: Problem, seed: int, sizes: Sizes) -> Draws:
    """Langevin particles."""
    start_key, run_key = jax.random.split(jax.random.key(seed))
    points = jax.random.normal(start_key, (sizes.particles, problem.dim))
    inner = sizes.langevin_inner_steps
    scheme = swjko.langevin(points, problem.log_prob(), step_size=1.0, num_inner_steps=inner)
    options: Any = {"progress": False, "throw": False, "record": gaussian_flows.params_alone}
    solution = swjko.solve(run_key, scheme, sizes.langevin_steps, **options)
    pooled = solution.history[-sizes.langevin_pooled :].reshape(-1, problem.dim)
    return _draws(pooled, solution)


def start(problem: Problem, seed: int, sizes: Sizes) -> Draws:
    """The start itself."""
    points = np.random.default_rng(seed).standard_normal((sizes.draws, problem.dim))
    return Draws(points, 0.0, 0.0, "OK")


METHODS: dict[str, Callable[[Problem, int, Sizes], Draws]] = {
    "sw_jko": sw_jko,
    "icnn_jko": icnn_jko,
    "direct minimisation": direct,
    "Langevin": langevin,
    "start": start,
}


def _flow(problem: Problem, sizes: Sizes) -> tuple[swjko.Family, Any]:
    """A flow that moves w given log alpha, the last coordinate; and the functional."""
    network: Any = {"num_layers": sizes.num_layers, "width": sizes.width, "num_fixed": 1}
    return flows.coupling(problem.dim, **network), swjko.kl_divergence(problem.log_prob())


def _has_few_rows(problem: Problem, sizes: Sizes) -> bool:
    return len(problem.train.labels) < sizes.few_rows * problem.dim


def _for_rows(settings: Any, problem: Problem, sizes: Sizes) -> Any:
    if not _has_few_rows(problem, sizes):
        return settings
    return settings._replace(
        num_inner_steps=settings.num_inner_steps * sizes.few_rows_updates,
        num_samples=settings.num_samples * sizes.few_rows_samples,
    )


def _solved(scheme: Any, num_steps: int, seed: int, sizes: Sizes) -> Draws:
    solution = gaussian_flows.solve(scheme, seed, num_steps)
    key = jax.random.fold_in(jax.random.key(seed), 2)
    points = _sample_points(scheme.family, solution.state.params, key, num=sizes.draws)
    return _draws(points, solution)


def _draws(points: Any, solution: swjko.Solution) -> Draws:
    timing = solution.timing
    result = solution.result.name
    return Draws(np.asarray(points), timing.run_seconds, timing.compile_seconds, result)


@functools.partial(jax.jit, static_argnames="num")
def _sample_points(family, params, key, num):
    """Points without densities, which would cost convex networks a Hessian per point."""
    return swjko.sample(family, params, key, num).points
