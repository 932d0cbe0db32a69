"""Fill the numbers of README and docs from the JSON files: ``python -m benchmarks.tables``.

Comments mark what is generated, on lines of their own for a table and within a line for a number:

    <!-- begin: NAME -->
    <!-- end: NAME -->

NAME is a key of ``TABLES``. Only results that are committed count, so a page is the same wherever
it is made. If the results of a table are missing, the page names the command that writes them.
``--check`` writes nothing and fails if a page is out of date.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    flow_tables,
    front_tables,
    particle_tables,
    posterior_tables,
    scaling_plan,
    speed_tables,
)

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
REGION = re.compile(
    r"<!-- begin: (?P<name>[\w-]+) -->(?P<content>.*?)<!-- end: (?P=name) -->", re.DOTALL
)
_MARKER = re.compile(r"<!-- (?:begin|end): [^>]*-->")

# Name of a region to the results that it needs and the function that writes it from them.
TABLES = (
    front_tables.TABLES
    | speed_tables.TABLES
    | flow_tables.TABLES
    | posterior_tables.TABLES
    | particle_tables.TABLES
    | scaling_plan.TABLES
)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages; with ``--check`` return 1 if a page is out of date."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tables", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a page is out of date"
    )
    args = parser.parse_args(argv)
    results = committed_results(RESULTS)
    outdated = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        filled = fill(text, results, str(page.relative_to(ROOT)))
        if filled != text:
            outdated.append(str(page.relative_to(ROOT)))
            if not args.check:
                page.write_text(filled, encoding="utf-8")
    if outdated and args.check:
        print(f"out of date: {', '.join(outdated)}", file=sys.stderr)
        print("python -m benchmarks.tables brings them up to date.", file=sys.stderr)
    elif outdated:
        print(f"written: {', '.join(outdated)}")
    return int(args.check and bool(outdated))


def pages() -> list[Path]:
    """README and all pages of the docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def committed_results(directory: Path) -> dict[str, Any]:
    """Content of each JSON of a directory, by name; in a git checkout, of those known to git."""
    paths = sorted(directory.glob("*.json"))
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "."]
        listed = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        if listed.returncode == 0:
            paths = [path for path in paths if path.name in listed.stdout.split()]
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def fill(text: str, results: Mapping[str, Any], page: str) -> str:
    """The text of a page with its regions filled.

    Raises:
      ValueError: If a region has an unknown name, or a marker lacks its other half.
    """

    def content(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise ValueError(f"{page}: no table is called {name!r}; there are {', '.join(TABLES)}.")
        lines = render(name, results)
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        if "\n" not in match["content"]:
            return f"{begin}{' '.join(lines)}{end}"
        return "\n".join((begin, "", *lines, "", end))

    filled = REGION.sub(content, text)
    unpaired = _MARKER.findall(REGION.sub("", text))
    if unpaired:
        raise ValueError(f"{page}: {unpaired[0]} has no other half.")
    return filled


def render(name: str, results: Mapping[str, Any]) -> list[str]:
    """The lines of one region; a note if its results are missing."""
    needed, write = TABLES[name]
    missing = [result for result in needed if result not in results]
    if not missing:
        return write(*(results[result] for result in needed))
    command = missing[0].replace("images_", "images --data ").replace("sbi_", "sbi --task ")
    return [f"*Not measured yet: `python -m benchmarks {command}` measures it.*"]


if __name__ == "__main__":
    sys.exit(main())
