"""Flows to known laws: schemes, runs timed apart from compilation, exact laws and divergences."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats

import swjko
from benchmarks.common import Solve, gaussian_symmetric_kl
from swjko import closed_form, flows, problems

# Wasserstein times at which trajectories are compared; an SW flow is there at times t / d.
TIMES = (0.5, 0.9)
ORACLE_DIRECTIONS = 4000
SYMMETRIC_KL_SAMPLES = 10_000
TINY = float(np.finfo(np.float32).tiny)

symmetric_kl = jax.jit(swjko.symmetric_kl, static_argnames="num_samples")


class Network(NamedTuple):
    """Settings of one JKO-ICNN run. In each step Adam's rate falls to zero by a cosine."""

    step_size: float
    num_inner_steps: int
    num_samples: int
    num_points: int
    width: int
    learning_rate: float

    def scheme(self, dim: int, functional: swjko.Functional, max_steps: int) -> Any:
        """The JKO-ICNN scheme of these settings."""
        options = self._asdict()
        rate = optax.cosine_decay_schedule(options.pop("learning_rate"), self.num_inner_steps)
        return swjko.icnn_jko(dim, functional, optax.adam(rate), max_steps=max_steps, **options)


def covariance_target(seed: int, dim: int) -> problems.GaussianTarget:
    """``problems.gaussian_target`` with the random matrix as covariance."""
    problem = problems.gaussian_target(seed, dim)
    target = problems.gaussian(problem.center, problem.precision)
    return problems.GaussianTarget(np.linalg.inv(problem.precision), problem.center, target)


def whole_blocks(settings: Solve, dim: int) -> Solve:
    """The settings with the number of directions rounded up to a multiple of the dimension."""
    return settings._replace(num_projections=dim * math.ceil(settings.num_projections / dim))


def trajectory_settings(dim: int, quick: bool = False) -> tuple[Solve, dict[str, int]]:
    """Nine steps of Wasserstein time 0.1, and the network.

    A step must resolve a displacement against the spacing of points, so there are many points.
    """
    if quick:
        return Solve(9, 0.1 / dim, 5, 64, 8, 5e-3, 1), {"num_layers": 2, "width": 16}
    settings = whole_blocks(Solve(9, 0.1 / dim, 200, 1024, 32, 5e-3, 20), dim)
    return settings, {"num_layers": 8, "width": 64}


def coupling_scheme(target: problems.Target, settings: Solve, network: Mapping[str, Any]) -> Any:
    """The SW-JKO scheme of a coupling flow to a target, by KL."""
    family = flows.coupling(target.dim, **network)
    return kl_scheme(family, target, settings)


def kl_scheme(family: swjko.Family, target: problems.Target, settings: Solve) -> Any:
    """The SW-JKO scheme of a family to a target, by KL."""
    functional = swjko.kl_divergence(target.log_prob)
    return settings.scheme(family, functional, direction_fn=swjko.recommended_directions)


def solve(scheme: Any, seed: int, num_steps: int, record: Any = swjko.infos) -> swjko.Solution:
    """``swjko.solve`` without a progress bar; a flow that fails is reported in the result."""
    options: Any = {"progress": False, "throw": False, "record": record}
    return swjko.solve(jax.random.key(seed), scheme, num_steps, **options)


def params_alone(state: swjko.State, info: swjko.Info) -> Any:
    """Record the parameters of each step."""
    del info
    return state.params


class Compiled(NamedTuple):
    """A compiled program and the seconds that its compilation took."""

    call: Callable[..., Any]
    seconds: float


def compiled(function: Any, *args: Any, **static: Any) -> Compiled:
    """Compile a jitted function for arguments like these."""
    start = time.perf_counter()
    program = function.lower(*args, **static).compile()
    return Compiled(program, time.perf_counter() - start)


@jax.jit
def run_with_step_sizes(key, scheme, state, step_sizes):
    """Run one step of each size from ``state``; returns the last state and the reports."""

    def step(state, step_size):
        longer = dataclasses.replace(scheme, step_size=step_size)
        return longer.step(jax.random.fold_in(key, state.step), state)

    return jax.lax.scan(step, state, step_sizes)


class Steps(NamedTuple):
    """Parameters after each step, what the steps cost, and the result code of the run."""

    params: list[Any]
    seconds: list[float]
    compile_seconds: float
    result: str
    memory: dict[str, int]

    def after(self, scheme: Any, num: int) -> Any:
        """Parameters after ``num`` steps; the last state of JKO-ICNN holds the maps of all."""
        if hasattr(scheme, "after"):
            return scheme.after(self.params[-1], num)
        return self.params[num - 1]

    @property
    def cost(self) -> dict[str, Any]:
        """Seconds of the run and of compilation, and bytes."""
        run_seconds = float(np.sum(self.seconds))
        seconds = {"run_seconds": run_seconds, "compile_seconds": self.compile_seconds}
        return seconds | {"memory": self.memory}


