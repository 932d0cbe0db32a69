"""What XLA makes of the distance and of an update for an H100, compiled on a machine without one.

It needs ``pip install "jax[cuda12]"``, but no GPU: programs are compiled ahead of time for the
description of a card. Nothing is run, so nothing here is a time. In the JSON, for each program:

- launches: kernels, products, sorts and copies of one execution, where each loop counts its body
  times its trips. For a step they are those of one update, the body of the loop over updates.
- kinds: the same by opcode, or by target of a custom call.
- temporaries_mib: memory beside arguments and results.
- gigabytes: what the launches read and write if each reads whole operands, an upper bound.
- roofline_ms: these bytes over the bandwidth of the card, a roofline estimate. A program of many
  small launches takes longer.
- radix_sorts: sorts of which XLA says that it lacks the scratch size of CUB, which a card reports.
  It presumably gives these to CUB's radix sort there, and the others to its own sort.
"""

import argparse
import collections
import json
import math
import os
import re
import subprocess
import sys
import unittest.mock
from typing import Any

from benchmarks import common, update
from benchmarks.tables import ROOT

FLAGS = common.Flags()
BYTES_PER_SECOND = 3_352_320_000_000
# Facts of the card, as XLA prints them on a machine that has one.
_CARD = f"""gpu_device_info {{
threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
memory_bandwidth: {BYTES_PER_SECOND} l2_cache_size: 52428800 clock_rate_ghz: 1.98
device_memory_size: 84936687616 shared_memory_per_block_optin: 232448
cuda_compute_capability {{ major: 9 }} registers_per_core_limit: 65536
registers_per_block_limit: 65536 }}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 9 }} device_description_str: "NVIDIA H100 80GB HBM3" """
# (points, dimension, directions)
_KERNELS = ((512, 2, 64), (1024, 12, 1000), (500, 64, 500), (16384, 32, 256), (100_000, 16, 64))
# A number of updates that is no other loop's number of trips.
_NUM_UPDATES = 37
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"} | {
    *("optimization-barrier", "partition-id", "copy-done", "copy-start", "async-done")
}
_SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s64": 8, "u64": 8}
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?(%[\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")


def main(args: argparse.Namespace) -> None:
    """Compiles each program in its own process, and reads the log of that process."""
    names = ["kernel 512 2 64"] if args.quick else programs()
    rows = [measure(name) for name in names]
    common.finish(args, {"bytes_per_second": BYTES_PER_SECOND, "rows": rows})


def programs() -> list[str]:
    """Names of all programs."""
    kernels = [" ".join(map(str, ("kernel", *sizes))) for sizes in _KERNELS]
    return [*kernels, *(f"debiased {name[7:]}" for name in kernels[:2]), "update 0", "update 2"]


def measure(name: str) -> dict[str, Any]:
    """Compiles one program for an H100, and counts."""
    script = f"from benchmarks import gpu_programs; gpu_programs.compile_here({name!r})"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"program {name} was not compiled: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    found["radix_sorts"] = done.stderr.count("scratch size data for sort")
    row = {"program": name, **found}
    common.show(name, row)
    return row


def compile_here(name: str) -> None:
    """Prints the counts of one program as JSON."""
    compiled = compile_for_h100(*_function_and_inputs(name))
    trips = _NUM_UPDATES + 1 if name.startswith("update") else None
    counts = launches(compiled.as_text(), trips)
    memory = compiled.memory_analysis()
    print(json.dumps({**counts, "temporaries_mib": memory.temp_size_in_bytes / 2**20}))


def compile_for_h100(function: Any, inputs: tuple[Any, ...]) -> Any:
    """Compiles for the description of an H100; raises where JAX has no CUDA plugin."""
    import jax
    from jax.experimental import topologies
    from jax.sharding import NamedSharding, PartitionSpec

    options = {"topology_name": "h100", "platform": "cuda", "topology": "1x1x1"}
    topology = topologies.get_topology_desc(**options, target_config=_CARD)
    sharding = NamedSharding(topologies.make_mesh(topology, (1,), ("x",)), PartitionSpec())

    def placed(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    placed_inputs = jax.tree.map(placed, jax.eval_shape(lambda: inputs))
    # As on a machine with a card: couplings are unrolled there.
    with unittest.mock.patch("jax.default_backend", return_value="gpu"):
        traced = jax.jit(function).trace(*placed_inputs)
    return traced.lower(lowering_platforms=("cuda",)).compile()


def _function_and_inputs(name: str) -> tuple[Any, tuple[Any, ...]]:
    import jax
    import jax.numpy as jnp

    import swjko
    from swjko.distances.sliced import debiased_sliced_wasserstein_pow

    kind, *sizes = name.split()
    if kind == "update":
        scheme = update.scheme_of((*update.SETTINGS[int(sizes[0])][1:-1], _NUM_UPDATES))
        key = jax.random.key(0)
        inputs = (key, scheme, jax.eval_shape(scheme.init, key))
        return (lambda key, scheme, state: scheme.step(key, state)), inputs
    n, d, num_directions = map(int, sizes)
    plain = swjko.sliced_wasserstein_pow
    distance = debiased_sliced_wasserstein_pow if kind == "debiased" else plain
    inputs = (jnp.zeros((n, d)), jnp.zeros((n, d)), jnp.zeros((num_directions, d)))
    return jax.value_and_grad(distance), inputs


def launches(program: str, trips_of_interest: int | None = None) -> dict[str, Any]:
    """Counts what an optimised program launches.

    Args:
      program: Text of the program.
      trips_of_interest: Count only the body of the loop with this number of trips; None counts
        everything.
    """
    computations = _computations(program)
    shapes = {name: shape for lines in computations.values() for name, shape, *_ in lines}

    def count(computation: str) -> tuple[collections.Counter, int]:
        kinds, moved = collections.Counter(), 0
        for name, shape, opcode, rest in computations[computation]:
            called = re.findall(r"(?:body|to_apply|calls)=(%[\w.\-]+)", rest)
            branches = re.search(r"branch_computations={(.*?)}", rest)
            if opcode in ("while", "call", "conditional", "async-start"):
                called = branches.group(1).split(", ") if branches else called
                trips = _trips(rest) if opcode == "while" else 1
                results = [count(one) for one in called if one in computations]
                inner, inner_moved = max(results, key=lambda one: one[0].total())
                for kind, number in inner.items():
                    kinds[kind] += trips * number
                moved += trips * inner_moved
            elif opcode not in _FREE:
                target = re.search(r'custom_call_target="([^"]*)"', rest)
                kinds[target.group(1) if target else opcode] += 1
                operands = set(re.findall(r"%[\w.\-]+", rest.split(")")[0])) - {name}
                moved += _bytes(shape) + sum(_bytes(shapes.get(one, "")) for one in operands)
        return kinds, moved

    kinds, moved = count(_root(program, computations, trips_of_interest))
    gigabytes = moved / 1e9
    result = {"launches": kinds.total(), "kinds": dict(kinds.most_common())}
    return result | {"gigabytes": gigabytes, "roofline_ms": 1e12 * gigabytes / BYTES_PER_SECOND}


def _root(program: str, computations: dict[str, Any], trips_of_interest: int | None) -> str:
    if trips_of_interest is None:
        return re.findall(r"^ENTRY (%[\w.\-]+)", program, re.MULTILINE)[0]
    (found,) = {
        re.findall(r"body=(%[\w.\-]+)", rest)[0]
        for lines in computations.values()
        for _, _, opcode, rest in lines
        if opcode == "while" and _trips(rest) == trips_of_interest
    }
    return found


def _computations(program: str) -> dict[str, list[tuple[str, ...]]]:
    """Returns name, shape, opcode and the rest of the line of each instruction."""
    computations: dict[str, list[tuple[str, ...]]] = {}
    lines: list[tuple[str, ...]] = []
    for line in program.splitlines():
        header = re.match(r"^(?:ENTRY )?(%[\w.\-]+) .*{$", line)
        if header:
            lines = computations.setdefault(header.group(1), [])
        elif found := _INSTRUCTION.match(line):
            lines.append(found.groups())
    return computations


def _trips(rest: str) -> int:
    found = re.search(r'known_trip_count":\{"n":"(\d+)"', rest)
    return int(found.group(1)) if found else 1


def _bytes(shape: str) -> int:
    found = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(
        _SIZES.get(dtype, 4) * math.prod(int(size) for size in sizes.split(",") if size)
        for dtype, sizes in found
    )
