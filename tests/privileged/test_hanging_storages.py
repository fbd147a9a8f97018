"""A storage that hangs, under a real daemon: its twin and the other tuples go on, and it is filled when it is back."""

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nekko.oci.digest import Digest
from tests.api.test_replicas import place
from tests.daemon import Daemon, daemon
from tests.fault.disk import ext4
from tests.fault.hanging import Hanging, hanging

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
AT_ONCE = 60
"""Requests that are caught at the moment when it begins: more than there are threads of any kind."""
SIZES = [1000, 100_000, 3_000_000]


def files(seed: int, count: int) -> list[bytes]:
    return [random.Random(f"{seed} {number}").randbytes(SIZES[number % len(SIZES)]) for number in range(count)]


@dataclass
class Pairs:
    node: Daemon
    roots: Sequence[Path]

    def upload(self, content: bytes) -> tuple[int, object]:
        return self._ask("POST", content, content)

    def fetch(self, content: bytes) -> bool:
        return self._ask("GET", content) == (200, content)

    def status(self) -> tuple[int, str]:
        status, body = self.node.ask("GET", "/status")
        return status, body.decode()

    def told(self, words: str) -> int:
        return self.node.log.read_text().count(words)

    def _ask(self, method: str, content: bytes, body: bytes | None = None) -> tuple[int, object]:
        connection = self.node.connect()
        try:
            connection.request(method, f"/{Digest.of(content).encoded}", body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def uploaded_while(served: Pairs, contents: Sequence[bytes]) -> None:
    """Upload and fetch files while the first pair takes none."""
    assert {served.upload(content)[0] for content in contents} == {201}
    assert all(is_on(served.roots[2], content) for content in contents)
    assert all(served.fetch(content) for content in contents)


@contextmanager
def pairs(directory: Path, first: Path) -> Iterator[Pairs]:
    """Serve two pairs of storages, the first one of which is given."""
    roots = [first, *(directory / name for name in ("a2", "b1", "b2"))]
    for root in roots[1:]:
        root.mkdir()
    environ = {
        "NEKKO_STORAGE_PAIRS": f"{roots[0]}:{roots[1]},{roots[2]}:{roots[3]}",
        "NEKKO_REQUIRE_MOUNTS": "false",
        "NEKKO_MIN_FREE_SPACE": "0",
        "NEKKO_STORAGE_TIMEOUT": "2s",
    }
    with daemon(directory, environ=environ) as node:
        until(lambda: all((root / ".nekko" / "member").exists() for root in roots))
        yield Pairs(node, roots)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Hanging]:
    with hanging(tmp_path) as mounted:
        yield mounted


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_on(root: Path, content: bytes) -> bool:
    return place(root, Digest.of(content).encoded).exists()


def test_requests_go_on_while_a_storage_hangs_and_it_is_filled_when_it_is_back(tmp_path: Path, disk: Hanging) -> None:
    stored, caught, later = files(1, 24), files(2, AT_ONCE), files(3, 24)
    with pairs(tmp_path, disk.root) as served, ThreadPoolExecutor(2 * AT_ONCE) as clients:
        assert {served.upload(content)[0] for content in stored} == {201}
        here = [content for content in stored if is_on(disk.real, content)]
        assert here
        disk.hang()
        uploads = clients.map(served.upload, caught)
        fetches = clients.map(served.fetch, [*here, *stored])
        until(lambda: served.status() == (503, f"{disk.root} does not answer\n"))
        uploaded_while(served, later)
        assert all(served.fetch(content) for content in stored)
        lost = place(disk.real, Digest.of(here[0]).encoded)
        lost.unlink()
        disk.be_well()
        until(lambda: served.status()[0] == 200)
        assert {status for status, _ in uploads} <= {201, 500}
        assert all(fetches)
        until(lost.exists)
        assert {served.upload(content)[0] for content in files(4, 24)} == {201}
        assert {served.upload(content)[0] for content in caught} <= {200, 201}
        assert all(served.fetch(content) for content in [*stored, *caught, *later])
        assert served.told("does not answer: it is not used until it does") == 1
        assert served.told(f"{disk.root} answers again") == 1
        assert any(is_on(disk.real, content) for content in files(4, 24))
        assert served.node.stop() == 0
        assert served.told("Traceback") == 0
    assert not list((disk.real / ".nekko" / "incoming").iterdir())


def test_storage_that_takes_no_writes_is_silent_until_it_does(tmp_path: Path) -> None:
    stored, caught, later = files(1, 12), files(2, 12), files(3, 12)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with (
        ext4(tmp_path / "one", mib=256) as frozen,
        ext4(tmp_path / "two", mib=256) as well,  # as large, so that each is as likely to be chosen
        pairs(well.root, frozen.root) as served,
        ThreadPoolExecutor(12) as clients,
    ):
        assert {served.upload(content)[0] for content in stored} == {201}
        assert any(is_on(frozen.root, content) for content in stored)
        subprocess.run(["fsfreeze", "--freeze", frozen.root], check=True)
        try:
            uploads = clients.map(served.upload, caught)
            until(lambda: served.status() == (503, f"{frozen.root} does not answer\n"))
            uploaded_while(served, later)
            assert all(served.fetch(content) for content in stored)
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", frozen.root], check=True)
        until(lambda: served.status()[0] == 200)
        assert {status for status, _ in uploads} <= {201, 500}
        assert {served.upload(content)[0] for content in caught} <= {200, 201}
        assert all(served.fetch(content) for content in [*stored, *caught, *later])
        assert served.node.stop() == 0


def test_stop_waits_for_no_storage_that_hangs(tmp_path: Path, disk: Hanging) -> None:
    with pairs(tmp_path, disk.root) as served, ThreadPoolExecutor(AT_ONCE) as clients:
        disk.hang()
        uploads = [clients.submit(served.upload, content) for content in files(1, AT_ONCE)]
        until(lambda: served.status()[0] == 503)
        assert served.node.stop() == 0
        for upload in uploads:
            upload.exception()
        assert served.told("Traceback") == 0
