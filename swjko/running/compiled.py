"""The compiled programs of ``swjko.solve``: the start of a run, and its chunks of steps.

A program is compiled once for each structure of the scheme, shapes, number of steps and
``record``, however often ``solve`` is called. Data are its arguments, never its constants.
"""

import functools
import time
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from swjko.running.batching import Batching
from swjko.schemes.base import Info, RecordFn, Scheme, State, run, split_run_key
from swjko.types import Key

# Number of executables kept for later calls.
_MAX_EXECUTABLES = 64
# What the runs of this process were like.
_runs: set[Hashable] = set()


class Timing(NamedTuple):
    """Wall time of a run.

    Attributes:
      compile_seconds: Seconds spent compiling.
      run_seconds: Seconds spent running the compiled programs.
    """

    compile_seconds: float
    run_seconds: float


class ChunkRunner:
    """Compiles and runs chunks of steps, and measures the time.

    Args:
      key: Key of one flow, or keys [flows], prepared by ``batching.prepare``.
      scheme: Scheme, prepared with the key. Another one with equal shapes may replace it.
      record: ``(state, info) -> what to keep of each step``.
      batching: How the flows are batched.
    """

    def __init__(self, key: Key, scheme: Scheme, record: RecordFn, batching: Batching):
        self._key, self.scheme = key, scheme
        self._batching, self._record = batching, record
        self._executables: dict[int, Any] = {}
        self.timing = Timing(0.0, 0.0)

    @property
    def is_new(self) -> bool:
        """Whether no run like this one was made before, so that it starts with compilation."""
        leaves, structure = jax.tree.flatten((self._key, self.scheme))
        run = (structure, tuple(map(_kind, leaves)), self._batching, self._record)
        is_new = run not in _runs
        _runs.add(run)
        return is_new

    def start(self) -> State:
        """Return the state before the first step."""
        return start_flows(self._key, self.scheme, batching=self._batching)

    def record_structure(self, state: State) -> PyTree:
        """Return a tree with the structure of what ``run`` records."""
        program = functools.partial(
            advance_flows, num_steps=1, batching=self._batching, record=self._record
        )
        return jax.eval_shape(program, self._key, self.scheme, state)[1][1]

    def compile(self, num_steps: int, state: State) -> None:
        """Compile the program of ``num_steps`` steps, unless this has been done."""
        if num_steps in self._executables:
            return
        start = time.perf_counter()
        leaves, structure = jax.tree.flatten((self._key, self.scheme, state))
        # JAX's configuration decides on precisions and compiler passes.
        settings = tuple(getattr(jax.config, name, None) for name in jax.config.values)
        self._executables[num_steps] = _compile(
            structure, tuple(map(_kind, leaves)), num_steps, self._batching, self._record, settings
        )
        seconds = self.timing.compile_seconds + time.perf_counter() - start
        self.timing = self.timing._replace(compile_seconds=seconds)

    def run(self, num_steps: int, state: State) -> tuple[State, Info, Any, float]:
        """Take ``num_steps`` steps, which must be compiled.

        Returns:
          The state; reports and records on the host, [steps ...] or [flows steps ...]; and the
          seconds taken.
        """
        start = time.perf_counter()
        state, reported = self._executables[num_steps](self._key, self.scheme, state)
        info, recorded = self._batching.fetch(reported)
        seconds = time.perf_counter() - start
        self.timing = self.timing._replace(run_seconds=self.timing.run_seconds + seconds)
        return state, info, recorded, seconds


@functools.partial(jax.jit, static_argnames="batching")
def start_flows(key, scheme, batching):
    """Return the state of each flow before its first step; compiled."""

    def start(scheme, key):
        return start_flow(scheme, key, batching)

    return batching.over_flows(start, scheme, key)


def start_flow(scheme: Scheme, key: Key, batching: Batching) -> State:
    """Return the state of one flow before its first step."""
    init_key, _ = split_run_key(key)
    state = scheme.init(init_key)
    batching.check_start(state)
    return state


@functools.partial(jax.jit, static_argnames=("num_steps", "batching", "record"))
def advance_flows(key, scheme, state, num_steps, batching, record):
    """Return the states after ``num_steps`` steps, and (reports, records); compiled."""

    def advance(scheme, key, state):
        _, run_key = split_run_key(key)
        return run(run_key, scheme, state, num_steps, lambda *step: (step[1], record(*step)))

    return batching.over_flows(advance, scheme, key, state)


@functools.lru_cache(maxsize=_MAX_EXECUTABLES)
def _compile(
    structure: Any,
    kinds: tuple[jax.ShapeDtypeStruct, ...],
    num_steps: int,
    batching: Batching,
    record: RecordFn,
    settings: Hashable,
) -> Any:
    """Return the executable for arguments of these kinds."""
    del settings
    if getattr(jax.config, "jax_disable_jit", False):
        # There is nothing to compile ahead of time: the steps run one operation after another.
        return functools.partial(
            advance_flows, num_steps=num_steps, batching=batching, record=record
        )
    arguments = jax.tree.unflatten(structure, kinds)
    return advance_flows.lower(
        *arguments, num_steps=num_steps, batching=batching, record=record
    ).compile()


def _kind(leaf: Any) -> jax.ShapeDtypeStruct:
    """Return all that a program depends on of a leaf."""
    aval = jax.typeof(leaf)
    sharding = leaf.sharding if getattr(leaf, "committed", False) else None
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type, sharding=sharding)
