"""A headless Chromium driven through its debugging pipe: no driver, no network socket, nothing but the standard library."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars=false", "--remote-debugging-pipe", "about:blank",
)  # fmt: skip


class Browser:
    """One page. `requests`: addresses that it asked for, `complaints`: console messages and exceptions."""

    def __init__(self, profile: Path, seconds: float = 60) -> None:
        assert PROGRAM is not None
        self.seconds, self.requests, self.complaints, self.number = seconds, [], [], 0
        to_read, self.to = os.pipe()
        self.back, to_write = os.pipe()

        def connect() -> None:  # Chromium reads from descriptor 3 and writes to 4
            first, second = os.dup(to_read), os.dup(to_write)
            os.dup2(first, 3)
            os.dup2(second, 4)

        self.process = subprocess.Popen(
            [PROGRAM, f"--user-data-dir={profile}", *OPTIONS], preexec_fn=connect, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        os.set_blocking(self.back, False)
        self.buffer = b""
        target = next(one for one in self.call("Target.getTargets", session=None)["targetInfos"] if one["type"] == "page")
        self.session: str | None = self.call("Target.attachToTarget", session=None, targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("Browser.close", session=None)
            self.process.wait(20)
        except (OSError, AssertionError, subprocess.TimeoutExpired):
            self.process.kill()
        self.process.wait()
        os.close(self.to)
        os.close(self.back)

    def message(self, until: float) -> dict[str, Any]:
        """The next message."""
        while b"\0" not in self.buffer:
            assert time.monotonic() < until, "Chromium did not answer"
            assert self.process.poll() is None, "Chromium ended"
            try:
                self.buffer += os.read(self.back, 1 << 20)
            except BlockingIOError:
                time.sleep(0.01)
        text, self.buffer = self.buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(text)
        if found.get("method") == "Network.requestWillBeSent":
            self.requests.append(found["params"]["request"]["url"])
        elif found.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(found["params"])
        return found

    def call(self, method: str, session: str | None = "own", **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its result."""
        self.number += 1
        request = {"id": self.number, "method": method, "params": parameters} | ({"sessionId": self.session} if session else {})
        content = json.dumps(request).encode() + b"\0"
        while content:
            content = content[os.write(self.to, content) :]
        until = time.monotonic() + self.seconds
        while True:
            found = self.message(until)
            if found.get("id") == self.number:
                assert "error" not in found, found
                result: dict[str, Any] = found["result"]
                return result

    def open(self, page: Path | str, width: int = 1200, height: int = 900) -> None:
        """Load a file, or an address, at a window size, and wait for its load event."""
        self.resize(width, height)
        self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        until = time.monotonic() + self.seconds
        while self.message(until).get("method") != "Page.loadEventFired":
            pass

    def resize(self, width: int, height: int = 900) -> None:
        """The size of the window; below 700 a telephone's."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A key on the keyboard."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, nativeVirtualKeyCode=code)

    def drag(self, *places: tuple[float, float]) -> None:
        """The mouse pressed at the first place, moved over the others and released."""
        for number, (x, y) in enumerate(places):
            self.call("Input.dispatchMouseEvent", type="mousePressed" if number == 0 else "mouseMoved", x=x, y=y, button="left", buttons=1, clickCount=1)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=places[-1][0], y=places[-1][1], button="left", clickCount=1)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """The page as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))

    def pdf(self) -> bytes:
        """The page printed on A4."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True, paperWidth=8.27, paperHeight=11.69)["data"])
