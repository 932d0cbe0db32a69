"""Every public function has a short first line, and an entry for each of its arguments."""

import inspect
import re
import types

import pytest

import swjko
from swjko import closed_form, distributed, flows, interop, plots, problems


def public_objects() -> dict[str, object]:
    objects = {name: getattr(swjko, name) for name in swjko.__all__ if not name.startswith("_")}
    for module in (closed_form, distributed, flows, interop, plots, problems):
        objects |= {
            f"{module.__name__}.{name}": value
            for name, value in vars(module).items()
            if not name.startswith("_")
            and getattr(value, "__module__", "").startswith(module.__name__)
        }
    return {
        name: value
        for name, value in objects.items()
        if inspect.isclass(value) or inspect.isfunction(value)
    }


PUBLIC = public_objects()
FUNCTIONS = [name for name, value in PUBLIC.items() if isinstance(value, types.FunctionType)]


def section(docstring: str, title: str) -> str:
    found = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)*)", docstring, re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize("name", PUBLIC)
def test_the_first_line_is_a_short_sentence(name):
    first = (inspect.getdoc(PUBLIC[name]) or "").split("\n")[0]
    assert first.endswith(".")
    assert len(first) <= 90


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_has_an_entry(name):
    function = PUBLIC[name]
    entries = section(inspect.getdoc(function) or "", "Args")
    described = set(re.findall(r"^  \*{0,2}(\w+)(?: \([^)]*\))?:", entries, re.MULTILINE))
    arguments = set(inspect.signature(function).parameters)
    assert arguments - described == set()


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if inspect.isclass(value)])
def test_every_field_has_an_entry(name):
    kind = PUBLIC[name]
    fields = getattr(kind, "_fields", None)
    if fields is not None:
        entries = section(inspect.getdoc(kind) or "", "Attributes")
        assert set(fields) - set(re.findall(r"^  (\w+):", entries, re.MULTILINE)) == set()
