"""Fingerprint of a run: a flat table of names and short values, equal in every process.

Numbers stand for themselves, and arrays for their dtype, shape and SHA-256. A user's function
is described by its bytecode, closure, defaults, and the numbers, arrays and own functions among
its globals. A library's function is described by its name and closure, since the table lists the
versions. An object of a user's class is described by its attributes. Of a library's object that
is not a pytree, only the type is known.
"""

import dataclasses
import dis
import enum
import functools
import hashlib
import platform
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from swjko._names import __version__

_PLAIN = (type(None), bool, int, float, complex, str, bytes, enum.Enum, np.dtype)
_ARRAYS = (jax.Array, np.ndarray, np.generic)
_LIBRARIES = {"jax", "jaxlib", "numpy", "scipy", "optax", "flax", "chex", "distrax", "diffrax"} | {
    *("jaxtyping", "beartype", "swjko", "builtins")
}
_LONGEST_VALUE = 60
_MOST_DIFFERENCES = 8
_Parts = list[tuple[str, Any]]


def describe(**things: Any) -> dict[str, str]:
    """Return the fingerprint of things under their names, with the versions they depend on.

    Example:
      ``describe(scheme=scheme, key=key)["scheme.step_size"]`` is ``"float32[] 0.1"``.
    """
    entries = {
        "version of swjko": __version__,
        "version of jax": jax.__version__,
        "version of Python": ".".join(platform.python_version_tuple()[:2]),
        "jax_threefry_partitionable": repr(jax.config.values["jax_threefry_partitionable"]),
        "jax_default_matmul_precision": repr(jax.config.values["jax_default_matmul_precision"]),
    }
    seen: dict[int, tuple[str, Any]] = {}
    for name, thing in things.items():
        _describe(entries, name, thing, seen)
    return entries


def differences(
    saved: Mapping[str, str],
    present: Mapping[str, str],
    sides: tuple[str, str] = ("saved", "now"),
) -> list[str]:
    """Return a phrase for each of the first values that differ, and the number of the others.

    Args:
      saved: One fingerprint.
      present: Another one.
      sides: What to call the two.
    """
    names = [name for name in {**saved, **present} if saved.get(name) != present.get(name)]
    phrases = [
        f"{name}: {saved.get(name, 'nothing')} {sides[0]}, "
        f"{present.get(name, 'nothing')} {sides[1]}"
        for name in names[:_MOST_DIFFERENCES]
    ]
    more = len(names) - len(phrases)
    return phrases + ([f"and {more} more"] if more else [])


def _describe(
    entries: dict[str, str], name: str, thing: Any, seen: dict[int, tuple[str, Any]]
) -> None:
    if _is_plain(thing):
        text = repr(thing)
        if len(text) > _LONGEST_VALUE:
            text = f"{text[:20]}... of {len(text)} characters, sha256 {_digest(text.encode())}"
        entries[name] = text
    elif isinstance(thing, _ARRAYS):
        entries[name] = _describe_array(thing)
    elif id(thing) in seen:
        entries[name] = f"as {seen[id(thing)][0]}"
    else:
        # The thing is kept beside its name: if it were freed, another could take its id.
        seen[id(thing)] = (name, thing)
        entries[name], parts = _split(thing)
        for label, part in parts:
            _describe(entries, f"{name}.{label}", part, seen)


def _split(thing: Any) -> tuple[str, _Parts]:
    """Return the description of a thing without its parts, and the parts."""
    kind = _qualified(type(thing))
    parts: _Parts = []
    if isinstance(thing, jax.ShapeDtypeStruct):
        kind = f"{thing.dtype}{list(thing.shape)}"
    elif isinstance(thing, type):
        kind = _qualified(thing)
    elif isinstance(thing, functools.partial):
        parts = [(name, getattr(thing, name)) for name in ("func", "args", "keywords")]
    elif isinstance(thing, types.MethodType):
        parts = [("function", thing.__func__), ("self", thing.__self__)]
    elif isinstance(thing, types.FunctionType):
        kind, parts = _split_function(thing)
    elif callable(getattr(thing, "__wrapped__", None)):
        parts = [("wrapped", thing.__wrapped__)]
    elif dataclasses.is_dataclass(thing):
        names = [field.name for field in dataclasses.fields(thing)]
        parts = [(name, getattr(thing, name, None)) for name in names]
    elif isinstance(thing, tuple) and (names := getattr(thing, "_fields", None)):
        parts = list(zip(names, thing, strict=True))
    elif isinstance(thing, tuple | list):
        kind = f"{kind} of {len(thing)}"
        parts = [(str(index), part) for index, part in enumerate(thing)]
    elif isinstance(thing, Mapping):
        kind = f"{kind} of {len(thing)}"
        parts = sorted(((str(k), v) for k, v in thing.items()), key=lambda item: item[0])
    elif not _is_library(type(thing)) and hasattr(thing, "__dict__"):
        parts = sorted(vars(thing).items())
    else:
        leaves, structure = jax.tree_util.tree_flatten_with_path(thing)
        if not jax.tree_util.treedef_is_leaf(structure):
            parts = [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    return kind, parts


def _split_function(function: types.FunctionType) -> tuple[str, _Parts]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    parts = [(name, cell.cell_contents) for name, cell in cells if _is_filled(cell)]
    if _is_library(function):
        return _qualified(function), parts
    parts += [("defaults", function.__defaults__), ("kwdefaults", function.__kwdefaults__)]
    for name in sorted(set(_global_names(function.__code__)) & set(function.__globals__)):
        value = function.__globals__[name]
        is_own = isinstance(value, types.FunctionType) and not _is_library(value)
        if is_own or _is_plain(value) or isinstance(value, _ARRAYS):
            parts.append((name, value))
    return f"{function.__qualname__} {_digest(*_code(function.__code__))}", parts


def _code(code: types.CodeType) -> Iterator[bytes]:
    """Yield what the bytecode does, without its place in the source."""
    yield code.co_code
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)).encode()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant)
        else:
            is_set = isinstance(constant, frozenset)
            yield repr(sorted(map(repr, constant)) if is_set else constant).encode()


def _global_names(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _describe_array(array: Any) -> str:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _describe_array(jax.random.key_data(array))
        return f"key of {jax.random.key_impl(array)}, {data}"
    host = np.asarray(array)
    value = str(host.tolist()) if host.size <= 4 else f"sha256 {_digest(host.tobytes())}"
    return f"{host.dtype.name}{list(host.shape)} {value}"


def _is_plain(thing: Any) -> bool:
    if type(thing) in (tuple, list):
        return all(isinstance(part, _PLAIN) for part in thing)
    return isinstance(thing, _PLAIN)


def _is_library(thing: types.FunctionType | type) -> bool:
    return (thing.__module__ or "").split(".")[0] in _LIBRARIES


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _qualified(thing: types.FunctionType | type) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]
