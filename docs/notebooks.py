"""The notebooks as pages with their figures, and the gallery of all figures of the site."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
_PICTURES = {"image/png": "png", "image/gif": "gif"}
_PICTURE = re.compile(r"!\[(?P<line>[^\]]+)\]\((?P<path>[^)]+)\)")
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
_CARDS = "<!-- cards -->"


class Figure(NamedTuple):
    """A figure: its file and page in the folder of the pages, and what both show."""

    path: str
    page: str
    line: str
    source: str


def on_files(files: Files, config: MkDocsConfig) -> Files:
    figures = []
    index = ["# Notebooks", "", "Each page shows a notebook with the results of a whole run."]
    for path in sorted(FOLDER.glob("*.ipynb")):
        page, pictures = page_of(path, config.repo_url)
        for figure, content in pictures:
            figures.append(figure)
            files.append(File.generated(config, figure.path, content=content))
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
        index += ["", f"- [{_TITLE.findall(page)[0]}]({path.stem}.md)"]
    files.append(File.generated(config, "notebooks/index.md", content="\n".join(index) + "\n"))
    config.extra["figures"] = [*figures, *_figures_of_pages(files)]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    return markdown.replace(_CARDS, "\n".join(_card(one) for one in config.extra["figures"]))


def page_of(path: Path, repository: str | None) -> tuple[str, list[tuple[Figure, bytes]]]:
    """A notebook as Markdown, and its figures with the bytes of their files."""
    parts, pictures = zip(*_parts(path), strict=True)
    page = "\n\n".join([parts[0], _links(path, repository), *parts[1:]]) + "\n"
    return page, [picture for picture in pictures if picture is not None]


def _parts(path: Path) -> Iterator[tuple[str, tuple[Figure, bytes] | None]]:
    """Cells and outputs of a notebook as Markdown, with the figure that one shows."""
    number, title, heading, under = 0, "", "", 0
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            title = title or _TITLE.findall(cell.source)[0]
            headings = re.findall(r"^##+ (.+)$", cell.source, re.MULTILINE)
            heading, under = (headings[-1], 0) if headings else (heading, under)
            yield cell.source, None
            continue
        yield f"```python\n{cell.source}\n```", None
        printed = "".join(output.get("text", "") for output in cell.outputs).rstrip()
        if printed:
            yield f"```text\n{printed}\n```", None
        for data in (output.get("data", {}) for output in cell.outputs):
            kind = next((kind for kind in _PICTURES if kind in data), None)
            if kind is not None:
                number, under = number + 1, under + 1
                page, name = f"notebooks/{path.stem}.md", f"{path.stem}_{number}"
                shown = Figure(
                    f"notebooks/{name}.{_PICTURES[kind]}",
                    f"{page}#figure-{number}",
                    (heading or title) + (f", figure {under}" if under > 1 else ""),
                    f"Notebook: {title}",
                )
                line = f"![{shown.line}]({name}.{_PICTURES[kind]}){{ #figure-{number} }}"
                yield line, (shown, base64.b64decode(data[kind]))
            elif not data.get("text/plain", "<").startswith("<"):
                yield f"```text\n{data['text/plain']}\n```", None


def _links(path: Path, repository: str | None) -> str:
    links = [f"[Download the notebook]({path.name})"]
    owner = (repository or "").partition("https://github.com/")[2].rstrip("/")
    if owner:
        colab = f"https://colab.research.google.com/github/{owner}/blob/main/notebooks/{path.name}"
        links.append(f"[Open in Colab]({colab})")
    return " · ".join(links)


def _figures_of_pages(files: Files) -> Iterator[Figure]:
    """The pictures that the pages themselves show; their text says what they are."""
    seen = set()
    for file in files.documentation_pages():
        if file.generated_by is not None:
            continue
        text = file.content_string
        for found in _PICTURE.finditer(text):
            path = str(Path("/", file.src_uri).parent.joinpath(found["path"]).resolve())[1:]
            if path not in seen and not path.startswith("notebooks/"):
                seen.add(path)
                title = _TITLE.findall(text)[0]
                yield Figure(path, file.src_uri, found["line"], title)


def _card(figure: Figure) -> str:
    picture = f"![{figure.line}]({figure.path}){{ loading=lazy }}"
    lines = (
        f"-   [{picture}]({figure.page})",
        f"**{figure.line}**",
        f"[{figure.source}]({figure.page})",
    )
    return "\n\n    ".join(lines) + "\n"
