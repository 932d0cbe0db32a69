"""How many flows lie: which leaves of their scheme are stacked, how many advance at once, and on which devices of a mesh.

What ``run_many`` and ``solve`` share. A function of one flow becomes one of all of them by ``Layout.over_flows``.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr, tree_leaves_with_path

from swjko import validation
from swjko.schemes.base import Scheme
from swjko.types import Key

FLOW = "flow"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Made by ``laid_out``; part of a compiled program, so hashable.

    Attributes:
      num_flows: as many as there are keys.
      leaf_axes: 0 for each leaf of the scheme that is stacked, None for each that all flows share.
      batch_size: flows that one device advances at once.
      mesh: None is one device.
    """

    num_flows: int
    leaf_axes: tuple[int | None, ...]
    batch_size: int
    mesh: Mesh | None

    @property
    def spans_processes(self) -> bool:
        """Whether some of the devices are those of other processes."""
        return self.mesh is not None and self.mesh.is_multi_process

    @property
    def padding(self) -> int:
        """Flows that are run and cut off, for the mesh to divide their number."""
        return 0 if self.mesh is None else -self.num_flows % self.mesh.shape[FLOW]

    def over_flows(self, function: Callable[..., Any], scheme: Any, *stacked: Any) -> Any:
        """``function(scheme, *values)`` of each flow, its own leaves in the scheme and its values out of ``stacked``; results stacked."""
        structure = jax.tree.structure(scheme)

        def flows(scheme, *stacked):
            leaves = jax.tree.leaves(scheme)

            def flow(own_and_values):
                own, values = own_and_values
                rest = iter(own)
                one = [
                    leaf if axis is None else next(rest)
                    for leaf, axis in zip(leaves, self.leaf_axes, strict=True)
                ]
                return function(jax.tree.unflatten(structure, one), *values)

            own = [leaf for leaf, axis in zip(leaves, self.leaf_axes, strict=True) if axis == 0]
            num = jax.tree.leaves(stacked)[0].shape[0]
            if self.batch_size >= num > 1:
                return jax.vmap(flow)((own, stacked))
            return lax.map(
                flow, (own, stacked), batch_size=None if self.batch_size == 1 else self.batch_size
            )

        if self.mesh is not None:
            specs = jax.tree.unflatten(structure, [_spec(axis) for axis in self.leaf_axes])
            # Whether a value differs between devices is known here: all do. Other mesh axes stay with the compiler.
            flows = jax.shard_map(
                flows,
                mesh=self.mesh,
                in_specs=(specs, *len(stacked) * [PartitionSpec(FLOW)]),
                out_specs=PartitionSpec(FLOW),
                axis_names={FLOW},
                check_vma=False,
            )
        return flows(scheme, *stacked)

    def placed(self, tree: Any) -> Any:
        """The stacked tree on the mesh, padded by its first flows over again."""
        if self.mesh is None:
            return tree
        return jax.tree.map(functools.partial(self._placed_leaf, self.mesh, 0), tree)

    def placed_scheme(self, scheme: Any) -> Any:
        """The scheme on the mesh: stacked leaves as in ``placed``, the others on every device."""
        if self.mesh is None:
            return scheme
        leaves = [
            self._placed_leaf(self.mesh, axis, leaf)
            for leaf, axis in zip(jax.tree.leaves(scheme), self.leaf_axes, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(scheme), leaves)

    def cut(self, tree: Any) -> Any:
        """The stacked tree without the padding."""
        return _first(tree, self.num_flows) if self.padding else tree

    def _placed_leaf(self, mesh: Mesh, axis: int | None, leaf: Any) -> Any:
        place = NamedSharding(mesh, _spec(axis))
        index = (
            np.arange(self.num_flows + self.padding) % self.num_flows
            if self.padding and axis == 0
            else None
        )
        if mesh.is_multi_process:
            return _placed_across(leaf, index, place)
        return jax.device_put(leaf if index is None else jnp.asarray(leaf)[index], place)


def laid_out(
    keys: Key, scheme: Scheme, axes: Any, mesh: Mesh | None, batch_size: int | None
) -> tuple[Key, Any, Layout]:
    """keys and scheme where they are to lie, and their layout, from the arguments of ``run_many``; raises as it says.

    Warns, as from the caller of its caller, where flows are added for the mesh to divide their number.
    """
    num_flows = _count_keys(keys)
    if batch_size is None:
        platform = jax.default_backend() if mesh is None else flow_devices(mesh).flat[0].platform
        batch_size = 1 if platform == "cpu" else num_flows
    elif mesh is not None:
        flow_devices(mesh)
    layout = Layout(
        num_flows, _leaf_axes(axes, scheme), validation.as_count(batch_size, "batch_size"), mesh
    )
    _check_stacked(scheme, layout)
    if layout.padding:
        warnings.warn(
            f"the number of flows, {num_flows}, is no multiple of {flow_axis_size(mesh)}, the size of the mesh axis 'flow': "
            f"{layout.padding} more are run and cut off, and some devices work for nothing.",
            stacklevel=3,
        )
    return layout.placed(keys), layout.placed_scheme(scheme), layout


def on_host(tree: Any) -> Any:
    """The tree with its arrays on the host, what other processes hold included; each process must ask."""
    if all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def are_many(keys: Any) -> bool:
    """Whether these are keys [flows], and not one key. Raises TypeError where they are neither."""
    shape = _shape_of_keys(
        keys,
        "key",
        "jax.random.key(0), or one for each of many flows, jax.random.split(key, flows)",
    )
    if len(shape) > 1:
        raise ValueError(
            f"key must be one random key, or keys [flows], one for each of many flows; received shape {shape}."
        )
    return len(shape) == 1


def require_one_flow(state: Any) -> None:
    """While tracing. A stacked step size that axes does not mention would broadcast into every flow."""
    if jnp.ndim(state.time):
        raise ValueError(
            "axes must say which leaves of the scheme are stacked: with these, the time of one flow has shape "
            f"{jnp.shape(state.time)}. Give 0 for step_size, as swjko.stack_flows does."
        )


def flow_axis_size(mesh: Any) -> int:
    flow_devices(mesh)
    return mesh.shape[FLOW]


def flow_devices(mesh: Any) -> np.ndarray:
    """The devices of a mesh that has an axis of flows."""
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be a jax Mesh, such as swjko.flow_mesh(); received {type(mesh).__name__}."
        )
    if FLOW not in mesh.axis_names:
        raise ValueError(
            f"mesh must have an axis 'flow', as swjko.flow_mesh() has; received the axes {mesh.axis_names}."
        )
    return mesh.devices


