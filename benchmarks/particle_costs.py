"""Costs and scores of single particle methods: against blackjax, by size, at 100,000 points.

``benchmarks.particles`` describes what each part measures.
"""

import functools
import importlib
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import swjko
from benchmarks import common
from benchmarks.particle_methods import DIRECTIONS, Sizes, flow, gaussian
from swjko import flows
from swjko.data.tables import require_extra


def beside_blackjax(sizes: Sizes) -> dict[str, Any]:
    """One update of SVGD beside blackjax's: seconds, bytes, and the largest difference."""
    svgd: Any = importlib.import_module("blackjax.vi.svgd")
    num, dim, width = sizes.svgd_points, 10, 2.0
    optimizer, log_prob = optax.sgd(0.1), gaussian(dim).log_prob
    points = jax.random.normal(jax.random.key(0), (num, dim))
    drift = swjko.svgd(log_prob, bandwidth=width)
    scheme = flow(points, sizes._replace(moves=1), drift=drift, step_size=0.1)
    kernel = svgd.build_kernel(optimizer)
    theirs = svgd.init(points, {"length_scale": 2 * width**2}, optimizer)

    def other(state):
        return kernel(state, jax.grad(log_prob), svgd.rbf_kernel)

    key = jax.random.key(0)
    arguments: Any = {"swjko": (key, scheme.init(key)), "blackjax": (theirs,)}
    functions = {"swjko": lambda key, state: scheme.step(key, state)[0], "blackjax": other}
    compiled = {
        name: jax.jit(function).lower(*arguments[name]).compile()
        for name, function in functions.items()
    }
    calls = {
        name: functools.partial(function, *arguments[name]) for name, function in compiled.items()
    }
    difference = jnp.max(jnp.abs(calls["swjko"]().params - calls["blackjax"]().particles))
    seconds = common.interleaved_medians(calls, repeats=sizes.repeats)
    memory: Any = {name: one.memory_analysis() for name, one in compiled.items()}
    return {
        "n": num,
        "dim": dim,
        "median_seconds": seconds,
        "ratio": seconds["blackjax"] / seconds["swjko"],
        "largest_difference": float(difference),
        "temporary_mib": {name: one.temp_size_in_bytes / 2**20 for name, one in memory.items()},
    }


def scaling(sizes: Sizes, over: str) -> dict[str, Any]:
    """Seconds of a Radon-Wasserstein move by n or by d, and the fitted exponent."""
    values = sizes.scaling_points if over == "n" else sizes.scaling_dims
    calls = {}
    for value in values:
        n, dim = (value, 16) if over == "n" else (sizes.scaling_points[1], value)
        drift = swjko.radon_wasserstein(gaussian(dim).log_prob, DIRECTIONS)
        cloud = swjko.Cloud(jax.random.normal(jax.random.key(0), (n, dim)))
        calls[str(value)] = functools.partial(jax.jit(drift), jax.random.key(1), cloud)
    seconds = common.interleaved_medians(calls, repeats=sizes.repeats)
    slope = np.polyfit(np.log(values), np.log(list(seconds.values())), 1)[0]
    fixed = f"n = {sizes.scaling_points[1]:,}" if over == "d" else "d = 16"
    return {"over": over, "fixed": fixed, "seconds": seconds, "exponent": float(slope)}


def large(sizes: Sizes) -> list[dict[str, Any]]:
    """Peak memory and seconds of one move of many particles, each method in its own process."""
    rows = []
    for name in ("SVGD", "KDRW", "sliced flow"):
        call = f"json.dumps(particle_costs.one_move({name!r}, {sizes.large_points}))"
        script = f"import json; from benchmarks import particle_costs; print({call})"
        rows.append(json.loads(common.run_child(["-c", script])))
    return rows


