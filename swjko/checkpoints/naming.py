"""Names of the leaves of a tree, with which a checkpoint can be read without the scheme.

A name is the path of a leaf: texts for keys of mappings and names of fields, numbers for places
in a sequence. ``nested`` makes mappings of the former and lists of the latter.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.tree_util import FlattenedIndexKey, SequenceKey
from jaxtyping import PyTree

from swjko.schemes.base import Info, State

Name = tuple[str | int, ...]


def leaf_names(tree: PyTree) -> list[Name]:
    """Return the name of each leaf, in the order of ``jax.tree.leaves``."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [tuple(map(_entry, path)) for path, _ in paths]


def nested(names: Sequence[Sequence[str | int]], leaves: Sequence[Any]) -> Any:
    """Put leaves into dictionaries and lists by their names.

    A dictionary with the fields of ``State`` or ``Info`` becomes one. Empty parts of a tree have
    no leaves: they are missing in dictionaries, and None in lists.
    """
    if len(names) == 1 and not names[0]:
        return leaves[0]
    parts: dict[str | int, tuple[list[Name], list[Any]]] = {}
    for name, leaf in zip(names, leaves, strict=True):
        inner = parts.setdefault(name[0], ([], []))
        inner[0].append(tuple(name[1:]))
        inner[1].append(leaf)
    tree = {entry: nested(*inner) for entry, inner in parts.items()}
    if tree and all(isinstance(entry, int) for entry in tree):
        return [tree.get(place) for place in range(1 + max(map(int, tree)))]
    for kind in (State, Info):
        if set(tree) <= set(kind._fields) and set(kind._fields) - {"params", "extra"} <= set(tree):
            return kind(**{str(name): part for name, part in tree.items()})
    return tree


def _entry(entry: Any) -> str | int:
    if isinstance(entry, SequenceKey):
        return entry.idx
    if isinstance(entry, FlattenedIndexKey):
        return entry.key
    return str(getattr(entry, "name", getattr(entry, "key", entry)))
