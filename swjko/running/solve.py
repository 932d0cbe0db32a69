"""``solve``: one flow or many, from the start or from their checkpoints, in jitted chunks of steps with a look of the host between them.

There the progress is shown, checkpoints are saved, Ctrl-C lands, and it is asked whether to stop. Since the draws of a step depend on its
number alone, and questions are asked at numbers of steps that are fixed, chunks change nothing else.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from swjko import validation
from swjko.checkpoints import fingerprint as configuration
from swjko.checkpoints import sharded as sharded_checkpoints
from swjko.checkpoints import store as checkpoints
from swjko.running.batching import Layout, are_many, laid_out, on_host
from swjko.running.compiled import Chunks, Timing
from swjko.running.progress import progress_bar
from swjko.running.signals import listening
from swjko.schemes.base import Info, Result, Scheme, State, infos, require_scheme
from swjko.types import Key

_TARGET_CHUNKS = 20
# Flows that an error message names.
_NAMED = 8


class Solution(NamedTuple):
    """What ``solve`` returns. Of many flows, arrays have their axis first: ``state.result`` [flows] holds the code of each.

    Attributes:
      state: final state; the last good one where a flow failed.
      history: what ``record`` kept, [steps ...] or [flows steps ...], on the host; by default an ``Info`` of arrays. Steps are those taken.
        Entries of a flow whose ``info.result`` is not OK are attempts that moved nothing, made while other flows went on.
      result: ``Result`` code; of many flows OK where none failed, else the largest.
      timing: seconds, compile apart.
      stopped: whether ``stop`` ended the flow; [flows] of many.
    """

    state: State
    history: Any
    result: Result
    timing: Timing
    stopped: Any = False


class FlowError(RuntimeError):
    """Flows that ended with a code other than OK. ``solution`` holds the last good states and the history."""

    def __init__(self, solution: Solution):
        super().__init__(_told(solution))
        self.solution = solution


def solve(
    key: Key,
    scheme: Scheme,
    num_steps: int,
    *,
    axes: Any = None,
    mesh: Mesh | None = None,
    batch_size: int | None = None,
    chunk_size: int | None = None,
    progress: bool = True,
    stop: Callable[[State, Any], Any] | None = None,
    stop_steps: int = 10,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    checkpoint_steps: int | None = None,
    resume: bool = True,
    throw: bool = True,
    record: Callable[[State, Info], Any] = infos,
) -> Solution:
    """Runs ``num_steps`` steps from ``scheme.init``, or fewer where ``stop`` says so, and returns a ``Solution``.

    Args:
      key: random key; equal keys give bit-identical runs on one machine, whatever the chunks. Keys [flows], such as
        ``jax.random.split(key, flows)``, run as many flows: flow i is the one that ``keys[i]`` runs alone, the same draws and values equal
        up to rounding.
      scheme: such as ``sw_jko(...)``.
      num_steps: JKO steps, of each flow.
      axes, mesh, batch_size: for many flows, as in ``run_many``. A run may go on from its checkpoints on another mesh or in other batches;
        it is then the same up to rounding.
      chunk_size: steps between two looks of the host; None takes about a twentieth of the steps, and with checkpoints fewer where those
        took longer than ``checkpoint_seconds``.
      progress: show a progress bar on stderr (rich when installed, plain text otherwise), one for all flows.
      stop: ``(state, history) -> bool``, or [flows] bools, asked on the host whenever ``stop_steps`` more steps are made: history is what
        ``record`` kept of those steps, as in ``Solution.history``. Of many flows, each that is told to stop stands still, and the run
        ends when none is left. ``until_stationary`` and ``until_certified`` make such rules. It must depend on nothing but its arguments
        and what it holds; it is then asked the same at the same steps by a run that goes on from checkpoints, whatever the chunks.
      stop_steps: steps between two questions, counted from the start of the run.
      checkpoint_dir: directory of this run alone, made where it is absent: checkpoints, of which the last two are kept, and
        ``history.jsonl`` with the report of each step (``swjko.checkpoints.read_history``). Once there, a run that was killed goes on
        when it is called again, and ends in the state and history that it would have had, bit for bit on the same machine. While it
        runs, SIGTERM and Ctrl-C save before they end it: as SystemExit with code 143, and as KeyboardInterrupt, for which Python exits
        with 130; a second Ctrl-C does not wait for the chunk. None keeps nothing. Over the devices of several processes
        (``swjko.distributed``) the directory must be one that all see; SIGTERM to one then ends all after the same step.
      checkpoint_seconds, checkpoint_steps: save when so many seconds or steps have passed since the last time, whichever comes first, at
        the end of a chunk, and at the end of the run. Where a save takes long, the seconds are stretched to fifty times as long.
      resume: go on from the checkpoints in the directory; False refuses a directory that has some. Nothing is overwritten either way.
      throw: raise ``FlowError`` where a flow failed, after all have ended; False returns the codes instead.
      record: ``(state, info) -> `` what to keep of each step; ``swjko.both`` keeps the trajectory of parameters as well.

    Raises ``swjko.CheckpointError`` on a directory of a run with another scheme, key, record, stop, number of steps or version, naming what
    differs; on one that another process is writing; on damaged checkpoints, where none is whole; and on a full disk.

    Examples::

        solve(key, scheme, 10_000, checkpoint_dir="runs/a")                                 # called again after whatever stopped it
        solve(jax.random.split(key, 256), scheme, 200, mesh=flow_mesh(), stop=until_stationary())
    """
    num_steps = validation.as_count(num_steps, "num_steps")
    require_scheme(scheme)
    validation.require_callable(record, "record", "from (state, info) to what is kept")
    pace = _Pace.of(num_steps, chunk_size, checkpoint_steps, checkpoint_seconds, stop, stop_steps)
    layout, given = None, (key, scheme)
    if are_many(key):
        key, scheme, layout = laid_out(key, scheme, axes, mesh, batch_size)
    else:
        _require_none_of_many(axes=axes, mesh=mesh, batch_size=batch_size)
    together = layout is not None and layout.spans_processes
    directory = _as_directory(checkpoint_dir, together)
    chunks = Chunks(key, scheme, record, layout)
    state = chunks.start()
    step, records, store = 0, [], None
    with contextlib.ExitStack() as stack:
        if directory is not None:
            start = _cut(state, layout)
            run = _configuration(*given, num_steps, record, start, layout, pace)
            cadence = {
                "every_seconds": pace.seconds,
                "every_steps": checkpoint_steps,
                "resume": resume,
            }
            opened = sharded_checkpoints.opened if together else checkpoints.opened
            store = stack.enter_context(
                opened(directory, run, start, chunks.shape_of_records(state), **cadence)
            )
            step, state, records = store.saved
            state = state if layout is None else layout.placed(state)
        interrupts = stack.enter_context(listening(directory, together=together))
        shown = progress and not (together and jax.process_index())
        advance = stack.enter_context(progress_bar(num_steps, shown, step, many=layout is not None))
        while step < num_steps and (step == 0 or _is_running(state)):
            size = pace.next_chunk(step)
            chunks.compile(size, state)
            interrupts.obey(step, _cut(state, layout), store)
            state, info, recorded, wall = chunks.run(size, state)
            records.append(recorded)
            if store is not None:
                store.append(step + 1, _steps_first(info, layout), recorded)
            step += size
            if pace.asks(step):
                state = _after_question(pace.stop, state, records, layout, pace.stop_steps)
            if store is not None:
                store.save_if_due(step, _cut(state, layout))
                pace.adapt(
                    size,
                    sharded_checkpoints.from_process_0({"wall": wall})["wall"]
                    if together
                    else wall,
                )
            advance(size, info)
        if store is not None:
            store.save(step, _cut(state, layout))
        interrupts.obey(step, _cut(state, layout), store)
    return _finish(_cut(state, layout), _history(records, layout), chunks.timing, throw)


def _finish(state: State, history: Any, timing: Timing, throw: bool) -> Solution:
    codes = on_host(state.result)
    stopped = codes == Result.STOPPED
    if np.any(stopped):
        state = state._replace(
            result=jnp.where(state.result == Result.STOPPED, Result.OK, state.result).astype(
                state.result.dtype
            )
        )
    result = Result(int(np.max(np.where(stopped, Result.OK, codes))))
    solution = Solution(state, history, result, timing, stopped if codes.ndim else bool(stopped))
    if throw and solution.result != Result.OK:
        raise FlowError(solution)
    return solution


def _told(solution: Solution) -> str:
    """What failed, and what may help."""
    codes, steps = on_host((solution.state.result, solution.state.step))
    if codes.ndim == 0 or codes.shape != steps.shape:
        return f"the flow stopped after step {np.max(steps)} with {solution.result.name}: {solution.result.advice}."
    failed = np.flatnonzero(codes)
    named = [
        f"flow {flow} after step {steps[flow]} with {Result(int(codes[flow])).name}"
        for flow in failed[:_NAMED]
    ]
    more = f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    advice = [
        f"{code.name}: {code.advice}" for code in map(Result, sorted(set(codes[failed].tolist())))
    ]
    return f"{len(failed)} of {len(codes)} flows stopped: {', '.join(named)}{more}. {'; '.join(advice)}."


def _is_running(state: State) -> bool:
    """Whether any flow is: those that failed or were told to stop stand still."""
    return bool(np.any(on_host(state.result) == Result.OK))


def _cut(state: State, layout: Layout | None) -> State:
    return state if layout is None else layout.cut(state)


def _steps_first(info: Info, layout: Layout | None) -> Info:
    return info if layout is None else jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), info)


def _history(records: list[Any], layout: Layout | None) -> Any:
    """The chunks in one, along the steps."""
    axis = 0 if layout is None else 1

    def concatenate(*parts):
        return (np if isinstance(parts[0], np.ndarray) else jnp).concatenate(parts, axis=axis)

    return jax.tree.map(concatenate, *records)


def _after_question(
    stop: Any, state: State, records: list[Any], layout: Layout | None, num_steps: int
) -> State:
    """The state in which the flows that are told to stop have the code for it. records: of the last ``num_steps`` steps, at least."""
    axis, tail, length = (0 if layout is None else 1), [], 0
    while length < num_steps:
        tail.insert(0, records[len(records) - 1 - len(tail)])
        leaves = jax.tree.leaves(tail[0])
        length += leaves[0].shape[axis] if leaves else num_steps
    last = (slice(None),) * axis + (slice(length - num_steps, None),)
    history = jax.tree.map(lambda leaf: leaf[last], _history(tail, layout))
    shown = _cut(state, layout)
    codes = on_host(shown.result)
    answer = np.asarray(
        stop(on_host(shown) if layout is not None and layout.spans_processes else shown, history)
    )
    if answer.dtype != bool or answer.shape not in {(), codes.shape}:
        raise ValueError(
            f"stop must return a bool{'' if axis == 0 else f', or {codes.size} for as many flows'}; it returned {answer!r}."
        )
    ended = answer & (codes == Result.OK)
    if not np.any(ended):
        return state
    result = jax.device_put(
        np.where(ended, Result.STOPPED, codes).astype(codes.dtype), _place(shown.result)
    )
    # As ``placed`` pads, so that what is padding stops with the flow that it repeats.
    return state._replace(result=result if layout is None else layout.placed(result))


def _place(leaf: Any) -> Any:
    return leaf.sharding if leaf.committed else None


def _configuration(
    key, scheme, num_steps, record, state, layout: Layout | None, pace: "_Pace"
) -> dict[str, str]:
    things = {
        "scheme": scheme,
        "key": key,
        "num_steps": num_steps,
        "record": record,
        "state": jax.eval_shape(lambda: state),
    }
    if layout is not None:
        things["axes"] = layout.leaf_axes
    if pace.stop is not None:
        things |= {"stop": pace.stop, "stop_steps": pace.stop_steps}
    return configuration.describe(**things)


def _as_directory(checkpoint_dir: Any, together: bool) -> Path | None:
    if checkpoint_dir is None:
        return None
    if not isinstance(checkpoint_dir, (str, os.PathLike)) or not os.fspath(checkpoint_dir):
        raise TypeError(
            f"checkpoint_dir must be the path of a directory, or None; received {checkpoint_dir!r}."
        )
    if jax.process_count() > 1 and not together:
        raise ValueError(
            "checkpoint_dir of a run of several processes is for flows that are spread over them; received one without such a mesh. "
            "Give keys [flows] and mesh=swjko.flow_mesh()."
        )
    return Path(checkpoint_dir)


def _require_none_of_many(**options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"{name} is for many flows, and key is one key. Give one for each: jax.random.split(key, flows)."
            )


class _Pace:
    """How many steps to make before the next look: a plan that never steps over a question to ``stop``."""

    def __init__(
        self, num_steps: int, size: int, fixed: bool, seconds: float, stop: Any, stop_steps: int
    ):
        self._num_steps, self._size, self._fixed = num_steps, size, fixed
        self.seconds, self.stop, self.stop_steps = seconds, stop, stop_steps

    @classmethod
    def of(
        cls, num_steps, chunk_size, checkpoint_steps, checkpoint_seconds, stop, stop_steps
    ) -> "_Pace":
        size = (
            _default_chunk(num_steps)
            if chunk_size is None
            else validation.as_count(chunk_size, "chunk_size")
        )
        if checkpoint_steps is not None:
            size = min(size, validation.as_count(checkpoint_steps, "checkpoint_steps"))
        stop_steps = validation.as_count(stop_steps, "stop_steps")
        if stop is not None:
            validation.require_callable(stop, "stop", "from (state, history) to whether to stop")
            if chunk_size is None and size < stop_steps:
                size = _default_chunk(stop_steps, looks=-(-stop_steps // size))
        seconds = float(validation.as_positive(checkpoint_seconds, "checkpoint_seconds"))
        return cls(num_steps, size, chunk_size is not None, seconds, stop, stop_steps)

    def next_chunk(self, step: int) -> int:
        size = min(self._size, self._num_steps - step)
        return size if self.stop is None else min(size, self.stop_steps - step % self.stop_steps)

    def asks(self, step: int) -> bool:
        return self.stop is not None and step % self.stop_steps == 0

    def adapt(self, size: int, wall: float) -> None:
        """To chunks that take no longer than what lies between two saves."""
        if not self._fixed and wall > self.seconds:
            self._size = max(1, int(size * self.seconds / wall))


def _default_chunk(num_steps: int, looks: int = _TARGET_CHUNKS) -> int:
    """The steps over so many looks; a divisor when one is near, since a remainder is another program to compile."""
    target = max(1, num_steps // looks)
    divisor = max(size for size in range(1, target + 1) if num_steps % size == 0)
    return divisor if 4 * divisor >= target else target
