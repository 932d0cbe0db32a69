"""``solve`` runs one flow or many in compiled chunks of steps, from the start or a checkpoint.

Between two chunks the host updates the progress bar, saves, handles signals and checks ``stop``.
The draws of a step depend only on its number, and ``stop`` is checked at fixed numbers of steps.
So the chunks change no result.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from swjko.checkpoints.store import Store
from swjko.running.agreement import sharing
from swjko.running.batching import Batching, on_host, prepare_one_or_many
from swjko.running.compiled import ChunkRunner
from swjko.running.failures import watching
from swjko.running.hooks import Callback, DataStream, as_callback, as_start, saved_on_error
from swjko.running.plan import ChunkPlan, StopFn
from swjko.running.progress import progress_bar
from swjko.running.saving import NoStore, Run, as_directory, as_text, opened
from swjko.running.signals import Interrupts, Preemption, listening
from swjko.running.solution import Solution, make_solution
from swjko.running.stopping import mark_stopped
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
from swjko.types import Key, validation


def solve(
    key: Key,
    scheme: Scheme,
    num_steps: int,
    *,
    axes: PyTree = None,
    mesh: Mesh | None = None,
    batch_size: int | None = None,
    chunk_size: int | None = None,
    state: PyTree = None,
    data: Iterable[Any] | None = None,
    progress: bool | Callable[[str], object] = True,
    callback: Callback | None = None,
    stop: StopFn | None = None,
    stop_steps: int = 10,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    checkpoint_steps: int | None = None,
    resume: bool = True,
    throw: bool = True,
    record: RecordFn | str = infos,
) -> Solution:
    """Run ``num_steps`` steps from mu_0 or ``state``, or fewer if ``stop`` ends the flow.

    With a checkpoint directory, SIGTERM, SIGHUP and Ctrl-C save before they end the run: SIGTERM
    with exit code 143, SIGHUP (a closed terminal) with 129, Ctrl-C with KeyboardInterrupt. A
    second Ctrl-C does not wait for the chunk.

    Args:
      key: Random key. Equal keys give bit-identical runs on one machine, whatever the chunks.
        Keys [flows], such as ``jax.random.split(key, flows)``, run many flows. Flow i has the
        draws of a single flow with ``keys[i]``, and its values up to rounding.
      scheme: Scheme such as ``sw_jko(...)``.
      num_steps: Number of JKO steps of each flow. With ``checkpoint_dir``, a larger number extends
        a run that has ended: it is then the run of that many steps, bit for bit on one machine.
      axes: Stacked leaves of the scheme for many flows, as in ``run_many``.
      mesh: Devices for many flows, as in ``run_many``. A run that resumes on another mesh is the
        same up to rounding.
      batch_size: Flows that one device advances at once, as in ``run_many``. A run that resumes
        with another batch size is the same up to rounding.
      chunk_size: Steps per compiled call. Between calls the host updates the progress bar, saves,
        and checks ``stop``. None takes about a twentieth of the steps. With checkpoints, it takes
        fewer if a chunk lasts longer than ``checkpoint_seconds``.
      state: Where to start in place of mu_0: ``Solution.state`` of another run of the scheme, or
        the ``state`` that ``swjko.load`` returns. With the key of that run, both runs together are
        one longer run, bit for bit on one machine. Steps are counted from this state.
      data: Iterable of batches [m d], or of pairs (points, weights), which take the place of the
        data of the one part of the scheme that has a method ``with_data``: ``sw_to_target``,
        ``mmd_to_target``, ``forward_kl``, ``sliced_flow``. Another batch is read every
        ``chunk_size`` steps, which must be given. All have the shape of the data that the scheme
        was made with, so nothing compiles again. A run that resumes reads the iterable from its
        start again, and passes over the batches that it has used. Several processes must read the
        same batches.
      progress: Whether to show a progress bar on stderr, one for all flows. Without a terminal it
        is about ten lines, which go to the logger "swjko" if it shows the level INFO. A function
        such as ``print`` is called with these lines.
      callback: ``(step, state, infos) -> anything``, called on the host after each chunk with the
        number of steps taken, the state, and the reports of the chunk, [steps ...] or
        [flows steps ...]. If it raises, the state is saved (except in a run of several processes)
        and the error ends the run.
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
      checkpoint_seconds: Save at the end of a chunk if this many seconds have passed since the last
        save. If saving is slow, wait at least fifty times as long as a save takes.
      checkpoint_steps: Save at the end of a chunk if this many steps have been taken since the last
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
      CheckpointError: The directory holds another run (the message lists the differences) or more
        steps than ``num_steps``, is in use by another process, cannot be written, or has only
        damaged checkpoints. Another patch version of JAX or of swjko only warns; see
        ``swjko.load(directory).configuration["resumed"]``.

    Example::

        solve(key, scheme, 10_000, checkpoint_dir="runs/a")  # call again to resume
        solve(jax.random.split(key, 256), scheme, 200, mesh=flow_mesh(), stop=until_stationary())
    """
    with sharing(mesh) as compare:
        num_steps = validation.as_count(num_steps, "num_steps")
        require_scheme(scheme)
        record, callback = as_record(record), as_callback(callback)
        plan = ChunkPlan.of(
            *(num_steps, chunk_size, checkpoint_steps, checkpoint_seconds, stop, stop_steps),
            reads_data=data is not None,
        )
        stream = None if data is None else DataStream(data, plan.data_steps or 1)
        saving = {"checkpoint_dir": as_text(checkpoint_dir), "resume": resume}
        saving |= {"checkpoint_seconds": checkpoint_seconds, "checkpoint_steps": checkpoint_steps}
        rules = {"stop": stop, "stop_steps": stop_steps, "record": record, "throw": throw}
        layout = {"axes": axes, "batch_size": batch_size, "chunk_size": chunk_size}
        rules |= {} if state is None else {"start": state}
        compare(num_steps=num_steps, **saving, **layout, key=key, scheme=scheme, **rules)
    prepared = prepare_one_or_many(key, scheme, axes=axes, mesh=mesh, batch_size=batch_size)
    batching, runner = prepared[-1], ChunkRunner(*prepared[:2], record, prepared[-1])
    if batching.padding_notice:
        warnings.warn(batching.padding_notice, stacklevel=2)
    together = batching.spans_processes
    directory = as_directory(checkpoint_dir, together)
    shown = False if together and jax.process_index() else progress
    with contextlib.ExitStack() as stack:
        is_new = shown is not False and runner.is_new
        advance = stack.enter_context(progress_bar(num_steps, shown, is_new))
        with watching(together, directory):
            padded = runner.start()
            start = as_start(state, batching.unpad(padded))
        run = Run(key, scheme, record, start, plan, batching, state is not None)
        saves = {"every_steps": checkpoint_steps, "resume": resume, "together": together}
        structure = functools.partial(runner.record_structure, padded)
        store = stack.enter_context(opened(directory, run, structure, **saves))
        if store.saved.step:
            advance(store.saved.step, None)
        stack.enter_context(watching(together, directory))
        signals = stack.enter_context(listening(directory, together=together))
        hooks = (stream, advance, callback)
        state, records = _run_chunks(runner, plan, batching, store, signals, hooks)
    history = batching.concatenate(records)
    return make_solution(key, scheme, batching, state, history, runner.timing, throw)


def _run_chunks(
    runner: ChunkRunner,
    plan: ChunkPlan,
    batching: Batching,
    store: Store | NoStore,
    signals: Interrupts | Preemption,
    hooks: tuple[DataStream | None, Callable[[int, Info | None], None], Callback],
) -> tuple[State, list[PyTree]]:
    """Run the steps that are left; return the final state without padding, and the records."""
    (stream, advance, callback), (step, state, records) = hooks, store.saved
    state = batching.shard(state)

    def save() -> None:
        # Other processes would wait for this one in vain, or it for them.
        if not batching.spans_processes:
            store.save(step, batching.unpad(state))

    while step < plan.num_steps and (step == 0 or _is_running(state)):
        size = plan.next_chunk(step)
        if stream is not None and stream.is_due(step):
            with saved_on_error(save):
                fed = stream.feed(step, runner.scheme)
            runner.scheme = fed if batching.mesh is None else batching.shard_scheme(fed)
        runner.compile(size, state)
        signals.obey(step, batching.unpad(state), store.save)
        state, info, recorded, seconds = runner.run(size, state)
        records.append(recorded)
        store.append(step + 1, batching.time_major(info), recorded)
        step += size
        if plan.stop is not None and step % plan.stop_steps == 0:
            history = batching.last_steps(records, plan.stop_steps)
            state = mark_stopped(plan.stop, state, history, batching)
        store.save_if_due(step, batching.unpad(state))
        plan.adapt(size, seconds)
        advance(step, batching.time_major(info))
        with saved_on_error(save):
            callback(step, batching.unpad(state), info)
    state = batching.unpad(state)
    store.save(step, state)
    signals.obey(step, state, store.save)
    return state, records


def _is_running(state: State) -> bool:
    """Return whether any flow still moves."""
    return bool(np.any(on_host(state.result) == Result.OK))
