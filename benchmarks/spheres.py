"""Speed of the distances on circle and sphere against POT on torch.

Both compute value and gradient in x of order 2, in float32, on the same planes. Per case, in
``runs``: medians of interleaved calls (the better of one and two threads for torch), their ratio,
and the relative differences of the results. An absent torch or POT is named in ``missing``.
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
    common.finish(args, {"quick": args.quick, "missing": missing, "runs": rows})


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """The row of one case in the JSON."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((case.points, case.dim)) for _ in range(2))
    x, y = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (x, y + 0.5))
    planes = np.linalg.qr(rng.standard_normal((case.slices, case.dim, 2)))[0].swapaxes(1, 2)
    inputs = tuple(np.asarray(one, np.float32) for one in (x, y, planes))
    ours = jax.jit(jax.value_and_grad(swjko.spherical_sliced_wasserstein_pow))
    on_device = tuple(map(jnp.asarray, inputs))
    functions = {peers.OURS: lambda: ours(*on_device), **_torch_methods(*inputs)}
    results = {name: function() for name, function in functions.items()}
    medians, threads = kernel.best_threads(common.interleaved_medians(functions, repeats=repeats))
    own = results.pop(peers.OURS)
    return {
        "case": case._asdict(),
        "median_seconds": medians,
        "torch_threads": threads,
        "ratio": {name: seconds / medians[peers.OURS] for name, seconds in medians.items()},
        "agreement": {name: peers.relative_errors(one, own) for name, one in results.items()},
    }


def _torch_methods(x: np.ndarray, y: np.ndarray, planes: np.ndarray) -> dict[str, Callable]:
    torch, pot = common.optional("torch"), common.optional("ot")
    if torch is None or pot is None:
        return {}
    x, y = torch.tensor(x, requires_grad=True), torch.tensor(y)
    options = {"n_projections": len(planes), "projections": torch.tensor(planes).mT.contiguous()}

    def call(threads: int) -> tuple[Any, Any]:
        torch.set_num_threads(threads)
        value = pot.sliced_wasserstein_sphere(x, y, p=2, **options) ** 2
        return value.detach(), torch.autograd.grad(value, x)[0]

    return {
        f"POT torch@{number}": functools.partial(call, number) for number in peers.TORCH_THREADS
    }
