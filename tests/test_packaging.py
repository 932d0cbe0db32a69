"""One version everywhere; wheel and sdist contain what they need."""

import importlib.util
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
    # The version to come, or the last one.
    versions = re.findall(r"^(?:This will be version |## \[)([\d.]+)\b", changes, re.MULTILINE)
    assert versions[0].rstrip(".") == swjko.__version__
    assert re.findall(r"^## (.*)$", changes, re.MULTILINE)[0] == "[Unreleased]"


def test_all_files_that_the_sdist_names_exist():
    names = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_authors_and_classifiers_are_true():
    project = PROJECT["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    names = re.findall(r"^  - name: (.*)$", citation, re.MULTILINE)
    assert [author["name"] for author in project["authors"]] == names
    minors = [name.rpartition("3.")[2] for name in project["classifiers"] if ":: 3." in name]
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    tested = re.findall(r'"3\.(\d+)"', re.findall(r"python: \[(.*)\]", workflow)[0])
    assert minors == tested == [*map(str, range(11, 11 + len(minors)))]
    assert project["requires-python"] == f">=3.{minors[0]}"


def test_jax_and_flax_have_no_upper_bound():
    requirements = PROJECT["project"]["dependencies"]
    assert not [text for text in requirements if text.startswith("jaxlib")]
    assert not [text for text in requirements if re.match(r"(jax|flax)\b.*<", text)]


def test_links_of_the_readme_become_absolute(monkeypatch):
    pytest.importorskip("hatchling", reason="hatchling comes with the build")
    specification = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    build = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(build)
    text = "[a](docs/a.md) ![b](docs/b.gif) [c](https://c.org) `x[0](y)`"
    assert build.absolute(text, "https://h.org/o/r") == (
        "[a](https://h.org/o/r/blob/main/docs/a.md) ![b](https://h.org/o/r/raw/main/docs/b.gif) "
        "[c](https://c.org) `x[0](https://h.org/o/r/blob/main/y)`"
    )
    readme = build.absolute((ROOT / "README.md").read_text(), "https://h.org/o/r")
    assert re.findall(r"\]\((?!https://)", readme) == []
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    assert build.repository("") == ""
    assert build.repository("https://h.org/o/r/") == "https://h.org/o/r"
    monkeypatch.setenv("GITHUB_REPOSITORY", "o/r")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://g.org")
    assert build.repository("") == "https://g.org/o/r"
    assert build.urls("https://g.org/o/r")["Issues"] == "https://g.org/o/r/issues"


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
    assert metadata.partition("\n\n")[2].startswith("# swjko\n")
    scripts = zipfile.ZipFile(path).read(f"swjko-{swjko.__version__}.dist-info/entry_points.txt")
    assert b"swjko = swjko.cli.main:main" in scripts


@pytest.mark.slow
def test_sdist_contains_what_tests_and_site_need(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        *("README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md", "mkdocs.yml"),
        *("pyproject.toml", "hatch_build.py", ".ci/run", ".github/workflows/tests.yml"),
        *("docs/index.md", "docs/hooks.py", "tests/conftest.py"),
        *("benchmarks/results/kernel.json", "notebooks/01_quickstart.py", "swjko/py.typed"),
    } <= names
    foreign = re.compile(r"(^|/)(\.venv|site|runs|__pycache__)(/|$)")
    assert not [name for name in names if foreign.search(name)]
