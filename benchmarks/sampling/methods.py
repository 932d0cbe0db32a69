"""Samplers: corrected SW-JKO, SW-JKO, direct minimisation, and the start of all of them.

All start at N(0, s^2 I), on average for a mixture, and make the same number of updates. Settings
follow from the dimension alone. They were chosen on seeds from 100 on of 8 peaky, MoG-40 and
GMM-10, and on GMM-10 with other centres.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import swjko
from benchmarks import common, gaussian_flows
from benchmarks.sampling.targets import Target
from swjko import flows


class Sizes(NamedTuple):
    """Everything that ``--quick`` makes smaller.

    Attributes:
      rounds: Corrections, or JKO steps.
      updates: Updates of a correction, or of a JKO step.
      draws: Fresh draws of a correction.
      batch: Points of an update.
      components: Components of the mixture below the network.
      width: Hidden units.
    """

    rounds: int = 20
    updates: int = 250
    draws: int = 10_000
    batch: int = 512
    components: int = 40
    width: int = 64


DEFAULT = Sizes()
QUICK = Sizes(rounds=2, updates=10, draws=200, batch=32, components=6, width=8)
_PLAIN_STEPS, _GROWTH, _FIRST_STEP = 10, 1.5, 0.1
# A network of splines is more accurate, and slow to compile and to run in many dimensions.
_SPLINES_UP_TO = 10


class Run(NamedTuple):
    """What a method returns.

    Attributes:
      distribution: The measure at the end.
      result: Name of the result code.
      exponent: Exponent of the last correction; None for other methods.
      compile_seconds: Seconds of compiling.
      run_seconds: Seconds of running.
    """

    distribution: Any
    result: str
    exponent: float | None
    compile_seconds: float
    run_seconds: float


def corrected(target: Target, seed: int, sizes: Sizes) -> Run:
    """SW-JKO steps of 0.0025 s^2, each with a correction; a mixture below splines or couplings."""
    base = swjko.gaussian_mixture(target.dim, sizes.components, learned_weights=True)
    family = _network(target, sizes, base)
    energy = swjko.kl_divergence(target.log_prob)
    jko = swjko.sw_jko(
        family,
        energy,
        optax.adam(1e-4),
        step_size=0.0025 * target.start_scale**2,
        num_inner_steps=1,
        num_samples=sizes.batch // 2,
        num_projections=32,
    )
    schedule = optax.warmup_cosine_decay_schedule(0.0, 5e-3, sizes.updates // 10, sizes.updates)
    scheme = swjko.corrected(
        jko,
        target.log_prob,
        optax.adam(schedule),
        num_inner_steps=sizes.updates - 1,
        num_draws=sizes.draws,
        batch_size=sizes.batch,
    )
    found = swjko.solve(jax.random.key(seed), scheme, sizes.rounds, progress=False, throw=False)
    return _run(found, float(found.history.extra.exponent[-1]))


def sw_jko(target: Target, seed: int, sizes: Sizes) -> Run:
    """SW-JKO with steps that grow from 0.1 by 1.5; splines or couplings on N(0, I)."""
    steps = min(_PLAIN_STEPS, sizes.rounds)
    updates = sizes.rounds * sizes.updates // steps
    settings = common.Solve(steps, _FIRST_STEP, updates, sizes.batch // 2, 32, 3e-3, updates // 10)
    energy = swjko.kl_divergence(target.log_prob)
    scheme = settings.scheme(_network(target, sizes, None), energy)
    start_key, run_key = jax.random.split(jax.random.key(seed))
    start = jax.jit(type(scheme).init)(scheme, start_key)
    step_sizes = _FIRST_STEP * _GROWTH ** jnp.arange(steps)
    run, compile_seconds = gaussian_flows.compiled(_grow, run_key, scheme, start, step_sizes)
    run_seconds, (state, _) = common.timed(lambda: run(run_key, scheme, start, step_sizes))
    distribution = swjko.FlowDistribution(scheme.family, state.params)
    result = swjko.Result(int(state.result)).name
    return Run(distribution, result, None, compile_seconds, run_seconds)


@jax.jit
def _grow(key, scheme, state, step_sizes):
    def step(state, step_size):
        longer = dataclasses.replace(scheme, step_size=step_size)
        return longer.step(jax.random.fold_in(key, state.step), state)

    return jax.lax.scan(step, state, step_sizes)


def direct(target: Target, seed: int, sizes: Sizes) -> Run:
    """Direct minimisation of KL(mu | target): variational inference with the network of SW-JKO."""
    steps = min(_PLAIN_STEPS, sizes.rounds)
    updates = sizes.rounds * sizes.updates // steps
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, updates // 10, updates)
    scheme = swjko.direct_minimization(
        _network(target, sizes, None),
        swjko.kl_divergence(target.log_prob),
        optax.adam(schedule),
        num_inner_steps=updates,
        num_samples=sizes.batch // 2,
    )
    found = swjko.solve(jax.random.key(seed), scheme, steps, progress=False, throw=False)
    return _run(found, None)


def start(target: Target, seed: int, sizes: Sizes) -> Run:
    """The start of the corrected scheme, to show what its end does not owe to it."""
    base = swjko.gaussian_mixture(target.dim, sizes.components, learned_weights=True)
    family = _network(target, sizes, base)
    params = family.init(jax.random.key(seed))
    return Run(swjko.FlowDistribution(family, params), "OK", None, 0.0, 0.0)


METHODS = {
    "corrected SW-JKO": corrected,
    "SW-JKO": sw_jko,
    "direct minimisation": direct,
    "start": start,
}


def _network(target: Target, sizes: Sizes, base: Any) -> swjko.Family:
    options: Any = {"width": sizes.width, "init_scale": target.start_scale, "base": base}
    make = flows.spline if target.dim <= _SPLINES_UP_TO else flows.coupling
    return make(target.dim, **options)


def _run(found: swjko.Solution, exponent: float | None) -> Run:
    timing = found.timing
    seconds = timing.compile_seconds, timing.run_seconds
    return Run(found.distribution, found.result.name, exponent, *seconds)
