"""What ``swjko.solve`` returns, and the error it raises if flows failed."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, PyTree

from swjko.families.distribution import FlowDistribution
from swjko.running.batching import on_host
from swjko.running.compiled import Timing
from swjko.schemes.base import Result, Scheme, State

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


class FlowError(RuntimeError):
    """At least one flow failed. ``solution`` holds the last good states and the history."""

    def __init__(self, solution: Solution):
        super().__init__(_failure_message(solution))
        self.solution = solution


def make_solution(
    scheme: Scheme, state: State, history: PyTree, timing: Timing, throw: bool
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
        raise FlowError(solution)
    return solution


def _failure_message(solution: Solution) -> str:
    """Return which flows failed, and what may help."""
    codes, steps = on_host((solution.state.result, solution.state.step))
    if codes.ndim == 0 or codes.shape != steps.shape:
        return (
            f"the flow stopped after step {np.max(steps)} with {solution.result.name}: "
            f"{solution.result.advice}."
        )
    failed = np.flatnonzero(codes)
    named = [
        f"flow {flow} after step {steps[flow]} with {Result(int(codes[flow])).name}"
        for flow in failed[:_MAX_NAMED]
    ]
    more = f" and {len(failed) - _MAX_NAMED} more" if len(failed) > _MAX_NAMED else ""
    results = map(Result, sorted(set(codes[failed].tolist())))
    advice = "; ".join(f"{result.name}: {result.advice}" for result in results)
    return f"{len(failed)} of {len(codes)} flows stopped: {', '.join(named)}{more}. {advice}."
