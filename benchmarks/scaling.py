"""Flows per second by the number of flows in one ``run_many``, and the cost of one flow by sizes.

The flows are those of a Gaussian family towards a Gaussian by KL. In the JSON:

- flows: per number of flows, the median seconds of one ``run_many`` and of a Python loop over one
  compiled flow, called in turns. The ratio is loop over ``run_many``, above one where the ensemble
  is faster per flow.
- sizes: per size, median seconds and bytes of temporaries of the compiled program of one flow.
  One size varies at a time from ``base``.
- exponents: slopes of log seconds and log bytes against log size over the ``fitted`` largest sizes.
  A slope of one is linear; n log n over the default points has a slope of about 1.1. Sizes too
  small to fill the machine have smaller slopes.
- points: as ``benchmarks.scaling_points`` says.
"""

import argparse
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import swjko
from benchmarks import common, scaling_points


class Size(NamedTuple):
    """Sizes of one flow."""

    num_samples: int
    num_projections: int
    dim: int
    num_steps: int


class Plan(NamedTuple):
    """varied: the values that each field of ``base`` takes."""

    base: Size
    nums_flows: tuple[int, ...]
    varied: Mapping[str, tuple[int, ...]]
    num_inner_steps: int
    fitted: int
    repeats: int


DEFAULT = Plan(
    base=Size(num_samples=256, num_projections=64, dim=2, num_steps=2),
    nums_flows=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    varied={
        "num_samples": (256, 1024, 4096, 16384),
        "num_projections": (64, 256, 1024, 4096),
        "dim": (2, 8, 32, 128),
        "num_steps": (2, 8, 32, 128),
    },
    num_inner_steps=10,
    fitted=3,
    repeats=5,
)
QUICK = Plan(
    base=Size(num_samples=16, num_projections=4, dim=2, num_steps=1),
    nums_flows=(1, 4),
    varied={"num_samples": (16, 32), "num_projections": (4, 8), "dim": (2, 3), "num_steps": (1, 2)},
    num_inner_steps=2,
    fitted=2,
    repeats=1,
)
FLAGS = common.Flags()
_OPTIMIZER = optax.adam(1e-2)
# One energy for all schemes: each new function would be a new compiled program.
_ENERGY = swjko.kl_divergence(lambda x: -jnp.sum(x**2) / 2)


def main(args: argparse.Namespace) -> None:
    plan = QUICK if args.quick else DEFAULT
    flows, sizes = [], {}
    for num in plan.nums_flows:
        flows.append(measure_flows(plan, num))
        common.show(f"{num} flows", flows[-1]["flows_per_second"])
    for name, values in plan.varied.items():
        sizes[name] = [measure_size(plan, plan.base._replace(**{name: value})) for value in values]
        common.show(name, [row["seconds"] for row in sizes[name]])
    exponents = {name: fitted_exponents(name, rows, plan.fitted) for name, rows in sizes.items()}
    points = scaling_points.measure(scaling_points.QUICK if args.quick else scaling_points.DEFAULT)
    content = {"quick": args.quick, "plan": plan, "flows": flows, "sizes": sizes, "points": points}
    figure = _figure(flows, sizes, exponents)
    common.finish(args, content | {"exponents": exponents}, ("", figure))


def _scheme(plan: Plan, size: Size) -> Any:
    return swjko.sw_jko(
        swjko.gaussian(size.dim, init_mean=2.0),
        _ENERGY,
        _OPTIMIZER,
        step_size=0.1,
        num_inner_steps=plan.num_inner_steps,
        num_samples=size.num_samples,
        num_projections=size.num_projections,
    )


def measure_flows(plan: Plan, num: int) -> dict[str, Any]:
    """``num`` flows of the base size at once, and one after another from Python."""
    scheme, steps = _scheme(plan, plan.base), plan.base.num_steps
    keys = jax.random.split(jax.random.key(0), num)
    single_keys = list(keys)
    functions = {
        "run_many": lambda: swjko.run_many(keys, scheme, steps),
        "loop": lambda: [_flow(key, scheme, num_steps=steps) for key in single_keys],
    }
    seconds = common.interleaved_medians(functions, repeats=plan.repeats)
    return {
        "num_flows": num,
        "seconds": seconds,
        "flows_per_second": {name: num / value for name, value in seconds.items()},
        "ratio": seconds["loop"] / seconds["run_many"],
    }


def measure_size(plan: Plan, size: Size) -> dict[str, Any]:
    """Seconds and temporary bytes of one flow."""
    scheme, key = _scheme(plan, size), jax.random.key(0)
    program = _flow.lower(key, scheme, num_steps=size.num_steps).compile()
    memory = program.memory_analysis()
    functions = {"flow": lambda: program(key, scheme)}
    seconds = common.interleaved_medians(functions, repeats=plan.repeats)["flow"]
    temporary_bytes = memory.temp_size_in_bytes if memory else None
    return {**size._asdict(), "seconds": seconds, "temporary_bytes": temporary_bytes}


@functools.partial(jax.jit, static_argnames="num_steps")
def _flow(key, scheme, num_steps):
    init_key, run_key = jax.random.split(key)
    return swjko.run(run_key, scheme, scheme.init(init_key), num_steps, swjko.infos)


def fitted_exponents(
    name: str, rows: Sequence[Mapping[str, Any]], fitted: int
) -> dict[str, float | None]:
    """Slopes of log seconds and log bytes against log size over the last rows.

    The slope of bytes is None if a backend does not report them.
    """
    last = rows[-fitted:]
    exponents: dict[str, float | None] = {}
    for cost in ("seconds", "temporary_bytes"):
        sizes, costs = [row[name] for row in last], [row[cost] for row in last]
        known = all(costs)
        exponents[cost] = float(np.polyfit(np.log(sizes), np.log(costs), 1)[0]) if known else None
    return exponents


def _figure(
    flows: Sequence[Mapping[str, Any]],
    sizes: Mapping[str, Sequence[Mapping[str, Any]]],
    exponents: Mapping[str, Any],
) -> Figure:
    """Flows per second; then seconds and bytes over those of the smallest size."""
    figure, ((rates, *costs),) = common.new_figure(11, 3.6, columns=3)
    nums = [row["num_flows"] for row in flows]
    for name in ("run_many", "loop"):
        rates.plot(nums, [row["flows_per_second"][name] for row in flows], "o-", label=name)
    common.log2_axis(rates, xlabel="flows", ylabel="flows per second", ylim=(0.0, None))
    for axis, cost in zip(costs, ("seconds", "temporary_bytes"), strict=True):
        for name, rows in sizes.items():
            if (slope := exponents[name][cost]) is not None:
                x, y = ([row[key] / rows[0][key] for row in rows] for key in (name, cost))
                axis.loglog(x, y, "o-", label=f"{name}, slope {slope:.2f}")
        label = f"{cost.replace('_', ' ')} over those of the smallest"
        common.log2_axis(axis, xlabel="size over the smallest", ylabel=label)
    for axis in (rates, *costs):
        axis.legend(fontsize=7)
    return figure
