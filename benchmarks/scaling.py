"""Flows per second against the number of flows in one ``run_many``, and the cost of one flow against points, directions, d and steps.

Gaussian family towards a Gaussian by KL. In the JSON:

- flows: per number of flows, the median seconds of one ``run_many`` and of a Python loop over one compiled flow, called in turns; ratio is
  loop / ``run_many``, above one where the ensemble is faster per flow;
- sizes: per size, median seconds and the bytes of the compiled program's temporaries of one flow, one size varied at a time from ``base``;
- exponents: of seconds and bytes, the slope of log cost against log size over the largest sizes, as many as ``fitted``. A slope of one is
  linear; n log n over the default points has a slope of about 1.1. Sizes too small to fill the machine have smaller slopes.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import swjko
from benchmarks import common


class Size(NamedTuple):
    """Of one flow."""

    num_samples: int
    num_projections: int
    dim: int
    num_steps: int


class Plan(NamedTuple):
    """varied: for each field of ``base``, the values it takes."""

    base: Size
    nums_flows: tuple[int, ...]
    varied: Mapping[str, tuple[int, ...]]
    num_inner_steps: int
    fitted: int
    repeats: int


FULL = Plan(
    Size(256, 64, 2, 2),
    (1, 2, 4, 8, 16, 32, 64, 128, 256),
    {
        "num_samples": (256, 1024, 4096, 16384),
        "num_projections": (64, 256, 1024, 4096),
        "dim": (2, 8, 32, 128),
        "num_steps": (2, 8, 32, 128),
    },
    10,
    3,
    5,
)
QUICK = Plan(
    Size(16, 4, 2, 1),
    (1, 4),
    {"num_samples": (16, 32), "num_projections": (4, 8), "dim": (2, 3), "num_steps": (1, 2)},
    2,
    2,
    1,
)
_OPTIMIZER = optax.adam(1e-2)
# One energy for all schemes: a function made anew is a program compiled anew.
_ENERGY = swjko.kl_divergence(lambda x: -jnp.sum(x**2) / 2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quick",
        action="store_true",
        help="reduced sizes, to see that it runs; written to runs/benchmarks",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="directory for JSON and PNG (default benchmarks/results)"
    )


def main(args: argparse.Namespace) -> int:
    plan = QUICK if args.quick else FULL
    directory = Path(args.out or (Path("runs/benchmarks") if args.quick else common.RESULTS))
    flows = []
    for num in plan.nums_flows:
        flows.append(measure_flows(plan, num))
        print(flow_line(flows[-1]), flush=True)
    sizes = {}
    for name, values in plan.varied.items():
        sizes[name] = [measure_size(plan, plan.base._replace(**{name: value})) for value in values]
    exponents = {name: fitted_exponents(name, rows, plan.fitted) for name, rows in sizes.items()}
    print(table(sizes, exponents))
    content = {
        "quick": args.quick,
        "plan": plan,
        "flows": flows,
        "sizes": sizes,
        "exponents": exponents,
    }
    print(common.write_results("scaling", content, directory))
    _figure(flows, sizes, exponents).savefig(directory / "scaling.png", dpi=150)
    return 0


def scheme_of(plan: Plan, size: Size) -> Any:
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
    scheme, steps = scheme_of(plan, plan.base), plan.base.num_steps
    keys = jax.random.split(jax.random.key(0), num)
    apart = list(keys)
    seconds = common.interleaved_medians(
        {
            "run_many": lambda: swjko.run_many(keys, scheme, steps),
            "loop": lambda: [_single(key, scheme, num_steps=steps) for key in apart],
        },
        repeats=plan.repeats,
    )
    rates = {name: num / value for name, value in seconds.items()}
    return {
        "num_flows": num,
        "seconds": seconds,
        "flows_per_second": rates,
        "ratio": seconds["loop"] / seconds["run_many"],
    }


def measure_size(plan: Plan, size: Size) -> dict[str, Any]:
    scheme, key = scheme_of(plan, size), jax.random.key(0)
    program = _single.lower(key, scheme, num_steps=size.num_steps).compile()
    memory = program.memory_analysis()
    seconds = common.interleaved_medians(
        {"flow": lambda: program(key, scheme)}, repeats=plan.repeats
    )["flow"]
    return {
        **size._asdict(),
        "seconds": seconds,
        "temporary_bytes": memory.temp_size_in_bytes if memory else None,
    }


def _flow(key, scheme, num_steps):
    init_key, run_key = jax.random.split(key)
    return swjko.run(run_key, scheme, scheme.init(init_key), num_steps, swjko.infos)


_single = jax.jit(_flow, static_argnames="num_steps")


def fitted_exponents(
    name: str, rows: Sequence[Mapping[str, Any]], fitted: int
) -> dict[str, float | None]:
    """The slopes of log seconds and log bytes against log size, over the last rows; None where a backend tells no bytes."""
    last = rows[-fitted:]

    def slope(cost: str) -> float | None:
        if any(not row[cost] for row in last):
            return None
        return float(
            np.polyfit(np.log([row[name] for row in last]), np.log([row[cost] for row in last]), 1)[
                0
            ]
        )

    return {cost: slope(cost) for cost in ("seconds", "temporary_bytes")}


def flow_line(row: Mapping[str, Any]) -> str:
    rates = ", ".join(
        f"{name} {rate:.4g} flows/s" for name, rate in row["flows_per_second"].items()
    )
    return f"{row['num_flows']:>4} flows: {rates}, ratio {row['ratio']:.2f}"


def table(
    sizes: Mapping[str, Sequence[Mapping[str, Any]]],
    exponents: Mapping[str, Mapping[str, float | None]],
) -> str:
    lines = [f"{'varied':16}{'size':>7}{'ms':>11}{'temporary MiB':>15}"]
    for name, rows in sizes.items():
        for row in rows:
            mebibytes = (
                "unknown"
                if row["temporary_bytes"] is None
                else f"{row['temporary_bytes'] / 2**20:.3g}"
            )
            lines.append(f"{name:16}{row[name]:>7}{1e3 * row['seconds']:>11.4g}{mebibytes:>15}")
        slopes = (
            "unknown" if slope is None else f"{slope:.2f}" for slope in exponents[name].values()
        )
        lines.append(f"{'':16}exponents of seconds and bytes: {', '.join(slopes)}")
    return "\n".join(lines)


def _figure(
    flows: Sequence[Mapping[str, Any]],
    sizes: Mapping[str, Sequence[Mapping[str, Any]]],
    exponents: Mapping[str, Any],
) -> Any:
    """Flows per second; then seconds and temporary bytes relative to the smallest size, for each size that is varied."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    for name in ("run_many", "loop"):
        axes[0].plot(
            [row["num_flows"] for row in flows],
            [row["flows_per_second"][name] for row in flows],
            marker="o",
            label=name,
        )
    axes[0].set(xlabel="flows", ylabel="flows per second", ylim=(0.0, None))
    for axis, cost in zip(axes[1:], ("seconds", "temporary_bytes"), strict=True):
        for name, rows in sizes.items():
            slope = exponents[name][cost]
            if slope is None:
                continue
            label = f"{name}, slope {slope:.2f}"
            axis.loglog(
                [row[name] / rows[0][name] for row in rows],
                [row[cost] / rows[0][cost] for row in rows],
                marker="o",
                label=label,
            )
        axis.set(
            xlabel="size over the smallest",
            ylabel=f"{cost.replace('_', ' ')} over those of the smallest",
        )
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(True, which="major", alpha=0.3)
        axis.legend(fontsize=7)
    return figure
