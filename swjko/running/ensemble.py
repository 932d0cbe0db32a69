"""Many flows at once: ``run_many`` over stacked keys and schemes, on one device or a mesh.

Flows are independent. An accelerator runs them as a ``vmap``. On a CPU they take turns inside the
compiled program, since its caches hold one flow better than many. On a mesh, ``shard_map`` lets
each device run its flows by itself: devices exchange no data, and a loop whose length depends on
data, as in ``adaptive``, waits for no other device. For a mesh axis of directions see
``swjko.sharded_directions``.
"""

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr, tree_leaves_with_path
from jaxtyping import PyTree

from swjko.running.agreement import sharing
from swjko.running.batching import FLOW, prepare, require_flow_axis
from swjko.running.compiled import start_flow
from swjko.schemes.base import (
    RecordFn,
    Scheme,
    State,
    as_record,
    infos,
    require_scheme,
    run,
    split_run_key,
)
from swjko.types import Key, validation


def run_many(
    keys: Key,
    scheme: Scheme,
    num_steps: int,
    *,
    axes: PyTree = None,
    mesh: Mesh | None = None,
    batch_size: int | None = None,
    record: RecordFn | str = infos,
) -> tuple[State, Any]:
    """Run as many flows as there are keys, each for ``num_steps`` steps from its start.

    Flow i has the draws of ``swjko.solve(keys[i], ...)`` with its own leaves of the scheme, and
    its values up to rounding. A flow whose code is not OK stays at its last good state; this
    changes no bit of the others. The program is compiled once for each structure of the scheme,
    shapes, ``num_steps`` and ``record``. To run clouds of different sizes, pad them to one size
    with points of weight zero.

    Args:
      keys: Keys [flows], such as ``jax.random.split(key, flows)``. Equal keys give flows with
        common random numbers.
      scheme: Scheme such as ``sw_jko(...)``, with a leading axis of flows at its stacked leaves.
      num_steps: Number of steps of each flow.
      axes: Which leaves are stacked, like ``in_axes`` of ``jax.vmap``: a scheme, or a prefix of
        one, that holds 0 at stacked leaves and None at shared ones. None shares all leaves.
        ``stack_flows`` makes scheme and axes from a list of schemes. By hand, use
        ``dataclasses.replace(jax.tree.map(lambda leaf: None, scheme), step_size=0)``.
      mesh: Mesh with an axis "flow", such as ``flow_mesh()``; None runs on one device. If the
        axis does not divide the number of flows, they are padded with dummy flows whose results
        are discarded (with a warning).
      batch_size: Flows that one device advances at once by ``vmap``; temporary memory grows with
        it. None takes all, or 1 on a CPU, where flows of few points and directions gain from more
        (with 16 points and 4 directions a batch of 64 ran 2 times as fast as turns; with 256
        points and 64 directions it ran 1.2 times slower).
      record: ``(state, info) -> what to keep of each step``; "trajectory" is ``swjko.both`` and
        "infos" is ``swjko.infos``. A function that is defined anew compiles anew.

    Returns:
      The final states, with the code of flow i in ``states.result[i]``, and what was recorded,
      [flows steps ...].

    Raises:
      DistributedError: The mesh spans several processes (``swjko.distributed``), and they differ
        in their arguments or versions, or one has failed. Under ``jax.jit`` this is not checked.

    Example::

        sizes = (0.05, 0.1, 0.2, 0.4)
        schemes = [dataclasses.replace(scheme, step_size=jnp.asarray(size)) for size in sizes]
        scheme, axes = stack_flows(schemes)
        keys = jax.random.split(key, 4)
        states, infos = run_many(keys, scheme, 30, axes=axes, mesh=flow_mesh())
    """
    is_traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((keys, scheme)))
    with sharing(None if is_traced else mesh) as compare:
        require_scheme(scheme)
        num_steps = validation.as_count(num_steps, "num_steps")
        record = as_record(record)
        layout = {"axes": axes, "batch_size": batch_size}
        compare(num_steps=num_steps, **layout, key=keys, scheme=scheme, record=record)
    keys, scheme, flows = prepare(keys, scheme, axes, mesh, batch_size)
    if flows.padding_notice:
        warnings.warn(flows.padding_notice, stacklevel=2)
    return flows.unpad(run_flows(keys, scheme, batching=flows, num_steps=num_steps, record=record))


@functools.partial(jax.jit, static_argnames=("batching", "num_steps", "record"))
def run_flows(keys, scheme, batching, num_steps, record):
    """Return the final state of each flow, and what was recorded; compiled."""

    def flow(scheme, key):
        _, run_key = split_run_key(key)
        return run(run_key, scheme, start_flow(scheme, key, batching), num_steps, record)

    return batching.over_flows(flow, scheme, keys)


