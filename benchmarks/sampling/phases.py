"""Runs of several phases, compiled apart, and what they return."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import swjko
from benchmarks import common, gaussian_flows
from swjko.schemes.correction import Corrected


class Run(NamedTuple):
    """What a method returns.

    Attributes:
      distribution: The measure at the end; None for points.
      result: Name of the result code.
      exponent: Exponent of the last correction; None for other methods.
      compile_seconds: Seconds of compiling; None if they are not apart.
      run_seconds: Seconds of running.
      state: State at the end; None for points.
      points: Points [n d] of a sampler without a density.
      log_evidence: log Z by that sampler, if it estimates it.
    """

    distribution: Any
    result: str
    exponent: float | None
    compile_seconds: float | None
    run_seconds: float
    state: Any
    points: Any = None
    log_evidence: float | None = None


def in_phases(
    family: swjko.Family, state: Any, phases: list[Any], before: Run | None = None
) -> Run:
    """Runs phases one after another, each from the state of the last, compile time apart.

    The seconds of the run before them are added.
    """
    compile_seconds, run_seconds = (
        (0.0, 0.0) if before is None else (before.compile_seconds or 0.0, before.run_seconds)
    )
    exponent = None
    for function, arguments in phases:
        key, scheme, values = arguments
        run, seconds = _compiled(function, key, scheme, state, values)
        compile_seconds += seconds
        seconds, (state, infos) = common.timed(
            lambda run=run, key=key, scheme=scheme, state=state, values=values: run(
                key, scheme, state, values
            )
        )
        run_seconds += seconds
        if isinstance(scheme, Corrected):
            exponent = float(infos.extra.exponent[-1])
    result = swjko.Result(int(state.result)).name
    law = swjko.FlowDistribution(family, state.params)
    return Run(law, result, exponent, compile_seconds, run_seconds, state)


# Programs and their seconds to compile, by function and shapes of the arguments.
_programs: dict[Any, tuple[Any, float]] = {}


def _compiled(function: Any, *arguments: Any) -> tuple[Any, float]:
    """Compiles a function once for all seeds. Each seed has the seconds of the first."""
    leaves, structure = jax.tree.flatten(arguments)
    shapes = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    known = (function, structure, shapes)
    if known not in _programs:
        _programs[known] = gaussian_flows.compiled(function, *arguments)
    return _programs[known]


@jax.jit
def repeat(key, scheme, state, numbers):
    return swjko.run(key, scheme, state, len(numbers), swjko.infos)
