"""Headless Chromium, driven by its DevTools protocol over a pair of pipes: one page, looked at and clicked."""

import base64
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 60.0
_FIRST_FREE = 10
"""Descriptors of ours begin here: the browser wants its own two as 3 and 4."""


class Browser:
    """One page. `requests` has the URL of everything that it asked for, `errors` what it complained of."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._received = b""
        self._number = 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self._do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._do(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Show a page; it is loaded then."""
        self._do("Page.navigate", url=url)
        self.wait_until("document.readyState === 'complete'")

    def look(self, expression: str) -> Any:
        """Give the value of an expression of JavaScript."""
        told = self._do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def wait_until(self, expression: str) -> None:
        """Look until the expression is true."""
        deadline = time.monotonic() + SECONDS
        while not self.look(expression):
            assert time.monotonic() < deadline, (expression, self.look("document.body.innerText"), self.errors)
            time.sleep(0.05)

    def take_picture(self, file: Path, *, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._do("Emulation.setDeviceMetricsOverride", **size)
        file.write_bytes(base64.b64decode(self._do("Page.captureScreenshot", format="png")["data"]))

    def _do(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._number:
                assert "error" not in told, told
                result: dict[str, Any] = told["result"]
                return result
            self._note(told.get("method", ""), told.get("params", {}))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            read = os.read(self._answers, 1 << 20)
            assert read, "the browser is gone"
            self._received += read
        raw, _, self._received = self._received.partition(b"\0")
        told: dict[str, Any] = json.loads(raw)
        return told

    def _note(self, event: str, parameters: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"]))
        elif event == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Run the browser for the length of the block."""
    theirs_in, commands = _pipe()
    answers, theirs_out = _pipe()
    # Not its sandbox, which root may not have; and nothing that it would ask its maker for.
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
               "--remote-debugging-pipe"]  # fmt: skip
    command = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", "chromium", *options]
    with (profile.parent / "chromium.log").open("wb") as log:
        process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stdout=log, stderr=log)
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(commands, answers)
    finally:
        process.terminate()
        process.wait(30)
        os.close(commands)
        os.close(answers)


def _pipe() -> tuple[int, int]:
    """Open a pipe whose descriptors are in nobody's way."""
    pair = os.pipe()
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE) for descriptor in pair]
    for descriptor in pair:
        os.close(descriptor)
    return moved[0], moved[1]
