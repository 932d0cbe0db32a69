"""Samplers: corrected SW-JKO, SW-JKO, direct minimisation, their start, and two of blackjax.

Targets are in units of their start, N(0, I), which a mixture has on average. The settings are the
same for all targets. They were chosen on 8 peaky, both many-wells, Seeds and the funnel with other
seeds, and on MoG-40, GMM-10 and GMM-20 with other centres. The steps of the coupling grow until
the proximity hardly counts. Those of the spline begin much smaller, so that mass falls into the
nearest mode of each coordinate before any of it is far from its start.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import swjko
from benchmarks import gaussian_flows
from benchmarks.sampling import rivals
from benchmarks.sampling.phases import Run, in_phases, repeat
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


# Learning rate of the SW-JKO steps of Gaussians and their mixtures.
_RATE = 2e-2


class Flow(NamedTuple):
    """A flow from its dimension, and the learning rate of its SW-JKO steps."""

    make: Callable[[int], swjko.Family]
    rate: float


COUPLING = Flow(flows.coupling, 3e-3)
SPLINE = Flow(functools.partial(flows.spline, num_layers=3, width=32, num_bins=16), 1e-3)
GAUSSIAN = Flow(swjko.gaussian, _RATE)
DEFAULT = Sizes()
QUICK = Sizes(2, 10, 2, 1, 2, 60, 200, 32, 6, moves=20, particles=1000)
# Steps of the mixture and of the flows grow by these factors.
_FIRST_STEP, _GROWTH, _FLOW_GROWTH, _SMALL_STEP = 0.1, 1.5, 2.5, 0.0025
# First step of the spline, its corrections, and the updates of each.
_SPLINE_STEP, _SPLINE_ROUNDS, _SPLINE_REFITS = 5e-4, 4, 100
# Pseudo-counts of the refits of both phases, in units of d^2.
_PSEUDO_COUNTS = (1.0, 4.0)


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
    first = in_phases(
        equal,
        start,
        [(gaussian_flows.run_with_step_sizes, (keys[1], jko, _step_sizes(sizes, _GROWTH)))],
    )
    logits = {"logits": jnp.zeros(num)}
    state = first.state._replace(params=first.state.params | logits)
    counts = [part * target.dim**2 for part in _PSEUDO_COUNTS]
    refit = swjko.expectation_maximization(pseudo_count=counts[0])
    coarse = _correction(target, family, sizes, refit, sizes.refits, sizes.draws)
    refit = swjko.expectation_maximization(pseudo_count=counts[1], split_fraction=0.0)
    fine = _correction(target, family, sizes, refit, sizes.refits, 2 * sizes.draws)
    phases = [
        (repeat, (keys[2], coarse, jnp.arange(sizes.rounds))),
        (repeat, (keys[3], fine, jnp.arange(sizes.fine_rounds))),
    ]
    return in_phases(family, state, phases, first)


def corrected_spline(target: Target, seed: int, sizes: Sizes) -> Run:
    """SW-JKO of a spline flow, then corrections with refits by Adam."""
    updates = _spline_updates(sizes)
    before = sw_jko(target, SPLINE, seed, sizes, updates, _SPLINE_STEP)
    family, refits = SPLINE.make(target.dim), min(_SPLINE_REFITS, updates)
    refit = optax.adam(_schedule(SPLINE.rate, refits))
    correction = _correction(target, family, sizes, refit, refits, sizes.draws)
    key = jax.random.fold_in(jax.random.key(seed), 2)
    phases = [(repeat, (key, correction, jnp.arange(_SPLINE_ROUNDS)))]
    return in_phases(family, before.state, phases, before)


def direct_spline(target: Target, seed: int, sizes: Sizes) -> Run:
    """Direct minimisation by the same spline flow, with as many updates, restarts and its rate."""
    return direct(target, SPLINE, seed, sizes, _spline_updates(sizes))


def coupling(target: Target, seed: int, sizes: Sizes) -> Run:
    """SW-JKO of a coupling flow, with the updates of the corrected runs."""
    return sw_jko(target, COUPLING, seed, sizes, sizes.total_updates // sizes.steps, _FIRST_STEP)


def full_gaussian(target: Target, seed: int, sizes: Sizes) -> Run:
    """SW-JKO of a Gaussian with any covariance."""
    return sw_jko(target, GAUSSIAN, seed, sizes, sizes.total_updates // sizes.steps, _FIRST_STEP)


def direct_coupling(target: Target, seed: int, sizes: Sizes) -> Run:
    """Direct minimisation of KL(mu | target) by a coupling flow, with as many updates."""
    return direct(target, COUPLING, seed, sizes, sizes.total_updates // sizes.steps)


def sw_jko(
    target: Target, flow: Flow, seed: int, sizes: Sizes, updates: int, first_step: float
) -> Run:
    """SW-JKO of a flow, with this number of updates in each step."""
    scheme = _jko(target, flow.make(target.dim), sizes, updates, flow.rate)
    step_sizes = _step_sizes(sizes, _FLOW_GROWTH, first_step)
    return _in_one_phase(scheme, seed, gaussian_flows.run_with_step_sizes, step_sizes)


def direct(target: Target, flow: Flow, seed: int, sizes: Sizes, updates: int) -> Run:
    """Direct minimisation of KL(mu | target) by a flow, restarted as often as SW-JKO steps."""
    scheme = swjko.direct_minimization(
        flow.make(target.dim),
        swjko.kl_divergence(target.log_prob),
        optax.adam(_schedule(flow.rate, updates)),
        num_inner_steps=updates,
        num_samples=sizes.batch // 2,
    )
    return _in_one_phase(scheme, seed, repeat, jnp.arange(sizes.steps))


def _in_one_phase(scheme: Any, seed: int, function: Any, values: jax.Array) -> Run:
    start_key, run_key = jax.random.split(jax.random.key(seed))
    start = jax.jit(type(scheme).init)(scheme, start_key)
    return in_phases(scheme.family, start, [(function, (run_key, scheme, values))])


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
    PAIR[1]: coupling,
    "direct minimisation, coupling": direct_coupling,
    "corrected SW-JKO, spline": corrected_spline,
    "direct minimisation, spline": direct_spline,
    "SW-JKO, full Gaussian": full_gaussian,
    "start of the mixture": start,
    "MALA, blackjax": mala,
    "tempered SMC, blackjax": smc,
}


def _num_components(target: Target, sizes: Sizes) -> int:
    """``components``, but with no more numbers in the covariances than draws in a fine round."""
    return max(2, min(sizes.components, 4 * sizes.draws // target.dim**2))


def _spline_updates(sizes: Sizes) -> int:
    """Updates in a step of the spline, 240 at the default sizes."""
    return sizes.total_updates * 4 // (7 * sizes.steps)


def _jko(target: Target, family: swjko.Family, sizes: Sizes, updates: int, rate: float) -> Any:
    return swjko.sw_jko(
        family,
        swjko.kl_divergence(target.log_prob),
        optax.adam(_schedule(rate, updates)),
        step_size=_FIRST_STEP,
        num_inner_steps=updates,
        num_samples=sizes.batch // 2,
        num_projections=32,
    )


def _schedule(rate: float, updates: int) -> Any:
    return optax.warmup_cosine_decay_schedule(0.0, rate, updates // 10, updates)


def _step_sizes(sizes: Sizes, growth: float, first_step: float = _FIRST_STEP) -> jax.Array:
    return first_step * growth ** jnp.arange(sizes.steps)


def _correction(
    target: Target, family: swjko.Family, sizes: Sizes, refit: Any, num_refits: int, draws: int
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
        num_inner_steps=num_refits,
        num_draws=draws,
        proposal=swjko.FlowDistribution(wide, wide.init(jax.random.key(0))),
    )