def timed_steps(scheme: Any, seed: int, num: int) -> Steps:
    """Take steps one by one, each timed."""
    init_key, run_key = jax.random.split(jax.random.key(seed))
    state = jax.jit(type(scheme).init)(scheme, init_key)
    step, compile_seconds = compiled(jax.jit(type(scheme).step), scheme, run_key, state)
    params, seconds = [], []
    for index in range(num):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(scheme, jax.random.fold_in(run_key, index), state))
        seconds.append(time.perf_counter() - start)
        params.append(state.params)
    analysis = step.memory_analysis()  # pyright: ignore[reportFunctionMemberAccess]
    names = {"temporary_bytes": "temp_size_in_bytes", "state_bytes": "output_size_in_bytes"}
    memory = {name: getattr(analysis, attribute) for name, attribute in names.items()}
    return Steps(params, seconds, compile_seconds, swjko.Result(int(state.result)).name, memory)


def log10_of(value: Any) -> float:
    """log10 of an estimate of a divergence, or of the least float32 if it is not above that."""
    return math.log10(max(float(value), TINY))


def divergence(
    seed: int, family: swjko.Family, params: Any, law: problems.Target
) -> dict[str, Any]:
    """SymKL to a law, and its log10."""
    key = jax.random.fold_in(jax.random.key(seed), 1)
    options = {"num_samples": SYMMETRIC_KL_SAMPLES}
    estimate = symmetric_kl(key, family, params, law.log_prob, law.sample, **options)
    return {"symmetric_kl": estimate, "log10": log10_of(estimate.value)}


def kernel_density_log10(points: np.ndarray, mean: Any, cov: Any, num: int, seed: int) -> float:
    """log10 SymKL of a Gaussian kernel density estimate to N(mean, cov).

    Args:
      points: Particles [n d].
      mean: Mean of the law [d].
      cov: Covariance of the law [d d].
      num: Points drawn from each side.
      seed: Seed of these points.
    """
    rng = np.random.default_rng(seed)
    density = scipy.stats.gaussian_kde(points.T)
    law: Any = scipy.stats.multivariate_normal(mean, cov)
    own, exact = density.resample(num, rng).T, law.rvs(num, rng)
    ratios = [np.mean(density.logpdf(draws.T) - law.logpdf(draws)) for draws in (own, exact)]
    return math.log10(ratios[0] - ratios[1])


def ornstein_uhlenbeck(problem: problems.GaussianTarget, time: float) -> tuple[Any, Any]:
    """Mean and covariance in float64 of the exact law that starts at N(0, I)."""
    with jax.enable_x64(True):
        start = jnp.zeros(problem.target.dim), jnp.eye(problem.target.dim)
        target = jnp.asarray(problem.precision), jnp.asarray(problem.center)
        law = closed_form.ornstein_uhlenbeck(*start, *target, time)
        return np.asarray(law.mean), np.asarray(law.cov)


def geometries(problem: problems.GaussianTarget) -> list[float]:
    """log10 SymKL of the exact SW flow at t / d to the Ornstein-Uhlenbeck law at t, per time.

    No solver of SW-JKO can come closer to that law. The flow is taken in small second-order steps.
    """
    num = 18
    step_size = max(TIMES) / problem.target.dim / num
    options = {"num_directions": ORACLE_DIRECTIONS, "second_order": True}
    found = []
    with jax.enable_x64(True):
        flow = problems.exact_sw_jko_flow(problem, step_size, num, **options)
    for t in TIMES:
        at = round(t / max(TIMES) * num)
        value = gaussian_symmetric_kl(flow.mean[at], flow.cov[at], *ornstein_uhlenbeck(problem, t))
        found.append(math.log10(value))
    return found


def _langevin(key, precision, center, num, num_steps):
    """Particles [num d] from N(0, I) after Euler-Maruyama steps of 1e-3."""
    start_key, run_key = jax.random.split(key)
    step_size = 1e-3

    def step(x, index):
        noise = jax.random.normal(jax.random.fold_in(run_key, index), x.shape)
        drift = step_size * (x - center[None, :]) @ precision
        return x - drift + jnp.sqrt(2 * step_size) * noise, None

    x = jax.random.normal(start_key, (num, center.shape[0]))
    return jax.lax.scan(step, x, jnp.arange(num_steps))[0]


langevin = jax.jit(_langevin, static_argnames=("num", "num_steps"))


def euler_maruyama_log10(seed: int, dim: int, num: int, quick: bool) -> float:
    """log10 SymKL of particles at time 8, by a kernel density estimate, 10,000 points each side."""
    problem = problems.gaussian_target(seed, dim)
    moments = problem.center, np.linalg.inv(problem.precision)
    options = {"num": num, "num_steps": 80 if quick else 8000}
    points = langevin(jax.random.key(seed), problem.precision, problem.center, **options)
    count = 200 if quick else SYMMETRIC_KL_SAMPLES
    return kernel_density_log10(np.asarray(points), *moments, count, seed)
