"""Sorts of rows on a CPU, for the sliced-Wasserstein distances of swjko.

Rows are the last axis, of float32 unless said otherwise. Sorts are ascending and stable. NaN goes
to an end of its row, and -0.0 counts as 0.0. The functions work under ``jit``, ``vmap``,
``shard_map`` and automatic sharding, where each device sorts the rows that it has. They have no
derivatives: swjko states those of what it computes. They run on CPUs alone.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

# Of the names, arguments and results in this module. swjko uses the version that it knows.
INTERFACE = 1

_library = ctypes.CDLL(str(next(Path(__file__).parent.glob("libswjko_native.*"))))


def _register(handler: str) -> str:
    """Makes a function of the library known to XLA, and returns its name there."""
    target = f"swjko_native_{handler}"
    jax.ffi.register_ffi_target(
        target, jax.ffi.pycapsule(getattr(_library, handler)), platform="cpu"
    )
    return target


def _of_rows(handler: str, results: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a call of the library that maps and shards over all axes but the last.

    Args:
      handler: The function's name in the library.
      results: Shapes and dtypes of the results, from the arguments.
    """
    target = _register(handler)

    def call(*rows):
        called = jax.ffi.ffi_call(target, results(*rows), vmap_method="broadcast_all")(*rows)
        # Inside shard_map, results vary over the axes of the mesh that the rows vary over.
        axes = frozenset().union(*map(_varying_axes, rows))
        return jax.lax.pcast(called, tuple(axes), to="varying") if axes else called

    def sharded(*rows):
        number = len(jax.tree.leaves(results(*rows)))
        # An axis of rows in each argument and result; their columns have names of their own.
        names = [f"... c{index}" for index in range(len(rows) + number)]
        partitioned = custom_partitioning(call)
        partitioned.def_partition(
            partition=functools.partial(_keep_rows, call),
            sharding_rule=f"{', '.join(names[: len(rows)])} -> {', '.join(names[len(rows) :])}",
            need_replication_factors=tuple(f"c{index}" for index in range(len(names))),
        )
        return partitioned(*rows)

    @custom_vmap
    def function(*rows):
        manual = jax.sharding.get_abstract_mesh().manual_axes
        return sharded(*rows) if jax.device_count("cpu") > 1 and not manual else call(*rows)

    @function.def_vmap
    def _(axis_size, in_batched, *rows):
        rows = [
            row if batched else jnp.broadcast_to(row, (axis_size, *row.shape))
            for row, batched in zip(rows, in_batched, strict=True)
        ]
        return function(*rows), jax.tree.map(lambda _: True, results(*rows))

    return function


def _varying_axes(rows: Any) -> frozenset[str]:
    # JAX has renamed this property once.
    typed = jax.typeof(rows)
    kind = getattr(typed, "manual_axis_type", None)
    return kind.varying if kind is not None else getattr(typed, "vma", frozenset())


def _keep_rows(call: Callable[..., Any], mesh: Any, arguments: Any, result: Any) -> Any:
    """Returns the call of each device, with all columns of its rows."""

    def whole_rows(of: Any) -> NamedSharding:
        spec = (*of.sharding.spec, *[None] * len(of.shape))[: len(of.shape) - 1]
        return NamedSharding(mesh, PartitionSpec(*spec, None))

    return mesh, call, jax.tree.map(whole_rows, result), jax.tree.map(whole_rows, arguments)


def _like(rows: Any, *dtypes: Any) -> Any:
    """Returns results of the shape of ``rows``, one for each dtype."""
    results = tuple(jax.ShapeDtypeStruct(rows.shape, dtype) for dtype in dtypes)
    return results if len(results) > 1 else results[0]


sort = _of_rows("SwjkoSort", lambda values: _like(values, jnp.float32))
sort.__doc__ = "Returns sorted rows."

sort_integers = _of_rows("SwjkoSortIntegers", lambda keys: _like(keys, jnp.int64))
sort_integers.__doc__ = "Returns sorted rows of int64."

sort_with_permutation = _of_rows(
    "SwjkoSortWithPermutation", lambda values: _like(values, jnp.float32, jnp.int32)
)
sort_with_permutation.__doc__ = "Returns sorted rows, and the column that each entry comes from."

unsort = _of_rows("SwjkoUnsort", lambda ordered, permutation: _like(ordered, jnp.float32))
unsort.__doc__ = "Returns rows with entry j at column ``permutation[j]``."

differences = _of_rows("SwjkoDifferences", lambda u, v: _like(u, jnp.float32))
differences.__doc__ = """Returns what each entry of u has beyond the entry of v of its rank.

The differences stay at the columns of u. Rows of v are as long as those of u.
"""

differences_with_halves = _of_rows(
    "SwjkoDifferencesWithHalves", lambda u, v: _like(u, jnp.float32, jnp.float32)
)
differences_with_halves.__doc__ = """Returns ``differences``, and those within halves of the rows.

A half has n // 2 columns. The last column of an odd n is in neither, and has the difference 0.
"""
