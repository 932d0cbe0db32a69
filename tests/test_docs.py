"""The documentation: its code runs, its numbers are the results, its reference is complete."""

import base64
import importlib
import importlib.util
import json
import re
import subprocess
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pages import ROOT, blocks, run, shrunk

import swjko
from benchmarks import tables
from swjko import autoencoder, closed_form, datasets, flows, images, plots, problems

DOCS = ROOT / "docs"
PAGES = {
    str(path.relative_to(DOCS)): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
}
# The front page has the first example of the README, which its own tests run. Tests of the command
# line run the code for its files.
WITH_CODE = [
    name
    for name, text in PAGES.items()
    if name not in ("index.md", "howto/tables.md")
    and any(not block.needs for block in blocks(text))
]
WITH_NEEDS = [
    (name, number)
    for name, text in PAGES.items()
    for number, block in enumerate(blocks(text))
    if block.needs
]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
_PUBLIC_MODULES = {"closed_form": closed_form, "flows": flows, "plots": plots, "problems": problems}
# Public modules that list their names, some of which are shown as those of other modules.
_FACES = (
    *(autoencoder, swjko.checkpoints, datasets, flows, swjko.functionals, images),
    *(plots, problems),
)


@pytest.fixture
def as_a_user(tmp_path, monkeypatch):
    """Users have no strict rank promotion, and a directory of their own."""
    monkeypatch.chdir(tmp_path)
    with jax.numpy_rank_promotion("allow"):
        yield


# Pages whose code takes most of the time of these tests.
LONG = (
    "tutorial.md",
    *(f"howto/{page}.md" for page in ("amortised", "distances", "hardware", "live", "many")),
    *(f"howto/{page}.md" for page in ("particles", "posteriors", "slices")),
)


# Libraries that a guide uses may warn.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in WITH_CODE],
)
def test_code_of_a_page_runs(name, as_a_user, capsys):
    own = [block for block in blocks(PAGES[name]) if not block.needs]
    run([shrunk(block.code) for block in own], name)
    printed = capsys.readouterr().out
    for block in own:
        assert block.output is None or block.output in printed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "number"), WITH_NEEDS)
