"""Costs of single particle methods: against blackjax, by size, at 100,000 points.

``benchmarks.particles`` describes what each part measures.
"""

import functools
import importlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import swjko
from benchmarks import common
from benchmarks.particle_methods import DIRECTIONS, Sizes, flow, gaussian


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
