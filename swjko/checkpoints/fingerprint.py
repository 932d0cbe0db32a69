"""What makes two runs one and the same: a flat table of names and short values, equal in each process that sets up the same run.

Numbers stand for themselves and arrays for their dtype, shape and SHA-256. A function of a user's is its bytecode, what it closes over, its
defaults, and the numbers, arrays and own functions among its globals; one of a library is its name and what it closes over, since the
versions are in the table. An object of a user's class is its attributes; of a library's object that is no tree only the type is known.
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

_PLAIN = (type(None), bool, int, float, complex, str, bytes, enum.Enum, np.dtype)
_ARRAYS = (jax.Array, np.ndarray, np.generic)
_LIBRARIES = {
    "jax",
    "jaxlib",
    "numpy",
    "scipy",
    "optax",
    "flax",
    "chex",
    "distrax",
    "diffrax",
    "jaxtyping",
    "beartype",
    "swjko",
    "builtins",
}
_SHORT = 60
_SHOWN = 8


def describe(**things: Any) -> dict[str, str]:
    """The table of the things under their names, versions included.

    Example: ``describe(scheme=scheme, key=key)["scheme.step_size"]`` is ``"float32[] 0.1"``.
    """
    from swjko._version import __version__

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


def differences(saved: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """One phrase for each name whose values differ, a few of them and the number of the rest."""
    names = [name for name in {**saved, **present} if saved.get(name) != present.get(name)]
    phrases = [
        f"{name}: {saved.get(name, 'nothing')} there and {present.get(name, 'nothing')} here"
        for name in names[:_SHOWN]
    ]
    return phrases + ([f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else [])


def _describe(
    entries: dict[str, str], name: str, thing: Any, seen: dict[int, tuple[str, Any]]
) -> None:
    if isinstance(thing, _PLAIN) or _is_plain_sequence(thing):
        entries[name] = _short(repr(thing))
        return
    if isinstance(thing, _ARRAYS):
        entries[name] = _array(thing)
        return
    if id(thing) in seen:
        entries[name] = f"as {seen[id(thing)][0]}"
        return
    # The thing is kept beside its name: were it freed, another could take its id.
    seen[id(thing)] = (name, thing)
    entries[name], parts = _parts(thing)
    for label, part in parts:
        _describe(entries, f"{name}.{label}", part, seen)


def _parts(thing: Any) -> tuple[str, list[tuple[str, Any]]]:
    """A thing's own description, and what else it holds."""
    kind = _qualified(type(thing))
    if isinstance(thing, jax.ShapeDtypeStruct):
        return f"{thing.dtype}{list(thing.shape)}", []
    if isinstance(thing, type):
        return _qualified(thing), []
    if isinstance(thing, functools.partial):
        return kind, [("func", thing.func), ("args", thing.args), ("keywords", thing.keywords)]
    if isinstance(thing, types.MethodType):
        return kind, [("function", thing.__func__), ("self", thing.__self__)]
    if isinstance(thing, types.FunctionType):
        return _function(thing)
    if callable(getattr(thing, "__wrapped__", None)):
        return kind, [("wrapped", thing.__wrapped__)]
    if dataclasses.is_dataclass(thing):
        return kind, [
            (field.name, getattr(thing, field.name, None)) for field in dataclasses.fields(thing)
        ]
    if isinstance(thing, tuple) and (names := getattr(thing, "_fields", None)):
        return kind, list(zip(names, thing, strict=True))
    if isinstance(thing, (tuple, list)):
        return f"{kind} of {len(thing)}", [(str(index), part) for index, part in enumerate(thing)]
    if isinstance(thing, Mapping):
        return f"{kind} of {len(thing)}", sorted(
            ((str(label), part) for label, part in thing.items()), key=lambda item: item[0]
        )
    if not _is_library(type(thing)) and hasattr(thing, "__dict__"):
        return kind, sorted(vars(thing).items())
    leaves, structure = jax.tree_util.tree_flatten_with_path(thing)
    if not jax.tree_util.treedef_is_leaf(structure):
        return kind, [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    return kind, []


def _function(function: types.FunctionType) -> tuple[str, list[tuple[str, Any]]]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    parts = [(label, cell.cell_contents) for label, cell in cells if _is_filled(cell)]
    if _is_library(function):
        return _qualified(function), parts
    parts += [("defaults", function.__defaults__), ("kwdefaults", function.__kwdefaults__)]
    for label in sorted(set(_global_names(function.__code__)) & set(function.__globals__)):
        value = function.__globals__[label]
        own = isinstance(value, types.FunctionType) and not _is_library(value)
        if own or isinstance(value, (*_PLAIN, *_ARRAYS)) or _is_plain_sequence(value):
            parts.append((label, value))
    return f"{function.__qualname__} {_digest(*_code(function.__code__))}", parts


def _code(code: types.CodeType) -> Iterator[bytes]:
    """What the bytecode does, without where it stands."""
    yield code.co_code
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)).encode()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant)
        else:
            yield repr(
                sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
            ).encode()


def _global_names(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _array(array: Any) -> str:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return f"key of {jax.random.key_impl(array)}, {_array(jax.random.key_data(array))}"
    host = np.asarray(array)
    value = str(host.tolist()) if host.size <= 4 else f"sha256 {_digest(host.tobytes())}"
    return f"{host.dtype.name}{list(host.shape)} {value}"


def _is_plain_sequence(thing: Any) -> bool:
    return type(thing) in (tuple, list) and all(isinstance(part, _PLAIN) for part in thing)


def _is_library(function: types.FunctionType | type) -> bool:
    return (function.__module__ or "").split(".")[0] in _LIBRARIES


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _qualified(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _short(text: str) -> str:
    return (
        text
        if len(text) <= _SHORT
        else f"{text[:20]}... of {len(text)} characters, sha256 {_digest(text.encode())}"
    )


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]
