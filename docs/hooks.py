"""What the site adds to its pages: figures, formulas without a CDN, names in docstrings."""

import importlib.util
import os
import re
import tomllib
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
_MATHJAX = "javascripts/tex-svg.js"
_INNER_PRODUCT = re.compile(r"<(?P<inside>[^<>=\n]*, [^<>=\n]*)>")
_log = get_plugin_logger("swjko")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    custom = settings["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    # As hatch_build.py does.
    built_by = os.environ.get("GITHUB_REPOSITORY")
    own = f"{os.environ['GITHUB_SERVER_URL']}/{built_by}" if built_by else None
    config.repo_url = custom["repository"] or own
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    mathjax = _mathjax()
    if mathjax is None:
        _log.warning(
            "Formulas stay TeX: MathJax is not installed. Run: pip install -e '.[docs]', "
            "which brings it as django-static-mathjax."
        )
    else:
        files.append(File.generated(config, _MATHJAX, abs_src_path=str(mathjax)))
    return files


def _mathjax() -> Path | None:
    """MathJax in one file with its fonts as paths, from a package that needs nothing else."""
    found = importlib.util.find_spec("mathjax")
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder) / "static" / "mathjax" / "es5" / "tex-svg.js"
        if path.exists():
            return path
    return None


class InnerProducts(griffe.Extension):
    """``<x, theta>`` in a docstring would be read as a tag of HTML."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _INNER_PRODUCT.sub(r"⟨\g<inside>⟩", obj.docstring.value)
