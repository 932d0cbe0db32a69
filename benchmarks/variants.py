"""Unbalanced sliced transport and plans from slices, by swjko and by POT.

Per case, in ``rows``: medians of interleaved calls in float32 along the same directions (the better
of one and two threads for torch), the ratio of POT's to swjko's, and the values.

- SUOT and USOT: swjko computes value and gradient in x. POT 0.9.7 computes the value alone and
  only on torch, since its iterations run backward through the points and fail if these need a
  gradient. Iterations are the defaults: 20 with a line search for swjko, whose value is a lower
  bound, and 10 without for POT, whose value is an upper one. "as near" are calls with the fewest
  iterations of a list that bring each of them within 1e-4 of the optimum, relatively; the optimum
  is the value of swjko after 1000 iterations in float64.
- Plans: lists of pairs for swjko, sparse matrices for POT. "projection alone" and "sort alone" are
  the product and the sort that no implementation can leave out, and "one pass of the costs" reads
  the pairs of one direction once.

``missing`` names packages that are not installed and so are not measured.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import swjko
from benchmarks import common, kernel, peers

_RHO = 1.0
_NEAR, _ENOUGH = 1e-4, 1000
_ITERATIONS = (2, 3, 4, 5, 7, 10, 14, 20, 28, 40, 57, 80, 113, 160, 226, 320, 640)
_AS_NEAR = ", as near"
FLAGS = common.Flags(quick="tiny cases")


class Sizes(NamedTuple):
    """Cases of the distances and of the plans, and calls of each method."""

    distances: tuple[peers.Case, ...]
    plans: tuple[peers.Case, ...]
    repeats: int


DEFAULT = Sizes(
    distances=(peers.Case(1000, 1000, 2, 100), peers.Case(500, 500, 64, 100)),
    plans=(peers.Case(512, 512, 784, 16), peers.Case(4096, 4096, 784, 16)),
    repeats=9,
)
# POT takes weights for equal if sums of 1 / n are exact, so plans have powers of two.
QUICK = Sizes((peers.Case(20, 20, 2, 3),), (peers.Case(16, 16, 5, 3),), 2)
Calls = dict[str, Callable[[], Any]]


def main(args: argparse.Namespace) -> None:
    sizes = QUICK if args.quick else DEFAULT
    missing = [name for name in ("torch", "ot") if common.optional(name) is None]
    rows = []
    for cases, methods in ((sizes.distances, distances), (sizes.plans, plans)):
        for case in cases:
            for name, calls in methods(peers.make_inputs(case)).items():
                rows.append(measure(name, case, calls, sizes.repeats))
                common.show(f"{name} {case.name}", rows[-1]["median_seconds"])
    content = {"quick": args.quick, "rho": _RHO, "missing": missing, "rows": rows}
    common.finish(args, content)


def measure(name: str, case: peers.Case, calls: Calls, repeats: int) -> dict[str, Any]:
    """The row of one variant in the JSON."""
    values = {
        method: _value(call())
        for method, call in calls.items()
        if method.startswith((peers.OURS, "POT"))
    }
    medians, threads = kernel.best_threads(common.interleaved_medians(calls, repeats=repeats))
    shape = {"n": case.n, "dim": case.dim, "directions": case.num_directions}
    own = medians[peers.OURS]
    return {
        "variant": name,
        "case": case.name,
        "shape": shape,
        "median_seconds": medians,
        "ratio": {method: seconds / own for method, seconds in medians.items()},
        "torch_threads": threads,
        "values": kernel.best_threads(values)[0],
    }


def distances(inputs: peers.Inputs) -> dict[str, Calls]:
    """Calls by name of the distance, then by name of the method."""
    both = {"SUOT": swjko.sliced_unbalanced_ot, "USOT": swjko.unbalanced_sliced_ot}
    torch, pot = common.optional("torch"), common.optional("ot")
    found: dict[str, Calls] = {}
    for name, function in both.items():
        optimum = _optimum(function, inputs)
        ours = functools.partial(_ours, function, inputs)
        found[name] = {peers.OURS: ours(), peers.OURS + _AS_NEAR: _nearest(ours, optimum)}
        if torch is not None and pot is not None:
            theirs = functools.partial(_theirs, name, inputs, torch, pot)
            near = _nearest(theirs, optimum)
            found[name] |= _at_threads(torch, "POT torch", theirs())
            found[name] |= _at_threads(torch, "POT torch" + _AS_NEAR, near)
    return found


def _optimum(function: Callable[..., Any], inputs: peers.Inputs) -> float:
    with jax.enable_x64(True):
        arrays = [jnp.asarray(array, jnp.float64) for array in inputs[:3]]
        return float(function(*arrays, rho=_RHO, num_iterations=_ENOUGH))


def _ours(function: Callable[..., Any], inputs: peers.Inputs, num_iterations: int = 20) -> Any:
    arrays = [jnp.asarray(array) for array in inputs[:3]]
    call = functools.partial(function, rho=_RHO, num_iterations=num_iterations)
    return functools.partial(jax.jit(jax.value_and_grad(call)), *arrays)


def _theirs(
    name: str, inputs: peers.Inputs, torch: Any, pot: Any, num_iterations: int = 10
) -> Callable[[], Any]:
    x, y, columns = (torch.tensor(array) for array in (*inputs[:2], inputs.directions.T))
    options = {"projections": columns, "numItermax": num_iterations}
    if name == "SUOT":
        return lambda: pot.sliced_unbalanced_ot(x, y, _RHO, **options)
    return lambda: pot.unbalanced_sliced_ot(x, y, _RHO, **options)[2]


def _nearest(make: Callable[[int], Callable[[], Any]], optimum: float) -> Callable[[], Any]:
    """The call with the fewest iterations whose value is near the optimum."""
    for num in _ITERATIONS:
        call = make(num)
        if abs(_value(call()) - optimum) <= _NEAR * optimum:
            return call
    raise RuntimeError(f"{_ITERATIONS[-1]} iterations do not come within {_NEAR} of {optimum}.")


def plans(inputs: peers.Inputs) -> dict[str, Calls]:
    """Calls by name of the plan, then by name of the method; and the floors of both."""
    x, y, directions = (jnp.asarray(array) for array in inputs[:3])
    both = {"best plan": swjko.best_sliced_plan, "expected plan": swjko.expected_sliced_plan}
    found: dict[str, Calls] = {}
    for name, function in both.items():
        found[name] = {
            peers.OURS: functools.partial(jax.jit(_pairs(function)), x, y, directions),
            "projection alone": functools.partial(_projected, x, y, directions),
            "sort alone": functools.partial(_argsorts, *_projected(x, y, directions)),
            "one pass of the costs": functools.partial(_cost_of_pairs, x, y),
        }
    torch, pot = common.optional("torch"), common.optional("ot")
    if pot is None:
        return found
    theirs = {"best plan": pot.min_sliced_transport_plan, "expected plan": pot.expected_sliced_plan}
    columns = np.ascontiguousarray(inputs.directions.T)
    for name, function in theirs.items():
        plan = functools.partial(function, p=2, dense=False)
        call = functools.partial(plan, *inputs[:2], projections=columns)
        found[name]["POT NumPy"] = lambda call=call: call()[1]
        if torch is not None:
            tensors = [torch.tensor(array) for array in (*inputs[:2], columns)]
            call = functools.partial(plan, *tensors[:2], projections=tensors[2])
            found[name] |= _at_threads(torch, "POT torch", lambda call=call: call()[1])
    return found


def _pairs(plan: Callable[..., Any]) -> Callable[..., Any]:
    """Pairs, masses and cost of a plan, which is what minibatches need."""

    def pairs(x, y, directions):
        found = plan(x, y, directions)
        return found.cost, found.x_index, found.y_index, found.mass

    return pairs


@jax.jit
def _projected(x, y, directions):
    return directions @ x.T, directions @ y.T


@jax.jit
def _argsorts(u, v):
    return jnp.argsort(u, axis=1), jnp.argsort(v, axis=1)


@jax.jit
def _cost_of_pairs(x, y):
    return jnp.sum((x - y) ** 2)


def _at_threads(torch: Any, name: str, value: Callable[[], Any]) -> Calls:
    def call(threads: int) -> Any:
        torch.set_num_threads(threads)
        return value()

    return {f"{name}@{n}": functools.partial(call, n) for n in peers.TORCH_THREADS}


def _value(result: Any) -> float:
    """The value in the result of a call, its first part."""
    return float(result[0] if isinstance(result, tuple) else result)