def one_move(name: str, num: int) -> dict[str, Any]:
    """One move of particles in d = 10: seconds with compilation, and peaks of this process."""
    dim = 10
    points = jax.random.normal(jax.random.key(0), (num, dim))
    target = gaussian(dim)
    if name == "SVGD":
        drift = swjko.svgd(target.log_prob, bandwidth=2.0)
    elif name == "KDRW":
        drift = swjko.radon_wasserstein(target.log_prob, DIRECTIONS)
    else:
        drift = None
        sample = jnp.asarray(target.draw(np.random.default_rng(0), num), points.dtype)
    if drift is None:
        scheme = swjko.sliced_flow(points, sample, step_size=1.0, num_projections=DIRECTIONS)
    else:
        scheme = flow(points, Sizes(moves=1), drift=drift, step_size=0.1)
    state = scheme.init(jax.random.key(0))
    before = common.peak_mib()
    step = jax.jit(lambda key, scheme, state: scheme.step(key, state))
    seconds, (state, _) = common.timed(lambda: step(jax.random.key(1), scheme, state))
    return {
        "method": name,
        "points": num,
        "dim": dim,
        "seconds": seconds,
        "peak_mib": common.peak_mib(),
        "peak_before_mib": before,
        "all_pairs_mib": 4 * num * num / 2**20,
        "result": swjko.Result(int(state.result)).name,
    }


def held_out(name: str, sizes: Sizes) -> dict[str, Any]:
    """Held-out log-likelihood of slice matching and of a coupling flow on one table."""
    train, valid, test = (jnp.asarray(part, jnp.float32) for part in _table(name))
    matched = jax.jit(
        functools.partial(swjko.slice_matching, num_steps=sizes.matching_steps, step_size=0.1)
    )
    seconds, law = common.timed(lambda: matched(jax.random.key(0), train, held_out=valid))
    training, trained = common.timed(lambda: _trained(train, valid, sizes))
    found = {
        "slice matching": {"seconds": seconds, "held_out": float(jnp.mean(law.log_prob(test)))},
        "coupling flow": {
            "seconds": training,
            "held_out": float(jnp.mean(trained.log_prob(test))),
        },
    }
    means = jnp.mean(train, axis=0), jnp.cov(train.T) + 1e-4 * jnp.eye(train.shape[1])
    gauss = float(jnp.mean(jax.scipy.stats.multivariate_normal.logpdf(test, *means)))
    shape = {"data": name, "n": len(train), "dim": train.shape[1]}
    return {**shape, "methods": found, "gaussian": gauss, "seconds_ratio": training / seconds}


def _trained(train: Any, valid: Any, sizes: Sizes) -> swjko.FlowDistribution:
    family = flows.coupling(train.shape[1], num_layers=6, width=64, mixing="lu")
    likelihood_loss: Any = swjko.forward_kl(train, batch_size=128)
    scheme = swjko.direct_minimization(
        family,
        likelihood_loss,
        optax.adam(1e-3),
        num_inner_steps=50,
        num_samples=2,
    )
    key = jax.random.key(0)
    state, step = scheme.init(key), jax.jit(scheme.step)
    likelihood = jax.jit(lambda params: jnp.mean(family.log_prob(params, valid)))
    best, params, since = -math.inf, state.params, 0
    for index in range(sizes.training_steps):
        state, _ = step(jax.random.fold_in(key, index), state)
        found, since = float(likelihood(state.params)), since + 1
        if found > best:
            best, params, since = found, state.params, 0
        if since > 5:
            break
    return swjko.FlowDistribution(family, params)


def _table(name: str) -> list[np.ndarray]:
    """Standardised parts for training, stopping and the test; pixels are smeared."""
    rng, sets = np.random.default_rng(0), require_extra("sklearn.datasets")
    rows = sets.load_digits().data if name == "digits" else sets.load_breast_cancer().data
    rows = rows + rng.random(rows.shape) if name == "digits" else rows
    rows = rows[rng.permutation(len(rows))]
    parts = np.split(rows, [int(0.7 * len(rows)), int(0.85 * len(rows))])
    return [(part - parts[0].mean(0)) / parts[0].std(0) for part in parts]
