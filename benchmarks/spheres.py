"""Speed of the distances on circle and sphere against POT.

Both compute value and gradient in x of order 2, in float32, on the same planes. POT on NumPy
computes the value alone. Per case, in ``rows``: medians of interleaved calls (the better of one and
two threads for torch), their ratio, and the relative differences of the results. ``missing`` names
packages that are not installed and so are not measured.
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


class Case(NamedTuple):
    """Points of each cloud, and great circles; dim = 2 is the circle itself, repeated."""

    points: int
    dim: int
    slices: int


DEFAULT = (Case(1000, 2, 20), Case(500, 3, 50), Case(200, 10, 100))
QUICK = (Case(20, 2, 2), Case(20, 3, 4))
FLAGS = common.Flags(quick="two tiny cases")


def main(args: argparse.Namespace) -> None:
    missing = [name for name in ("torch", "ot") if common.optional(name) is None]
    rows = [measure(case, 3 if args.quick else 5) for case in (QUICK if args.quick else DEFAULT)]
    common.finish(args, {"quick": args.quick, "missing": missing, "rows": rows})


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """The row of one case in the JSON."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((case.points, case.dim)) for _ in range(2))
    x, y = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (x, y + 0.5))
    planes = np.linalg.qr(rng.standard_normal((case.slices, case.dim, 2)))[0].swapaxes(1, 2)
    inputs = tuple(np.asarray(one, np.float32) for one in (x, y, planes))
    ours = jax.jit(jax.value_and_grad(swjko.spherical_sliced_wasserstein_pow))
    on_device = tuple(map(jnp.asarray, inputs))
    functions = {peers.OURS: lambda: ours(*on_device), **_pot_methods(*inputs)}
    results = {name: function() for name, function in functions.items()}
    medians, threads = kernel.best_threads(common.interleaved_medians(functions, repeats=repeats))
    own = results.pop(peers.OURS)
    return {
        "case": case._asdict(),
        "median_seconds": medians,
        "torch_threads": threads,
        "ratio": {name: seconds / medians[peers.OURS] for name, seconds in medians.items()},
        "agreement": {
            name.partition("@")[0]: peers.relative_errors(one, own) for name, one in results.items()
        },
    }


def _pot_methods(x: np.ndarray, y: np.ndarray, planes: np.ndarray) -> dict[str, Callable]:
    torch, pot = common.optional("torch"), common.optional("ot")
    if pot is None:
        return {}
    cost = functools.partial(pot.sliced_wasserstein_sphere, p=2, n_projections=len(planes))
    columns = np.ascontiguousarray(planes.swapaxes(1, 2))
    found: dict[str, Callable] = {
        "POT NumPy, value": lambda: (cost(x, y, projections=columns) ** 2, None)
    }
    if torch is None:
        return found
    tensors = torch.tensor(x, requires_grad=True), torch.tensor(y)
    on_torch = functools.partial(cost, *tensors, projections=torch.tensor(columns))

    def call(threads: int) -> tuple[Any, Any]:
        torch.set_num_threads(threads)
        value = on_torch() ** 2
        return value.detach(), torch.autograd.grad(value, tensors[0])[0]

    return found | {
        f"POT torch@{number}": functools.partial(call, number) for number in peers.TORCH_THREADS
    }
