"""A flow of up to a million particles: seconds of an update and of a step, memory, exponents.

The flow is SW-JKO of free particles in d = 3, with 64 directions. Its target is a sample of as many
points, alone or with a quadratic potential. Each run has its own process, with one device or with
two that share the directions.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

import swjko
from benchmarks import common

FUNCTIONALS = ("sample", "sample and potential")
_DIM, _DIRECTIONS, _STEP_SIZE = 3, 64, 1.0


class Plan(NamedTuple):
    """nums_updates: two numbers; their difference gives the seconds of one update."""

    points: tuple[int, ...]
    devices: tuple[int, ...]
    nums_updates: tuple[int, int]
    repeats: int


DEFAULT = Plan((10_000, 100_000, 1_000_000), (1, 2), (1, 3), 3)
QUICK = Plan((200, 400), (1, 2), (1, 2), 1)


def measure(plan: Plan) -> list[dict[str, Any]]:
    """One row for each functional and number of devices; costs are in the order of ``points``."""
    rows = []
    for functional in FUNCTIONALS:
        for devices in plan.devices:
            costs = [_in_child(functional, points, devices, plan) for points in plan.points]
            row = {"functional": functional, "devices": devices, "costs": costs}
            rows.append(row | {"exponents": _exponents(plan.points, costs)})
            common.show(f"{functional}, {devices} devices", costs[-1])
    return rows


def _in_child(functional: str, points: int, devices: int, plan: Plan) -> dict[str, Any]:
    call = f"scaling_points.cost({functional!r}, {points}, scaling_points.{plan!r})"
    script = f"import json; from benchmarks import scaling_points; print(json.dumps({call}))"
    return json.loads(common.run_child(["-c", script], num_devices=devices))


def cost(functional: str, points: int, plan: Plan) -> dict[str, Any]:
    """Costs of a flow of this process on all of its devices."""
    directions = swjko.uniform_directions
    if jax.device_count() > 1:
        mesh = swjko.flow_mesh(projection_devices=jax.device_count())
        directions = swjko.sharded_directions(directions, mesh, "projection")
        everywhere = jax.sharding.NamedSharding(mesh, PartitionSpec())
    else:
        everywhere = None
    start_key, sample_key, key = jax.random.split(jax.random.key(0), 3)
    start = jax.device_put(jax.random.normal(start_key, (points, _DIM)), everywhere)
    sample = jax.device_put(1.0 + jax.random.normal(sample_key, (points, _DIM)), everywhere)
    key = jax.device_put(key, everywhere)
    step = jax.jit(lambda key, scheme, state: scheme.step(key, state))
    programs, before = {}, common.peak_mib()
    for num_updates in plan.nums_updates:
        scheme = _scheme(functional, start, sample, directions, num_updates)
        state = scheme.init(key)
        program = step.lower(key, scheme, state).compile()
        programs[str(num_updates)] = lambda p=program, s=scheme, z=state: p(key, s, z)
        memory = program.memory_analysis()
    infos = {name: jax.block_until_ready(call())[1] for name, call in programs.items()}
    # The peak is that of runs one after another: the interleaved ones need no more.
    seconds = common.interleaved_medians(programs, repeats=plan.repeats)
    few, many = plan.nums_updates
    return {
        "points": points,
        "step_seconds": seconds[str(few)],
        "update_seconds": (seconds[str(many)] - seconds[str(few)]) / (many - few),
        "peak_mib": common.peak_mib(),
        "peak_before_mib": before,
        "temporary_mib": memory and memory.temp_size_in_bytes / 2**20,
        "energies": [float(info.energy) for info in infos.values()],
    }


def _functional(functional: str, sample: jax.Array, directions: Any) -> Any:
    energy = swjko.sw_to_target(sample, _DIRECTIONS, direction_fn=directions)
    if functional == "sample":
        return energy
    return swjko.weighted_sum((1.0, energy), (1.0, swjko.potential(_quadratic)))


def _quadratic(x: jax.Array) -> jax.Array:
    return 0.1 * jnp.sum(x**2)


def _scheme(
    functional: str, start: jax.Array, sample: jax.Array, directions: Any, num_updates: int
) -> Any:
    # The gradient of a mean over points is 1/n of that of a point.
    return swjko.sw_jko(
        swjko.particles(start),
        _functional(functional, sample, directions),
        optax.sgd(float(len(start))),
        step_size=_STEP_SIZE,
        num_inner_steps=num_updates,
        num_samples=len(start),
        num_projections=_DIRECTIONS,
        direction_fn=directions,
    )


def _exponents(
    points: Sequence[int], costs: Sequence[Mapping[str, Any]]
) -> dict[str, float | None]:
    """Slopes of log cost against log n over the two largest sizes.

    The seconds of an update are a difference, which is not positive if both calls take as long.
    """
    ratio = np.log(points[-1] / points[-2])
    pairs = {
        name: (costs[-2][name], costs[-1][name])
        for name in ("step_seconds", "update_seconds", "temporary_mib")
    }
    return {
        name: float(np.log(last / first) / ratio) if min(first, last) > 0 else None
        for name, (first, last) in pairs.items()
    }
