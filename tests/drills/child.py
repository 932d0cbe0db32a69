"""What the drills run in processes of their own: ``python child.py NAME ARGUMENTS LIMIT``.

ARGUMENTS is JSON. LIMIT is the number of bytes that no file may exceed; 0 for none. The last line
on stdout is JSON, unless the process is killed.
"""

import functools
import hashlib
import json
import math
import re
import resource
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import swjko
from swjko import distributed, flows
from swjko.checkpoints.store import Store
from swjko.running.batching import on_host

# Made once: schemes that are stacked share them.
ADAM = optax.adam(1e-2)
BOWL = swjko.potential(lambda x: jnp.sum(x**2))


def small_scheme(step_size=1e-3, num_inner_steps=100):
    """About ten milliseconds a step, and a state of a few numbers."""
    sizes = {"num_inner_steps": num_inner_steps, "num_samples": 256, "num_projections": 16}
    return swjko.sw_jko(swjko.gaussian(2), BOWL, ADAM, step_size=step_size, **sizes)


def bell(x):
    return -jnp.sum(x**2) / 2


def flat(x):
    return 0.0 * jnp.sum(x)


def digest(tree):
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def joined(tree):
    """All leaves of flows in one array [flows ...]."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)


def flow(directory, num_steps, num_points=0):
    """One run, saved after each step. With points, a save takes as long as a step."""
    scheme, record = small_scheme(), swjko.both
    if num_points:
        points = jnp.linspace(-1.0, 1.0, 2 * num_points).reshape(num_points, 2)
        scheme, record = swjko.langevin(points, bell, step_size=1e-3), swjko.infos
    options = {"chunk_size": 1, "progress": False, "checkpoint_steps": 1, "record": record}
    found = swjko.solve(jax.random.key(0), scheme, num_steps, checkpoint_dir=directory, **options)
    return {"digest": digest((found.state, found.history))}


def cost(directory, num_steps, seconds):
    """Seconds of a run of a coupling flow, and those that its checkpoints and history took."""
    spent, saves = [0.0], []

    def timed(method):
        def call(store, *arguments):
            start = time.perf_counter()
            method(store, *arguments)
            spent[0] += time.perf_counter() - start

        return call

    def save(store, *arguments, real=Store.save):
        start = time.perf_counter()
        real(store, *arguments)
        saves.append(time.perf_counter() - start)

    for name in ("append", "save_if_due"):
        setattr(Store, name, timed(getattr(Store, name)))
    Store.save = save
    sizes = {"num_inner_steps": 10, "num_samples": 256, "num_projections": 32}
    family, functional = flows.coupling(10, width=128), swjko.kl_divergence(bell)
    scheme = swjko.sw_jko(family, functional, ADAM, step_size=0.1, **sizes)
    options = {"progress": False, "chunk_size": 5, "checkpoint_seconds": seconds}
    found = swjko.solve(jax.random.key(0), scheme, num_steps, checkpoint_dir=directory, **options)
    return {
        "run_seconds": found.timing.run_seconds,
        "spent": spent[0],
        "saves": len(saves),
        "one_save": float(np.median(saves)) if saves else 0.0,
        "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(found.state)),
    }


def peer(
    coordinator,
    processes,
    process,
    directory,
    path,
    heartbeat,
    num_steps,
    num_inner_steps,
    chunk_size=1,
):
    """One of several processes that run eight flows together, or the only one."""
    if processes > 1:
        distributed.initialize(coordinator, processes, process, heartbeat_timeout=heartbeat)
    keys, mesh = jax.random.split(jax.random.key(0), 8), swjko.flow_mesh()
    schemes = [small_scheme(0.1 * (1 + index), num_inner_steps) for index in range(8)]
    scheme, axes = swjko.stack_flows(schemes)
    options = {"checkpoint_dir": directory, "checkpoint_steps": 1} if directory else {}
    options |= {"chunk_size": chunk_size, "progress": False, "axes": axes, "mesh": mesh}
    found = swjko.solve(keys, scheme, num_steps, **options)
    # Without a force, Langevin points are the sums of what was drawn.
    noise = swjko.langevin(jnp.zeros((4, 2)), flat, step_size=0.5)
    states, _ = swjko.run_many(keys, noise, 3, mesh=mesh)
    end, drawn = on_host((found.state.params, states.params))
    if path and process == 0:
        values = {"value params": joined(end), "value energy": found.history.energy}
        np.savez(path, **values, **{"draw noise": np.asarray(drawn)})
    return {"digest": digest((end, found.history))}


def shared_run(num_steps=1_000_000, num_inner_steps=0, many=False, fails=None, **options):
    """A run of two flows on the devices of all processes; particles if there are no updates."""

    def stop(state, history):
        if jax.process_index() == fails and state.step[0] >= 20:
            raise ZeroDivisionError("only here")
        return False

    keys, mesh = jax.random.split(jax.random.key(0), 2), swjko.flow_mesh()
    scheme = swjko.langevin(jnp.zeros((4, 2)), bell, step_size=0.5)
    if num_inner_steps:
        scheme = small_scheme(num_inner_steps=num_inner_steps)
    if many:
        swjko.run_many(keys, scheme, num_steps, mesh=mesh)
    else:
        options = {"progress": False, "chunk_size": 10} | options
        options |= {} if fails is None else {"stop": stop}
        swjko.solve(keys, scheme, num_steps, mesh=mesh, **options)


def together(coordinator, process, runs, heartbeat=10.0):
    """One of two processes that share some runs; the errors of all but the last."""
    distributed.initialize(coordinator, 2, process, heartbeat_timeout=heartbeat)
    errors = []
    for arguments in runs[:-1]:
        try:
            shared_run(**arguments)
        except (distributed.DistributedError, ValueError) as error:
            errors.append(f"{type(error).__name__}: {error}")
    if runs[-1]:
        shared_run(**runs[-1])
    return errors


def on_devices(path, num_flows):
    """Flows over all devices in float64, and one flow whose directions are spread over them."""
    with jax.enable_x64(True):
        mesh, keys = swjko.flow_mesh(), jax.random.split(jax.random.key(0), num_flows)
        states, info = swjko.run_many(keys, small_scheme(0.1, 5), 3, mesh=mesh)
        noise = swjko.langevin(jnp.zeros((4, 2)), flat, step_size=0.5)
        drawn, _ = swjko.run_many(keys, noise, 3, mesh=mesh)
        shards = jax.make_mesh((jax.device_count(),), ("shard",), axis_types=(AxisType.Auto,))
        draw = swjko.sharded_directions(swjko.uniform_directions, shards, "shard")
        points = jnp.linspace(-1.0, 1.0, 128).reshape(64, 2)
        sizes = {"step_size": 0.5, "num_projections": 16}
        one = swjko.sliced_flow(points, points[::-1] ** 3, direction_fn=draw, **sizes)
        run = jax.jit(swjko.run, static_argnames=("num_steps", "record"))
        start = one.init(jax.random.key(2))
        end, _ = run(jax.random.key(1), one, start, num_steps=5, record=swjko.infos)
        arrays = {
            "value params": joined(states.params),
            "value energy": info.energy,
            "value objective": info.objective,
            "value sharded": end.params,
            "draw noise": drawn.params,
            "draw directions": jax.jit(draw, static_argnums=(1, 2))(jax.random.key(3), 16, 5),
        }
        np.savez(path, **{name: np.asarray(value) for name, value in arrays.items()})
    return {}


def collectives(num_points, dim, num_directions):
    """What devices exchange, by the compiled programs of flows, and of a distance's gradient."""
    devices = jax.device_count()
    mesh = jax.make_mesh((devices,), ("shard",), axis_types=(AxisType.Auto,))

    def shape(*sizes, sharded):
        spec = PartitionSpec("shard") if sharded else PartitionSpec()
        return jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=NamedSharding(mesh, spec))

    def distance(points, directions):
        clouds = [shape(num_points, dim, sharded=points)] * 2
        program = jax.jit(jax.value_and_grad(swjko.sliced_wasserstein_pow))
        return program.lower(*clouds, shape(num_directions, dim, sharded=directions))

    run = jax.jit(functools.partial(swjko.run_many, num_steps=2, mesh=swjko.flow_mesh()))
    keys = jax.random.split(jax.random.key(0), 2 * devices)
    keys = swjko.shard_flows(keys, swjko.flow_mesh())
    lowered = {
        "flows": run.lower(keys, small_scheme(num_inner_steps=2)),
        "directions": distance(points=False, directions=True),
        "points": distance(points=True, directions=False),
    }
    sizes = {"points": num_points, "dim": dim, "directions": num_directions, "devices": devices}
    exchange = {name: exchanged(value.compile().as_text()) for name, value in lowered.items()}
    return {"sizes": sizes, **exchange}


def exchanged(text):
    """Numbers of collectives by kind, and the bytes of their results on one device."""
    names = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    kinds, total = {}, 0
    for match in re.finditer(rf"= (\([^=]*?\)|\S+) ({names})(?:-start)?\(", text):
        kinds[match[2]] = kinds.get(match[2], 0) + 1
        for bits, sizes in re.findall(r"\b[a-z]+(\d+)\[([\d,]*)\]", match[1]):
            total += int(bits) // 8 * math.prod(int(size) for size in sizes.split(",") if size)
    return {"collectives": kinds, "bytes": total}


if __name__ == "__main__":
    function, arguments, limit = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    # A shell starts background processes with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    print(json.dumps(globals()[function](**arguments)), flush=True)
