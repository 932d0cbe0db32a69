"""How many steps each compiled call of ``swjko.solve`` takes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from jaxtyping import PyTree

from swjko.checkpoints.sharded import from_process_0
from swjko.schemes.base import State
from swjko.types import validation

_TARGET_CHUNKS = 20

# Returns a bool, or bools [flows].
StopFn = Callable[[State, PyTree], Any]


@dataclasses.dataclass
class ChunkPlan:
    """How many steps each chunk takes.

    A chunk never passes a step at which ``stop`` is checked or a batch of data is read.
    """

    num_steps: int
    chunk_size: int
    is_fixed: bool
    seconds: float
    stop: StopFn | None
    stop_steps: int
    data_steps: int | None

    @classmethod
    def of(
        cls,
        num_steps: int,
        chunk_size: int | None,
        checkpoint_steps: int | None,
        checkpoint_seconds: float,
        stop: StopFn | None,
        stop_steps: int,
        reads_data: bool,
    ) -> "ChunkPlan":
        size = _default_chunk(num_steps, _TARGET_CHUNKS)
        if chunk_size is not None:
            size = validation.as_count(chunk_size, "chunk_size")
        elif reads_data:
            raise ValueError(
                "chunk_size must be given together with data; got None. Pass the number of steps "
                "that each batch serves."
            )
        data_steps = size if reads_data else None
        if checkpoint_steps is not None:
            size = min(size, validation.as_count(checkpoint_steps, "checkpoint_steps"))
        stop_steps = validation.as_count(stop_steps, "stop_steps")
        if stop is not None:
            validation.require_callable(stop, "stop", "from (state, history) to whether to stop")
            if chunk_size is None and size < stop_steps:
                size = _default_chunk(stop_steps, -(-stop_steps // size))
        seconds = float(validation.as_positive(checkpoint_seconds, "checkpoint_seconds"))
        is_fixed = chunk_size is not None
        return cls(num_steps, size, is_fixed, seconds, stop, stop_steps, data_steps)

    def next_chunk(self, step: int) -> int:
        """Return the number of steps to take after this one."""
        periods = (self.stop_steps if self.stop is not None else None, self.data_steps)
        ends = [period - step % period for period in periods if period is not None]
        return min(self.chunk_size, self.num_steps - step, *ends)

    def adapt(self, size: int, seconds: float) -> None:
        """Shorten the chunks if one of this size took longer than the time between saves."""
        if self.is_fixed or self.seconds == math.inf:
            return
        seconds = from_process_0({"seconds": seconds})["seconds"]
        if seconds > self.seconds:
            self.chunk_size = max(1, int(size * self.seconds / seconds))


def _default_chunk(num_steps: int, num_chunks: int) -> int:
    """Return the size of chunks, given their number.

    It is a divisor of the number of steps if one is near, since a remainder is another program
    to compile.
    """
    target = max(1, num_steps // num_chunks)
    divisor = max(size for size in range(1, target + 1) if num_steps % size == 0)
    return divisor if 4 * divisor >= target else target
