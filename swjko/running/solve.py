"""``solve`` runs one flow or many in compiled chunks of steps, from the start or a checkpoint.

Between two chunks the host updates the progress bar, saves, handles signals and checks ``stop``.
The draws of a step depend only on its number, and ``stop`` is checked at fixed numbers of steps.
So the chunks change no result.
"""

import contextlib
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from swjko import validation
from swjko.checkpoints.fingerprint import describe
from swjko.checkpoints.store import CheckpointError, Saved, Store, open_store
from swjko.running.agreement import sharing
from swjko.running.batching import Batching, on_host, prepare_one_or_many
from swjko.running.compiled import ChunkRunner
from swjko.running.failures import watching
from swjko.running.plan import ChunkPlan, StopFn
from swjko.running.progress import progress_bar
from swjko.running.signals import Interrupts, Preemption, listening
from swjko.running.solution import Solution, make_solution
from swjko.schemes.base import (
    Info,
    RecordFn,
    Result,
    Scheme,
    State,
    as_record,
    infos,
    require_scheme,
)
from swjko.types import Key


class _NoStore:
    """Stands for a store in a run without checkpoints."""

    def __init__(self, start: State):
        self.saved = Saved(0, start, [])

    def append(self, first_step: int, infos: Info, recorded: PyTree) -> None:
        """Do nothing."""

    def save(self, step: int, state: State) -> None:
        """Do nothing."""

    save_if_due = save


def solve(
    key: Key,
    scheme: Scheme,
    num_steps: int,
    *,
    axes: PyTree = None,
    mesh: Mesh | None = None,
    batch_size: int | None = None,
    chunk_size: int | None = None,
    progress: bool = True,
    stop: StopFn | None = None,
    stop_steps: int = 10,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    checkpoint_steps: int | None = None,
    resume: bool = True,
    throw: bool = True,
    record: RecordFn | str = infos,
) -> Solution:
    """Run ``num_steps`` steps from ``scheme.init``, or fewer if ``stop`` ends the flow.

    With a checkpoint directory, SIGTERM, SIGHUP and Ctrl-C save before they end the run: SIGTERM
    with exit code 143, SIGHUP (a closed terminal) with 129, Ctrl-C with KeyboardInterrupt. A
    second Ctrl-C does not wait for the chunk.

    Args:
      key: Random key. Equal keys give bit-identical runs on one machine, whatever the chunks.
        Keys [flows], such as ``jax.random.split(key, flows)``, run many flows. Flow i has the
        draws of a single flow with ``keys[i]``, and its values up to rounding.
      scheme: Scheme such as ``sw_jko(...)``.
      num_steps: Number of JKO steps of each flow.
      axes: Stacked leaves of the scheme for many flows, as in ``run_many``.
      mesh: Devices for many flows, as in ``run_many``. A run that resumes on another mesh is the
        same up to rounding.
      batch_size: Flows that one device advances at once, as in ``run_many``. A run that resumes
        with another batch size is the same up to rounding.
      chunk_size: Steps per compiled call. Between calls the host updates the progress bar, saves,
        and checks ``stop``. None takes about a twentieth of the steps. With checkpoints, it takes
        fewer if a chunk lasts longer than ``checkpoint_seconds``.
      progress: Whether to show a progress bar on stderr, one for all flows.
      stop: ``(state, history) -> bool`` or bools [flows], called on the host after every
        ``stop_steps`` steps. The history is what ``record`` kept of these steps, as in
        ``Solution.history``. Each of many flows stops by itself, and the run ends when none is
        left. It must depend only on its arguments and on constants, so that a resumed run
        stops at the same step. See ``until_stationary`` and ``until_certified``.
      stop_steps: Steps between two calls of ``stop``, counted from the start of the run.
      checkpoint_dir: Directory of this run alone; created if it does not exist. It holds the last
        two checkpoints and ``history.jsonl`` with the report of each step (see
        ``swjko.checkpoints.read_history``). Call ``solve`` again to resume a run that was killed;
        the result is the same, bit for bit on one machine. None saves nothing. For flows on the
        devices of several processes (``swjko.distributed``), all processes must see the
        directory. SIGTERM, SIGHUP or Ctrl-C to one process ends all of them after the same step,
        at most two chunks later.
      checkpoint_seconds: Save at the end of a chunk if so many seconds have passed since the last
        save. If saving is slow, wait at least fifty times as long as a save takes.
      checkpoint_steps: Save at the end of a chunk if so many steps have been taken since the last
        save, also before ``checkpoint_seconds``.
      resume: Whether to resume from checkpoints in the directory. False refuses a directory that
        has some. Existing checkpoints are never modified.
      throw: Whether to raise ``FlowError`` if a flow failed, after all flows have ended. False
        returns the codes instead.
      record: ``(state, info) -> what to keep of each step``; "trajectory" is ``swjko.both``, which
        also keeps the parameters, and "infos" is ``swjko.infos``.

    Returns:
      A ``Solution`` with final state, history, result code and timing.

    Raises:
      FlowError: A flow failed and ``throw`` is True.
      DistributedError: The processes differ in their arguments or versions, or one has failed.
        After a failure during the run, the process should exit; it exits with code 1.
      CheckpointError: The directory holds another run (the message lists the differences), is in
        use by another process, cannot be written, or has only damaged checkpoints.

    Example::

        solve(key, scheme, 10_000, checkpoint_dir="runs/a")  # call again to resume
        solve(jax.random.split(key, 256), scheme, 200, mesh=flow_mesh(), stop=until_stationary())
    """
    with sharing(mesh) as compare:
        num_steps = validation.as_count(num_steps, "num_steps")
        require_scheme(scheme)
        record = as_record(record)
        plan = ChunkPlan.of(
            num_steps, chunk_size, checkpoint_steps, checkpoint_seconds, stop, stop_steps
        )
        saving = {"checkpoint_dir": _as_text(checkpoint_dir), "resume": resume}
        saving |= {"checkpoint_seconds": checkpoint_seconds, "checkpoint_steps": checkpoint_steps}
        rules = {"stop": stop, "stop_steps": stop_steps, "record": record, "throw": throw}
        layout = {"axes": axes, "batch_size": batch_size, "chunk_size": chunk_size}
        compare(num_steps=num_steps, **saving, **layout, key=key, scheme=scheme, **rules)
    prepared = prepare_one_or_many(key, scheme, axes=axes, mesh=mesh, batch_size=batch_size)
    batching, runner = prepared[-1], ChunkRunner(*prepared[:2], record, prepared[-1])
    if batching.padding_notice:
        warnings.warn(batching.padding_notice, stacklevel=2)
    together = batching.spans_processes
    directory = _as_directory(checkpoint_dir, together)
    with watching(together, directory):
        padded = runner.start()
        start = batching.unpad(padded)
    with contextlib.ExitStack() as stack:
        store: Store | _NoStore = _NoStore(start)
        if directory is None:
            plan.seconds = math.inf
        else:
            run = _fingerprint(key, scheme, record, start, plan, batching)
            with watching(together, directory, alike=(CheckpointError,)):
                store = open_store(
                    directory,
                    run,
                    start,
                    runner.record_structure(padded),
                    resume=resume,
                    every_seconds=plan.seconds,
                    every_steps=checkpoint_steps,
                    together=together,
                )
            stack.enter_context(store)
        stack.enter_context(watching(together, directory))
        signals = stack.enter_context(listening(directory, together=together))
        shown = progress and not (together and jax.process_index())
        advance = stack.enter_context(progress_bar(num_steps, shown, store.saved.step))
        state, records = _run_chunks(runner, plan, batching, store, signals, advance)
    history = batching.concatenate(records)
    return make_solution(key, scheme, batching, state, history, runner.timing, throw)


