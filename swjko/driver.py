"""``solve``: a run from the start, in jitted chunks with a progress bar between them, ending in a result code.

A chunk is compiled once and called from the host; since the draws of a step depend on its number alone, chunks change nothing but where
progress is shown and where Ctrl-C lands.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from swjko import validation
from swjko.scheme import AnyInfo, AnyState, Result, Scheme, infos, require_scheme, run
from swjko.types import Key

_TARGET_CHUNKS = 20


class Timing(NamedTuple):
    """Wall seconds spent compiling and running."""

    compile_seconds: float
    run_seconds: float


class Solution(NamedTuple):
    """What ``solve`` returns.

    Attributes:
      state: final state; the last good one where the flow failed.
      history: what ``record`` kept, stacked along a leading axis of the steps taken, on the host; by default an ``Info`` of arrays.
      result: ``Result`` code.
      timing: seconds, compile apart.
    """

    state: AnyState
    history: Any
    result: Result
    timing: Timing


class FlowError(RuntimeError):
    """A flow that ended with a code other than OK. ``solution`` holds the last good state and the history."""

    def __init__(self, solution: Solution):
        step = int(np.max(solution.state.step))
        super().__init__(f"the flow stopped after step {step} with {solution.result.name}: {solution.result.advice}.")
        self.solution = solution


def solve(
    key: Key,
    scheme: Scheme,
    num_steps: int,
    *,
    chunk_size: int | None = None,
    progress: bool = True,
    throw: bool = True,
    record: Callable[[AnyState, AnyInfo], Any] = infos,
) -> Solution:
    """Runs ``num_steps`` steps from ``scheme.init`` and returns ``Solution(state, history, result, timing)``.

    Args:
      key: random key; equal keys give bit-identical runs on one machine, whatever the chunks.
      scheme: such as ``sw_jko(...)``.
      num_steps: JKO steps.
      chunk_size: steps between two looks of the host; None takes about a twentieth of the steps.
      progress: show a progress bar on stderr (rich when installed, plain text otherwise).
      throw: raise ``FlowError`` on a failed flow; False returns the code instead.
      record: ``(state, info) -> `` what to keep of each step; ``swjko.both`` keeps the trajectory of parameters as well.
    """
    num_steps = validation.as_count(num_steps, "num_steps")
    chunk_size = _default_chunk(num_steps) if chunk_size is None else min(validation.as_count(chunk_size, "chunk_size"), num_steps)
    require_scheme(scheme)
    validation.require_callable(record, "record", "from (state, info) to what is kept")
    init_key, run_key = jax.random.split(key)
    state = jax.jit(type(scheme).init)(scheme, init_key)
    compiled: dict[int, Any] = {}
    compile_seconds = run_seconds = 0.0
    records = []
    with _progress_bar(num_steps, progress) as advance:
        for chunk in _chunks(num_steps, chunk_size):
            if chunk not in compiled:
                start = time.perf_counter()
                compiled[chunk] = _run.lower(run_key, scheme, state, num_steps=chunk, record=record).compile()
                compile_seconds += time.perf_counter() - start
            start = time.perf_counter()
            state, (info, recorded) = compiled[chunk](run_key, scheme, state)
            records.append(jax.device_get(recorded))
            run_seconds += time.perf_counter() - start
            advance(chunk, info)
            if int(state.result) != Result.OK:
                break
    history = jax.tree.map(lambda *parts: np.concatenate(parts), *records)
    solution = Solution(state, history, Result(int(state.result)), Timing(compile_seconds, run_seconds))
    if throw and solution.result != Result.OK:
        raise FlowError(solution)
    return solution


def _run_and_report(key, scheme, state, num_steps, record):
    state, (last, recorded) = run(key, scheme, state, num_steps, lambda state, info: (info, record(state, info)))
    return state, (jax.tree.map(lambda leaf: leaf[-1], last), recorded)


_run = jax.jit(_run_and_report, static_argnames=("num_steps", "record"))


def _default_chunk(num_steps: int) -> int:
    """About a twentieth of the steps; a divisor when one is near, since a remainder is another program to compile."""
    target = max(1, num_steps // _TARGET_CHUNKS)
    divisor = max(size for size in range(1, target + 1) if num_steps % size == 0)
    return divisor if 4 * divisor >= target else target


def _chunks(num_steps: int, chunk_size: int) -> list[int]:
    whole, rest = divmod(num_steps, chunk_size)
    return [chunk_size] * whole + ([rest] if rest else [])


class _progress_bar:
    """A context that yields ``advance(steps, info)``."""

    def __init__(self, total: int, shown: bool):
        self._total, self._done, self._bar = total, 0, None
        self._shown = shown

    def __enter__(self) -> Callable[[int, AnyInfo], None]:
        if self._shown:
            self._bar = _rich_bar()
            if self._bar is not None:
                self._bar.start()
                self._task = self._bar.add_task("compiling", total=self._total, energy="")
        return self._advance

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._shown:
            print(file=sys.stderr)

    def _advance(self, steps: int, info: AnyInfo) -> None:
        self._done += steps
        if not self._shown:
            return
        energy = f"t = {float(jnp.mean(info.time)):.3g}, energy {float(jnp.mean(info.energy)):.5g}"
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, description="JKO steps", energy=energy)
        else:
            print(f"\rstep {self._done}/{self._total}, {energy}    ", end="", file=sys.stderr, flush=True)


def _rich_bar():
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        return None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[energy]}"),
    )
    return Progress(*columns, console=Console(stderr=True))