def _placed_across(leaf: Any, index: Any, place: NamedSharding) -> Any:
    """A leaf, or its rows ``index``, on a mesh of several processes. Each hands in the same, or what lies there already."""
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        placed = _placed_across(jax.random.key_data(leaf), index, place)
        return jax.random.wrap_key_data(placed, impl=str(jax.random.key_impl(leaf)))
    if not getattr(leaf, "is_fully_addressable", True):
        return jax.jit(lambda leaf: leaf if index is None else leaf[index], out_shardings=place)(
            leaf
        )
    # To devices of other processes, JAX takes what lies on the host alone.
    leaf = np.asarray(leaf)
    return jax.device_put(leaf if index is None else leaf[index], place)


@functools.partial(jax.jit, static_argnames="num")
def _first(tree, num):
    return jax.tree.map(lambda leaf: leaf[:num], tree)


def _spec(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(FLOW)


def _count_keys(keys: Any) -> int:
    shape = _shape_of_keys(keys, "keys", "jax.random.split(key, flows)")
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(
            f"keys must hold one key for each of at least one flow, jax.random.split(key, flows); received shape {shape}."
        )
    return shape[0]


def _shape_of_keys(keys: Any, name: str, example: str) -> tuple[int, ...]:
    typed = hasattr(keys, "dtype") and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if not typed and getattr(keys, "dtype", None) != jnp.uint32:
        raise TypeError(
            f"{name} must be random, such as {example}; received {type(keys).__name__}."
        )
    return keys.shape if typed else keys.shape[:-1]


def _leaf_axes(axes: Any, scheme: Any) -> tuple[int | None, ...]:
    """0 or None for each leaf of the scheme."""

    def is_none(leaf):
        return leaf is None

    try:
        spread = jax.tree.map(
            lambda axis, part: [axis] * len(jax.tree.leaves(part)), axes, scheme, is_leaf=is_none
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"axes must have the structure of the scheme, or be a prefix of it; received {type(axes).__name__}. Make it by "
            "swjko.stack_flows, or from jax.tree.map(lambda leaf: None, scheme) by dataclasses.replace."
        ) from error
    leaf_axes = tuple(jax.tree.leaves(spread, is_leaf=is_none))
    for axis in leaf_axes:
        if axis is not None and (type(axis) is not int or axis != 0):
            raise ValueError(
                f"axes must hold 0 at stacked leaves and None at shared ones, and nothing else; received {axis!r}."
            )
    return leaf_axes


def _check_stacked(scheme: Any, layout: Layout) -> None:
    for (path, leaf), axis in zip(tree_leaves_with_path(scheme), layout.leaf_axes, strict=True):
        if axis == 0 and jnp.shape(leaf)[:1] != (layout.num_flows,):
            raise ValueError(
                f"scheme{keystr(path)} must have a leading axis of {layout.num_flows} flows, as many as keys, since axes says that it is "
                f"stacked; received shape {jnp.shape(leaf)}."
            )