def stack_flows(schemes: Sequence[Scheme]) -> tuple[Any, Any]:
    """Stack one scheme for each flow into one scheme for ``run_many``.

    The schemes may differ only in leaves: step sizes, targets, initial points, and data that a
    user's function holds by ``jax.tree_util.Partial``. Functions, optimizer and counts belong to
    the compiled program: make them once and use them in all schemes.

    Args:
      schemes: List of schemes of one structure.

    Returns:
      The scheme and its axes. Leaves that differ are stacked, equal ones are kept once.

    Raises:
      ValueError: The schemes differ in other fields, or in the shape or dtype of a leaf. The
        message names the field or leaf.

    Example:
      ``scheme, axes = stack_flows([make_scheme(target) for target in targets])``
    """
    if isinstance(schemes, (str, bytes)) or not isinstance(schemes, Sequence):
        raise TypeError(
            f"schemes must be a list of schemes, one for each flow; got {type(schemes).__name__}."
        )
    if not schemes:
        raise ValueError("schemes must hold at least one scheme; got none.")
    for scheme in schemes:
        require_scheme(scheme)
        _require_same_structure(schemes[0], scheme)
    names = [keystr(path) for path, _ in tree_leaves_with_path(schemes[0])]
    columns = zip(*map(jax.tree.leaves, schemes), strict=True)
    pairs = [_stack_leaf(name, leaves) for name, leaves in zip(names, columns, strict=True)]
    structure = jax.tree.structure(schemes[0])
    stacked, axes = zip(*pairs, strict=True) if pairs else ((), ())
    return jax.tree.unflatten(structure, stacked), jax.tree.unflatten(structure, axes)


def flow_mesh(devices: Sequence[Any] | None = None, *, projection_devices: int = 1) -> Mesh:
    """Return a mesh with the axes "flow" and "projection".

    Args:
      devices: Devices of the mesh; None takes all, those of other processes included.
      projection_devices: Devices that share the directions of one flow; must divide the number
        of devices. Use it with schemes whose ``direction_fn`` is
        ``sharded_directions(uniform_directions, mesh, "projection")``.

    Returns:
      A mesh [devices / projection_devices, projection_devices].
    """
    try:
        devices = list(jax.devices() if devices is None else devices)
    except TypeError as error:
        raise TypeError(
            f"devices must be a list of devices; got {devices!r}. Use jax.devices()."
        ) from error
    if not devices or not all(isinstance(device, jax.Device) for device in devices):
        raise ValueError(
            f"devices must hold at least one device and nothing else; got {devices!r}. "
            "Use jax.devices()."
        )
    projection_devices = validation.as_count(projection_devices, "projection_devices")
    if len(devices) % projection_devices:
        raise ValueError(
            f"projection_devices must divide the number of devices, {len(devices)}; "
            f"got {projection_devices}."
        )
    shape = (len(devices) // projection_devices, projection_devices)
    kinds = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(shape, (FLOW, "projection"), axis_types=kinds, devices=devices)


def shard_flows(tree: PyTree, mesh: Mesh) -> Any:
    """Shard every leaf over the mesh axis "flow".

    ``run_many`` shards its inputs itself; use this with your own ``jax.jit(jax.vmap(...))``.

    Args:
      tree: Keys, states, records or data, with the flows along the first axis of each leaf. Their
        number must be a multiple of the size of the mesh axis.
      mesh: Mesh with an axis "flow", such as ``flow_mesh()``.
    """
    require_flow_axis(mesh)
    size = mesh.shape[FLOW]
    lengths = {keystr(path): jnp.shape(leaf)[:1] for path, leaf in tree_leaves_with_path(tree)}
    if len(set(lengths.values())) > 1 or () in lengths.values():
        raise ValueError(
            "tree must have the flows along the first axis of each leaf; "
            f"got leading lengths {lengths}."
        )
    for (length,) in set(lengths.values()):
        if length == 0 or length % size:
            raise ValueError(
                f"tree must hold a multiple of {size} flows, the size of the mesh axis 'flow'; "
                f"got {length}. Pad it by {-length % size or size}, or use swjko.run_many."
            )
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(FLOW)))


def _require_same_structure(first: Scheme, other: Scheme) -> None:
    if jax.tree.structure(first) == jax.tree.structure(other):
        return
    differing = []
    if dataclasses.is_dataclass(first) and type(first) is type(other):
        for field in dataclasses.fields(first):
            values = getattr(first, field.name), getattr(other, field.name)
            if not field.metadata.get("static"):
                values = map(jax.tree.structure, values)
            one, two = values
            if one != two:
                differing.append(field.name)
    raise ValueError(
        "schemes must differ only in leaves; got schemes that differ in "
        f"{', '.join(differing) or 'their type'}. Make functions and optimizer once and use them "
        "in all schemes. Pass data to a function by jax.tree_util.Partial(function, data)."
    )


def _stack_leaf(name: str, leaves: Sequence[Any]) -> tuple[Any, int | None]:
    """Return the leaf and its axis."""
    kinds = {(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves}
    if len(kinds) > 1:
        raise ValueError(
            f"schemes must have leaves of one shape and dtype; got {sorted(map(str, kinds))} for "
            f"{name}. Pad clouds of different sizes to one size, with zero weights for the padding."
        )
    first = leaves[0]
    if all(leaf is first or np.array_equal(np.asarray(leaf), np.asarray(first)) for leaf in leaves):
        return first, None
    return jnp.stack(leaves), 0
