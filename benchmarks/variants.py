"""Unbalanced sliced transport and plans from slices, by swjko and by POT with torch.

swjko computes value and gradient in x. POT 0.9.7 computes the value alone, since its iterations run
backward through the points and fail if these need a gradient. Iterations are the defaults: 20 with
a line search for swjko, and 10 without for POT. Plans are lists of pairs for swjko, sparse matrices
for POT.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import swjko
from benchmarks import common
from benchmarks.peers import OURS, TORCH_THREADS, Inputs

_RHO = 1.0


def methods(inputs: Inputs) -> dict[str, dict[str, Callable[[], Any]]]:
    """Calls by name of what is computed, then by name of the method."""
    x, y, directions = (jnp.asarray(array) for array in inputs[:3])
    unbalanced = {"SUOT": swjko.sliced_unbalanced_ot, "USOT": swjko.unbalanced_sliced_ot}
    found: dict[str, dict[str, Callable[[], Any]]] = {}
    for name, function in unbalanced.items():
        ours = jax.jit(jax.value_and_grad(functools.partial(function, rho=_RHO)))
        found[name] = {OURS: functools.partial(ours, x, y, directions)}
    plan = jax.jit(swjko.best_sliced_plan)
    found["best plan"] = {OURS: functools.partial(plan, x, y, directions)}
    torch = common.optional("torch")
    if torch is not None and common.optional("ot") is not None:
        for name, calls in _torch_methods(torch, inputs).items():
            found[name] |= calls
    return found


def _torch_methods(torch: Any, inputs: Inputs) -> dict[str, dict[str, Callable[[], Any]]]:
    pot = common.optional("ot")
    x, y, columns = (torch.tensor(array) for array in (*inputs[:2], inputs.directions.T))
    plan = {"p": 2, "dense": False}
    values = {
        "SUOT": lambda: pot.sliced_unbalanced_ot(x, y, _RHO, projections=columns),
        "USOT": lambda: pot.unbalanced_sliced_ot(x, y, _RHO, projections=columns)[2],
        "best plan": lambda: pot.min_sliced_transport_plan(x, y, projections=columns, **plan)[1],
    }

    def call(value: Callable[[], Any], threads: int) -> Any:
        torch.set_num_threads(threads)
        return value()

    return {
        name: {f"POT torch@{n}": functools.partial(call, value, n) for n in TORCH_THREADS}
        for name, value in values.items()
    }