def _run_chunks(
    runner: ChunkRunner,
    plan: ChunkPlan,
    batching: Batching,
    store: Store | _NoStore,
    signals: Interrupts | Preemption,
    advance: Callable[[int, Info], None],
) -> tuple[State, list[PyTree]]:
    """Run the steps that are left; return the final state without padding, and the records."""
    step, state, records = store.saved
    state = batching.shard(state)
    while step < plan.num_steps and (step == 0 or _is_running(state)):
        size = plan.next_chunk(step)
        runner.compile(size, state)
        signals.obey(step, batching.unpad(state), store.save)
        state, info, recorded, seconds = runner.run(size, state)
        info = batching.time_major(info)
        records.append(recorded)
        store.append(step + 1, info, recorded)
        step += size
        if plan.stop is not None and step % plan.stop_steps == 0:
            history = batching.last_steps(records, plan.stop_steps)
            state = _mark_stopped(plan.stop, state, history, batching)
        store.save_if_due(step, batching.unpad(state))
        plan.adapt(size, seconds)
        advance(size, info)
    state = batching.unpad(state)
    store.save(step, state)
    signals.obey(step, state, store.save)
    return state, records


def _is_running(state: State) -> bool:
    """Return whether any flow still moves."""
    return bool(np.any(on_host(state.result) == Result.OK))


def _mark_stopped(stop: StopFn, state: State, history: PyTree, batching: Batching) -> State:
    """Give the code STOPPED to the flows that ``stop`` ends."""
    shown = batching.unpad(state)
    codes = on_host(shown.result)
    answer = np.asarray(stop(on_host(shown) if batching.spans_processes else shown, history))
    if answer.dtype != bool or answer.shape not in {(), codes.shape}:
        expected = f", or {codes.size} bools, one for each flow" if batching.step_axis else ""
        raise ValueError(f"stop must return a bool{expected}; got {answer!r}.")
    ended = answer & (codes == Result.OK)
    if not np.any(ended):
        return state
    marked = np.where(ended, Result.STOPPED, codes).astype(codes.dtype)
    sharding = shown.result.sharding if shown.result.committed else None
    # Padding repeats the first flows, so it stops together with them.
    return state._replace(result=batching.shard(jax.device_put(marked, sharding)))


def _fingerprint(
    key: Key, scheme: Scheme, record: RecordFn, start: State, plan: ChunkPlan, batching: Batching
) -> dict[str, str]:
    rule = {} if plan.stop is None else {"stop": plan.stop, "stop_steps": plan.stop_steps}
    return describe(
        scheme=scheme,
        key=key,
        num_steps=plan.num_steps,
        record=record,
        state=jax.eval_shape(lambda: start),
        **batching.fingerprint,
        **rule,
    )


def _as_text(checkpoint_dir: str | os.PathLike[str] | None) -> str | None:
    """Return the absolute path, which the processes compare."""
    if checkpoint_dir is None:
        return None
    if not isinstance(checkpoint_dir, (str, os.PathLike)) or not os.fspath(checkpoint_dir):
        raise TypeError(
            f"checkpoint_dir must be the path of a directory, or None; got {checkpoint_dir!r}."
        )
    return str(Path(checkpoint_dir).absolute())


def _as_directory(checkpoint_dir: str | os.PathLike[str] | None, together: bool) -> Path | None:
    if checkpoint_dir is None:
        return None
    if jax.process_count() > 1 and not together:
        raise ValueError(
            "checkpoint_dir must be None in a run of several processes whose flows are not spread "
            f"over them; got {str(checkpoint_dir)!r}. Pass keys [flows] and mesh=swjko.flow_mesh()."
        )
    return Path(checkpoint_dir)
