"""The compiled programs of ``swjko.solve``: the start of a run and its chunks of steps, for one flow or many.

A program is compiled once for each structure of the scheme, shapes, number of steps and ``record``, however often ``solve`` is called: data
are its arguments and never constants of it.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from swjko.running.batching import Layout, on_host, require_one_flow
from swjko.schemes.base import Info, Scheme, State, run
from swjko.types import Key

# Executables that are kept for later calls.
_KEPT = 64


class Timing(NamedTuple):
    """Wall seconds spent compiling and running."""

    compile_seconds: float
    run_seconds: float


class Chunks:
    """Programs of so many steps, and the time they took.

    Args:
      key, scheme: of one flow; or of many as they lie, stacked and padded as ``layout`` says.
      record: what to keep of each step.
      layout: None for one flow.
    """

    def __init__(
        self,
        key: Key,
        scheme: Scheme,
        record: Callable[[State, Info], Any],
        layout: Layout | None,
    ):
        self._key, self._scheme = key, scheme
        self._static = {"layout": layout, "record": record}
        self._layout = layout
        self._compiled: dict[int, Any] = {}
        self.timing = Timing(0.0, 0.0)

    def start(self) -> State:
        """The state before the first step."""
        return _start(self._key, self._scheme, layout=self._layout)

    def shape_of_records(self, state: State) -> Any:
        """The structure of what ``run`` returns as recorded."""
        return jax.eval_shape(
            functools.partial(_advance, num_steps=1, **self._static), self._key, self._scheme, state
        )[1][1]

    def compile(self, num_steps: int, state: State) -> None:
        """Makes the program of so many steps, unless there is one."""
        if num_steps in self._compiled:
            return
        start = time.perf_counter()
        leaves, structure = jax.tree.flatten((self._key, self._scheme, state))
        configuration = tuple(getattr(jax.config, name, None) for name in jax.config.values)
        self._compiled[num_steps] = _compiled(
            structure, tuple(map(_kind, leaves)), num_steps, *self._static.values(), configuration
        )
        self.timing = self.timing._replace(
            compile_seconds=self.timing.compile_seconds + time.perf_counter() - start
        )

    def run(self, num_steps: int, state: State) -> tuple[State, Info, Any, float]:
        """The state; the reports and records of the steps on the host, [steps ...] or [flows steps ...]; and the seconds taken."""
        start = time.perf_counter()
        state, reported = self._compiled[num_steps](self._key, self._scheme, state)
        info, recorded = on_host(reported)
        if self._layout is not None and self._layout.padding:
            num = self._layout.num_flows
            info, recorded = jax.tree.map(lambda leaf: leaf[:num], (info, recorded))
        seconds = time.perf_counter() - start
        self.timing = self.timing._replace(run_seconds=self.timing.run_seconds + seconds)
        return state, info, recorded, seconds


def _started(key, scheme, layout):
    def start(scheme, key):
        init_key, _ = jax.random.split(key)
        state = scheme.init(init_key)
        if layout is not None:
            require_one_flow(state)
        return state

    return start(scheme, key) if layout is None else layout.over_flows(start, scheme, key)


def _advance(key, scheme, state, num_steps, layout, record):
    def advance(scheme, key, state):
        _, run_key = jax.random.split(key)
        return run(
            run_key, scheme, state, num_steps, lambda state, info: (info, record(state, info))
        )

    return (
        advance(scheme, key, state)
        if layout is None
        else layout.over_flows(advance, scheme, key, state)
    )


_start = jax.jit(_started, static_argnames="layout")
_run = jax.jit(_advance, static_argnames=("num_steps", "layout", "record"))


@functools.lru_cache(maxsize=_KEPT)
def _compiled(
    structure: Any,
    kinds: tuple,
    num_steps: int,
    layout: Layout | None,
    record: Any,
    configuration: tuple,
) -> Any:
    """The executable for arguments of these kinds under this configuration of JAX, which decides on precisions and passes."""
    del configuration
    key, scheme, state = jax.tree.unflatten(structure, kinds)
    return _run.lower(
        key, scheme, state, num_steps=num_steps, layout=layout, record=record
    ).compile()


def _kind(leaf: Any) -> jax.ShapeDtypeStruct:
    """Of a leaf, all that a program depends on."""
    aval = jax.typeof(leaf)
    place = leaf.sharding if getattr(leaf, "committed", False) else None
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type, sharding=place)
