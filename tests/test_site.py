"""The built site in a real browser, offline: formulas, figures, widths and search.

``.ci/browser`` installs Chromium. With SWJKO_SCREENSHOTS=FOLDER each page is saved as a PNG.
"""

import asyncio
import base64
import importlib.util
import os
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import browser
import pytest
from pages import ROOT

pytestmark = [
    pytest.mark.slow,
    # Chromium and its sockets may warn when they end.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        browser.PROGRAM is None, reason="Chromium is not installed; .ci/browser installs it"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("mkdocs") is None, reason="MkDocs is in the extra docs"
    ),
]

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
# What the first hit of the search must be.
SEARCHES = {
    "NumPyro": "howto/models/",
    "checkpoint": "howto/resume/",
    "result code": "howto/resume/",
    "GPU": "howto/hardware/",
    "install": "howto/install/",
    "POT": "howto/coming_from/",
    "gallery": "gallery/",
}
# Waits for formulas and for pictures further down, then looks at the page.
LOOK = """
(async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  const pictures = [...document.images];
  for (const picture of pictures) picture.loading = "eager";
  await Promise.allSettled(pictures.map(picture => picture.decode()));
  const text = document.body.cloneNode(true);
  for (const code of text.querySelectorAll("pre, code, script, mjx-container")) code.remove();
  const isTypeset = each => {
    const box = each.querySelector("mjx-container svg")?.getBoundingClientRect();
    return box && box.width > 2 && box.height > 2 && !each.querySelector("[data-mjx-error]");
  };
  return {
    formulas: [...document.querySelectorAll(".arithmatex")]
      .filter(each => !isTypeset(each))
      .map(each => each.textContent.slice(0, 60)),
    tex: text.textContent.match(/\\$[^$\\n]*\\\\[^$\\n]*\\$|\\\\\\(|\\\\\\[/g) || [],
    pictures: pictures.filter(each => !each.naturalWidth).map(each => each.src),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
})()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built without a warning."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("name", WIDTHS)
def test_every_page_is_whole(site, name):
    pages = sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))
    assert len(pages) >= 40

    async def look() -> dict[str, object]:
        wrong = {}
        with browser.served(site) as address:
            async with browser.started() as page:
                for path in pages:
                    page.faults.clear()
                    await page.open(address + path, *WIDTHS[name])
                    seen = await page.value(LOOK)
                    found = {"faults": list(page.faults), **seen}
                    await _save_screenshot(page, name, path)
                    if any(found.values()):
                        wrong[path] = {key: value for key, value in found.items() if value}
        return wrong

    assert asyncio.run(look()) == {}


WRONG = """<!doctype html><link rel="icon" href="data:,"><body>
<img src="missing.png"><p>$\\frac12$</p><span class="arithmatex">x</span>
<div style="width: 3000px">wide</div><script>console.error("told")</script>
<script src="http://elsewhere.invalid/a.js"></script></body>"""


def test_what_is_wrong_is_seen(tmp_path):
    (tmp_path / "index.html").write_text(WRONG)

    async def look() -> tuple[dict[str, object], str]:
        with browser.served(tmp_path) as address:
            async with browser.started() as page:
                await page.open(f"{address}index.html", *WIDTHS["phone"])
                return await page.value(LOOK), "\n".join(page.faults)

    seen, faults = asyncio.run(look())
    assert all(seen.values()), seen
    assert all(text in faults for text in ("told", "404", "request to elsewhere"))


def test_search_finds_the_right_page_first(site):
    async def hits() -> dict[str, str]:
        found = {}
        with browser.served(site) as address:
            async with browser.started() as page:
                for words in SEARCHES:
                    query = urllib.parse.urlencode({"q": words})
                    await page.open(f"{address}index.html?{query}", *WIDTHS["desktop"])
                    hit = await page.value(FIRST_HIT)
                    found[words] = re.split(r"[?#]", hit.removeprefix(address))[0]
        return found

    assert asyncio.run(hits()) == SEARCHES


FIRST_HIT = """
(async () => {
  for (let tries = 0; tries < 100; tries++) {
    const hit = document.querySelector(".md-search-result__item a");
    if (hit) return hit.href;
    await new Promise(resolve => setTimeout(resolve, 100));
  }
  return "nothing";
})()
"""


def test_gallery_has_a_card_for_each_figure(site):
    gallery = (site / "gallery" / "index.html").read_text(encoding="utf-8")
    shown = set(re.findall(r'<img[^>]* src="\.\./([^"]+)"', gallery))
    figures = {f"notebooks/{path.name}" for path in (site / "notebooks").glob("*_[0-9]*.*")}
    figures = {name for name in figures if not name.endswith(".ipynb")}
    assert len(figures) >= 16
    assert figures <= shown
    assert {f"results/{path.name}" for path in (site / "results").iterdir()} <= shown
    assert len(shown) >= 24


async def _save_screenshot(page: browser.Browser, name: str, path: str) -> None:
    folder = os.environ.get("SWJKO_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        shot = await page.command("Page.captureScreenshot", format="png")
        file = f"{name}_{path.replace('/', '_').removesuffix('_index.html')}.png"
        Path(folder, file).write_bytes(base64.b64decode(shot["data"]))
