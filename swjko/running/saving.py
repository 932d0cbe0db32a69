"""Where a run of ``swjko.solve`` is saved, if anywhere, and what distinguishes it from others."""

import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from swjko.checkpoints.fingerprint import describe
from swjko.checkpoints.store import CheckpointError, Saved, Store, open_store
from swjko.running.batching import Batching, on_host
from swjko.running.failures import watching
from swjko.running.plan import ChunkPlan
from swjko.schemes.base import Info, RecordFn, Scheme, State
from swjko.types import Key


class NoStore(contextlib.AbstractContextManager["NoStore"]):
    """Stands for a store in a run without checkpoints."""

    def __init__(self, start: State):
        self.saved = Saved(0, start, [])

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def append(self, first_step: int, infos: Info, recorded: PyTree) -> None:
        """Do nothing."""

    def save(self, step: int, state: State) -> None:
        """Do nothing."""

    save_if_due = save


class Run(NamedTuple):
    """What distinguishes a run from others; ``is_given`` says that its start is not mu_0."""

    key: Key
    scheme: Scheme
    record: RecordFn
    start: State
    plan: ChunkPlan
    batching: Batching
    is_given: bool

    def fingerprint(self) -> dict[str, str]:
        """Return the fingerprint of the run. A start at mu_0 follows from scheme and key."""
        rule: dict[str, Any] = {}
        if self.plan.stop is not None:
            rule = {"stop": self.plan.stop, "stop_steps": self.plan.stop_steps}
        if self.plan.data_steps is not None:
            rule |= {"data_steps": self.plan.data_steps}
        if self.is_given:
            rule |= {"start": on_host(self.start)}
        return describe(
            scheme=self.scheme,
            key=self.key,
            num_steps=self.plan.num_steps,
            record=self.record,
            state=jax.eval_shape(lambda: self.start),
            **self.batching.fingerprint,
            **rule,
        )


def opened(
    directory: Path | None, run: Run, record_structure: Callable[[], PyTree], **saves: Any
) -> Store | NoStore:
    """Return the store of the directory, or one that keeps nothing if there is none.

    Args:
      directory: Where to save.
      run: The run; without a directory, none of its chunks is cut short.
      record_structure: Returns the structure of the records of one step.
      **saves: ``every_steps``, ``resume`` and ``together`` of ``open_store``.
    """
    if directory is None:
        run.plan.seconds = math.inf
        return NoStore(run.start)
    with watching(saves["together"], directory, alike=(CheckpointError,)):
        saves |= {"every_seconds": run.plan.seconds}
        return open_store(directory, run.fingerprint(), run.start, record_structure(), **saves)


def as_text(checkpoint_dir: str | os.PathLike[str] | None) -> str | None:
    """Return the absolute path, which the processes compare."""
    if checkpoint_dir is None:
        return None
    if not isinstance(checkpoint_dir, (str, os.PathLike)) or not os.fspath(checkpoint_dir):
        raise TypeError(
            f"checkpoint_dir must be the path of a directory, or None; got {checkpoint_dir!r}."
        )
    return str(Path(checkpoint_dir).absolute())


def as_directory(checkpoint_dir: str | os.PathLike[str] | None, together: bool) -> Path | None:
    if checkpoint_dir is None:
        return None
    if jax.process_count() > 1 and not together:
        raise ValueError(
            "checkpoint_dir must be None in a run of several processes whose flows are not spread "
            f"over them; got {str(checkpoint_dir)!r}. Pass keys [flows] and mesh=swjko.flow_mesh()."
        )
    return Path(checkpoint_dir)
