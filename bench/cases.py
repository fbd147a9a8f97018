"""What is measured: each case runs once per call and gives its seconds; `__main__` interleaves and compares them."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nekko.oci.digest import Digest
from nekko.oci.mediatype import OCI_MANIFEST
from tests.servers import Server, free_port


@dataclass(frozen=True)
class Case:
    """One way to do a job. `run` does it once, on a clean place, and gives the seconds it took."""

    name: str
    run: Callable[[], float]


@contextmanager
def nekko(directory: Path) -> Iterator[str]:
    """Run the daemon with a fresh cache; gives its address as a URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "nekko", "serve", "--cache-dir", str(directory), "--address", f"127.0.0.1:{port}"],
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health/live").close()
                break
            except OSError:
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


def timed(command: str) -> float:
    """Run a shell pipeline; gives its seconds."""
    started = time.monotonic()
    subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.monotonic() - started


def pull(directory: Path, url: str) -> float:
    """Pull a URL into a fresh cache; the answer means that it is proven and forced to disk."""
    cache = directory / "cache"
    with nekko(cache) as address:
        body = json.dumps({"url": url}).encode()
        started = time.monotonic()
        with urllib.request.urlopen(urllib.request.Request(f"{address}/content/", body), timeout=600) as answer:
            assert answer.status == 201
        seconds = time.monotonic() - started
    shutil.rmtree(cache)
    return seconds


def cold_file(directory: Path, web: Server) -> list[Case]:
    """One large file from nginx to a proven file on disk."""
    target, url = directory / "out", web.url("/blob")

    def pipeline(after: str) -> float:
        seconds = timed(f"curl -sf {url} | tee {target} | openssl dgst -sha256 {after}")
        target.unlink()
        return seconds

    def aria() -> float:
        digest = Digest.parse((web.root / "blob.digest").read_text()).encoded
        seconds = timed(
            f"aria2c -q -x8 -s8 --file-allocation=none --checksum=sha-256={digest} -d {directory} -o out {url}"
        )
        target.unlink()
        return seconds

    return [
        Case("curl \\| tee \\| openssl dgst", lambda: pipeline("")),
        Case("the same, then sync", lambda: pipeline(f"&& sync {target}")),
        Case("aria2c -x8, checksum", aria),
        Case("nekko POST /content/", lambda: pull(directory, url)),
    ]


def cold_image(directory: Path, registry: Server) -> list[Case]:
    """One large layer from docker-registry to an OCI layout."""
    target = directory / "layout"

    def skopeo(after: str) -> float:
        seconds = timed(f"skopeo copy --src-tls-verify=false docker://{registry.host}/bench:v1 oci:{target}:v1 {after}")
        shutil.rmtree(target)
        return seconds

    return [
        Case("skopeo copy", lambda: skopeo("")),
        Case("the same, then sync", lambda: skopeo(f"&& sync {target}/blobs/sha256/*")),
        Case("nekko POST /content/", lambda: pull(directory, f"oci://{registry.host}/bench:v1")),
    ]


def serving(urls: dict[str, str], clients: int) -> list[Case]:
    """A cached blob to one or several curls that drop it."""

    def fetch(url: str) -> float:
        one = f"curl -sf -o /dev/null {url}"
        return timed(one if clients == 1 else " & ".join([one] * clients) + " & wait")

    return [Case(name, lambda url=url: fetch(url)) for name, url in urls.items()]  # type: ignore[misc]  # a default binds it


def requests_per_second(url: str, seconds: int) -> float:
    """Ask for a small answer with 16 connections; gives answers per second."""
    done = subprocess.run(
        ["wrk", "-t1", "-c16", f"-d{seconds}", "-H", f"Accept: {OCI_MANIFEST}", url],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Requests/sec"))
    assert "Non-2xx" not in done.stdout, done.stdout
    return float(line.split()[1])


def make_blob(path: Path, size: int) -> None:
    """Write bytes that do not compress, and their digest beside them."""
    chunk = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(chunk)
    digest = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
    path.with_name(f"{path.name}.digest").write_text(f"sha256:{digest}")
