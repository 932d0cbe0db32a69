"""Many flows at once: ``run_many`` over stacked keys and stacked leaves of a scheme, on one device or over a mesh of them.

Flows know nothing of each other. On an accelerator they are a ``vmap``; on a CPU, whose caches hold one flow better than many, they take
turns inside the compiled program. Over a mesh each device runs its share by itself (``shard_map``), so the compiled program moves nothing
between devices, and loops of a length that data decides, as in ``adaptive``, wait for no flow of another device. A second mesh axis is
for directions, see ``swjko.sharded_directions``.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr, tree_leaves_with_path

from swjko import validation
from swjko.running.batching import FLOW, flow_axis_size, laid_out, require_one_flow
from swjko.schemes.base import Info, Scheme, State, infos, require_scheme, run
from swjko.types import Key

_PROJECTION = "projection"


def run_many(
    keys: Key,
    scheme: Scheme,
    num_steps: int,
    *,
    axes: Any = None,
    mesh: Mesh | None = None,
    batch_size: int | None = None,
    record: Callable[[State, Info], Any] = infos,
) -> tuple[State, Any]:
    """As many flows as there are keys, ``num_steps`` steps each from their starts; returns (states, recorded), flows along the first axis.

    Flow i is the one that ``swjko.solve(keys[i], ...)`` runs with its own leaves of the scheme: the same draws, and values equal up to
    rounding. Its code is ``states.result[i]``; a flow that is not OK stands still at its last good state while the others go on as without
    it, to the bit. Compiled once for each scheme structure, shape, ``num_steps`` and ``record``.

    Args:
      keys: [flows], such as ``jax.random.split(key, flows)``; equal keys give flows of common random numbers.
      scheme: such as ``sw_jko(...)``. Some of its leaves may have a leading axis of flows: those that ``axes`` says.
      num_steps: steps of each flow.
      axes: what ``in_axes`` is to ``jax.vmap``: 0 at stacked leaves and None at those that all flows share, as a scheme of the same
        structure or a prefix of one. None: all is shared and keys alone differ. ``stack_flows`` makes scheme and axes from a list of
        schemes; by hand, ``dataclasses.replace(jax.tree.map(lambda leaf: None, scheme), step_size=0)``.
      mesh: from ``flow_mesh``, or any with an axis "flow"; None runs on one device. A number of flows that the axis does not divide is
        padded by flows that are run, told by a warning and cut off.
      batch_size: flows that one device advances at once, in a ``vmap``; temporaries grow with it. None takes all, and one on a CPU; there
        flows of few points and directions gain from more (16 points and 4 directions ran 2 times as fast in a batch of 64 as in turns,
        256 points and 64 directions 1.2 times slower).
      record: ``(state, info) ->`` what to keep of each step, stacked as [flows steps ...]. A function defined anew compiles anew.

    Clouds of different sizes are padded to one size, the padding with zero weights. Raises ValueError or TypeError on no flows, on axes of
    another structure, on stacked leaves of another length, and as ``run``.

    Example, a sweep of step sizes over all devices::

        scheme, axes = stack_flows([dataclasses.replace(scheme, step_size=jnp.asarray(size)) for size in (0.05, 0.1, 0.2, 0.4)])
        states, infos = run_many(jax.random.split(key, 4), scheme, 30, axes=axes, mesh=flow_mesh())
        infos.energy[:, -1], states.result
    """
    require_scheme(scheme)
    num_steps = validation.as_count(num_steps, "num_steps")
    validation.require_callable(record, "record", "from (state, info) to what is kept")
    keys, scheme, layout = laid_out(keys, scheme, axes, mesh, batch_size)
    return layout.cut(_run_flows(keys, scheme, layout=layout, num_steps=num_steps, record=record))


def stack_flows(schemes: Sequence[Scheme]) -> tuple[Any, Any]:
    """One scheme for ``run_many`` from one per flow: (scheme, axes), leaves that differ being stacked and equal ones kept once.

    The schemes must differ in leaves alone: step sizes, targets, initial points, whatever data a user function holds by
    ``jax.tree_util.Partial``. Functions, optimizer and counts are part of the compiled program: make them once and use them for all.

    Raises ValueError naming the field in which the schemes differ otherwise, or the leaf whose shapes or dtypes differ.
    Example: ``scheme, axes = stack_flows([make_scheme(target) for target in targets])``.
    """
    if isinstance(schemes, (str, bytes)) or not isinstance(schemes, Sequence):
        raise TypeError(
            f"schemes must be a list of schemes, one for each flow; received {type(schemes).__name__}."
        )
    if not schemes:
        raise ValueError("schemes must hold at least one scheme; received none.")
    for scheme in schemes:
        require_scheme(scheme)
        _require_same_structure(schemes[0], scheme)
    names = [keystr(path) for path, _ in tree_leaves_with_path(schemes[0])]
    pairs = [
        _stacked(name, leaves)
        for name, *leaves in zip(names, *map(jax.tree.leaves, schemes), strict=True)
    ]
    structure = jax.tree.structure(schemes[0])
    leaves, axes = zip(*pairs, strict=True) if pairs else ((), ())
    return jax.tree.unflatten(structure, leaves), jax.tree.unflatten(structure, axes)


def flow_mesh(devices: Sequence[Any] | None = None, *, projection_devices: int = 1) -> Mesh:
    """A mesh of devices with the axes "flow" and "projection", [devices / projection_devices, projection_devices].

    Args:
      devices: None takes all of them, those of other processes included.
      projection_devices: devices that share the directions of one flow, for schemes with
        ``direction_fn=sharded_directions(uniform_directions, mesh, "projection")``; 1 leaves each flow on one device.

    Raises ValueError when there are no devices, or projection_devices does not divide their number.
    """
    try:
        devices = list(jax.devices() if devices is None else devices)
    except TypeError as error:
        raise TypeError(
            f"devices must be a list of devices such as jax.devices(); received {devices!r}."
        ) from error
    if not devices or not all(isinstance(device, jax.Device) for device in devices):
        raise ValueError(
            f"devices must hold at least one device and nothing else, such as jax.devices(); received {devices!r}."
        )
    projection_devices = validation.as_count(projection_devices, "projection_devices")
    if len(devices) % projection_devices:
        raise ValueError(
            f"projection_devices must divide the number of devices, {len(devices)}; received {projection_devices}."
        )
    shape = (len(devices) // projection_devices, projection_devices)
    return jax.make_mesh(
        shape, (FLOW, _PROJECTION), axis_types=(AxisType.Auto,) * 2, devices=devices
    )


def shard_flows(tree: Any, mesh: Mesh) -> Any:
    """The tree with each leaf laid out over the mesh axis "flow": keys, states, records or data, all with flows along the first axis.

    ``run_many`` does so with its inputs; this is for one's own ``jax.jit(jax.vmap(...))``. Raises ValueError when the mesh has no such
    axis, or a leaf's first axis is not of one length with the others or no multiple of the axis size.
    """
    size = flow_axis_size(mesh)
    lengths = {keystr(path): jnp.shape(leaf)[:1] for path, leaf in tree_leaves_with_path(tree)}
    if len(set(lengths.values())) > 1 or () in lengths.values():
        raise ValueError(
            f"each leaf of tree must have the flows along its first axis; received leading lengths {lengths}."
        )
    for (length,) in set(lengths.values()):
        if length == 0 or length % size:
            raise ValueError(
                f"tree must hold a multiple of {size} flows, the size of the mesh axis 'flow'; received {length}. "
                f"Pad it by {-length % size or size}, or let swjko.run_many do so."
            )
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(FLOW)))


def _flows(keys, scheme, layout, num_steps, record):
    """The compiled program."""

    def flow(scheme, key):
        # As in ``solve``.
        init_key, run_key = jax.random.split(key)
        state = scheme.init(init_key)
        require_one_flow(state)
        return run(run_key, scheme, state, num_steps, record)

    return layout.over_flows(flow, scheme, keys)


_run_flows = jax.jit(_flows, static_argnames=("layout", "num_steps", "record"))


def _require_same_structure(first: Any, other: Any) -> None:
    if jax.tree.structure(first) == jax.tree.structure(other):
        return
    fields = (
        dataclasses.fields(first)
        if dataclasses.is_dataclass(first) and type(first) is type(other)
        else ()
    )
    differing = [
        field.name
        for field in fields
        if not _alike(field, getattr(first, field.name), getattr(other, field.name))
    ]
    raise ValueError(
        f"schemes must differ in leaves alone; these differ in {', '.join(differing) or 'their kind'}. Make functions and optimizer once, "
        "use them in all schemes, and hand data to a function by jax.tree_util.Partial(function, data)."
    )


def _alike(field: dataclasses.Field, first: Any, other: Any) -> bool:
    return (
        first == other
        if field.metadata.get("static")
        else jax.tree.structure(first) == jax.tree.structure(other)
    )


def _stacked(name: str, leaves: Sequence[Any]) -> tuple[Any, int | None]:
    kinds = {(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves}
    if len(kinds) > 1:
        raise ValueError(
            f"schemes must have leaves of one shape and dtype; received {sorted(map(str, kinds))} for {name}. "
            "Pad clouds of different sizes to one size, with zero weights for the padding."
        )
    if all(
        leaf is leaves[0] or np.array_equal(np.asarray(leaf), np.asarray(leaves[0]))
        for leaf in leaves
    ):
        return leaves[0], None
    return jnp.stack(leaves), 0
