"""Controls a headless Chromium over a pipe with the DevTools protocol: no driver, no port, no package.

`--remote-debugging-pipe` reads commands on descriptor 3 and writes answers on 4; each is a JSON object that ends in a
NUL byte (https://chromedevtools.github.io/devtools-protocol/). Without Chromium the tests that need it are skipped:
`apt-get install chromium`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LIMIT_S = 60.0
WHY_NOT = "Chromium is not installed: apt-get install chromium"


def find() -> str | None:
    """Return the path of the program, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page of one browser.

    Attributes:
        complaints: warnings and errors of its console, and uncaught exceptions.
        requests: the URLs that it requested.
    """

    def __init__(self, write_to: int, read_from: int) -> None:
        self._write_to, self._read_from = write_to, read_from
        self._buffer = b""
        self._last_id = 0
        self._session = ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._last_id += 1
        order: dict[str, Any] = {"id": self._last_id, "method": method, "params": params}
        if self._session:
            order["sessionId"] = self._session
        os.write(self._write_to, json.dumps(order).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._last_id:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result

    def _next(self, limit_s: float = LIMIT_S) -> dict[str, Any]:
        give_up_at = time.monotonic() + limit_s
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read_from], [], [], max(0.0, give_up_at - time.monotonic()))
            assert ready, "the browser does not answer"
            piece = os.read(self._read_from, 1 << 20)
            assert piece, "the browser is gone"
            self._buffer += piece
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        kind = message.get("method")
        if kind == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"].get("text")))
        elif kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([one.get("value") for one in params["args"]]))
        elif kind == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(params["entry"]["text"]))
        elif kind == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def size(self, width: int, height: int = 900, *, scale: float = 1) -> None:
        """Set the size of the page in CSS pixels."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                 mobile=width < 600)  # fmt: skip

    def media(self, *, scheme: str = "light", kind: str = "screen") -> None:
        """Emulate a light or dark colour scheme, on a screen or a printer."""
        self.ask("Emulation.setEmulatedMedia", media=kind, features=[{"name": "prefers-color-scheme", "value": scheme}])

    def go(self, url: str) -> None:
        """Open a page and wait until it has loaded."""
        self.ask("Page.navigate", url=url)
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        """Return the value of an expression."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait until an expression is true."""
        give_up_at = time.monotonic() + LIMIT_S
        while time.monotonic() < give_up_at:
            value = self.run(script)
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"not true within {LIMIT_S:.0f} s: {script}")

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write a screenshot to a PNG file."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self) -> bytes:
        """Return the page printed as PDF."""
        return base64.b64decode(self.ask("Page.printToPDF", printBackground=True)["data"])


@contextlib.contextmanager
def page() -> Iterator[Page]:
    """Yield a page of a new browser, and kill the browser with all its processes at the end."""
    program = find()
    assert program, WHY_NOT
    to_it, from_us = os.pipe()
    from_it, to_us = os.pipe()

    def hand_over() -> None:
        os.setsid()
        os.dup2(to_it, 13)  # moved first: the two may be 3 and 4 themselves
        os.dup2(to_us, 14)
        os.dup2(13, 3)
        os.dup2(14, 4)

    with tempfile.TemporaryDirectory(prefix="pixel-orch-browser-", ignore_cleanup_errors=True) as folder:
        words = [program, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
                 "--hide-scrollbars", "--no-first-run", "--disable-extensions", "--disable-background-networking",
                 "--disable-dev-shm-usage", f"--user-data-dir={folder}"]  # fmt: skip
        process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=hand_over, close_fds=False
        )
        os.close(to_it)
        os.close(to_us)
        try:
            yield Page(from_us, from_it)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(from_us)
            os.close(from_it)
