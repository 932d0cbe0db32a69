"""The code blocks of Markdown pages, made small and run."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

_BLOCK = re.compile(
    r"^(?:<!-- needs: (?P<needs>[\w ]+) -->\n)?```python\n(?P<code>.*?)^```\n"
    r"(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
# Counts that are reduced to see that a program runs, in a call or in an assignment.
_COUNTS = {
    "num_steps": 2,
    "num_inner_steps": 3,
    "num_samples": 32,
    "num_projections": 4,
    "width": 8,
    "num_repeats": 2,
    "stop_steps": 2,
}
_COUNT = re.compile(rf"\b({'|'.join(_COUNTS)})( ?= ?)(\d+)")
_SMALLER = {
    "flows.coupling(dim=2)": "flows.coupling(dim=2, num_layers=2, width=8)",
    "flows.coupling(3, ": "flows.coupling(3, num_layers=2, ",
}


class Block(NamedTuple):
    """A block of Python, the packages that it needs, and what the page says that it prints."""

    code: str
    needs: tuple[str, ...]
    output: str | None


def blocks(text: str) -> list[Block]:
    return [
        Block(match["code"], tuple((match["needs"] or "").split()), match["output"])
        for match in _BLOCK.finditer(text)
    ]


def shrunk(code: str) -> str:
    """The same program with counts that take seconds."""
    for large, small in _SMALLER.items():
        code = code.replace(large, small)
    return _COUNT.sub(
        lambda match: f"{match[1]}{match[2]}{min(int(match[3]), _COUNTS[match[1]])}", code
    )


def run(codes: list[str], page: str) -> dict:
    """Runs programs in one namespace, and returns it; errors name the page and the block."""
    names: dict = {"__name__": "page"}
    for number, code in enumerate(codes):
        exec(compile(code, f"{page}, block {number + 1}", "exec"), names)
    return names
