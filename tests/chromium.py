"""Debian's Chromium without a window, driven over two pipes; no driver package, no network.

Speaks the DevTools protocol (one JSON message, one zero byte). Only what tests and pictures of the
documents need.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-extensions",
    "--remote-debugging-pipe",
)
TIMEOUT_S = 40.0


def chromium_path() -> str:
    """Where Chromium is, or "" where it is not installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), "")


LEFT = "navigated or closed"  # Chromium's words


class LeftPage(AssertionError):
    """The page went elsewhere before it could answer."""


class Browser:
    """One page. Use as a context; raises AssertionError with the page's own errors."""

    def __init__(self, width_px: int = 1280, height_px: int = 900, *, dark: bool = False) -> None:
        self.size, self.dark = (width_px, height_px), dark
        self.errors: list[str] = []
        self._count, self._buffer, self._session = 0, b"", ""

    def __enter__(self) -> Browser:
        to_child, self._write = os.pipe()
        self._read, from_child = os.pipe()
        self._profile = tempfile.mkdtemp(prefix="chromium-")

        def wire() -> None:  # Chromium reads from 3 and writes to 4; the pipes may be those
            a, b = os.dup(to_child), os.dup(from_child)
            while a < 5 or b < 5:
                a, b = os.dup(a), os.dup(b)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self._process = subprocess.Popen(
            [chromium_path(), *FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            preexec_fn=wire,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.resize(*self.size, dark=self.dark)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(timeout=10)
        os.close(self._read)
        os.close(self._write)
        shutil.rmtree(self._profile, ignore_errors=True)

    def resize(self, width_px: int, height_px: int, *, dark: bool = False) -> None:
        """Size of the window, and which colours the reader prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width_px,
            height=height_px,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol and its result."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._count:
                if LEFT in answer.get("error", {}).get("message", ""):
                    raise LeftPage(method)
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            ready = select.select([self._read], [], [], max(0.0, left))[0]
            assert ready, "Chromium did not answer in time"
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        """Remember what the page complains of."""
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            told = params["exceptionDetails"]
            self.errors.append(told.get("exception", {}).get("description") or told["text"])
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            entry = params["entry"]
            if "/pictures/" not in entry.get("url", ""):  # a missing picture is a tile
                self.errors.append(f"{entry['text']} {entry.get('url', '')}")

    def open(self, url: str, ready: str = "document.readyState === 'complete'") -> None:
        """Load a page and wait until `ready` (an expression of JavaScript) holds."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.wait(ready)

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            told = result["exceptionDetails"]
            raise AssertionError(told.get("exception", {}).get("description", told["text"]))
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 20.0) -> None:
        """Until an expression is true in the page."""
        deadline = time.monotonic() + seconds
        while not self._holds(expression):
            told = "; ".join(self.errors) or "no error was told"
            assert time.monotonic() < deadline, f"never true: {expression} ({told})"
            time.sleep(0.02)

    def _holds(self, expression: str) -> bool:
        """No while a link is being followed: the page that was asked is gone."""
        try:
            return bool(self.js(f"!!({expression})"))
        except LeftPage:
            return False

    def click(self, selector: str) -> None:
        """A real click in the middle of the first element that fits."""
        spot = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return"
            " null; e.scrollIntoView({block: 'center', behavior: 'instant'}); const b = e.getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        assert spot, f"nothing fits {selector}"
        place = {"x": spot[0], "y": spot[1], "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **place)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **place)

    def press(self, key: str) -> None:
        """One key."""
        text: dict[str, Any] = {"text": key} if len(key) == 1 else {}
        if key == "Tab":
            text = {"windowsVirtualKeyCode": 9, "code": "Tab"}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def picture(self, path: Path, *, whole: bool = False) -> Path:
        """A PNG (or JPEG, by the suffix) of the window, or of the whole page."""
        kind: dict[str, Any] = {"format": "png"}
        if path.suffix == ".jpg":
            kind = {"format": "jpeg", "quality": 82}
        shot = self.call(
            "Page.captureScreenshot",
            captureBeyondViewport=whole,
            **kind,
            **({"clip": self._whole()} if whole else {}),
        )
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def _whole(self) -> dict[str, float]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
