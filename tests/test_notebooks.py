"""Notebooks run at a small size, agree with their scripts, and use public names only."""

import ast
import pkgutil
import sys
from pathlib import Path

import jupytext
import nbclient
import nbformat
import numpy as np
import pytest

import swjko

FOLDER = Path(__file__).parent.parent / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PUBLIC_MODULES = {
    module.name
    for module in pkgutil.iter_modules(swjko.__path__)
    if not module.name.startswith("_")
}
THIRD_PARTY = {
    "IPython",
    "blackjax",
    "jax",
    "matplotlib",
    "numpy",
    "optax",
    "scipy",
    "sklearn",
    "swjko",
}


def by_name(path):
    return path.stem


def test_every_script_has_its_notebook():
    assert [path.stem for path in SCRIPTS] == [path.stem for path in NOTEBOOKS]
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=by_name)
def test_pairs_are_in_sync(script):
    cells = [(cell.cell_type, cell.source) for cell in jupytext.read(script).cells]
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == cells


@pytest.mark.parametrize("script", SCRIPTS, ids=by_name)
def test_only_public_names_and_no_algorithms(script):
    tree = ast.parse(script.read_text())
    for node in ast.walk(tree):
        assert not isinstance(node, ast.ClassDef)
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name.split(".")[0] in THIRD_PARTY | sys.stdlib_module_names
                assert "._" not in alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert "._" not in node.module
            assert not any(alias.name.startswith("_") for alias in node.names)
            if node.module == "swjko":
                assert {alias.name for alias in node.names} <= PUBLIC_MODULES | set(swjko.__all__)
        elif isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_")
            if isinstance(node.value, ast.Name) and node.value.id == "swjko":
                assert node.attr in swjko.__all__
        elif isinstance(node, ast.FunctionDef):
            # A potential or a kernel is one expression; longer functions belong in the package.
            statements = node.body[1:] if ast.get_docstring(node) else node.body
            assert len(statements) == 1, f"{node.name} defines an algorithm"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_outputs_are_those_of_a_whole_run_and_small(path):
    assert path.stat().st_size <= 400_000
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(
        output.output_type == "error" or output.get("name") == "stderr" for output in outputs
    )
    pictures = [
        output for output in outputs if {"image/png", "image/gif"} & set(output.get("data", {}))
    ]
    assert pictures


# Jupyter kernels and their sockets may warn.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_runs_from_start_to_end(path, monkeypatch):
    check = CHECKS.get(path.stem, lambda printed: None)
    check(run_notebook(path, monkeypatch))


def check_quickstart(printed):
    # The exact tenth iterate, mean and scale, from the closed form solved by hand.
    last = next(line.split() for line in printed.splitlines() if line.split()[:1] == ["10"])
    assert (last[2], last[4]) == ("0.323", "1.046")
    assert abs(float(last[1]) - 0.323) < 0.1
    assert abs(float(last[3]) - 1.046) < 0.05


def check_fokker_planck(printed):
    # In the plane slicing halves the cost of a shear and doubles its rate, 8 instead of 4.
    plane = [
        [float(word) for word in line.split()]
        for line in printed.splitlines()
        if line.split()[:1] == ["2"]
    ]
    assert plane[0] == [2, 1.0, 0.5, 0.5]
    np.testing.assert_allclose(plane[1], [2, 4, 4, 8, 8], rtol=1e-3)


def check_many_flows(printed):
    assert "results: ['OK', 'OK', 'NON_FINITE', 'OK', 'OK', 'OK', 'OK', 'OK']" in printed
    assert "all others as before, to the bit: True" in printed
    assert number_after(printed, "largest difference from the flow alone:") < 1e-4


def check_pipeline(printed):
    # A shift keeps all ranks; a shear changes them, which jax.grad does not see.
    shift, shear = (
        [float(word) for word in printed.split(name)[1].split()[:3]]
        for name in ("d mean_1 / d center_1", "d cov_12 / d tilt")
    )
    assert abs(shift[0] - shift[1]) < 2e-3
    assert shear[1] < shear[0] < 0


def number_after(printed, words):
    return float(printed.split(words)[1].split()[0])


CHECKS = {
    "01_quickstart": check_quickstart,
    "02_fokker_planck": check_fokker_planck,
    "04_many_flows": check_many_flows,
    "06_inside_a_pipeline": check_pipeline,
}


def run_notebook(path: Path, monkeypatch) -> str:
    """Everything that the notebook prints, run in a kernel of its own with SWJKO_SMOKE=1."""
    monkeypatch.setenv("SWJKO_SMOKE", "1")
    # The kernel is a user's process: neither forced devices nor the other settings of the tests.
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.output_type == "error" for output in outputs)
    return "".join(
        output.text
        for output in outputs
        if output.output_type == "stream" and output.name == "stdout"
    )
