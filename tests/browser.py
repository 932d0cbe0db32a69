"""A headless Chromium that opens pages of a folder and tells what went wrong in them.

It is driven by the DevTools protocol over tornado's WebSocket, and finds no host but loopback.
"""

import asyncio
import contextlib
import functools
import http.server
import itertools
import json
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tornado.websocket import websocket_connect

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
_OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--hide-scrollbars", "--remote-debugging-port=0"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
_SECONDS = 30.0


class Browser:
    """A page of Chromium. ``faults`` are errors on the console and requests that failed."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self.faults: list[str] = []

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        await self._connection.write_message(json.dumps(message))
        answer = await self._until(lambda told: told.get("id") == number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    async def open(self, url: str, width: int, height: int) -> None:
        """Opens a page in a window of the given size, and waits until it is loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.command("Emulation.setDeviceMetricsOverride", **size)
        await self.command("Page.navigate", url=url)
        await self._until(lambda told: told.get("method") == "Page.loadEventFired")

    async def value(self, expression: str) -> Any:
        """Value of a JavaScript expression; a promise is awaited."""
        options = {"awaitPromise": True, "returnByValue": True}
        answer = await self.command("Runtime.evaluate", expression=expression, **options)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def _until(self, is_wanted: Any) -> dict[str, Any]:
        async with asyncio.timeout(_SECONDS):
            while True:
                told = json.loads(await self._connection.read_message())
                self._note(told)
                if is_wanted(told):
                    return told

    def _note(self, told: dict[str, Any]) -> None:
        method, parameters = told.get("method"), told.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.faults.append(parameters["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.faults.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.faults.append(str([each.get("value") for each in parameters["args"]]))
        elif method == "Network.loadingFailed" and not parameters.get("canceled"):
            self.faults.append(f"request failed: {parameters['errorText']}")
        elif method == "Network.responseReceived" and parameters["response"]["status"] >= 400:
            self.faults.append(
                f"{parameters['response']['status']}: {parameters['response']['url']}"
            )
        elif method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if not url.startswith(("http://127.0.0.1:", "data:", "blob:")):
                self.faults.append(f"request to elsewhere: {url}")


@contextlib.asynccontextmanager
async def started() -> Any:
    """A ``Browser``, which ends with the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [str(PROGRAM), *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, **quiet)
        try:
            address = _page_of(Path(profile, "DevToolsActivePort"), process)
            connection = await websocket_connect(address, max_message_size=2**28)
            browser = Browser(connection)
            for domain in ("Page", "Runtime", "Network", "Log"):
                await browser.command(f"{domain}.enable")
            try:
                yield browser
            finally:
                connection.close()
                while await connection.read_message() is not None:
                    pass
        finally:
            process.terminate()
            process.wait(_SECONDS)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which the files of a folder are served, on loopback."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def _page_of(port_file: Path, process: subprocess.Popen) -> str:
    """The WebSocket address of the first page, as soon as there is one."""
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, IndexError, StopIteration):
            port = port_file.read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                pages = json.load(answer)
            return next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        time.sleep(0.1)
    raise RuntimeError("Chromium did not start.")
