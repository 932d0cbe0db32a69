"""Read a run directory without the scheme that made it."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from swjko.checkpoints.files import CheckpointError, InTheWay, explained
from swjko.checkpoints.format import Checkpoint, Damaged, checkpoint_paths, unpack_all
from swjko.checkpoints.format import load as load_checkpoint
from swjko.checkpoints.naming import nested
from swjko.checkpoints.sharded import ShardedArrays
from swjko.schemes.base import State


class SavedRun(NamedTuple):
    """The newest checkpoint of a run, as ``load`` reads it.

    Parameters are NumPy arrays in dictionaries (from mappings, named tuples and dataclasses, by
    name) and lists (from sequences, by place). Random keys are keys.

    Attributes:
      step: Number of steps taken.
      state: ``State`` after them, for ``solve(..., state=...)``. For many flows, all arrays have
        the flows along their first axis.
      history: What ``record`` kept of these steps, as in ``Solution.history``: an ``Info`` by
        default, and a list of ``State`` and ``Info`` for ``record="trajectory"``.
      configuration: The run in texts by name: versions, ``num_steps``, the key, and each part of
        the scheme. "resumed" lists the versions with which it was resumed.
    """

    step: int
    state: State
    history: Any
    configuration: dict[str, str]


def load(directory: str | os.PathLike[str]) -> SavedRun:
    """Read the newest intact checkpoint of a run, also while it is running.

    Args:
      directory: The run directory, ``checkpoint_dir`` of ``solve``. Nothing in it is changed.

    Raises:
      CheckpointError: The directory cannot be read, or holds no intact checkpoint.

    Example::

        saved = load("runs/a")
        saved.history.energy[-1], saved.configuration["scheme.step_size"]
    """
    directory, reasons = Path(directory), []
    with explained(directory, "read"):
        for path in checkpoint_paths(directory):
            try:
                return _read(directory, load_checkpoint(path))
            except (Damaged, InTheWay, FileNotFoundError) as error:
                reasons.append(f"{path.name}: {error}")
    raise CheckpointError(
        "directory must be the checkpoint_dir of a run of swjko.solve; "
        f"{directory} holds {'; '.join(reasons) or 'no checkpoint'}."
    )


def _read(directory: Path, found: Checkpoint) -> SavedRun:
    leaves = found.leaves
    if ShardedArrays.entries.items() <= found.run.items():
        arrays = ShardedArrays(directory)
        arrays.check(found)
        leaves = arrays.read(found.step)
    is_many = any(name.partition(".")[0] == "axes" for name in found.run)
    frames = zip(*unpack_all(found.history), strict=True)
    try:
        names = found.names
        columns = [np.concatenate(column, axis=int(is_many)) for column in map(_plain, frames)]
        history = nested(names["record"], columns) if columns else None
        state = nested(names["state"], leaves)
        return SavedRun(found.step, State(**state._asdict()), history, found.run)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"its leaves have no names ({error})") from None


def _plain(leaves: tuple[Any, ...]) -> list[np.ndarray]:
    """Return arrays, and the numbers of random keys."""
    is_key = jax.numpy.issubdtype(leaves[0].dtype, jax.dtypes.prng_key)
    return [np.asarray(jax.random.key_data(leaf) if is_key else leaf) for leaf in leaves]
