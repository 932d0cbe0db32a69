"""One flow or many: which leaves of a scheme are stacked, and where the flows run.

Recorded arrays are [steps ...] for one flow and [flows steps ...] for many.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr, tree_leaves_with_path
from jaxtyping import PyTree

from swjko.schemes.base import Scheme, State
from swjko.types import Key, validation

FLOW = "flow"


@dataclasses.dataclass(frozen=True)
class Batching:
    """How flows are batched. Hashable, since it is static in compiled programs.

    Attributes:
      num_flows: Number of flows without padding; None for one flow without an axis of flows.
      leaf_axes: 0 for each leaf of the scheme that is stacked, None for each shared one.
      batch_size: Number of flows that one device advances at once.
      mesh: Mesh with an axis "flow", or None for one device.
    """

    num_flows: int | None = None
    leaf_axes: tuple[int | None, ...] = ()
    batch_size: int = 1
    mesh: Mesh | None = None

    @property
    def step_axis(self) -> int:
        """Axis of the steps in what is recorded."""
        return 0 if self.num_flows is None else 1

    @property
    def spans_processes(self) -> bool:
        """Whether some of the devices belong to other processes."""
        return self.mesh is not None and self.mesh.is_multi_process

    @property
    def padding(self) -> int:
        """Number of dummy flows, which make the number divisible by the mesh axis."""
        if self.mesh is None or self.num_flows is None:
            return 0
        return -self.num_flows % self.mesh.shape[FLOW]

    @property
    def padding_notice(self) -> str:
        """What to warn of; empty if no flows are padded."""
        if self.mesh is None or not self.padding:
            return ""
        return (
            f"the number of flows, {self.num_flows}, is not a multiple of {self.mesh.shape[FLOW]}, "
            f"the size of the mesh axis 'flow': {self.padding} dummy flows are run as padding and "
            "their results discarded"
        )

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What distinguishes runs, beyond their scheme and key."""
        return {} if self.num_flows is None else {"axes": self.leaf_axes}

    def over_flows(self, function: Callable[..., Any], scheme: PyTree, *values: PyTree) -> Any:
        """Apply ``function(scheme, *values)`` to each flow and stack the results."""
        if self.num_flows is None:
            return function(scheme, *values)
        structure, axes = jax.tree.structure(scheme), self.leaf_axes

        def flows(scheme, *values):
            leaves = jax.tree.leaves(scheme)
            stacked = [leaf for leaf, axis in zip(leaves, axes, strict=True) if axis == 0]

            def flow(own):
                own_leaves, own_values = iter(own[0]), own[1]
                one = [
                    leaf if axis is None else next(own_leaves)
                    for leaf, axis in zip(leaves, axes, strict=True)
                ]
                return function(jax.tree.unflatten(structure, one), *own_values)

            num = jax.tree.leaves(values)[0].shape[0]
            if self.batch_size >= num > 1:
                return jax.vmap(flow)((stacked, values))
            batch_size = None if 1 in (self.batch_size, num) else self.batch_size
            return lax.map(flow, (stacked, values), batch_size=batch_size)

        if self.mesh is not None:
            scheme_specs = jax.tree.unflatten(structure, [_spec(axis) for axis in axes])
            # All values differ between devices, so JAX need not track which do (check_vma).
            flows = jax.shard_map(
                flows,
                mesh=self.mesh,
                in_specs=(scheme_specs, *len(values) * [PartitionSpec(FLOW)]),
                out_specs=PartitionSpec(FLOW),
                axis_names={FLOW},
                check_vma=False,
            )
        return flows(scheme, *values)

    def check_start(self, state: State) -> None:
        """Check the state of one of many flows at its start, while tracing."""
        # A stacked step size that axes does not mention would broadcast into every flow.
        if self.num_flows is not None and jnp.ndim(state.time):
            raise ValueError(
                "axes must say which leaves of the scheme are stacked; got a time of one flow of "
                f"shape {jnp.shape(state.time)}. Pass 0 for step_size, as swjko.stack_flows does."
            )

    def shard(self, tree: PyTree) -> Any:
        """Pad the flows by repeating the first ones, and place them on the mesh."""
        return jax.tree.map(functools.partial(self._shard_leaf, 0), tree)

    def shard_scheme(self, scheme: PyTree) -> Any:
        """Place a scheme on the mesh: stacked leaves as ``shard`` does, others on every device."""
        leaves, structure = jax.tree.flatten(scheme)
        return structure.unflatten(map(self._shard_leaf, self.leaf_axes, leaves))

    def unpad(self, tree: PyTree) -> Any:
        """Remove the padding."""
        return _first(tree, self.num_flows) if self.padding else tree

    def fetch(self, tree: PyTree) -> Any:
        """Return the arrays on the host, without padding. Every process must call it."""
        tree = on_host(tree)
        return jax.tree.map(lambda leaf: leaf[: self.num_flows], tree) if self.padding else tree

    def time_major(self, tree: PyTree) -> Any:
        """Return recorded arrays with the axis of steps first."""
        return jax.tree.map(lambda leaf: leaf.swapaxes(0, self.step_axis), tree)

    def concatenate(self, chunks: Sequence[PyTree]) -> Any:
        """Join recorded chunks along their steps."""

        def join(*parts):
            module = np if isinstance(parts[0], np.ndarray) else jnp
            return module.concatenate(parts, axis=self.step_axis)

        return jax.tree.map(join, *chunks)

    def last_steps(self, chunks: Sequence[PyTree], num_steps: int) -> Any:
        """Return what the chunks recorded of the last ``num_steps`` steps."""
        tail, length = [], 0
        while length < num_steps:
            tail.insert(0, chunks[-1 - len(tail)])
            leaves = jax.tree.leaves(tail[0])
            length += leaves[0].shape[self.step_axis] if leaves else num_steps
        last = (slice(None),) * self.step_axis + (slice(-num_steps, None),)
        return jax.tree.map(lambda leaf: leaf[last], self.concatenate(tail))

    def _shard_leaf(self, axis: int | None, leaf: Any) -> Any:
        if self.mesh is None or self.num_flows is None:
            return leaf
        sharding, rows = NamedSharding(self.mesh, _spec(axis)), None
        if self.padding and axis == 0:
            rows = np.arange(self.num_flows + self.padding) % self.num_flows
        if self.mesh.is_multi_process:
            return _shard_across_processes(leaf, rows, sharding)
        return jax.device_put(leaf if rows is None else jnp.asarray(leaf)[rows], sharding)


