"""Samplers: corrected SW-JKO, SW-JKO, direct minimisation, their start, and two of blackjax.

Targets are in units of their start, N(0, I), which a mixture has on average. The settings are the
same for all targets. They were chosen on 8 peaky, many-well 8, Seeds and the funnel with other
seeds, and on MoG-40, GMM-10 and GMM-20 with other centres. The steps of the coupling grow until
the proximity hardly counts.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import swjko
from benchmarks import common, gaussian_flows
from benchmarks.sampling import rivals
from benchmarks.sampling.target import Target
from swjko import flows
from swjko.schemes.correction import Corrected


class Sizes(NamedTuple):
    """Everything that ``--quick`` makes smaller.

    A corrected run has three phases: ``steps`` SW-JKO steps, ``rounds`` corrections by ``refits``
    steps of expectation-maximisation each, and ``fine_rounds`` with twice the draws, four times the
    pseudo-count and no splits. The other methods have ``total_updates`` updates in ``steps`` steps.
    """

    steps: int = 10
    updates: int = 150
    rounds: int = 16
    fine_rounds: int = 8
    refits: int = 3
    total_updates: int = 4200
    draws: int = 20_000
    batch: int = 512
    components: int = 200
    moves: int = 1000
    particles: int = 20_000


DEFAULT = Sizes()
QUICK = Sizes(2, 10, 2, 1, 2, 60, 200, 32, 6, moves=20, particles=200)
# Steps of the mixture and of the coupling grow by these factors.
_FIRST_STEP, _GROWTH, _COUPLING_GROWTH, _SMALL_STEP = 0.1, 1.5, 2.5, 0.0025
# Pseudo-counts of the refits of both phases, in units of d^2.
_PSEUDO_COUNTS = (1.0, 4.0)
# Learning rate of the mixture's SW-JKO steps.
_RATE = 2e-2


class Run(NamedTuple):
    """What a method returns.

    Attributes:
      distribution: The measure at the end; None for points.
      result: Name of the result code.
      exponent: Exponent of the last correction; None for other methods.
      compile_seconds: Seconds of compiling; None if they are not apart.
      run_seconds: Seconds of running.
      state: State at the end; None for points.
      points: Points [n d] of a sampler without a density.
      log_evidence: log Z by that sampler, if it estimates it.
    """

    distribution: Any
    result: str
    exponent: float | None
    compile_seconds: float | None
    run_seconds: float
    state: Any
    points: Any = None
    log_evidence: float | None = None


def corrected_mixture(target: Target, seed: int, sizes: Sizes) -> Run:
    """SW-JKO of a mixture of equal weights, then corrections in which weights are learned.

    A tenth of the draws of a correction comes from the start. The family contains the mixtures
    among the targets.
    """
    keys = jax.random.split(jax.random.key(seed), 4)
    num = _num_components(target, sizes)
    equal = swjko.gaussian_mixture(target.dim, num)
    family = swjko.gaussian_mixture(target.dim, num, learned_weights=True)
    jko = _jko(target, equal, sizes, sizes.updates, _RATE)
    start = jax.jit(type(jko).init)(jko, keys[0])
    first = _in_phases(
        equal,
        start,
        [(gaussian_flows.run_with_step_sizes, (keys[1], jko, _step_sizes(sizes, _GROWTH)))],
    )
    logits = {"logits": jnp.zeros(num)}
    state = first.state._replace(params=first.state.params | logits)
    counts = [part * target.dim**2 for part in _PSEUDO_COUNTS]
    refit = swjko.expectation_maximization(pseudo_count=counts[0])
    coarse = _correction(target, family, sizes, refit, sizes.draws)
    refit = swjko.expectation_maximization(pseudo_count=counts[1], split_fraction=0.0)
    fine = _correction(target, family, sizes, refit, 2 * sizes.draws)
    phases = [
        (_repeat, (keys[2], coarse, jnp.arange(sizes.rounds))),
        (_repeat, (keys[3], fine, jnp.arange(sizes.fine_rounds))),
    ]
    return _in_phases(family, state, phases, first)


def sw_jko(target: Target, seed: int, sizes: Sizes) -> Run:
    """SW-JKO of a coupling flow, with the updates of the corrected runs."""
    scheme = jko_of_coupling(target, sizes, sizes.total_updates // sizes.steps)
    start_key, run_key = jax.random.split(jax.random.key(seed))
    start = jax.jit(type(scheme).init)(scheme, start_key)
    step_sizes = _step_sizes(sizes, _COUPLING_GROWTH)
    phases = [(gaussian_flows.run_with_step_sizes, (run_key, scheme, step_sizes))]
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
    family = swjko.gaussian_mixture(target.dim, _num_components(target, sizes))
    state = jax.jit(_jko(target, family, sizes, 1, 1e-3).init)(jax.random.key(seed))
    return Run(swjko.FlowDistribution(family, state.params), "OK", None, 0.0, 0.0, state)


def mala(target: Target, seed: int, sizes: Sizes) -> Run:
    """MALA, many short chains."""
    return _of_points(rivals.mala(target, seed, sizes.particles, sizes.moves))


def smc(target: Target, seed: int, sizes: Sizes) -> Run:
    """Adaptive tempered SMC with HMC moves."""
    return _of_points(rivals.smc(target, seed, sizes.particles))


def _of_points(draws: rivals.Draws) -> Run:
    parts = {"points": draws.points, "log_evidence": draws.log_evidence}
    return Run(None, "OK", None, None, draws.seconds, None, **parts)


# Two families whose ELBOs choose between them.
PAIR = ("corrected SW-JKO, mixture", "SW-JKO, coupling")
METHODS = {
    PAIR[0]: corrected_mixture,
    PAIR[1]: sw_jko,
    "direct minimisation, coupling": direct,
    "start of the mixture": start,
    "MALA, blackjax": mala,
    "tempered SMC, blackjax": smc,
}


def jko_of_coupling(target: Target, sizes: Sizes, updates: int) -> Any:
    """SW-JKO of a coupling flow, with this number of updates in a step."""
    return _jko(target, _coupling(target), sizes, updates, 3e-3)


def _num_components(target: Target, sizes: Sizes) -> int:
    """``components``, but with no more numbers in the covariances than draws in a fine round."""
    return max(2, min(sizes.components, 4 * sizes.draws // target.dim**2))


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


def _step_sizes(sizes: Sizes, growth: float) -> jax.Array:
    return _FIRST_STEP * growth ** jnp.arange(sizes.steps)


def _correction(
    target: Target, family: swjko.Family, sizes: Sizes, refit: Any, draws: int
) -> Corrected:
    """Corrections after SW-JKO steps of one small update."""
    jko = dataclasses.replace(
        _jko(target, family, sizes, 1, 1e-4), step_size=jnp.asarray(_SMALL_STEP)
    )
    wide = swjko.gaussian(target.dim)
    return swjko.corrected(
        jko,
        target.log_prob,
        refit,
        num_inner_steps=sizes.refits,
        num_draws=draws,
        proposal=swjko.FlowDistribution(wide, wide.init(jax.random.key(0))),
    )


def _in_phases(
    family: swjko.Family, state: Any, phases: list[Any], before: Run | None = None
) -> Run:
    """Runs phases one after another, each from the state of the last, compile time apart.

    The seconds of the run before them are added.
    """
    compile_seconds, run_seconds = (
        (0.0, 0.0) if before is None else (before.compile_seconds or 0.0, before.run_seconds)
    )
    exponent = None
    for function, arguments in phases:
        key, scheme, values = arguments
        run, seconds = _compiled(function, key, scheme, state, values)
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


# Programs and their seconds to compile, by function and shapes of the arguments.
_programs: dict[Any, tuple[Any, float]] = {}


def _compiled(function: Any, *arguments: Any) -> tuple[Any, float]:
    """Compiles a function once for all seeds. Each seed has the seconds of the first."""
    leaves, structure = jax.tree.flatten(arguments)
    shapes = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    known = (function, structure, shapes)
    if known not in _programs:
        _programs[known] = gaussian_flows.compiled(function, *arguments)
    return _programs[known]


@jax.jit
def _repeat(key, scheme, state, numbers):
    return swjko.run(key, scheme, state, len(numbers), swjko.infos)
