"""What the site needs beyond its pages: the figures of the benchmarks and the notebooks beside them, inner products in docstrings."""

import re
from pathlib import Path

import griffe
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
    return files


class InnerProducts(griffe.Extension):
    """``<x, theta>`` in a docstring would be read as a tag of HTML."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _INNER_PRODUCT.sub(r"⟨\g<inside>⟩", obj.docstring.value)
