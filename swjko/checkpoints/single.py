"""Checkpoints of one process, and the comparison of what was read with what a run needs.

A checksum says that bytes are those that were written, and not that they belong to this state.
So the number of leaves, their dtypes and shapes, the count of steps, result codes and the lengths
of records are compared as well.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from swjko.checkpoints.format import Checkpoint, Damaged, kind_of, unpack_all
from swjko.schemes.base import Result, State

_SLACK = 4096
_SLACK_OF_A_LEAF = 256


class SingleFile:
    """Back end of a store for one process: the checkpoint file itself holds the state."""

    entries: Mapping[str, str] = {}
    is_writer = True

    def largest(self, start: State) -> int:
        """Return the number of bytes that the leaves in a checkpoint file may take."""
        return _SLACK + sum(_bytes_of(leaf) + _SLACK_OF_A_LEAF for leaf in jax.tree.leaves(start))

    def write(self, step: int, state: State) -> list[Any]:
        """Return what belongs into the checkpoint file: the leaves of the state."""
        return jax.tree.leaves(state)

    def counts(self, step: int, state: State) -> bool:
        """Return whether ``state.step`` counts the steps, up to the end of each flow."""
        return is_counted(step, state.step, state.result)

    def check(self, found: Checkpoint, start: State) -> None:
        """Compare a checkpoint with the state at the start.

        Raises:
          Damaged: The leaves are not those of such a state after that number of steps.
        """
        places, structure = jax.tree_util.tree_flatten_with_path(start)
        if len(found.leaves) != len(places):
            raise Damaged(f"it has {len(found.leaves)} leaves, and the state has {len(places)}")
        for (path, place), leaf in zip(places, found.leaves, strict=True):
            if kind_of(leaf) != kind_of(place):
                raise Damaged(
                    f"state{jax.tree_util.keystr(path)} is {_words(leaf)} in it, "
                    f"and {_words(place)} in the run"
                )
        state = structure.unflatten(found.leaves)
        check_progress(found, state.step, state.result)

    def restore(self, step: int, leaves: Sequence[Any], start: State) -> State:
        """Put the leaves into the structure of ``start``, placed as its leaves are."""
        places, structure = jax.tree.flatten(start)
        placed = [
            jax.device_put(leaf, place.sharding if place.committed else None)
            for leaf, place in zip(leaves, places, strict=True)
        ]
        return structure.unflatten(placed)

    def prune(self, names: set[str]) -> None:
        """Do nothing: there are no files beside the checkpoints."""

    def agree(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the message: there is no other process."""
        return message


def is_counted(step: int, taken: Any, codes: Any) -> bool:
    """Return whether all flows have taken these steps, or fewer if they have ended.

    Args:
      step: Number of steps of the run.
      taken: Steps of each flow, ``state.step``.
      codes: Result code of each flow, ``state.result``.
    """
    taken, codes = np.asarray(taken), np.asarray(codes)
    try:
        is_running, taken = np.broadcast_arrays(codes == Result.OK, taken)
    except ValueError:
        return False
    return bool(np.all((taken == step) | (~is_running & (taken >= 0) & (taken <= step))))


def check_progress(found: Checkpoint, taken: Any, codes: Any) -> None:
    """Compare the steps and result codes of flows with the step of their checkpoint.

    Args:
      found: The checkpoint.
      taken: Steps of each flow, ``state.step``.
      codes: Result code of each flow, ``state.result``.

    Raises:
      Damaged: They are of another step, or are no such codes.
    """
    if not np.all(np.isin(codes, list(Result))):
        raise Damaged("state.result is not a result code")
    if found.counted and not is_counted(found.step, taken, codes):
        raise Damaged(f"its step is {found.step}, and state.step is another")


def check_records(found: Checkpoint, recorded: Any) -> None:
    """Compare the history up to a checkpoint with what the run records.

    Args:
      found: The checkpoint with its history.
      recorded: What one step records: arrays or ``ShapeDtypeStruct``, whose first or second axis
        is that of steps. Only the number of other leaves is compared.

    Raises:
      Damaged: A record has other leaves, or there are not as many steps as in the checkpoint.
    """
    expected, steps = jax.tree.leaves(recorded), 0
    is_known = bool(expected) and all(hasattr(leaf, "dtype") for leaf in expected)
    for leaves in unpack_all(found.history):
        if len(leaves) != len(expected):
            raise Damaged(f"a record has {len(leaves)} leaves, and {len(expected)} are recorded")
        steps += _steps_of(leaves, expected) if is_known else 0
    if is_known and steps != found.step:
        raise Damaged(f"its step is {found.step}, and its history has {steps} steps")


def _steps_of(leaves: Sequence[Any], expected: Sequence[Any]) -> int:
    """Return the number of steps in a record; the flows may be padded in what is expected."""
    pairs = [(kind_of(leaf), kind_of(like)) for leaf, like in zip(leaves, expected, strict=True)]
    for axis in (0, 1):
        sizes = {found[1][: axis + 1] for found, _ in pairs}
        if len(sizes) == 1 and all(_is_alike(found, like, axis) for found, like in pairs):
            return sizes.pop()[axis]
    raise Damaged("a record has other dtypes or shapes than are recorded")


def _is_alike(found: Any, like: Any, axis: int) -> bool:
    (dtype, shape, implementation), (its_dtype, its_shape, its_implementation) = found, like
    return (
        (dtype, implementation, len(shape)) == (its_dtype, its_implementation, len(its_shape))
        and len(shape) > axis
        and its_shape[axis] == 1 <= shape[axis]
        and shape[axis + 1 :] == its_shape[axis + 1 :]
        and (axis == 0 or 1 <= shape[0] <= its_shape[0])
    )


def _bytes_of(leaf: Any) -> int:
    dtype, shape, _ = kind_of(leaf)
    return math.prod(shape) * jnp.dtype(dtype).itemsize


def _words(leaf: Any) -> str:
    dtype, shape, implementation = kind_of(leaf)
    return f"{dtype}{list(shape)}{f' of {implementation}' if implementation else ''}"
