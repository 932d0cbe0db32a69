"""Blocks of directions whose temporaries stay within a memory budget."""

import math

from swjko.types import validation

# Bytes for the temporaries of one block of directions. With weights the time is spent in passes
# over memory, and smaller blocks cost nothing.
BLOCK_BUDGET_BYTES = 2**28
WEIGHTED_BLOCK_BUDGET_BYTES = 2**26
# Bytes of compiled programs with all gradients, for each projected point: sort keys, permutation,
# sorted values, residuals, copies; with weights the merged levels, ranks and potentials as well.
_BYTES_PER_PROJECTION = 32
_BYTES_PER_WEIGHTED_PROJECTION = 168


def sliced_wasserstein_bytes(
    n: int, m: int, num_projections: int, *, weighted: bool = False, block_size: int | None = None
) -> int:
    """Returns the bytes of temporaries of ``sliced_wasserstein_pow`` with all gradients.

    It is an upper bound for float32 on a CPU, within a factor of about two, and compiles nothing.
    Inputs, outputs and their gradients are not included. The value alone needs less.

    Args:
      n: Points of the first cloud.
      m: Points of the second cloud.
      num_projections: Directions in all.
      weighted: Whether either cloud has weights.
      block_size: Directions processed at once; None is the automatic choice.
    """
    n, m = validation.as_count(n, "n"), validation.as_count(m, "m")
    num_projections = validation.as_count(num_projections, "num_projections")
    if block_size is None:
        block_size = automatic_block_size(n, m, num_projections, weighted)
    block_size = min(validation.as_count(block_size, "block_size"), num_projections)
    # A last block of another size is a separate program, whose buffers exist beside the loop's.
    rows = block_size + (num_projections % block_size if num_projections > block_size else 0)
    return rows * (n + m) * (_BYTES_PER_WEIGHTED_PROJECTION if weighted else _BYTES_PER_PROJECTION)


def automatic_block_size(n: int, m: int, num_projections: int, weighted: bool) -> int:
    """Returns the directions in a block, in blocks of nearly equal size within the budget."""
    per_row = (n + m) * (_BYTES_PER_WEIGHTED_PROJECTION if weighted else _BYTES_PER_PROJECTION)
    largest = max(1, (WEIGHTED_BLOCK_BUDGET_BYTES if weighted else BLOCK_BUDGET_BYTES) // per_row)
    return math.ceil(num_projections / math.ceil(num_projections / largest))
