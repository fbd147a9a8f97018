"""The daemon as a process that is measured."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import free_port

PULL_SECONDS = 600.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Daemon:
    """A running one. `url` is its address; `ready_seconds` is what its start took."""

    url: str
    pid: int
    ready_seconds: float

    def pull(self, url: str) -> None:
        """Pull a URL; the answer means that it is proven and forced to disk."""
        request = urllib.request.Request(f"{self.url}/content/", json.dumps({"url": url}).encode())
        with urllib.request.urlopen(request, timeout=PULL_SECONDS) as answer:
            assert answer.status == 201

    def ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """Send a request, which has to succeed; give the JSON of its answer, if it has any."""
        encoded = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, encoded, method=method)) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def cpu_seconds(self) -> float:
        """Give the processor time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def forget_peak(self) -> None:
        """Begin the measure of `peak_mib` anew. Source: proc(5), /proc/pid/clear_refs."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_mib(self) -> float:
        """Give the most memory that was resident."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024


@contextmanager
def nekko(cache: Path, *options: str, program: Sequence[str] = (sys.executable, "-m", "nekko")) -> Iterator[Daemon]:
    """Run the daemon over a cache directory until the block ends; it is ready when the block begins."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [*program, "serve", "--cache-dir", str(cache), "--address", f"127.0.0.1:{port}", *options]
    started = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health/ready").close()
                break
            except OSError:
                assert process.poll() is None, f"it ended at its start: {command}"
                time.sleep(0.005)
        yield Daemon(url, process.pid, time.monotonic() - started)
    finally:
        process.terminate()
        process.wait()
