"""One version everywhere; wheel and sdist contain what they need."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from pages import ROOT

import swjko

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_version_is_the_same_everywhere():
    citation, changes = ((ROOT / name).read_text() for name in ("CITATION.cff", "CHANGELOG.md"))
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [swjko.__version__]
    assert re.findall(r"^## ([\d.]+)", changes, re.MULTILINE)[0] == swjko.__version__


def test_all_files_that_the_sdist_names_exist():
    names = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A directory with the sdist and the wheel that is built from it."""
    pytest.importorskip("build", reason="python -m build is in the extra dev")
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(directory), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.mark.slow
def test_wheel_contains_the_package_only(built):
    (path,) = built.glob("*.whl")
    assert path.name == f"swjko-{swjko.__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(path).namelist()
    assert {name.split("/")[0] for name in names} == {
        "swjko",
        f"swjko-{swjko.__version__}.dist-info",
    }
    tracked = subprocess.run(
        ["git", "ls-files", "swjko"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    assert {"swjko/py.typed", "swjko/__main__.py", *tracked} <= set(names)
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if "test" in name or name.endswith((".ipynb", ".md"))]


@pytest.mark.slow
def test_wheel_metadata(built):
    (path,) = built.glob("*.whl")
    metadata = zipfile.ZipFile(path).read(f"swjko-{swjko.__version__}.dist-info/METADATA").decode()
    fields = dict(re.findall(r"^([\w-]+): (.*)$", metadata.split("\n\n")[0], re.MULTILINE))
    assert (fields["Version"], fields["License-Expression"], fields["Requires-Python"]) == (
        swjko.__version__,
        "Apache-2.0",
        ">=3.11",
    )
    extras = set(re.findall(r"^Provides-Extra: (.*)$", metadata, re.MULTILINE))
    assert {"cli", "cnf", "bench", "interop", "test", "docs", "dev"} <= extras


@pytest.mark.slow
def test_sdist_contains_what_tests_and_site_need(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        *("README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md", "mkdocs.yml"),
        *("pyproject.toml", ".ci/run", "docs/index.md", "docs/hooks.py", "tests/conftest.py"),
        *("benchmarks/results/kernel.json", "notebooks/01_quickstart.py", "swjko/py.typed"),
    } <= names
    foreign = re.compile(r"(^|/)(\.venv|site|runs|__pycache__)(/|$)")
    assert not [name for name in names if foreign.search(name)]
