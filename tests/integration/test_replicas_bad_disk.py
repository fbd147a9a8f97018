"""Copies that their disk does not give, under a real daemon and `nekko replicas`: one file, many, a whole storage."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from itertools import count, islice
from pathlib import Path

import pytest

from nekko.oci.digest import Digest
from nekko.replicas.small import SMALL_BYTES
from nekko.replicas.unreadable import FORGIVEN
from tests.api.test_replicas import place
from tests.daemon import Daemon, daemon
from tests.damage import flip
from tests.fault.bad_host import BadHost, Kind, bad_host

FIRST = "AB"
"""The directory that all files are in, so that it can go bad alone."""
FILES = list(
    islice(
        (content for n in count() if Digest.of(content := b"%d" % n * 900).encoded.upper().startswith(FIRST)),
        FORGIVEN + 5,
    )
)
SHAS = [Digest.of(content).encoded for content in FILES]


@pytest.fixture
def roots(tmp_path: Path) -> Sequence[Path]:
    """Give two storages with files that were written before this daemon was, so that nothing of them is proven."""
    roots = [tmp_path / "a1", tmp_path / "a2"]
    for root in roots:
        for content, sha in zip(FILES, SHAS, strict=True):
            path = place(root, sha)
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
        (root / ".nekko").mkdir()
        (root / ".nekko" / "member").touch()
    return roots


def surroundings(roots: Sequence[Path], host: BadHost) -> dict[str, str]:
    pairs = ":".join(str(root) for root in roots)
    return dict(host.environ) | {
        "NEKKO_STORAGE_PAIRS": pairs,
        "NEKKO_REQUIRE_MOUNTS": "false",
        "NEKKO_MIN_FREE_SPACE": "0",
        "NEKKO_STORAGE_TIMEOUT": "1h",  # trying a storage out is a call that would be counted
    }


@contextmanager
def bad_reads(directory: Path, below: Path) -> Iterator[BadHost]:
    """Let every read below a directory fail."""
    with bad_host(directory, below) as host:
        host.fail(Kind.READS)
        yield host


def aside(root: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[2] for path in (root / ".nekko" / "quarantine").glob("*"))


def get(node: Daemon, number: int) -> None:
    assert node.ask("GET", f"/{SHAS[number]}") == (200, FILES[number])


def upload(node: Daemon, content: bytes, status: int) -> bytes:
    connection = node.connect()
    try:
        connection.request("POST", f"/{Digest.of(content).encoded}", content)
        answer = connection.getresponse()
        assert answer.status == status
        return answer.read()
    finally:
        connection.close()


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run(command: str, environ: Mapping[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "nekko", "replicas", command],
        capture_output=True, text=True, check=False, env=os.environ | environ,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_reader_of_an_unreadable_copy_gets_its_twin_and_the_copy_is_restored(
    tmp_path: Path, roots: Sequence[Path]
) -> None:
    spoiled = place(roots[0], SHAS[0])
    before = spoiled.stat().st_ino
    with bad_reads(tmp_path, spoiled.parent) as host, daemon(tmp_path, environ=surroundings(roots, host)) as node:
        while not aside(roots[0]):  # which copy is read first is drawn
            get(node, 0)
        until(lambda: spoiled.exists() and b'{outcome="restored"} 1.0' in node.ask("GET", "/metrics")[1])
        host.be_well()
        get(node, 0)
    assert aside(roots[0]) == [spoiled.name]
    assert spoiled.stat().st_ino != before
    assert spoiled.read_bytes() == FILES[0]
    assert aside(roots[1]) == []


def test_copy_that_becomes_unreadable_after_its_proof_is_doubted(tmp_path: Path, roots: Sequence[Path]) -> None:
    spoiled = place(roots[0], SHAS[0])
    with bad_host(tmp_path, spoiled.parent) as host, daemon(tmp_path, environ=surroundings(roots, host)) as node:
        place(roots[1], SHAS[0]).rename(tmp_path / "twin")
        get(node, 0)  # from the only copy
        until(place(roots[1], SHAS[0]).exists)
        host.fail(Kind.READS)
        with pytest.raises(HTTPException):
            while True:  # which copy is sent is drawn
                get(node, 0)
        until(lambda: aside(roots[0]) == [spoiled.name] and spoiled.exists())
        host.be_well()
        get(node, 0)
        told = node.log.read_text()
    assert f"on {roots[0]}: an answer is broken off: {os.strerror(errno.EIO)}" in told
    assert "Traceback" not in told
    assert spoiled.read_bytes() == FILES[0]


def test_many_unreadable_copies_are_set_aside_until_the_disk_is_to_be_replaced(
    tmp_path: Path, roots: Sequence[Path]
) -> None:
    with bad_reads(tmp_path, roots[0] / FIRST) as host:
        code, told = run("repair", surroundings(roots, host))
    assert code == 1
    assert f"{len(FILES)} files, 5 faults, {FORGIVEN} copies restored\n" in told
    assert told.count(f"{FORGIVEN} copies on {roots[0]} were unreadable within an hour: replace its disk\n") == 6
    assert {path.read_bytes() for path in roots[0].rglob(f"{FIRST}/**/*.dat")} == set(FILES)
    assert aside(roots[1]) == []


@pytest.mark.parametrize("kinds", [[Kind.READS], [Kind.READS, Kind.WRITES], [Kind.READS, Kind.FORCES]])
def test_storage_that_fails_as_a_whole_keeps_its_copies(
    tmp_path: Path, roots: Sequence[Path], kinds: Sequence[Kind]
) -> None:
    before = {path: path.stat().st_ino for path in roots[0].rglob("*.dat")}
    with bad_host(tmp_path, roots[0]) as host:
        for kind in kinds:
            host.fail(kind)
        environ = surroundings(roots, host)
        with daemon(tmp_path, environ=environ) as node:
            for number in range(len(FILES)):
                get(node, number)
            until(lambda: f"nor does {roots[0]} work otherwise" in node.log.read_text())
        code, told = run("repair", environ)
        assert code == 1
        assert f"{len(FILES)} files, {len(FILES)} faults, 0 copies restored\n" in told
        host.be_well()
        assert run("verify", environ) == (0, f"{len(FILES)} files, 0 faults, 0 copies changed\n")
    assert {path: path.stat().st_ino for path in roots[0].rglob("*.dat")} == before
    assert [path.name for path in (roots[0] / ".nekko").rglob("*") if path.is_file()] == ["member"]


@pytest.mark.parametrize("how", [Path.unlink, flip])
def test_only_copy_stays_where_it_is(tmp_path: Path, roots: Sequence[Path], how: Callable[[Path], None]) -> None:
    spoiled = place(roots[0], SHAS[0])
    how(place(roots[1], SHAS[0]))
    with bad_reads(tmp_path, spoiled.parent) as host:
        code, told = run("repair", surroundings(roots, host))
        assert (code, f"{SHAS[0]}: no right copy is left" in told) == (1, True)
        assert spoiled.read_bytes() == FILES[0]
        host.be_well()
        assert run("repair", surroundings(roots, host))[0] == 0
    assert place(roots[1], SHAS[0]).read_bytes() == FILES[0]
    assert aside(roots[0]) == []


def test_directory_that_could_not_be_forced_is_forced_by_the_next_upload(tmp_path: Path, roots: Sequence[Path]) -> None:
    """How often the disk is asked to force something tells: as often as for the first file in other directories."""
    first, other = b"first" * 20_000, b"other" * 20_000
    with bad_host(tmp_path, roots[0]) as host, daemon(tmp_path, environ=surroundings(roots, host)) as node:
        before = host.calls(Kind.FORCES)
        upload(node, other, 201)
        needed = host.calls(Kind.FORCES) - before
        host.fail(Kind.FORCES, after=1)  # the file itself can be forced
        upload(node, first, 500)
        before = host.calls(Kind.FORCES)
        host.be_well()
        upload(node, first, 201)
        assert host.calls(Kind.FORCES) - before == needed


@pytest.mark.parametrize("well", range(4))
def test_small_file_that_could_not_be_forced_is_not_there(tmp_path: Path, roots: Sequence[Path], well: int) -> None:
    """First its bytes are forced, then its name: with the whole file system, and after that failed by itself."""
    content = b"small"
    with bad_host(tmp_path, roots[0]) as host, daemon(tmp_path, environ=surroundings(roots, host)) as node:
        upload(node, b"another", 201)
        host.fail(Kind.FORCES, after=well)
        upload(node, content, 500)
        sha = Digest.of(content).encoded
        assert [place(root, sha).exists() for root in roots] == [False, False]
        assert [path for root in roots for path in (root / ".nekko" / "incoming").iterdir()] == []
        host.be_well()
        upload(node, content, 201)
        assert [place(root, sha).read_bytes() for root in roots] == [content, content]


@pytest.mark.parametrize("size", [100, 100_000])
def test_file_that_can_neither_be_forced_nor_removed_is_said_to_be_on_its_twin_only(
    tmp_path: Path, roots: Sequence[Path], size: int
) -> None:
    """Its name is there for whoever asks, until the power is lost: `200` must not tell of it before it is forced."""
    first, content = b"1" * size, b"2" * size
    with bad_host(tmp_path, roots[0]) as host, daemon(tmp_path, environ=surroundings(roots, host)) as node:
        upload(node, b"0" * size, 201)  # makes what all uploads need
        counts = host.calls(Kind.WRITES), host.calls(Kind.FORCES)
        upload(node, first, 201)
        writes, forces = host.calls(Kind.WRITES) - counts[0], host.calls(Kind.FORCES) - counts[1]
        host.fail(Kind.WRITES, after=writes)
        host.fail(Kind.FORCES, after=forces - 1)
        if size > SMALL_BYTES:
            upload(node, content, 500)
        copies = [place(root, Digest.of(content).encoded) for root in roots]
        assert json.loads(upload(node, content, 200)) == [str(copies[1])]
        assert [path.read_bytes() for path in copies] == [content, content]
        host.be_well()
        forced = host.calls(Kind.FORCES)
        for _ in range(2):
            assert json.loads(upload(node, content, 200)) == [str(path) for path in copies]
        assert host.calls(Kind.FORCES) > forced
