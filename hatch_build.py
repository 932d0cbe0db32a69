"""Makes the links of the README absolute, and names the repository, when the package is built.

The address is ``tool.swjko.repository`` of pyproject.toml. While that is empty, a build by GitHub
Actions takes its own repository, and any other build leaves the links as they are.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<path>(?!https?:)[^)]+)\)")


class Metadata(MetadataHookInterface):
    """Fills the dynamic fields ``readme`` and ``urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        address = repository(self.config["repository"])
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = absolute(readme, address) if address else readme
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = urls(address) if address else {}


def repository(setting: str) -> str:
    """The address of the repository without a slash at its end, or an empty string."""
    name = os.environ.get("GITHUB_REPOSITORY", "")
    server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    return setting.rstrip("/") or (f"{server}/{name}" if name else "")


def absolute(readme: str, address: str) -> str:
    """The text with links and pictures of the repository instead of its files."""

    def link(found: re.Match[str]) -> str:
        kind = "raw" if found["picture"] else "blob"
        return f"{found['picture']}[{found['text']}]({address}/{kind}/main/{found['path']})"

    return _LINK.sub(link, readme)


def urls(address: str) -> dict[str, str]:
    """The links of a project page."""
    files = {"Documentation": "docs/index.md", "Changelog": "CHANGELOG.md"}
    pages = {name: f"{address}/blob/main/{path}" for name, path in files.items()}
    return {"Repository": address, "Issues": f"{address}/issues", **pages}