def test_code_for_other_packages_runs(name, number, as_a_user):
    block = blocks(PAGES[name])[number]
    missing = [package for package in block.needs if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    # A block that imports JAX stands alone; others continue those before them.
    before = (
        [other.code for other in blocks(PAGES[name])[:number] if not other.needs]
        if "import jax" not in block.code
        else []
    )
    run([shrunk(code) for code in (*before, block.code)], name)


def test_map_of_the_guide_has_the_density_of_its_gaussian(as_a_user):
    """x = shift + exp(log_scale) z has the law N(shift, exp(2 log_scale))."""
    (code,) = [
        block.code
        for block in blocks(PAGES["howto/own.md"])
        if "def transform(params, z)" in block.code and not block.needs
    ]
    names = run(["import jax.numpy as jnp, swjko\n" + code], "howto/own.md")
    params = {"shift": jnp.array([0.5, -1.0]), "log_scale": jnp.array([0.3, -0.2])}
    x = np.array([[0.2, 0.4], [-1.0, 2.0]])
    scaled = (x - np.array([0.5, -1.0])) / np.exp([0.3, -0.2])
    expected = -0.5 * np.sum(scaled**2, axis=1) - np.log(2 * np.pi) - 0.1
    np.testing.assert_allclose(
        names["diagonal"].log_prob(params, jnp.asarray(x, float)), expected, rtol=1e-5
    )


def test_front_page_shows_the_example_of_the_readme():
    assert blocks(PAGES["index.md"])[0].code == blocks((ROOT / "README.md").read_text())[0].code


def test_links_to_files_lead_somewhere():
    for name, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if not target.removeprefix("../").startswith(("http", "results/", "notebooks/")):
                assert (DOCS / name).parent.joinpath(target).exists(), f"{name} links to {target}"


def test_pictures_of_results_are_there():
    for picture in set(re.findall(r"\((?:\.\./)?results/([\w.-]+)\)", "".join(PAGES.values()))):
        assert (ROOT / "benchmarks" / "results" / picture).exists()


def test_reference_has_each_public_name_once():
    reference = "".join(text for name, text in PAGES.items() if name.startswith("reference"))
    shown = re.findall(r"^::: swjko\.([\w.]+)$", reference, re.MULTILINE)
    assert len(shown) == len(set(shown))
    public = [
        name
        for name in swjko.__all__
        if not name.startswith("_") and not isinstance(getattr(swjko, name), types.ModuleType)
    ]
    assert set(public) - {name.rpartition(".")[2] for name in shown} == set()
    for module_name, module in _PUBLIC_MODULES.items():
        assert {f"{module_name}.{name}" for name in defined_in(module)} - set(shown) == set()
    last = {name.rpartition(".")[2] for name in shown}
    assert {module.__name__: set(module.__all__) - last for module in _FACES} == {
        module.__name__: set() for module in _FACES
    }
    for name in shown:
        found(f"swjko.{name}")


def defined_in(module: types.ModuleType) -> list[str]:
    """The public names of a module or package, without those of other packages."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith(module.__name__)
    ]


def found(name: str) -> object:
    """The object of a full name; raises if there is none."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return importlib.import_module(name)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_pages_with_their_figures(notebook):
    """Each picture of a notebook is a file and a figure; Colab needs an address."""
    pytest.importorskip("mkdocs", reason="MkDocs is in the extra docs")
    specification = importlib.util.spec_from_file_location("hook", DOCS / "notebooks.py")
    hook = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(hook)
    page, figures = hook.page_of(notebook, "https://github.com/owner/name/")
    assert f"google.com/github/owner/name/blob/main/notebooks/{notebook.name})" in page
    assert "colab" not in hook.page_of(notebook, None)[0]
    cells = json.loads(notebook.read_text())["cells"]
    data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
    pictures = [one.get("image/png") or one.get("image/gif") for one in data]
    pictures = ["".join(picture) for picture in pictures if picture]
    assert [base64.b64decode(picture) for picture in pictures] == [one for _, one in figures]
    paths = [figure.path for figure, _ in figures]
    assert len(set(paths)) == len(paths) > 0
    assert all(f"]({path.removeprefix('notebooks/')}){{ #figure-" in page for path in paths)


def test_result_codes_are_explained():
    assert [
        name for name in swjko.Result.__members__ if f"`{name}`" not in PAGES["howto/resume.md"]
    ] == []


def test_numbers_in_pages_are_those_of_the_results():
    results = tables.committed_results(tables.RESULTS)
    outdated = [
        page.name
        for page in tables.pages()
        if tables.fill(text := page.read_text(), results, page.name) != text
    ]
    assert outdated == [], "python -m benchmarks.tables brings them up to date"


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, (needed, _) in tables.TABLES.items()
        if (tables.RESULTS / f"{needed[0]}.json").exists()
    ],
)
def test_tables_are_rectangular(name):
    needed, _ = tables.TABLES[name]
    content = {
        result: json.loads((tables.RESULTS / f"{result}.json").read_text()) for result in needed
    }
    rows = [line for line in tables.render(name, content) if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1
    assert len(rows) != 2, "a table without rows"


def test_pages_are_filled_and_what_is_wrong_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tables, "TABLES", {"one": (("result",), lambda result: [f"**{result['value']}**"])}
    )
    text = (
        "a <!-- begin: one -->old<!-- end: one --> b\n<!-- begin: one -->\nold\n<!-- end: one -->\n"
    )
    filled = tables.fill(text, {"result": {"value": 3}}, "page")
    inline = "a <!-- begin: one -->**3**<!-- end: one --> b\n"
    assert filled == inline + "<!-- begin: one -->\n\n**3**\n\n<!-- end: one -->\n"
    assert tables.fill(filled, {"result": {"value": 3}}, "page") == filled
    assert "python -m benchmarks result" in tables.fill(text, {}, "page")
    with pytest.raises(ValueError, match="page: no table is called 'two'; there are one"):
        tables.fill("<!-- begin: two --><!-- end: two -->", {}, "page")
    with pytest.raises(ValueError, match="page: <!-- begin: one --> has no other half"):
        tables.fill("<!-- begin: one -->", {}, "page")


def test_check_fails_until_the_pages_are_written(tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    page.write_text("<!-- begin: directions --><!-- end: directions -->")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    assert tables.main(["--check"]) == 1
    assert "out of date: README.md" in capsys.readouterr().err
    assert page.read_text() == "<!-- begin: directions --><!-- end: directions -->"
    assert tables.main([]) == 0
    assert tables.main(["--check"]) == 0


def test_results_that_are_not_in_git_are_ignored(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    (tmp_path / "made.json").write_text("{}")
    assert set(tables.committed_results(tmp_path)) == {"made"}
    for arguments in (["init", "-q"], ["add", "made.json"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "other.json").write_text("{}")
    assert set(tables.committed_results(tmp_path)) == {"made"}