def prepare(
    keys: Key, scheme: Scheme, axes: PyTree, mesh: Mesh | None, batch_size: int | None
) -> tuple[Key, Any, Batching]:
    """Check arguments of ``run_many``; return keys and scheme on the mesh, and their batching."""
    shape = _key_shape(keys, "keys", "jax.random.split(key, flows)")
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(
            f"keys must hold one key for each flow, and at least one; got shape {shape}. "
            "Use jax.random.split(key, flows)."
        )
    if mesh is not None:
        require_flow_axis(mesh)
    if batch_size is None:
        platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
        batch_size = 1 if platform == "cpu" else shape[0]
    batch_size = validation.as_count(batch_size, "batch_size")
    flows = Batching(shape[0], _leaf_axes(axes, scheme), batch_size, mesh)
    for (path, leaf), axis in zip(tree_leaves_with_path(scheme), flows.leaf_axes, strict=True):
        if axis == 0 and jnp.shape(leaf)[:1] != shape:
            raise ValueError(
                f"scheme{keystr(path)} must have a leading axis of {shape[0]} flows, as many as "
                f"keys, since axes says that it is stacked; got shape {jnp.shape(leaf)}."
            )
    return flows.shard(keys), flows.shard_scheme(scheme), flows


def prepare_one_or_many(
    key: Key,
    scheme: Scheme,
    *,
    axes: PyTree = None,
    mesh: Mesh | None = None,
    batch_size: int | None = None,
) -> tuple[Key, Any, Batching]:
    """Prepare many flows for keys [flows], or one flow for one key."""
    shape = _key_shape(key, "key", "jax.random.key(0), or keys [flows] for many flows")
    if len(shape) > 1:
        raise ValueError(
            f"key must be one random key, or keys [flows] for many flows; got shape {shape}."
        )
    if len(shape) == 1:
        return prepare(key, scheme, axes, mesh, batch_size)
    for name, value in (("axes", axes), ("mesh", mesh), ("batch_size", batch_size)):
        if value is not None:
            raise ValueError(
                f"{name} must be None for one flow; got {name} and one key. "
                "Pass one key for each flow: jax.random.split(key, flows)."
            )
    return key, scheme, Batching()


def on_host(tree: PyTree) -> Any:
    """Return the arrays on the host, shards of other processes included. All processes call it."""
    if all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def require_flow_axis(mesh: Mesh) -> None:
    """Raise unless the argument is a mesh with an axis of flows."""
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be a jax Mesh; got {type(mesh).__name__}. Use swjko.flow_mesh()."
        )
    if FLOW not in mesh.axis_names:
        raise ValueError(
            f"mesh must have an axis 'flow'; got the axes {mesh.axis_names}. Use swjko.flow_mesh()."
        )


def _shard_across_processes(leaf: Any, rows: Any, sharding: NamedSharding) -> Any:
    """Place a leaf, or some of its rows, on a mesh of several processes.

    All processes pass the same values, or an array that is on the mesh already.
    """
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        numbers = _shard_across_processes(jax.random.key_data(leaf), rows, sharding)
        return jax.random.wrap_key_data(numbers, impl=str(jax.random.key_impl(leaf)))
    if not getattr(leaf, "is_fully_addressable", True):
        return jax.jit(lambda x: x if rows is None else x[rows], out_shardings=sharding)(leaf)
    # JAX sends only host arrays to devices of other processes.
    leaf = np.asarray(leaf)
    return jax.device_put(leaf if rows is None else leaf[rows], sharding)


@functools.partial(jax.jit, static_argnames="num")
def _first(tree, num):
    return jax.tree.map(lambda leaf: leaf[:num], tree)


def _spec(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(FLOW)


def _key_shape(keys: Any, name: str, example: str) -> tuple[int, ...]:
    is_typed = hasattr(keys, "dtype") and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if not is_typed and getattr(keys, "dtype", None) != jnp.uint32:
        kind = type(keys).__name__
        raise TypeError(f"{name} must be a JAX random key; got {kind}. Use {example}.")
    return keys.shape if is_typed else keys.shape[:-1]


def _leaf_axes(axes: PyTree, scheme: Scheme) -> tuple[int | None, ...]:
    """Return 0 or None for each leaf of the scheme."""

    def is_none(leaf):
        return leaf is None

    def spread(axis, part):
        return [axis] * len(jax.tree.leaves(part))

    try:
        full = jax.tree.map(spread, axes, scheme, is_leaf=is_none)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "axes must have the structure of the scheme, or be a prefix of it; "
            f"got {type(axes).__name__}. Make it with swjko.stack_flows, or apply "
            "dataclasses.replace to jax.tree.map(lambda leaf: None, scheme)."
        ) from error
    leaf_axes = tuple(jax.tree.leaves(full, is_leaf=is_none))
    for axis in leaf_axes:
        if axis is not None and (type(axis) is not int or axis != 0):
            raise ValueError(
                f"axes must hold only 0 at stacked leaves and None at shared ones; got {axis!r}."
            )
    return leaf_axes
