"""What the sorts of swjko-native are worth: the distance, an update of a step, a loop of particles.

All run in one process, by swjko-native and in JAX alone, in turns. In the JSON:

- distances: value and gradient in x; medians, and the ratio of each method's seconds to those with
  swjko-native. "no sort" projects, subtracts and projects back, which no sort can undercut. For
  torch the better of one and two threads counts. ``difference`` is relative, of the gradients.
- updates: ms per update of a step of SW-JKO of a coupling flow, compilation apart.
- particles: five steps of n particles down their distance to as many points, directions fixed.

``missing`` names packages that are not installed. swjko-native itself must be.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import swjko
from benchmarks import common, kernel, peers, update
from benchmarks.peers import FLOOR, Case
from swjko.distances.native import native_sorts

_JAX, _NATIVE = "JAX alone", "swjko-native"
_COMPARED = (FLOOR, "torch.sort")


class Sizes(NamedTuple):
    """Cases of the distance, settings of an update, numbers of particles, and calls of each."""

    cases: tuple[Case, ...]
    settings: tuple[update.Setting, ...]
    particles: tuple[int, ...]
    repeats: int


DEFAULT = Sizes(
    cases=(
        *(case for case in kernel.DEFAULT.cases if case.n == case.m),
        Case(10_000, 10_000, 16, 64),
    ),
    settings=update.SETTINGS,
    particles=(10_000, 100_000),
    repeats=15,
)
QUICK = Sizes(DEFAULT.cases[:1], update.QUICK, (100,), 2)
FLAGS = common.Flags(quick="the smallest of each")


def main(args: argparse.Namespace) -> None:
    """Times everything with the native sorts and without."""
    if native_sorts() is None:
        raise SystemExit("swjko-native is not installed: pip install ./native.")
    sizes = QUICK if args.quick else DEFAULT
    missing = [name for name in ("torch",) if common.optional(name) is None]
    content = {
        "quick": args.quick,
        "missing": missing,
        "distances": [_distance(case, sizes.repeats) for case in sizes.cases],
        "updates": [_update(setting, sizes.repeats) for setting in sizes.settings],
        "particles": [_particles(number, sizes.repeats) for number in sizes.particles],
    }
    common.finish(args, content)


def _both(function: Callable[..., Any], *arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Calls of the function compiled with the native sorts and without, and seconds to compile."""
    calls, seconds = {}, {}
    for name, use in ((_NATIVE, True), (_JAX, False)):
        start = time.perf_counter()
        with swjko.native_kernels(use):
            program = jax.jit(function).lower(*arguments).compile()
        seconds[name] = time.perf_counter() - start
        calls[name] = lambda program=program: program(*arguments)
    return calls, seconds


def _compared(row: dict[str, Any], calls: dict[str, Any], repeats: int) -> dict[str, Any]:
    medians, threads = kernel.best_threads(common.interleaved_medians(calls, repeats=repeats))
    ratio = {name: seconds / medians[_NATIVE] for name, seconds in medians.items()}
    row = row | {"median_seconds": medians, "torch_threads": threads, "ratio": ratio}
    common.show(str(row["case"]), row)
    return row


def _distance(case: Case, repeats: int) -> dict[str, Any]:
    inputs = peers.make_inputs(case)
    calls, _ = _both(peers.ours, *inputs.map(jnp.asarray))
    one, other = (np.asarray(calls[name]()[1]) for name in (_NATIVE, _JAX))
    others = peers.methods(inputs)
    calls |= {name: call for name, call in others.items() if name.startswith(_COMPARED)}
    row = {"case": case._asdict(), "difference": _relative(one, other)}
    return _compared(row, calls, kernel.repeats_of(case, repeats))


def _relative(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def _update(setting: update.Setting, repeats: int) -> dict[str, Any]:
    scheme, key = update.scheme_of(setting[1:]), jax.random.key(0)
    state = jax.jit(scheme.init)(key)
    calls, compiling = _both(lambda key, scheme, state: scheme.step(key, state), key, scheme, state)
    ends = [float(calls[name]()[1].objective) for name in (_NATIVE, _JAX)]
    row = {"case": setting._asdict(), "compile_seconds": compiling}
    row |= {"difference": abs(ends[0] - ends[1]) / abs(ends[1])}
    row = _compared(row, calls, repeats)
    ms = {name: 1e3 * value / setting.num_updates for name, value in row["median_seconds"].items()}
    return row | {"ms_per_update": ms}


def _particles(number: int, repeats: int) -> dict[str, Any]:
    case = Case(number, number, 16, 64)
    x, y, directions = peers.make_inputs(case).map(jnp.asarray)[:3]

    def loop(x: Any, y: Any, directions: Any) -> Any:
        down = jax.grad(swjko.sliced_wasserstein_pow)
        step = number * case.dim / 2.0
        return lax.fori_loop(0, 5, lambda _, x: x - step * down(x, y, directions), x)

    calls, _ = _both(loop, x, y, directions)
    one, other = (np.asarray(calls[name]()) for name in (_NATIVE, _JAX))
    row = {"case": case._asdict(), "difference": _relative(one, other)}
    return _compared(row, calls, max(3, repeats // 3))
