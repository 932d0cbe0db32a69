"""Samplers: corrected SW-JKO, SW-JKO, direct minimisation, and the start of all of them.

Targets are in units of their start, N(0, I), which a mixture has on average. The settings are the
same for all targets. They were chosen on 8 peaky, many-well 8 and Seeds with other seeds, and on
GMM-10 and GMM-20 with other centres.
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
from swjko.schemes.correction import Corrected


class Sizes(NamedTuple):
    """Everything that ``--quick`` makes smaller.

    A corrected run has three phases: ``steps`` SW-JKO steps, ``rounds`` corrections, and
    ``fine_rounds`` with twice the updates and draws and a fifth of the learning rate. The other
    methods get the updates of all phases in their ``steps``.
    """

    steps: int = 10
    updates: int = 150
    rounds: int = 10
    fine_rounds: int = 6
    draws: int = 10_000
    batch: int = 512
    components: int = 100

    @property
    def total_updates(self) -> int:
        return self.updates * (self.steps + self.rounds + 2 * self.fine_rounds)


DEFAULT = Sizes()
QUICK = Sizes(2, 10, 2, 1, draws=200, batch=32, components=6)
_FIRST_STEP, _GROWTH, _SMALL_STEP = 0.1, 1.5, 0.0025
# Learning rates of the mixture's SW-JKO steps and corrections.
_RATES = (2e-2, 1e-2)


class Run(NamedTuple):
    """What a method returns.

    Attributes:
      distribution: The measure at the end.
      result: Name of the result code.
      exponent: Exponent of the last correction; None for other methods.
      compile_seconds: Seconds of compiling.
      run_seconds: Seconds of running.
      state: State at the end.
    """

    distribution: Any
    result: str
    exponent: float | None
    compile_seconds: float
    run_seconds: float
    state: Any


def corrected(target: Target, seed: int, sizes: Sizes) -> Run:
    """SW-JKO of a mixture of equal weights, then corrections in which weights are learned.

    A tenth of the draws of a correction comes from the start. The family contains the mixtures
    among the targets.
    """
    keys = jax.random.split(jax.random.key(seed), 4)
    equal = swjko.gaussian_mixture(target.dim, sizes.components)
    family = swjko.gaussian_mixture(target.dim, sizes.components, learned_weights=True)
    jko = _jko(target, equal, sizes, sizes.updates, _RATES[0])
    start = jax.jit(type(jko).init)(jko, keys[0])
    first = _in_phases(
        equal, start, [(gaussian_flows.run_with_step_sizes, (keys[1], jko, _step_sizes(sizes)))]
    )
    logits = {"logits": jnp.zeros(sizes.components)}
    state = first.state._replace(params=first.state.params | logits)
    coarse = _correction(target, family, sizes, sizes.updates, sizes.draws, _RATES[1])
    fine = _correction(target, family, sizes, 2 * sizes.updates, 2 * sizes.draws, _RATES[1] / 5)
    phases = [
        (_repeat, (keys[2], coarse, jnp.arange(sizes.rounds))),
        (_repeat, (keys[3], fine, jnp.arange(sizes.fine_rounds))),
    ]
    run = _in_phases(family, state, phases)
    return run._replace(
        compile_seconds=run.compile_seconds + first.compile_seconds,
        run_seconds=run.run_seconds + first.run_seconds,
    )


def sw_jko(target: Target, seed: int, sizes: Sizes) -> Run:
    """SW-JKO of a coupling flow, with the updates of the corrected runs."""
    scheme = _jko(target, _coupling(target), sizes, sizes.total_updates // sizes.steps, 3e-3)
    start_key, run_key = jax.random.split(jax.random.key(seed))
    start = jax.jit(type(scheme).init)(scheme, start_key)
    phases = [(gaussian_flows.run_with_step_sizes, (run_key, scheme, _step_sizes(sizes)))]
    return _in_phases(scheme.family, start, phases)


def direct(target: Target, seed: int, sizes: Sizes) -> Run:
    """Direct minimisation of KL(mu | target) by a coupling flow, with as many updates."""
    updates = sizes.total_updates // sizes.steps
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, updates // 10, updates)
    scheme = swjko.direct_minimization(
        _coupling(target),
        swjko.kl_divergence(target.log_prob),
        optax.adam(schedule),
        num_inner_steps=updates,
        num_samples=sizes.batch // 2,
    )
    start_key, run_key = jax.random.split(jax.random.key(seed))
    start = jax.jit(type(scheme).init)(scheme, start_key)
    return _in_phases(scheme.family, start, [(_repeat, (run_key, scheme, jnp.arange(sizes.steps)))])


def start(target: Target, seed: int, sizes: Sizes) -> Run:
    """The start of the mixture, to show what its end does not owe to it."""
    family = swjko.gaussian_mixture(target.dim, sizes.components)
    state = jax.jit(_jko(target, family, sizes, 1, 1e-3).init)(jax.random.key(seed))
    return Run(swjko.FlowDistribution(family, state.params), "OK", None, 0.0, 0.0, state)


METHODS = {
    "corrected SW-JKO, mixture": corrected,
    "SW-JKO, coupling": sw_jko,
    "direct minimisation, coupling": direct,
    "start of the mixture": start,
}


def _coupling(target: Target) -> swjko.Family:
    return flows.coupling(target.dim)


def _jko(target: Target, family: swjko.Family, sizes: Sizes, updates: int, rate: float) -> Any:
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, updates // 10, updates)
    return swjko.sw_jko(
        family,
        swjko.kl_divergence(target.log_prob),
        optax.adam(schedule),
        step_size=_FIRST_STEP,
        num_inner_steps=updates,
        num_samples=sizes.batch // 2,
        num_projections=32,
    )


def _step_sizes(sizes: Sizes) -> jax.Array:
    return _FIRST_STEP * _GROWTH ** jnp.arange(sizes.steps)


def _correction(
    target: Target, family: swjko.Family, sizes: Sizes, updates: int, draws: int, rate: float
) -> Corrected:
    """Corrections after SW-JKO steps of one small update."""
    jko = dataclasses.replace(
        _jko(target, family, sizes, 1, 1e-4), step_size=jnp.asarray(_SMALL_STEP)
    )
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, updates // 10, updates)
    wide = swjko.gaussian(target.dim)
    return swjko.corrected(
        jko,
        target.log_prob,
        optax.adam(schedule),
        num_inner_steps=updates,
        num_draws=draws,
        batch_size=sizes.batch,
        proposal=swjko.FlowDistribution(wide, wide.init(jax.random.key(0))),
    )


def _in_phases(family: swjko.Family, state: Any, phases: list[Any]) -> Run:
    """Runs phases one after another, each from the state of the last, compile time apart."""
    compile_seconds = run_seconds = 0.0
    exponent = None
    for function, arguments in phases:
        key, scheme, values = arguments
        run, seconds = gaussian_flows.compiled(function, key, scheme, state, values)
        compile_seconds += seconds
        seconds, (state, infos) = common.timed(
            lambda run=run, key=key, scheme=scheme, state=state, values=values: run(
                key, scheme, state, values
            )
        )
        run_seconds += seconds
        if isinstance(scheme, Corrected):
            exponent = float(infos.extra.exponent[-1])
    result = swjko.Result(int(state.result)).name
    law = swjko.FlowDistribution(family, state.params)
    return Run(law, result, exponent, compile_seconds, run_seconds, state)


@jax.jit
def _repeat(key, scheme, state, numbers):
    return swjko.run(key, scheme, state, len(numbers), swjko.infos)
