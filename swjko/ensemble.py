"""Many flows at once: ``run_many`` over stacked keys and stacked leaves of a scheme, on one device or over a mesh of them.

Flows know nothing of each other. On an accelerator they are a ``vmap``; on a CPU, whose caches hold one flow better than many, they take
turns inside the compiled program. Over a mesh each device runs its share by itself (``shard_map``), so the compiled program moves nothing
between devices, and loops of a length that data decides, as in ``adaptive``, wait for no flow of another device. A second mesh axis is
for directions, see ``swjko.sharded_directions``.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr, tree_leaves_with_path

from swjko import validation
from swjko.scheme import AnyInfo, AnyState, Scheme, infos, require_scheme, run
from swjko.types import Key

_FLOW, _PROJECTION = "flow", "projection"


def run_many(
    keys: Key,
    scheme: Scheme,
    num_steps: int,
    *,
    axes: Any = None,
    mesh: Mesh | None = None,
    batch_size: int | None = None,
    record: Callable[[AnyState, AnyInfo], Any] = infos,
) -> tuple[AnyState, Any]:
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
    num_flows = _count_keys(keys)
    if batch_size is None:
        platform = jax.default_backend() if mesh is None else _flow_devices(mesh).flat[0].platform
        batch_size = 1 if platform == "cpu" else num_flows
    static = {"num_steps": num_steps, "record": record, "batch_size": validation.as_count(batch_size, "batch_size"), "mesh": mesh}
    leaf_axes = _leaf_axes(axes, scheme)
    _check_stacked(scheme, leaf_axes, num_flows)
    if mesh is None:
        return _run_flows(keys, scheme, leaf_axes=leaf_axes, **static)
    keys, scheme, padding = _placed(keys, scheme, leaf_axes, mesh)
    if padding:
        warnings.warn(
            f"the number of flows, {num_flows}, is no multiple of {mesh.shape[_FLOW]}, the size of the mesh axis 'flow': {padding} more "
            "are run and cut off, and some devices work for nothing.",
            stacklevel=2,
        )
    result = _run_flows(keys, scheme, leaf_axes=leaf_axes, **static)
    return _first(result, num_flows) if padding else result


def stack_flows(schemes: Sequence[Scheme]) -> tuple[Any, Any]:
    """One scheme for ``run_many`` from one per flow: (scheme, axes), leaves that differ being stacked and equal ones kept once.

    The schemes must differ in leaves alone: step sizes, targets, initial points, whatever data a user function holds by
    ``jax.tree_util.Partial``. Functions, optimizer and counts are part of the compiled program: make them once and use them for all.

    Raises ValueError naming the field in which the schemes differ otherwise, or the leaf whose shapes or dtypes differ.
    Example: ``scheme, axes = stack_flows([make_scheme(target) for target in targets])``.
    """
    if isinstance(schemes, (str, bytes)) or not isinstance(schemes, Sequence):
        raise TypeError(f"schemes must be a list of schemes, one for each flow; received {type(schemes).__name__}.")
    if not schemes:
        raise ValueError("schemes must hold at least one scheme; received none.")
    for scheme in schemes:
        require_scheme(scheme)
        _require_same_structure(schemes[0], scheme)
    names = [keystr(path) for path, _ in tree_leaves_with_path(schemes[0])]
    pairs = [_stacked(name, leaves) for name, *leaves in zip(names, *map(jax.tree.leaves, schemes), strict=True)]
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
        raise TypeError(f"devices must be a list of devices such as jax.devices(); received {devices!r}.") from error
    if not devices or not all(isinstance(device, jax.Device) for device in devices):
        raise ValueError(f"devices must hold at least one device and nothing else, such as jax.devices(); received {devices!r}.")
    projection_devices = validation.as_count(projection_devices, "projection_devices")
    if len(devices) % projection_devices:
        raise ValueError(f"projection_devices must divide the number of devices, {len(devices)}; received {projection_devices}.")
    shape = (len(devices) // projection_devices, projection_devices)
    return jax.make_mesh(shape, (_FLOW, _PROJECTION), axis_types=(AxisType.Auto,) * 2, devices=devices)


def shard_flows(tree: Any, mesh: Mesh) -> Any:
    """The tree with each leaf laid out over the mesh axis "flow": keys, states, records or data, all with flows along the first axis.

    ``run_many`` does so with its inputs; this is for one's own ``jax.jit(jax.vmap(...))``. Raises ValueError when the mesh has no such
    axis, or a leaf's first axis is not of one length with the others or no multiple of the axis size.
    """
    size = _flow_axis_size(mesh)
    lengths = {keystr(path): jnp.shape(leaf)[:1] for path, leaf in tree_leaves_with_path(tree)}
    if len(set(lengths.values())) > 1 or () in lengths.values():
        raise ValueError(f"each leaf of tree must have the flows along its first axis; received leading lengths {lengths}.")
    for (length,) in set(lengths.values()):
        if length == 0 or length % size:
            raise ValueError(
                f"tree must hold a multiple of {size} flows, the size of the mesh axis 'flow'; received {length}. "
                f"Pad it by {-length % size or size}, or let swjko.run_many do so."
            )
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(_FLOW)))


def _flows(keys, scheme, leaf_axes, num_steps, record, batch_size, mesh):
    """The compiled program. leaf_axes: 0 or None for each leaf of the scheme."""
    structure = jax.tree.structure(scheme)

    def flows(keys, scheme):
        leaves = jax.tree.leaves(scheme)

        def flow(key_and_stacked):
            key, stacked = key_and_stacked
            own = iter(stacked)
            one = jax.tree.unflatten(structure, [leaf if axis is None else next(own) for leaf, axis in zip(leaves, leaf_axes, strict=True)])
            # As in ``solve``.
            init_key, run_key = jax.random.split(key)
            state = one.init(init_key)
            _require_one_flow(state)
            return run(run_key, one, state, num_steps, record)

        stacked = [leaf for leaf, axis in zip(leaves, leaf_axes, strict=True) if axis == 0]
        if batch_size >= keys.shape[0] > 1:
            return jax.vmap(flow)((keys, stacked))
        return lax.map(flow, (keys, stacked), batch_size=None if batch_size == 1 else batch_size)

    if mesh is not None:
        specs = jax.tree.unflatten(structure, [_spec(axis) for axis in leaf_axes])
        # Whether a value differs between devices is known here: all do. Other mesh axes stay with the compiler.
        flows = jax.shard_map(
            flows,
            mesh=mesh,
            in_specs=(PartitionSpec(_FLOW), specs),
            out_specs=PartitionSpec(_FLOW),
            axis_names={_FLOW},
            check_vma=False,
        )
    return flows(keys, scheme)


_run_flows = jax.jit(_flows, static_argnames=("leaf_axes", "num_steps", "record", "batch_size", "mesh"))


@functools.partial(jax.jit, static_argnames="num")
def _first(tree, num):
    return jax.tree.map(lambda leaf: leaf[:num], tree)


def _placed(keys: Any, scheme: Any, leaf_axes: tuple, mesh: Mesh) -> tuple[Any, Any, int]:
    """Keys and scheme on the mesh, the flows padded by the first ones over again; and how many were added."""
    size, num = _flow_axis_size(mesh), keys.shape[0]
    padding = -num % size
    index = np.arange(num + padding) % num

    def place(leaf, axis):
        leaf = jnp.asarray(leaf)[index] if padding and axis == 0 else leaf
        return jax.device_put(leaf, NamedSharding(mesh, _spec(axis)))

    leaves = [place(leaf, axis) for leaf, axis in zip(jax.tree.leaves(scheme), leaf_axes, strict=True)]
    return place(keys, 0), jax.tree.unflatten(jax.tree.structure(scheme), leaves), padding


def _spec(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(_FLOW)


def _flow_axis_size(mesh: Mesh) -> int:
    _flow_devices(mesh)
    return mesh.shape[_FLOW]


def _flow_devices(mesh: Any) -> np.ndarray:
    """The devices of a mesh that has an axis of flows."""
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax Mesh, such as swjko.flow_mesh(); received {type(mesh).__name__}.")
    if _FLOW not in mesh.axis_names:
        raise ValueError(f"mesh must have an axis 'flow', as swjko.flow_mesh() has; received the axes {mesh.axis_names}.")
    return mesh.devices


def _count_keys(keys: Any) -> int:
    typed = hasattr(keys, "dtype") and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if not typed and getattr(keys, "dtype", None) != jnp.uint32:
        raise TypeError(f"keys must be random keys, such as jax.random.split(key, flows); received {type(keys).__name__}.")
    shape = keys.shape if typed else keys.shape[:-1]
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"keys must hold one key for each of at least one flow, jax.random.split(key, flows); received shape {shape}.")
    return shape[0]


def _leaf_axes(axes: Any, scheme: Any) -> tuple[int | None, ...]:
    """0 or None for each leaf of the scheme."""

    def is_none(leaf):
        return leaf is None

    try:
        spread = jax.tree.map(lambda axis, part: [axis] * len(jax.tree.leaves(part)), axes, scheme, is_leaf=is_none)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"axes must have the structure of the scheme, or be a prefix of it; received {type(axes).__name__}. Make it by "
            "swjko.stack_flows, or from jax.tree.map(lambda leaf: None, scheme) by dataclasses.replace."
        ) from error
    leaf_axes = tuple(jax.tree.leaves(spread, is_leaf=is_none))
    for axis in leaf_axes:
        if axis is not None and (type(axis) is not int or axis != 0):
            raise ValueError(f"axes must hold 0 at stacked leaves and None at shared ones, and nothing else; received {axis!r}.")
    return leaf_axes


def _check_stacked(scheme: Any, leaf_axes: tuple, num_flows: int) -> None:
    for (path, leaf), axis in zip(tree_leaves_with_path(scheme), leaf_axes, strict=True):
        if axis == 0 and jnp.shape(leaf)[:1] != (num_flows,):
            raise ValueError(
                f"scheme{keystr(path)} must have a leading axis of {num_flows} flows, as many as keys, since axes says that it is "
                f"stacked; received shape {jnp.shape(leaf)}."
            )


def _require_one_flow(state: Any) -> None:
    """While tracing. A stacked step size that axes does not mention would broadcast into every flow."""
    if jnp.ndim(state.time):
        raise ValueError(
            "axes must say which leaves of the scheme are stacked: with these, the time of one flow has shape "
            f"{jnp.shape(state.time)}. Give 0 for step_size, as swjko.stack_flows does."
        )


def _require_same_structure(first: Any, other: Any) -> None:
    if jax.tree.structure(first) == jax.tree.structure(other):
        return
    fields = dataclasses.fields(first) if dataclasses.is_dataclass(first) and type(first) is type(other) else ()
    differing = [field.name for field in fields if not _alike(field, getattr(first, field.name), getattr(other, field.name))]
    raise ValueError(
        f"schemes must differ in leaves alone; these differ in {', '.join(differing) or 'their kind'}. Make functions and optimizer once, "
        "use them in all schemes, and hand data to a function by jax.tree_util.Partial(function, data)."
    )


def _alike(field: dataclasses.Field, first: Any, other: Any) -> bool:
    return first == other if field.metadata.get("static") else jax.tree.structure(first) == jax.tree.structure(other)


def _stacked(name: str, leaves: Sequence[Any]) -> tuple[Any, int | None]:
    kinds = {(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves}
    if len(kinds) > 1:
        raise ValueError(
            f"schemes must have leaves of one shape and dtype; received {sorted(map(str, kinds))} for {name}. "
            "Pad clouds of different sizes to one size, with zero weights for the padding."
        )
    if all(leaf is leaves[0] or np.array_equal(np.asarray(leaf), np.asarray(leaves[0])) for leaf in leaves):
        return leaves[0], None
    return jnp.stack(leaves), 0
