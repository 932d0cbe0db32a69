"""What the reliability drills run in processes of their own: ``python -m benchmarks.reliability_child NAME '{"argument": ...}'``.

A line of JSON on stdout is the last thing that one prints, unless it is killed.
"""

import dataclasses
import functools
import hashlib
import json
import math
import re
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import swjko
from swjko import distributed
from swjko.running.batching import on_host

_OPTIMIZER = optax.adam(1e-2)
_BOWL = swjko.potential(lambda x: jnp.sum(x**2))


def small_scheme(step_size: float = 1e-3, num_inner_steps: int = 100) -> Any:
    """About ten milliseconds a step, and a state of a few numbers."""
    return swjko.sw_jko(
        swjko.gaussian(2),
        _BOWL,
        _OPTIMIZER,
        step_size=step_size,
        num_inner_steps=num_inner_steps,
        num_samples=256,
        num_projections=16,
    )


def cloud_scheme(num_points: int) -> Any:
    """A cheap step with a state of 8 bytes a point and coordinate: saving it takes as long as making it."""
    points = jnp.linspace(-1.0, 1.0, 2 * num_points).reshape(num_points, 2)
    return swjko.langevin(points, _log_prob, step_size=1e-3)


def _log_prob(x):
    return -jnp.sum(x**2) / 2


def _flat(x):
    return 0.0 * jnp.sum(x)


