"""Each public name says what it is: parameters, shapes, errors and source, as far as it has them."""

import inspect
import re
import types
from collections.abc import Callable
from typing import Any

import pytest

import swjko
from swjko import closed_form, flows, plots, problems

MODULES = (closed_form, flows, plots, problems)


def public() -> dict[str, Any]:
    objects = {name: getattr(swjko, name) for name in swjko.__all__}
    for module in MODULES:
        names = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
        objects |= {
            f"{module.__name__.rpartition('.')[2]}.{name}": getattr(module, name) for name in names
        }
    return {
        name: value
        for name, value in objects.items()
        if not isinstance(value, types.ModuleType) and value is not swjko.DirectionFn
    }


PUBLIC = public()
FUNCTIONS = [name for name, value in PUBLIC.items() if inspect.isfunction(value)]
CLASSES = [name for name, value in PUBLIC.items() if inspect.isclass(value)]
# What a docstring may leave to another one of which it says so, and where that is.
_REFERENCE = re.compile(
    r"(?:[Aa]rg(?:ument)?s|[Oo]ptions)[^.]*?(?:as of|as for|as|of) (?:``)?(?P<name>\w+)"
)
_ARRAY = re.compile(r"""\w+\[\w*Array, ?["'](?P<shape>[^"']*)["']\]""")
# Letters of shapes, as they stand in brackets.
_SHAPE = re.compile(r"\[[a-z][\w+ ]*(?: \.\.\.)?\]|\[\.\.\.\]")
# The source of these is the package itself, or they are too plain to have one: no formula of a paper is behind their names.
OF_A_PAPER = {
    "adaptive",
    "closed_form.gaussian_jko_step",
    "closed_form.gaussian_sw_bdf2_step",
    "closed_form.gaussian_sw_jko_step",
    "closed_form.gaussian_w2_pow",
    "flows.cnf",
    "flows.coupling",
    "flows.icnn",
    "flows.spline",
    "gaussian_mixture",
    "grid",
    "icnn_jko",
    "internal_energy",
    "langevin",
    "max_sliced_wasserstein",
    "mmd_to_target",
    "nearest_neighbour_negative_entropy",
    "orthogonal_directions",
    "problems.gaussian_target",
    "quasi_directions",
    "recommended_directions",
    "sliced_displacement",
    "sliced_flow",
    "sliced_wasserstein_estimate",
    "sw_bdf2",
    "sw_jko",
    "sw_to_target",
    "symmetric_kl",
}


def docstring(name: str) -> str:
    return inspect.getdoc(PUBLIC[name]) or ""


def whole(name: str) -> str:
    """The docstring, with those that it refers to and the text of its module."""
    text = docstring(name)
    for match in _REFERENCE.finditer(text):
        text += "\n" + docstrings_called(match["name"])
    return text


def docstrings_called(name: str) -> str:
    return "\n".join(
        inspect.getdoc(value) or ""
        for full, value in PUBLIC.items()
        if full.rpartition(".")[2] == name
    )


def with_module(name: str) -> str:
    return f"{whole(name)}\n{inspect.getdoc(inspect.getmodule(PUBLIC[name])) or ''}"


@pytest.mark.parametrize("name", PUBLIC)
def test_says_what_it_is(name):
    first, *rest = docstring(name).split("\n\n")
    assert first, f"{name} has no docstring"
    assert first.rstrip().endswith((".", ":", "::")), (
        f"{name}: the first sentence of the docstring does not end"
    )
    assert not re.search(r"TODO|FIXME|XXX", first + "".join(rest))
    # That of a dataclass or a NamedTuple without one is its signature, and that of Exception is Python's.
    assert not first.startswith(f"{name.rpartition('.')[2]}(")


def parameters(function: Callable) -> list[str]:
    return [parameter.name for parameter in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_mentions_each_parameter(name):
    text = whole(name)
    # A key is a key wherever it stands, and `functional` and `family` are what their types say.
    missing = [
        parameter
        for parameter in parameters(PUBLIC[name])
        if parameter != "key" and not re.search(rf"\b{parameter}\b", text)
    ]
    assert missing == [], f"{name} says nothing of {missing}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_says_the_shapes_of_arrays(name):
    annotations = [
        str(parameter.annotation)
        for parameter in inspect.signature(PUBLIC[name]).parameters.values()
    ]
    shapes = [
        match["shape"]
        for annotation in annotations
        for match in _ARRAY.finditer(annotation)
        if match["shape"].strip()
    ]
    if [shape for shape in shapes if shape != "..."]:
        assert _SHAPE.search(whole(name)), (
            f"{name} takes arrays of {shapes} and says no shape in the style of [n d]"
        )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_names_the_errors_that_it_raises(name):
    source = inspect.getsource(PUBLIC[name])
    if re.search(
        r"\braise \w|validation\.|require_|\bas_(?:count|points|positive|weights)", source
    ):
        assert re.search(r"[Rr]aises|[Ee]rrors|Error\b", whole(name)), (
            f"{name} checks its arguments and names no error"
        )


@pytest.mark.parametrize("name", sorted(OF_A_PAPER))
def test_names_its_source(name):
    assert re.search(r"\((?:\d{4}|[A-Z][\w, ]+\d{4})\)|\b(?:19|20)\d\d\b", with_module(name)), (
        f"{name} names no source with a year"
    )


@pytest.mark.parametrize("name", CLASSES)
def test_says_what_each_field_is(name):
    fields = getattr(PUBLIC[name], "_fields", None) or getattr(
        PUBLIC[name], "__dataclass_fields__", {}
    )
    missing = [field for field in fields if not re.search(rf"\b{field}\b", docstring(name))]
    assert missing == [], f"{name} says nothing of its fields {missing}"
