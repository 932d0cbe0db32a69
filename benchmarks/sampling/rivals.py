"""Samplers of blackjax that return points: MALA chains, and adaptive tempered SMC with HMC moves.

Both start at N(0, I), the start of all methods, in whose units targets are. Step sizes follow the
acceptance.
"""

import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from benchmarks.sampling.target import Target

# Acceptance that step sizes are steered to, and the rate at which they are.
_MALA_ACCEPTANCE, _HMC_ACCEPTANCE, _RATE = 0.6, 0.7, 0.5
_LEAPFROGS, _MOVES, _EFFECTIVE, _MOST_STEPS = 5, 10, 0.9, 300


class Draws(NamedTuple):
    """Points [n d] of a sampler, log Z if it estimates it, and what they took."""

    points: np.ndarray
    log_evidence: float | None
    seconds: float


def mala(target: Target, seed: int, num: int, moves: int) -> Draws:
    """Runs ``num`` chains of ``moves`` moves; the first half of the moves adapts the step size."""
    blackjax: Any = importlib.import_module("blackjax")
    kernel = blackjax.mala.build_kernel()

    def move(carry, inputs):
        states, log_step = carry
        key, rate = inputs
        keys = jax.random.split(key, num)
        step = jax.vmap(lambda key, state: kernel(key, state, target.log_prob, jnp.exp(log_step)))
        states, info = step(keys, states)
        accepted = jnp.mean(jnp.minimum(info.acceptance_rate, 1.0))
        return (states, log_step + rate * (accepted - _MALA_ACCEPTANCE)), None

    @jax.jit
    def chains(key):
        start_key, run_key = jax.random.split(key)
        points = jax.random.normal(start_key, (num, target.dim))
        states = jax.vmap(lambda x: blackjax.mala.init(x, target.log_prob))(points)
        rates = jnp.where(jnp.arange(moves) < moves // 2, _RATE, 0.0)
        start = states, jnp.log(jnp.asarray(0.1))
        return jax.lax.scan(move, start, (jax.random.split(run_key, moves), rates))[0][0].position

    with jax.numpy_rank_promotion("allow"):
        seconds, points = common.timed(lambda: chains(jax.random.key(seed)))
    return Draws(np.asarray(points), None, seconds)


def smc(target: Target, seed: int, num: int) -> Draws:
    """Tempered SMC from N(0, I), whose temperatures keep 90 % of the particles effective."""
    blackjax: Any = importlib.import_module("blackjax")
    adaptive: Any = importlib.import_module("blackjax.smc.adaptive_tempered")
    base: Any = importlib.import_module("blackjax.smc.base")
    resampling: Any = importlib.import_module("blackjax.smc.resampling")

    def log_prior(x):
        return -0.5 * jnp.sum(x**2) - 0.5 * target.dim * jnp.log(2 * jnp.pi)

    kernel = adaptive.build_kernel(
        log_prior,
        lambda x: target.log_prob(x) - log_prior(x),
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        resampling.systematic,
        _EFFECTIVE,
    )

    @jax.jit
    def step(key, state, log_step):
        spread = jnp.var(state.particles, axis=0) + 1e-6
        parameters = {
            "step_size": jnp.exp(log_step),
            "inverse_mass_matrix": spread,
            "num_integration_steps": jnp.asarray(_LEAPFROGS),
        }
        state, info = kernel(key, state, _MOVES, base.extend_params(parameters))
        accepted = jnp.mean(jnp.minimum(info.update_info.acceptance_rate, 1.0))
        log_step = log_step + _RATE * (accepted - _HMC_ACCEPTANCE)
        return state, log_step, info.log_likelihood_increment

    start_key, run_key = jax.random.split(jax.random.key(seed))
    points = jax.random.normal(start_key, (num, target.dim))
    with jax.numpy_rank_promotion("allow"):
        seconds, (points, log_evidence) = common.timed(
            lambda: _tempered(run_key, adaptive.init(points), step)
        )
    return Draws(np.asarray(points), log_evidence, seconds)


def _tempered(key: jax.Array, state: Any, step: Any) -> tuple[jax.Array, float]:
    """Runs steps until the temperature is one; returns the particles and log Z."""
    dim = state.particles.shape[1]
    log_step, log_evidence = jnp.log(jnp.asarray(0.5 / dim**0.25)), 0.0
    for at in range(_MOST_STEPS):
        state, log_step, increment = step(jax.random.fold_in(key, at), state, log_step)
        log_evidence += float(increment)
        if float(state.tempering_param) >= 1.0:
            break
    return state.particles, log_evidence
