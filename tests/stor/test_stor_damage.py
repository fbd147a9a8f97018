"""Many files on a pair of storages, half of one member's copies destroyed: every answer is right, all come back."""

import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest

from nekko.oci.digest import Digest
from tests.api.test_replicas import place
from tests.daemon import Daemon, daemon

pytestmark = pytest.mark.stor
CLIENTS = 8
MAX_BYTES = 8 << 10
SCRUB_SECONDS = 3600.0
"""Longer than a round over 100,000 files takes on a busy machine."""


def content_of(number: int) -> bytes:
    rng = random.Random(number)
    return number.to_bytes(8, "big") + rng.randbytes(rng.randrange(MAX_BYTES))  # no two are alike


def sha_of(number: int) -> str:
    return Digest.of(content_of(number)).encoded


def each(node: Daemon, count: int, work: Callable[[HTTPConnection, int], None]) -> None:
    """Do something for every file, by some clients at a time, each on one connection."""

    def client(first: int) -> None:
        connection = node.connect()
        try:
            for number in range(first, count, CLIENTS):
                work(connection, number)
        finally:
            connection.close()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))


def upload(connection: HTTPConnection, number: int) -> None:
    connection.request("POST", f"/{sha_of(number)}", content_of(number))
    answer = connection.getresponse()
    assert (answer.status, len(answer.read()) > 0) == (201, True)


def read_back(connection: HTTPConnection, number: int) -> None:
    connection.request("GET", f"/{sha_of(number)}")
    answer = connection.getresponse()
    assert (answer.status, answer.read() == content_of(number)) == (200, True), number


def damage(path: Path, rng: random.Random) -> None:
    """Lose a copy, cut it, change a byte of it, or put another file in its place."""
    size = path.stat().st_size
    how = rng.choice(["gone", "cut", "changed", "other"])
    if how == "gone":
        path.unlink()
    elif how == "cut":
        os.truncate(path, rng.randrange(size))
    elif how == "changed":
        with path.open("r+b") as file:
            file.seek(at := rng.randrange(size))
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << rng.randrange(8)]))
    else:
        path.write_bytes(rng.randbytes(size))


def wrong_copies(roots: Sequence[Path], count: int) -> Iterator[Path]:
    for number in range(count):
        for root in roots:
            path = place(root, sha_of(number))
            if not path.exists() or path.read_bytes() != content_of(number):
                yield path


def rounds_finished(node: Daemon) -> float:
    """Give when the last complete round of the scrub ended."""
    text = node.ask("GET", "/metrics")[1].decode()
    found = re.search(r"^nekko_replicas_scrub_finished_timestamp_seconds (\S+)", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_half_of_a_members_copies_are_destroyed(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    count, rng = request.config.getoption("--files"), random.Random(6)
    roots = [tmp_path / "a", tmp_path / "b"]
    for root in roots:
        root.mkdir()
    environ = {
        "NEKKO_STORAGE_PAIRS": f"{roots[0]}:{roots[1]}",
        "NEKKO_REQUIRE_MOUNTS": "false",
        "NEKKO_MIN_FREE_SPACE": "0",
    }
    with daemon(tmp_path, environ=environ) as node:
        each(node, count, upload)
        assert list(wrong_copies(roots, count)) == []
        each(node, count, read_back)
        damaged = rng.sample(range(count), count // 2)
        for number in damaged:
            damage(place(roots[0], sha_of(number)), rng)
        each(node, count, read_back)
        node.process.terminate()
        node.process.wait(60)
    restarted = time.time()
    environ |= {"NEKKO_REPLICAS_SCRUB_INTERVAL": "1s", "NEKKO_REPLICAS_SCRUB_BANDWIDTH": "0"}
    with daemon(tmp_path, environ=environ) as node:
        while rounds_finished(node) < restarted:
            assert time.time() < restarted + SCRUB_SECONDS
            assert node.process.poll() is None, node.log.read_text()[-2000:]
            time.sleep(0.2)
        assert list(wrong_copies(roots, count)) == []
        each(node, count, read_back)
    log = node.log.read_text()
    assert "Traceback" not in log
    assert len(re.findall("its bytes are wrong, set aside", log)) > len(damaged) / 2
