"""Uploads onto file systems of their own: full, read-only, vanished, not mounted."""

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from nekko.oci.digest import Digest
from nekko.replicas.storage import Storage
from tests.api.test_content import serve_node
from tests.api.test_replicas import place, serve_trees
from tests.api.test_uploads import pieces
from tests.node import QUICK, open_node

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
MIB = 1 << 20
FILE = os.urandom(3 * MIB)
SHA = Digest.of(FILE).encoded

Mount = Callable[[Path, int], None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mount a file system of so many MiB."""
    places: list[Path] = []

    def mount(place: Path, mebibytes: int) -> None:
        place.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", place], check=True)
        places.append(place)

    yield mount
    for mounted in places:
        subprocess.run(["umount", "-l", mounted], check=False, capture_output=True)


def upload_of(content: bytes, *, is_announced: bool) -> bytes | AsyncIterator[bytes]:
    return content if is_announced else pieces(content[:9], content[9:])


@pytest.mark.parametrize("is_announced", [True, False])
async def test_file_without_room_in_the_cache_is_refused(tmp_path: Path, mount: Mount, is_announced: bool) -> None:
    mount(tmp_path / "c", 12)
    settings = replace(QUICK, min_free_space_bytes=8 * MIB)
    async with open_node(tmp_path / "c" / "n", settings) as node, serve_node(node) as served:
        answer = await served.client.post(f"/{SHA}", content=upload_of(FILE, is_announced=is_announced))
        assert answer.status_code == 507
        assert "bytes needed" in answer.text
        assert node.leftovers() == []


@pytest.mark.parametrize("is_announced", [True, False])
async def test_full_member_takes_nothing_and_leaves_nothing(tmp_path: Path, mount: Mount, is_announced: bool) -> None:
    for name, mebibytes in (("data00", 16), ("data01", 2)):
        mount(tmp_path / name, mebibytes)
    async with serve_trees(tmp_path, tuples=1, require_mounts=True, min_free_space_bytes=0) as trees:
        answer = await trees.client.post(f"/{SHA}", content=upload_of(FILE, is_announced=is_announced))
        assert answer.status_code == 507
        assert "data00" in answer.text
        assert trees.copies() == []
        assert trees.leftovers() == []
        small = FILE[:MIB]
        assert (await trees.client.post(f"/{Digest.of(small).encoded}", content=small)).status_code == 201


async def test_uploads_that_come_at_once_do_not_share_room(tmp_path: Path, mount: Mount) -> None:
    for name in ("data00", "data01"):
        mount(tmp_path / name, 8)
    statuses = []
    async with serve_trees(tmp_path, tuples=1, require_mounts=True, min_free_space_bytes=0) as trees:

        async def post(content: bytes) -> None:
            answer = await trees.client.post(f"/{Digest.of(content).encoded}", content=content)
            statuses.append(answer.status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(post, os.urandom(3 * MIB))
        assert sorted(statuses) == [201] * 2 + [507] * 4
        assert trees.leftovers() == []


async def test_read_only_member_is_told_and_serves(tmp_path: Path, mount: Mount) -> None:
    for name in ("data00", "data01"):
        mount(tmp_path / name, 16)
    async with serve_trees(tmp_path, tuples=1, require_mounts=True) as trees:
        paths = [Path(path) for path in (await trees.client.post(f"/{SHA}", content=FILE)).json()]
        subprocess.run(["mount", "-o", "remount,ro", trees.roots[1]], check=True)
        answer = await trees.client.get("/status")
        assert (answer.status_code, answer.text) == (503, f"{trees.roots[1]} is mounted read-only\n")
        paths[0].unlink()
        assert (await trees.client.get(f"/{SHA}")).content == FILE
        await trees.restored(1)
        other = os.urandom(1000)
        answer = await trees.client.post(f"/{Digest.of(other).encoded}", content=other)
        assert (answer.status_code, "is mounted read-only" in answer.text) == (507, True)


@pytest.mark.parametrize("is_last", [True, False])
def test_what_was_set_aside_does_not_fill_a_disk(tmp_path: Path, mount: Mount, is_last: bool) -> None:
    mount(tmp_path / "data", 40)
    storage = Storage(tmp_path / "data")
    for size in (1 * MIB, 1 * MIB, 9 * MIB, 1 * MIB, 1 * MIB, 1 * MIB):
        wrong = storage.path(Digest.of(os.urandom(8)))
        wrong.parent.mkdir(parents=True)
        wrong.write_bytes(bytes(size))
        storage.set_aside(wrong, is_last=is_last)
        newest = sum(path.stat().st_size for path in storage.aside.directory.rglob("*.dat"))
        assert newest == size if size == 9 * MIB else newest <= 2 * MIB  # a twentieth, but the newest copy stays
    assert newest == 2 * MIB
    assert len(storage.lost()) == (6 if is_last else 0)


async def test_disk_that_is_not_mounted_takes_nothing_and_is_filled_when_it_is_back(
    tmp_path: Path, mount: Mount
) -> None:
    for name in ("data00", "data01"):
        mount(tmp_path / name, 16)
    async with serve_trees(tmp_path, tuples=1, require_mounts=True) as trees:
        await trees.client.post(f"/{SHA}", content=FILE)
        root = trees.roots[0]
        subprocess.run(["umount", root], check=True)
        answer = await trees.client.get("/status")
        assert (answer.status_code, f"{root} is not mounted" in answer.text) == (503, True)
        assert (await trees.client.get(f"/{SHA}")).content == FILE
        duplicate = await trees.client.post(f"/{SHA}", content=FILE)
        assert (duplicate.status_code, duplicate.json()) == (200, [str(place(trees.roots[1], SHA))])
        other = os.urandom(1000)
        assert (await trees.client.post(f"/{Digest.of(other).encoded}", content=other)).status_code == 507
        assert list(root.iterdir()) == []
        mount(root, 16)
        assert (await trees.client.get(f"/{SHA}")).content == FILE
        await trees.restored(1)
        assert place(root, SHA).read_bytes() == FILE


async def test_disk_that_is_mounted_at_two_places_takes_nothing(tmp_path: Path, mount: Mount) -> None:
    for name in ("data00", "data01"):
        mount(tmp_path / name, 16)
    async with serve_trees(tmp_path, tuples=1, require_mounts=True) as trees:
        one, same = trees.roots
        assert (await trees.client.post(f"/{SHA}", content=FILE)).status_code == 201
        subprocess.run(["mount", "--bind", one, same], check=True)
        try:
            told = f"{same} is the same directory as {one}: a copy on both would be only one"
            answer = await trees.client.get("/status")
            assert (answer.status_code, answer.text) == (503, f"{told}\n")
            other = os.urandom(1000)
            answer = await trees.client.post(f"/{Digest.of(other).encoded}", content=other)
            assert (answer.status_code, told in answer.text) == (507, True)
            assert (await trees.client.get(f"/{SHA}")).content == FILE
        finally:
            subprocess.run(["umount", same], check=True)
        assert (await trees.client.get("/status")).text == "OK"
        assert (await trees.client.post(f"/{Digest.of(other).encoded}", content=other)).status_code == 201


@pytest.mark.parametrize("names", [("one",), ("one/data00", "one/data01")])
async def test_members_that_share_a_disk_are_told_at_the_start(
    tmp_path: Path, mount: Mount, caplog: pytest.LogCaptureFixture, names: tuple[str, ...]
) -> None:
    (tmp_path / "one").mkdir()
    for name in names:
        mount(tmp_path / name, 16)
    async with serve_trees(tmp_path / "one", tuples=1, require_mounts=True) as trees:
        assert (await trees.client.post(f"/{SHA}", content=FILE)).status_code == 201
    told = f"{trees.roots[0]} + {trees.roots[1]}: share a file system"
    assert [told in message for message in caplog.messages].count(True) == (1 if len(names) == 1 else 0)
