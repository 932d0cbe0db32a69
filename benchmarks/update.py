"""Milliseconds of one update of a step of SW-JKO, and the seconds to compile its program.

The program is one step of a coupling flow towards a Gaussian mixture by KL, with its report. In the
JSON, for each setting and checkout:

- trace_seconds, lower_seconds, compile_seconds: of the program of one step, without a cache.
- ms_per_update: median wall time of a step over its number of updates.
- speedup: ms of the checkout at ``--against`` over those of this one.
- native: ms of this checkout with swjko-native, absent where it is not installed. All else is
  without it.
- torch: ms of an update in eager PyTorch, as ``benchmarks.torch_update`` says, by its distance and
  the threads, and of each distance the better of them and its ratios; absent without torch.

Each checkout runs in its own process, and so does PyTorch. Steps are timed in turns, so a change in
the load of the machine meets all alike.
"""

import argparse
import inspect
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

import swjko
from benchmarks import common
from benchmarks.peers import TORCH_THREADS
from benchmarks.tables import ROOT


class Setting(NamedTuple):
    """Sizes of an update, and the updates of a timed step."""

    name: str
    dim: int
    num_layers: int
    width: int
    num_samples: int
    num_projections: int
    num_updates: int


SETTINGS = (
    Setting("README", 2, 6, 64, 512, 64, 60),
    Setting("d = 10", 10, 8, 64, 512, 70, 40),
    Setting("published sizes", 12, 6, 100, 1024, 1000, 10),
)
QUICK = (Setting("small", 2, 2, 8, 32, 8, 3),)
FLAGS = common.Flags()
# Threads of OpenMP, which PyTorch uses, go on to spin for some time after their work.
_PAUSE = 0.5

# Only names of the public interface, so that older checkouts run it too.
_CHILD = """
scheme = scheme_of(json.loads(sys.argv[1]))
if hasattr(swjko, "native_kernels"):
    kernels = swjko.native_kernels(sys.argv[2] == "native")
    kernels.__enter__()
key = jax.random.key(0)
state = jax.jit(scheme.init)(key)
start = time.perf_counter()
traced = jax.jit(lambda key, scheme, state: scheme.step(key, state)).trace(key, scheme, state)
middle = time.perf_counter()
lowered = traced.lower()
late = time.perf_counter()
program = lowered.compile()
end = time.perf_counter()
print(json.dumps([middle - start, late - middle, end - late]), flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    state, info = jax.block_until_ready(program(key, scheme, state))
    print(json.dumps([time.perf_counter() - start, float(info.objective)]), flush=True)
"""
_IMPORTS = """
import json, sys, time
from typing import Any, Sequence
import jax, jax.numpy as jnp, optax, swjko
"""


def scheme_of(sizes: Sequence[int]) -> Any:
    """The scheme of the sizes of a setting. Its source runs in older checkouts too."""
    dim, num_layers, width, num_samples, num_projections, num_updates = sizes
    from swjko import flows

    def modes(x):
        return jnp.logaddexp(-jnp.sum((x - 1) ** 2), -jnp.sum((x + 1) ** 2))

    return swjko.sw_jko(
        flows.coupling(dim, num_layers=num_layers, width=width),
        swjko.kl_divergence(modes),
        optax.adam(1e-3),
        step_size=0.1,
        num_inner_steps=num_updates,
        num_samples=num_samples,
        num_projections=num_projections,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    text = "another checkout of the repository, such as a worktree of an older commit"
    parser.add_argument("--against", type=Path, metavar="DIR", help=text)
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="timed steps")


def main(args: argparse.Namespace) -> None:
    """Times each setting in both checkouts."""
    checkouts = {"now": ROOT}
    if args.against is not None:
        checkouts["before"] = args.against.resolve()
    settings, repeats = (QUICK, 2) if args.quick else (SETTINGS, args.repeats)
    rows = [measure(setting, checkouts, repeats) for setting in settings]
    common.finish(args, {"repeats": repeats, "rows": rows})


def measure(setting: Setting, checkouts: dict[str, Path], repeats: int) -> dict[str, Any]:
    """Compiles one step in each checkout, one after the other, and times it in turns."""
    children, row = {}, {**setting._asdict()}
    sizes = json.dumps(setting[1:])
    native = {} if common.optional("swjko_native") is None else {"native": ROOT}
    for name, path in {**checkouts, **native}.items():
        script = _IMPORTS + inspect.getsource(scheme_of) + _CHILD
        children[name] = _start(["-c", script, sizes, name], path)
        names = ("trace_seconds", "lower_seconds", "compile_seconds")
        row[name] = dict(zip(names, json.loads(_line(children[name])), strict=True))
    programs = list(children)
    if common.optional("torch") is not None:
        for distance, threads in itertools.product(("sorts", "quantiles"), TORCH_THREADS):
            arguments = ["-m", "benchmarks.torch_update", sizes, str(threads), distance]
            children[f"{distance}@{threads}"] = _start(arguments, ROOT)
    steps = _in_turns(children, repeats)
    ms = {name: _ms_per_update(found[1:], setting) for name, found in steps.items()}
    for name in programs:
        row[name] |= {"objective": steps[name][0][1], "ms_per_update": ms[name]}
    if "before" in row:
        row["speedup"] = ms["before"] / ms["now"]
    rivals = {name: ms[name] for name in children if name not in programs}
    if rivals:
        row["torch"] = {"ms_per_update": rivals} | {
            distance: best_of(distance, rivals, {name: ms[name] for name in programs})
            for distance in ("sorts", "quantiles")
        }
    common.show(setting.name, row)
    return row


def best_of(distance: str, rivals: dict[str, float], ours: dict[str, float]) -> dict[str, Any]:
    """The better of the threads, and its ratio to each of our programs."""
    best = min(ms for name, ms in rivals.items() if name.startswith(distance))
    return {"best": best, "ratio": {name: best / ms for name, ms in ours.items()}}


def _in_turns(children: dict[Any, Any], repeats: int) -> dict[Any, list[list[float]]]:
    """Seconds and objective of ``repeats`` steps of each process, after one to warm up."""
    found: dict[Any, list[list[float]]] = {name: [] for name in children}
    for _ in range(repeats + 1):
        for name, child in children.items():
            time.sleep(_PAUSE)
            child.stdin.write("\n")
            child.stdin.flush()
            found[name].append(json.loads(_line(child)))
    for child in children.values():
        child.communicate()
    return found


def _ms_per_update(steps: Sequence[Sequence[float]], setting: Setting) -> float:
    return 1e3 * statistics.median(seconds for seconds, _ in steps) / setting.num_updates


def _start(arguments: list[str], path: Path) -> Any:
    kept = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    paths = [str(path), *kept.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *arguments], cwd=path, env=environment, **pipes)


def _line(child: Any) -> str:
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"the process of a checkout ended with status {child.wait()}.")
    return line
