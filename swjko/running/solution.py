"""What ``swjko.solve`` returns, and the error it raises if flows failed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, PyTree

from swjko.diagnostics.causes import non_finite_cause
from swjko.families.distribution import FlowDistribution
from swjko.running.batching import Batching, on_host
from swjko.running.compiled import Timing
from swjko.schemes.base import Result, Scheme, State
from swjko.types import Key
from swjko.types.readable import html_table

# Number of failed flows that an error message names.
_MAX_NAMED = 8


class Solution(NamedTuple):
    """The outcome of ``solve``.

    For many flows, all arrays have the flows along their first axis.

    Attributes:
      state: Final state; the last good one if a flow failed. ``state.result`` holds the code of
        each flow.
      history: What ``record`` kept, [steps ...] or [flows steps ...], on the host; an ``Info`` of
        arrays by default. An entry whose ``info.result`` is not OK is an attempt of a flow that
        no longer moved, made while other flows continued.
      result: ``Result`` code. For many flows it is the largest code, so OK if none failed.
      timing: Seconds of compiling and of running.
      stopped: Whether ``stop`` ended the flow; [flows] for many flows.
      distribution: The measure at the end, with ``sample`` and ``log_prob``; None for many
        flows.
    """

    state: State
    history: Any
    result: Result
    timing: Timing
    stopped: Bool[ArrayLike, "..."] = False
    distribution: FlowDistribution | None = None

    def _repr_html_(self) -> str:
        steps, time = on_host((self.state.step, self.state.time))
        rows: dict[str, Any] = {"result": f"{self.result.name}: {self.result.advice}"}
        rows |= {"steps": _span(steps), "time": _span(time)}
        energy: Any = getattr(self.history, "energy", 0.0)
        if np.ndim(steps) == 0 and np.ndim(energy) == 1 and np.size(energy):
            rows["energy"] = f"{energy[0]:.5g} after the first step, {energy[-1]:.5g} at the end"
        rows["seconds"] = (
            f"{self.timing.compile_seconds:.3g} compiling, {self.timing.run_seconds:.3g} running"
        )
        return html_table("Solution", rows | {"params": self.state.params})


def _span(values: Any) -> str:
    low, high = np.min(values), np.max(values)
    return f"{low:.5g}" if low == high else f"{low:.5g} to {high:.5g}"


class FlowError(RuntimeError):
    """At least one flow failed. ``solution`` holds the last good states and the history.

    Args:
      solution: Outcome of the run.
      cause: What is not finite in the first flow with the code NON_FINITE, and the cure.
    """

    def __init__(self, solution: Solution, cause: str = ""):
        super().__init__(_failure_message(solution, cause))
        self.solution = solution


def make_solution(
    key: Key,
    scheme: Scheme,
    batching: Batching,
    state: State,
    history: PyTree,
    timing: Timing,
    throw: bool,
) -> Solution:
    """Return the solution with STOPPED replaced by OK; raise FlowError for other codes."""
    codes = on_host(state.result)
    stopped = codes == Result.STOPPED
    if np.any(stopped):
        ok = jnp.where(state.result == Result.STOPPED, Result.OK, state.result)
        state = state._replace(result=ok.astype(state.result.dtype))
    result = Result(int(np.max(np.where(stopped, Result.OK, codes))))
    many = codes.ndim > 0
    distribution = None if many else FlowDistribution(scheme.family, state.params)
    stopped = stopped if many else bool(stopped)
    solution = Solution(state, history, result, timing, stopped, distribution)
    if throw and result != Result.OK:
        raise FlowError(solution, _cause(key, scheme, batching, state))
    return solution


def _cause(key: Key, scheme: Scheme, batching: Batching, state: State) -> str:
    """Return the cause of the first NON_FINITE, empty if there is none or it is not seen."""
    failed = np.flatnonzero(on_host(state.result) == Result.NON_FINITE)
    if failed.size == 0 or batching.spans_processes:
        return ""
    params = state.params
    if batching.num_flows is not None:
        flow = int(failed[0])
        leaves, structure = jax.tree.flatten(scheme)
        stacked = zip(leaves, batching.leaf_axes, strict=True)
        scheme = structure.unflatten(leaf if axis is None else leaf[flow] for leaf, axis in stacked)
        key, params = key[flow], jax.tree.map(lambda leaf: leaf[flow], params)
    elif jnp.ndim(state.result):
        return ""  # a scheme of the user's whose state has axes of its own
    return non_finite_cause(key, scheme, params)


def _failure_message(solution: Solution, cause: str) -> str:
    """Return which flows failed, and what may help."""

    def advice(result: Result) -> str:
        if cause and result == Result.NON_FINITE:
            return f"a value became NaN or infinite: {cause}"
        return result.advice

    codes, steps = on_host((solution.state.result, solution.state.step))
    if codes.ndim == 0 or codes.shape != steps.shape:
        return (
            f"the flow stopped after step {np.max(steps)} with {solution.result.name}: "
            f"{advice(solution.result)}."
        )
    failed = np.flatnonzero(codes)
    named = [
        f"flow {flow} after step {steps[flow]} with {Result(int(codes[flow])).name}"
        for flow in failed[:_MAX_NAMED]
    ]
    more = f" and {len(failed) - _MAX_NAMED} more" if len(failed) > _MAX_NAMED else ""
    results = map(Result, sorted(set(codes[failed].tolist())))
    advised = "; ".join(f"{result.name}: {advice(result)}" for result in results)
    return f"{len(failed)} of {len(codes)} flows stopped: {', '.join(named)}{more}. {advised}."
