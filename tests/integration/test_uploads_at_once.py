"""More large uploads at once than there are threads for them, over a real daemon's Unix socket."""

import hashlib
import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from nekko.oci.digest import Digest
from nekko.server.serve import UPLOAD_THREADS
from tests.api.test_replicas import place
from tests.daemon import Daemon, daemon

QUICK = 48
MEGABYTES = 12
MAX_GROWTH_BYTES = 320 << 20
"""Of memory: half of what the quick uploads bring."""
SLOW = [b"%02d" % number * 50_000 for number in range(UPLOAD_THREADS)]


@pytest.fixture(params=["pairs", "layout"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    roots = [tmp_path / "a1", tmp_path / "a2"]
    for root in roots:
        root.mkdir()
    pairs = {"NEKKO_STORAGE_PAIRS": ":".join(map(str, roots)), "NEKKO_REQUIRE_MOUNTS": "false"}
    with daemon(
        tmp_path, environ={"NEKKO_MIN_FREE_SPACE": "0"} | (pairs if request.param == "pairs" else {})
    ) as running:
        yield running


def begin(connection: http.client.HTTPConnection, content: bytes) -> None:
    """Send all of an upload but its last byte."""
    connection.putrequest("PUT", f"/{Digest.of(content).encoded}")
    connection.putheader("Content-Length", str(len(content)))
    connection.endheaders(content[:-1])


def peak_bytes(node: Daemon) -> int:
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def test_slow_uploads_keep_no_others_and_memory_is_flat(node: Daemon, tmp_path: Path) -> None:
    def upload(number: int) -> tuple[str, int]:
        block, first = bytes(1 << 20), b"%8d" % number + bytes((1 << 20) - 8)
        hashed = hashlib.sha256(first)
        for _ in range(MEGABYTES - 1):
            hashed.update(block)
        connection = node.connect()
        try:
            connection.putrequest("PUT", f"/{hashed.hexdigest()}")
            connection.putheader("Content-Length", str(MEGABYTES << 20))
            connection.endheaders(first)
            for _ in range(MEGABYTES - 1):
                connection.send(block)
            return hashed.hexdigest(), connection.getresponse().status
        finally:
            connection.close()

    before = peak_bytes(node)
    with ExitStack() as stack:
        slow = [node.connect() for _ in SLOW]
        for connection, content in zip(slow, SLOW, strict=True):
            stack.callback(connection.close)
            begin(connection, content)
        with ThreadPoolExecutor(QUICK) as clients:
            answers = list(clients.map(upload, range(QUICK)))
        assert {status for _, status in answers} == {201}
        assert peak_bytes(node) - before < MAX_GROWTH_BYTES
        for connection, content in zip(slow, SLOW, strict=True):
            connection.send(content[-1:])
            assert connection.getresponse().status == 201
    for content in SLOW:
        assert node.ask("GET", f"/{Digest.of(content).encoded}") == (200, content)
    for sha, _ in answers:
        places = [place(tmp_path / "a1", sha), place(tmp_path / "a2", sha), node.cache / "blobs" / "sha256" / sha]
        copies = [path for path in places if path.exists()]
        assert copies
        for copy in copies:
            with copy.open("rb") as file:
                assert hashlib.file_digest(file, "sha256").hexdigest() == sha
