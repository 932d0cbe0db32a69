"""``solve``: a run from the start or from its checkpoints, in jitted chunks with a progress bar between them, ending in a result code.

A chunk is compiled once and called from the host; since the draws of a step depend on its number alone, chunks change nothing but where
progress is shown, where checkpoints are saved, and where Ctrl-C lands.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from swjko import checkpoints, configuration, validation
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
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    checkpoint_steps: int | None = None,
    resume: bool = True,
    throw: bool = True,
    record: Callable[[AnyState, AnyInfo], Any] = infos,
) -> Solution:
    """Runs ``num_steps`` steps from ``scheme.init`` and returns ``Solution(state, history, result, timing)``.

    Args:
      key: random key; equal keys give bit-identical runs on one machine, whatever the chunks.
      scheme: such as ``sw_jko(...)``.
      num_steps: JKO steps.
      chunk_size: steps between two looks of the host; None takes about a twentieth of the steps, and with checkpoints fewer where those
        took longer than ``checkpoint_seconds``.
      progress: show a progress bar on stderr (rich when installed, plain text otherwise).
      checkpoint_dir: directory of this run alone, made where it is absent: checkpoints, of which the last two are kept, and
        ``history.jsonl`` with the report of each step (``swjko.checkpoints.read_history``). Once there, a run that was killed goes on
        when it is called again, and ends in the state and history that it would have had, bit for bit on the same machine. While it
        runs, SIGTERM and Ctrl-C save before they end it: as SystemExit with code 143, and as KeyboardInterrupt, for which Python exits
        with 130; a second Ctrl-C does not wait for the chunk. None keeps nothing.
      checkpoint_seconds, checkpoint_steps: save when so many seconds or steps have passed since the last time, whichever comes first, at
        the end of a chunk, and at the end of the run. Where a save takes long, the seconds are stretched to fifty times as long.
      resume: go on from the checkpoints in the directory; False refuses a directory that has some. Nothing is overwritten either way.
      throw: raise ``FlowError`` on a failed flow; False returns the code instead.
      record: ``(state, info) -> `` what to keep of each step; ``swjko.both`` keeps the trajectory of parameters as well.

    Raises ``swjko.CheckpointError`` on a directory of a run with another scheme, key, record, number of steps or version, naming what
    differs; on one that another process is writing; on damaged checkpoints, where none is whole; and on a full disk.

    Example: ``solve(key, scheme, 10_000, checkpoint_dir="runs/a")``, called again after whatever stopped it.
    """
    num_steps = validation.as_count(num_steps, "num_steps")
    fixed = chunk_size is not None
    size = _default_chunk(num_steps) if chunk_size is None else validation.as_count(chunk_size, "chunk_size")
    seconds = float(validation.as_positive(checkpoint_seconds, "checkpoint_seconds"))
    if checkpoint_steps is not None:
        size = min(size, checkpoint_steps := validation.as_count(checkpoint_steps, "checkpoint_steps"))
    require_scheme(scheme)
    validation.require_callable(record, "record", "from (state, info) to what is kept")
    directory = _as_directory(checkpoint_dir)
    init_key, run_key = jax.random.split(key)
    state = jax.jit(type(scheme).init)(scheme, init_key)
    step, records, store = 0, [], None
    chunks = _Chunks(run_key, scheme, record)
    with contextlib.ExitStack() as stack:
        if directory is not None:
            run = configuration.describe(scheme=scheme, key=key, num_steps=num_steps, record=record, state=jax.eval_shape(lambda: state))
            recorded = chunks.shape_of_records(state)
            cadence = {"every_seconds": seconds, "every_steps": checkpoint_steps}
            store = stack.enter_context(checkpoints.opened(directory, run, state, recorded, resume=resume, **cadence))
            step, state, records = store.saved
        interrupts = stack.enter_context(_interrupts(directory))
        advance = stack.enter_context(_progress_bar(num_steps, progress, step))
        while step < num_steps and (step == 0 or _is_running(state)):
            chunk = min(size, num_steps - step)
            chunks.compile(chunk, state)
            if store is not None:
                interrupts.obey(step, state, store)
            state, info, recorded, wall = chunks.run(chunk, state)
            records.append(recorded)
            if store is not None:
                store.append(step + 1, info, recorded)
                store.save_if_due(step + chunk, state)
                if not fixed and wall > seconds:
                    size = max(1, int(chunk * seconds / wall))
            step += chunk
            advance(chunk, info)
        if store is not None:
            store.save(step, state)
            interrupts.obey(step, state, store)
    return _finish(state, records, chunks.timing, throw)


def _finish(state: AnyState, records: list[Any], timing: Timing, throw: bool) -> Solution:
    history = jax.tree.map(_concatenate, *records)
    solution = Solution(state, history, Result(int(np.max(state.result))), timing)
    if throw and solution.result != Result.OK:
        raise FlowError(solution)
    return solution


def _is_running(state: AnyState) -> bool:
    """Whether any flow is: those that failed stand still."""
    return bool(np.any(np.asarray(state.result) == Result.OK))


def _concatenate(*parts: Any) -> Any:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else jnp.concatenate(parts)


def _as_directory(checkpoint_dir: Any) -> Path | None:
    if checkpoint_dir is None:
        return None
    if not isinstance(checkpoint_dir, (str, os.PathLike)) or not os.fspath(checkpoint_dir):
        raise TypeError(f"checkpoint_dir must be the path of a directory, or None; received {checkpoint_dir!r}.")
    if jax.process_count() > 1:
        raise ValueError("checkpoint_dir must be None in a run of several processes; received a directory. Its files are those of one.")
    return Path(checkpoint_dir)


class _Chunks:
    """Programs of so many steps, each compiled once, and the time they took."""

    def __init__(self, key: Key, scheme: Scheme, record: Callable[[AnyState, AnyInfo], Any]):
        self._key, self._scheme, self._record = key, scheme, record
        self._compiled: dict[int, Any] = {}
        self.timing = Timing(0.0, 0.0)

    def shape_of_records(self, state: AnyState) -> Any:
        _, (_, recorded) = jax.eval_shape(
            functools.partial(_run_and_report, num_steps=1, record=self._record), self._key, self._scheme, state
        )
        return recorded

    def compile(self, num_steps: int, state: AnyState) -> None:
        if num_steps in self._compiled:
            return
        start = time.perf_counter()
        lowered = _run.lower(self._key, self._scheme, state, num_steps=num_steps, record=self._record)
        self._compiled[num_steps] = lowered.compile()
        self.timing = self.timing._replace(compile_seconds=self.timing.compile_seconds + time.perf_counter() - start)

    def run(self, num_steps: int, state: AnyState) -> tuple[AnyState, AnyInfo, Any, float]:
        """The state, reports and records on the host, and the seconds taken."""
        start = time.perf_counter()
        state, (info, recorded) = self._compiled[num_steps](self._key, self._scheme, state)
        info, recorded = jax.device_get((info, recorded))
        seconds = time.perf_counter() - start
        self.timing = self.timing._replace(run_seconds=self.timing.run_seconds + seconds)
        return state, info, recorded, seconds


def _run_and_report(key, scheme, state, num_steps, record):
    return run(key, scheme, state, num_steps, lambda state, info: (info, record(state, info)))


_run = jax.jit(_run_and_report, static_argnames=("num_steps", "record"))


def _default_chunk(num_steps: int) -> int:
    """About a twentieth of the steps; a divisor when one is near, since a remainder is another program to compile."""
    target = max(1, num_steps // _TARGET_CHUNKS)
    divisor = max(size for size in range(1, target + 1) if num_steps % size == 0)
    return divisor if 4 * divisor >= target else target


class _Interrupts:
    """Notes SIGTERM and Ctrl-C, to be obeyed when all is saved."""

    def __init__(self, directory: Path):
        self._directory = directory
        self.noted: int | None = None

    def note(self, number: int, frame: Any) -> None:
        del frame
        if self.noted == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.noted = number

    def obey(self, step: int, state: AnyState, store: checkpoints.Store) -> None:
        if self.noted is None:
            return
        store.save(step, state)
        number, self.noted = self.noted, None
        told = f"stopped after step {step}, which is saved in {self._directory}"
        if number == signal.SIGINT:
            raise KeyboardInterrupt(told)
        print(f"swjko: {told}", file=sys.stderr)
        raise SystemExit(128 + number)


@contextlib.contextmanager
def _interrupts(directory: Path | None) -> Iterator[_Interrupts]:
    """The signals' handlers are those of before again afterwards. Only the main thread may set any; ignored signals stay ignored."""
    interrupts = _Interrupts(directory or Path())
    previous = {}
    if directory is not None and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, interrupts.note)
    try:
        yield interrupts
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        # One that came too late to be obeyed, or together with an error.
        if previous and interrupts.noted is not None:
            signal.raise_signal(interrupts.noted)


class _progress_bar:
    """A context that yields ``advance(steps, infos)``."""

    def __init__(self, total: int, shown: bool, done: int = 0):
        self._total, self._done, self._bar = total, done, None
        self._shown = shown

    def __enter__(self) -> Callable[[int, AnyInfo], None]:
        if self._shown:
            self._bar = _rich_bar()
            if self._bar is not None:
                self._bar.start()
                self._task = self._bar.add_task("compiling", total=self._total, completed=self._done, energy="")
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
        energy = f"t = {float(np.mean(info.time[-1])):.3g}, energy {float(np.mean(info.energy[-1])):.5g}"
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