def digest(tree: Any) -> str:
    """SHA-256 of all leaves' bytes."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def flow(directory: str | None, num_steps: int, num_points: int = 0) -> dict[str, Any]:
    """One run, saved after each step; the digest of its end and of all that was recorded."""
    scheme, record = (
        (cloud_scheme(num_points), swjko.infos) if num_points else (small_scheme(), swjko.both)
    )
    options = {"chunk_size": 1, "progress": False, "checkpoint_steps": 1, "record": record}
    solution = swjko.solve(
        jax.random.key(0), scheme, num_steps, checkpoint_dir=directory, **options
    )
    return {"digest": digest((solution.state, solution.history))}


def refusals(directory: str) -> dict[str, str | None]:
    """What each other run is told by the directory of this one; None where it was let in."""

    def solved(key=0, num_steps=4, scheme=None, **options):
        options = {"chunk_size": 2, "progress": False, "checkpoint_dir": directory} | options
        return swjko.solve(
            jax.random.key(key), scheme or small_scheme(num_inner_steps=2), num_steps, **options
        )

    def told(**options):
        try:
            solved(**options)
        except swjko.CheckpointError as error:
            return str(error)
        return None

    solved()
    before = contents(Path(directory))
    found = {
        "key": told(key=1),
        "number of steps": told(num_steps=5),
        "step size": told(scheme=small_scheme(0.2, num_inner_steps=2)),
        "inner steps": told(scheme=small_scheme(num_inner_steps=3)),
        "optimizer": told(
            scheme=dataclasses.replace(small_scheme(num_inner_steps=2), optimizer=optax.adam(1e-3))
        ),
        "record": told(record=swjko.both),
        "resume=False": told(resume=False),
    }
    with jax.enable_x64(True):
        found["dtype"] = told(scheme=small_scheme(num_inner_steps=2))
    version, swjko.__version__ = swjko.__version__, "99.0"
    found["version"] = told()
    swjko.__version__ = version
    found["nothing changed"] = "yes" if contents(Path(directory)) == before else None
    return found


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def overhead(
    directory: str | None, num_steps: int, checkpoint_seconds: float, width: int
) -> dict[str, float]:
    """Seconds of a run of a coupling flow, and of those the seconds spent on its checkpoints and history; and of one save."""
    from swjko import flows
    from swjko.checkpoints import store as checkpoints

    spent, saves = [0.0], []

    def timed(method):
        def call(store, *arguments):
            start, step = time.perf_counter(), store._saved_step
            method(store, *arguments)
            seconds = time.perf_counter() - start
            spent[0] += seconds
            if store._saved_step != step:
                saves.append(seconds)

        return call

    for name in ("append", "save_if_due"):
        setattr(checkpoints.Store, name, timed(getattr(checkpoints.Store, name)))
    scheme = swjko.sw_jko(
        flows.coupling(10, width=width),
        swjko.kl_divergence(_log_prob),
        _OPTIMIZER,
        step_size=0.1,
        num_inner_steps=10,
        num_samples=256,
        num_projections=32,
    )
    cadence = {"checkpoint_dir": directory, "checkpoint_seconds": checkpoint_seconds}
    solution = swjko.solve(
        jax.random.key(0), scheme, num_steps, progress=False, chunk_size=5, **cadence
    )
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(solution.state))
    one = float(np.median(saves)) if saves else 0.0
    return {
        "run_seconds": solution.timing.run_seconds,
        "spent": spent[0],
        "saves": len(saves),
        "one_save": one,
        "bytes": state_bytes,
    }


def peer(
    coordinator: str,
    processes: int,
    process: int,
    directory: str | None,
    path: str | None,
    heartbeat: float,
    num_steps: int,
    num_inner_steps: int,
) -> dict[str, Any]:
    """One of several processes that run eight flows together; with one, the whole run. The end and the records into a file .npz."""
    if processes > 1:
        distributed.initialize(coordinator, processes, process, heartbeat_timeout=heartbeat)
    keys = jax.random.split(jax.random.key(0), 8)
    scheme, axes = swjko.stack_flows(
        [small_scheme(0.1 * (1 + flow), num_inner_steps) for flow in range(8)]
    )
    noise = swjko.langevin(jnp.zeros((4, 2)), _flat, step_size=0.5)
    mesh, options = swjko.flow_mesh(), {"chunk_size": 1, "progress": False}
    saving = {"checkpoint_dir": directory, "checkpoint_steps": 1} if directory else {}
    solution = swjko.solve(keys, scheme, num_steps, axes=axes, mesh=mesh, **options, **saving)
    states, _ = swjko.run_many(keys, noise, 3, mesh=mesh)
    end, drawn = on_host((solution.state.params, states.params))
    if path is not None and process == 0:
        values = {
            "value params": digestible(end),
            "value energy": solution.history.energy,
            "draw noise": drawn,
        }
        host: dict[str, Any] = {name: np.asarray(value) for name, value in values.items()}
        np.savez(path, **host)
    return {"devices": jax.device_count(), "digest": digest((end, solution.history))}


def on_devices(path: str, num_flows: int) -> dict[str, Any]:
    """Flows over all devices in float64, and one flow whose directions are: draws and values into a file .npz."""
    with jax.enable_x64(True):
        mesh = swjko.flow_mesh()
        keys = jax.random.split(jax.random.key(0), num_flows)
        states, info = swjko.run_many(keys, small_scheme(0.1, num_inner_steps=5), 3, mesh=mesh)
        # Without a force, Langevin points are the sums of what was drawn.
        drawn_states, _ = swjko.run_many(
            keys, swjko.langevin(jnp.zeros((4, 2)), _flat, step_size=0.5), 3, mesh=mesh
        )
        sharded = jax.make_mesh(
            (jax.device_count(),), ("projection",), axis_types=(jax.sharding.AxisType.Auto,)
        )
        direction_fn = swjko.sharded_directions(swjko.uniform_directions, sharded, "projection")
        points = jnp.linspace(-1.0, 1.0, 128).reshape(64, 2)
        one = swjko.sliced_flow(
            points, points[::-1] ** 3, step_size=0.5, num_projections=16, direction_fn=direction_fn
        )
        end, _ = jax.jit(swjko.run, static_argnames=("num_steps", "record"))(
            jax.random.key(1), one, one.init(jax.random.key(2)), num_steps=5, record=swjko.infos
        )
        directions = jax.jit(direction_fn, static_argnums=(1, 2))(jax.random.key(3), 16, 5)
        values = {
            "params": digestible(states.params),
            "energy": info.energy,
            "objective": info.objective,
            "sharded": end.params,
        }
        drawn = {"noise": drawn_states.params, "directions": directions}
        arrays = {f"value {name}": value for name, value in values.items()} | {
            f"draw {name}": value for name, value in drawn.items()
        }
        host: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
        np.savez(path, **host)
    return {"devices": jax.device_count()}


def collectives(num_points: int, dim: int, num_directions: int) -> dict[str, Any]:
    """What devices exchange, by the compiled programs: for flows, and for a distance and its gradient with directions or points sharded."""
    mesh = jax.make_mesh(
        (jax.device_count(),), ("sharded",), axis_types=(jax.sharding.AxisType.Auto,)
    )

    def shape(*sizes: int, sharded: bool) -> jax.ShapeDtypeStruct:
        spec = jax.sharding.PartitionSpec("sharded") if sharded else jax.sharding.PartitionSpec()
        return jax.ShapeDtypeStruct(
            sizes, jnp.float32, sharding=jax.sharding.NamedSharding(mesh, spec)
        )

    def distance(points: bool, directions: bool) -> str:
        clouds = [shape(num_points, dim, sharded=points)] * 2
        program = jax.jit(jax.value_and_grad(swjko.sliced_wasserstein_pow))
        return (
            program.lower(*clouds, shape(num_directions, dim, sharded=directions))
            .compile()
            .as_text()
            or ""
        )

    flows = jax.jit(functools.partial(swjko.run_many, num_steps=2, mesh=swjko.flow_mesh()))
    keys = swjko.shard_flows(
        jax.random.split(jax.random.key(0), 2 * jax.device_count()), swjko.flow_mesh()
    )
    texts = {
        "flows": flows.lower(keys, small_scheme(num_inner_steps=2)).compile().as_text() or "",
        "directions": distance(points=False, directions=True),
        "points": distance(points=True, directions=False),
    }
    sizes = {
        "devices": jax.device_count(),
        "points": num_points,
        "dim": dim,
        "directions": num_directions,
    }
    return {"sizes": sizes, **{name: _exchanged(text) for name, text in texts.items()}}


_COLLECTIVE = re.compile(
    r"= (?P<result>\([^=]*?\)|\S+) (?P<kind>all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def _exchanged(text: str) -> dict[str, Any]:
    """Numbers of collectives by kind, and the bytes of their results on one device."""
    kinds: dict[str, int] = {}
    total = 0
    for match in _COLLECTIVE.finditer(text):
        kinds[match["kind"]] = kinds.get(match["kind"], 0) + 1
        for bits, sizes in re.findall(r"\b[a-z]+(\d+)\[([\d,]*)\]", match["result"]):
            total += int(bits) // 8 * math.prod(int(size) for size in sizes.split(",") if size)
    return {"collectives": kinds, "bytes": total}


def digestible(tree: Any) -> np.ndarray:
    """All leaves of flows in one array [flows ...]."""
    return np.concatenate(
        [np.asarray(leaf).reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(tree)], axis=1
    )


def main(name: str, arguments: str, limit: str) -> None:
    """limit: bytes that no file may exceed; 0 for none."""
    # A shell starts what runs in its background with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if int(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    print(json.dumps(globals()[name](**json.loads(arguments))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
