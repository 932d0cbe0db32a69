"""What the site adds to its pages: figures, notebooks as pages, inner products in docstrings."""

import re
from pathlib import Path

import griffe
import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# Folder of the site to the files that it takes from elsewhere in the repository.
_COPIED = {"results": ("benchmarks/results", "*.png"), "notebooks": ("notebooks", "*.ipynb")}
_INNER_PRODUCT = re.compile(r"<(?P<inside>[^<>=\n]*, [^<>=\n]*)>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for folder, (source, pattern) in _COPIED.items():
        for path in sorted((ROOT / source).glob(pattern)):
            files.append(File.generated(config, f"{folder}/{path.name}", abs_src_path=str(path)))
    index = [
        "# Notebooks",
        "",
        "Each runs in the tests at a small size. The pages show text and code; run the files.",
    ]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        title, page = _page_of(path)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
        index += ["", f"- [{title}]({path.stem}.md)"]
    files.append(File.generated(config, "notebooks/index.md", content="\n".join(index) + "\n"))
    return files


def _page_of(path: Path) -> tuple[str, str]:
    """The title of a notebook, and its cells as Markdown."""
    cells = jupytext.read(path).cells
    parts = [
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"
        for cell in cells
    ]
    title = parts[0].splitlines()[0].removeprefix("# ")
    return title, "\n\n".join([*parts, f"[Download the notebook]({path.name})"]) + "\n"


class InnerProducts(griffe.Extension):
    """``<x, theta>`` in a docstring would be read as a tag of HTML."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _INNER_PRODUCT.sub(r"⟨\g<inside>⟩", obj.docstring.value)
