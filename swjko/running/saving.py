"""Where a run of ``swjko.solve`` is saved, if anywhere, and what distinguishes it from others."""

import os
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from swjko.checkpoints.fingerprint import describe
from swjko.checkpoints.store import Saved
from swjko.running.batching import Batching, on_host
from swjko.running.plan import ChunkPlan
from swjko.schemes.base import Info, RecordFn, Scheme, State
from swjko.types import Key


class NoStore:
    """Stands for a store in a run without checkpoints."""

    def __init__(self, start: State):
        self.saved = Saved(0, start, [])

    def append(self, first_step: int, infos: Info, recorded: PyTree) -> None:
        """Do nothing."""

    def save(self, step: int, state: State) -> None:
        """Do nothing."""

    save_if_due = save


def fingerprint(
    key: Key,
    scheme: Scheme,
    record: RecordFn,
    start: State,
    plan: ChunkPlan,
    batching: Batching,
    is_given: bool,
) -> dict[str, str]:
    """Return the fingerprint of the run. A start at mu_0 follows from scheme and key."""
    rule: dict[str, Any] = {}
    if plan.stop is not None:
        rule = {"stop": plan.stop, "stop_steps": plan.stop_steps}
    if plan.data_steps is not None:
        rule |= {"data_steps": plan.data_steps}
    if is_given:
        rule |= {"start": on_host(start)}
    return describe(
        scheme=scheme,
        key=key,
        num_steps=plan.num_steps,
        record=record,
        state=jax.eval_shape(lambda: start),
        **batching.fingerprint,
        **rule,
    )


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
