"""Pickling of dataclasses that hold closures, such as schemes with optimizers of optax.

``pickle`` stores functions by name, so it refuses functions that other functions return. Here such
a function is stored by the place of its code and the values of its closure; the code is looked up
in the installed module when it is loaded. What has no such place, such as a lambda of a script, is
left to the pickler: ``pickle`` refuses it, and ``cloudpickle`` stores it.
"""

import copy
import dataclasses
import functools
import hashlib
import importlib
import inspect
import pickle
import sys
import types
from collections.abc import Iterator
from typing import Any


class Picklable:
    """Gives subclasses, which are frozen dataclasses, ``pickle`` and ``copy``."""

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Any:
        """Returns an instance with these fields, which are not checked again."""
        made = object.__new__(cls)
        for name, value in fields.items():
            object.__setattr__(made, name, value)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        seen: dict[int, _Closure] = {}
        fields = {name: _portable(value, seen) for name, value in self._field_values().items()}
        return _from_fields, (type(self), fields)

    def __copy__(self) -> Any:
        return self.from_fields(self._field_values())

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.from_fields(copy.deepcopy(self._field_values(), memo))

    def _field_values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]


class _Closure:
    """Stands for a function while it is pickled, and is loaded as the function."""

    def __init__(self, function: types.FunctionType, seen: dict[int, "_Closure"]):
        self._function, self._seen = function, seen

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # so that ``partial`` takes it
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        function, code = self._function, self._function.__code__
        place = function.__globals__["__name__"], code.co_qualname, _digest(code)
        cells = {at: cell.cell_contents for at, cell in _filled(function)}
        state = cells, function.__defaults__, function.__kwdefaults__, function.__dict__
        # Set after the function is made, since a function may be in its own closure.
        portable = tuple(_portable(part, self._seen) for part in state)
        return _new_function, place, portable, None, None, _fill


def _portable(thing: Any, seen: dict[int, _Closure]) -> Any:
    """Returns the thing with a stand-in for each function that pickle does not find by name."""
    if isinstance(thing, types.FunctionType):
        return thing if _has_name(thing) or not _has_place(thing) else _closure(thing, seen)
    if isinstance(thing, functools.partial):
        arguments = [_portable(part, seen) for part in (thing.args, thing.keywords)]
        return type(thing)(_portable(thing.func, seen), *arguments[0], **arguments[1])
    if type(thing) in (tuple, list):
        return type(thing)(_portable(part, seen) for part in thing)
    if isinstance(thing, tuple) and hasattr(thing, "_fields"):
        return type(thing)(*(_portable(part, seen) for part in thing))
    if type(thing) is dict:
        return {key: _portable(part, seen) for key, part in thing.items()}
    return thing


def _closure(function: types.FunctionType, seen: dict[int, _Closure]) -> _Closure:
    return seen.setdefault(id(function), _Closure(function, seen))


def _from_fields(kind: type[Picklable], fields: dict[str, Any]) -> Any:
    return kind.from_fields(fields)


def _new_function(module: str, name: str, digest: str) -> types.FunctionType:
    """Returns the function of this name, with an empty closure."""
    code = _find(importlib.import_module(module), name, digest)
    if code is None:
        raise pickle.UnpicklingError(
            f"the pickle must come from the same versions of {module.split('.')[0]} and Python; "
            f"got a function {module}.{name} that is another one here. Make the object again."
        )
    cells = tuple(types.CellType() for _ in code.co_freevars)
    namespace = sys.modules[module].__dict__
    return types.FunctionType(code, namespace, code.co_name, None, cells)


def _fill(function: types.FunctionType, state: tuple[Any, ...]) -> None:
    cells, function.__defaults__, function.__kwdefaults__, attributes = state
    for at, value in cells.items():
        closure: Any = function.__closure__
        closure[at].cell_contents = value
    function.__dict__.update(attributes)


def _filled(function: types.FunctionType) -> Iterator[tuple[int, types.CellType]]:
    for at, cell in enumerate(function.__closure__ or ()):
        try:
            cell.cell_contents  # noqa: B018
        except ValueError:
            continue
        yield at, cell


def _has_name(function: types.FunctionType) -> bool:
    """Returns whether pickle finds the function by its name."""
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function


def _has_place(function: types.FunctionType) -> bool:
    """Returns whether the code of the function is found in an installed module."""
    code, module = function.__code__, sys.modules.get(function.__globals__.get("__name__", ""))
    # Another process has another main module.
    if module is None or module.__name__ == "__main__":
        return False
    return _find(module, code.co_qualname, _digest(code)) is not None


def _find(module: types.ModuleType, name: str, digest: str) -> types.CodeType | None:
    maker: Any = module
    for part in name.partition(".<locals>")[0].split("."):
        maker = getattr(maker, part, None)
    code = getattr(inspect.unwrap(maker), "__code__", None) if callable(maker) else None
    for inner in () if code is None else _inside(code):
        if inner.co_qualname == name and _digest(inner) == digest:
            return inner
    return None


def _inside(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _inside(constant)


def _digest(code: types.CodeType) -> str:
    """Returns a text that tells code from other code, wherever its source lies."""
    digest = hashlib.sha256(code.co_code)
    digest.update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    for constant in code.co_consts:
        # The order of a frozen set differs between processes.
        if isinstance(constant, frozenset):
            text = repr(sorted(map(repr, constant)))
        else:
            text = _digest(constant) if isinstance(constant, types.CodeType) else repr(constant)
        digest.update(text.encode())
    return digest.hexdigest()[:32]
