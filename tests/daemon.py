"""The daemon as its users have it: `nekko serve` as a process."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

START_SECONDS = 20.0
STOP_SECONDS = 30.0
ANSWER_SECONDS = 60.0


class Client:
    """Whoever speaks HTTP to a daemon's Unix socket."""

    def __init__(self, socket: Path, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.socket = socket
        self.answer_seconds = answer_seconds

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("nekko", timeout=self.answer_seconds)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(self.answer_seconds)
        try:
            connection.sock.connect(str(self.socket))
        except OSError:
            connection.close()
            raise
        return connection

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = self.connect()
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            raw = answer.read()
            is_json = "json" in answer.headers.get("content-type", "")
            return answer.status, json.loads(raw) if is_json else raw
        finally:
            connection.close()

    def content(self, url: str) -> tuple[int, Any]:
        return self.ask("GET", path_of(url))


class Daemon(Client):
    """`nekko serve` on a Unix socket.

    The cache is in `directory`, unless it is said to be elsewhere. `wrapper` is a command that runs the one it is given.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        cache: Path | None = None,
        environ: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.cache = cache or directory / "cache"
        super().__init__(directory / "n.sock")
        self.log = directory / "log"
        self.command = [*wrapper, sys.executable, "-m", "nekko", "serve", "--cache-dir", str(self.cache), "--address",
                        str(self.socket), "-v", "1", *arguments]  # fmt: skip
        self._environ = os.environ | {"HOME": "/nowhere"} | dict(environ or {})
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=self._environ)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return self.process

    def _answers(self) -> bool:
        try:
            return self.ask("GET", "/health/live")[0] == 200
        except OSError:
            return False

    def descriptors(self) -> int:
        """Count the file descriptors that are open.

        Those of the catalog do not count: SQLite keeps some of closed connections for the next ones, because closing
        them would end the process's POSIX locks. Source: SQLite, os_unix.c.
        """
        place = Path(f"/proc/{self.process.pid}/fd")
        count = 0
        for name in os.listdir(place):
            with suppress(FileNotFoundError):
                count += not os.readlink(place / name).endswith("/catalog.sqlite")
        return count

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


def path_of(url: str) -> str:
    """Give the path of a URL in the content API."""
    return f"/content/{urlsafe_b64encode(url.encode()).decode()}"


@contextmanager
def daemon(directory: Path, *arguments: str, **surroundings: Any) -> Iterator[Daemon]:
    """Run a daemon for the length of the block; arguments are those of `Daemon`."""
    running = Daemon(directory, *arguments, **surroundings)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
