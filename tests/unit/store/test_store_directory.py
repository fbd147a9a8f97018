"""Cache directories that are not as nekko left them: adopted, repaired or refused, and nothing of others' is lost."""

import contextlib
import json
import os
import sqlite3
from pathlib import Path

import pytest

from nekko.errors import ConfigInvalidError
from nekko.oci.digest import Digest
from nekko.store import fsck
from nekko.store.layout import file_system_of
from nekko.store.store import open_store
from tests.fakes.far_end import FarEnd, whole
from tests.node import open_node

FILE = b"content of a file\n"


async def fill(cache: Path, far: FarEnd) -> str:
    """Make a cache with one content; gives its URL."""
    async with open_node(cache) as node:
        await node.pull(far.on("/f", whole(FILE)))
    return far.url("/f")


async def opened(cache: Path) -> None:
    async with open_store(cache, min_free_bytes=0):
        pass


def damage(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


async def test_damaged_catalog_is_refused_and_rebuilt_from_the_layout(tmp_path: Path, far: FarEnd) -> None:
    url = await fill(tmp_path, far)
    damage(tmp_path / ".nekko/catalog.sqlite", 0, os.urandom(4096))
    with pytest.raises(ConfigInvalidError, match=r"catalog: .*fsck --rebuild"):
        await opened(tmp_path)
    assert fsck.run(tmp_path, rebuild=True).is_clean
    async with open_node(tmp_path) as node:
        assert (await node.pull(url)).is_cached


@pytest.mark.parametrize("how", ["removed", "emptied"])
async def test_lost_catalog_is_not_replaced_by_an_empty_one(tmp_path: Path, far: FarEnd, how: str) -> None:
    url = await fill(tmp_path, far)
    catalog = tmp_path / ".nekko/catalog.sqlite"
    catalog.unlink()
    if how == "emptied":
        catalog.touch()
    before = (tmp_path / "index.json").read_bytes()
    for _ in range(2):
        with pytest.raises(ConfigInvalidError, match=r"the catalog is gone, and index.json has 1 names"):
            await opened(tmp_path)
        with pytest.raises(ConfigInvalidError, match="the catalog is gone"):
            fsck.run(tmp_path, rebuild=False)
    assert (tmp_path / "index.json").read_bytes() == before
    assert fsck.run(tmp_path, rebuild=True).is_clean
    async with open_node(tmp_path) as node:
        assert (await node.pull(url)).is_cached


async def test_catalog_of_a_later_version_is_refused(tmp_path: Path) -> None:
    await opened(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / ".nekko/catalog.sqlite")) as catalog:
        catalog.execute("PRAGMA user_version = 1000")
    with pytest.raises(ConfigInvalidError, match="version 1000, this nekko reads up to"):
        await opened(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"manifests":5}', b"\xff" * 100, b"[" * 100_000])
async def test_damaged_index_is_written_anew_and_the_old_one_kept(tmp_path: Path, far: FarEnd, content: bytes) -> None:
    url = await fill(tmp_path, far)
    (tmp_path / "index.json").write_bytes(content)
    async with open_node(tmp_path) as node:
        assert (await node.pull(url)).is_cached
    assert [
        entry["annotations"]["io.nekko.url"]
        for entry in json.loads((tmp_path / "index.json").read_bytes())["manifests"]
    ] == [url]
    assert (tmp_path / "index.json.damaged").read_bytes() == content


async def test_files_of_others_stay_whatever_happens(tmp_path: Path, far: FarEnd) -> None:
    await fill(tmp_path, far)
    places = ("notes.txt", "blobs/notes", "blobs/sha256/not-a-digest", ".nekko/notes", ".nekko/ingest/notes",
              ".nekko/quarantine/notes", "blobs/sha512/notes", "other/notes")  # fmt: skip
    for place in places:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("mine")
        os.utime(tmp_path / place, (0, 0))
    foreign = Digest.of(b"foreign")
    (tmp_path / "blobs/sha256" / foreign.encoded).write_bytes(b"foreign")
    async with open_node(tmp_path) as node:
        await node.pulls.remove(far.url("/f"))
        await node.pull(far.on("/g", whole(b"other")))
    assert fsck.run(tmp_path, rebuild=False).is_clean
    assert all((tmp_path / place).read_text() == "mine" for place in places)
    assert (tmp_path / "blobs/sha256" / foreign.encoded).read_bytes() == b"foreign"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("", "Not a directory"),
        (".nekko", "File exists|Not a directory"),
        ("blobs", "not usable"),
        (".nekko/ingest", "not usable"),
    ],
)
async def test_file_where_a_directory_is_needed_is_refused(tmp_path: Path, place: str, words: str) -> None:
    cache = tmp_path / "cache"
    path = cache / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(ConfigInvalidError, match=words):
        await opened(cache)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("marker", ['{"imageLayoutVersion": "2.0.0"}', "{}", "[]", "x"])
async def test_layout_of_another_version_is_refused(tmp_path: Path, marker: str) -> None:
    (tmp_path / "oci-layout").write_text(marker)
    with pytest.raises(ConfigInvalidError, match=r"OCI image layout"):
        await opened(tmp_path)
    assert (tmp_path / "oci-layout").read_text() == marker


MOUNTS = """\
22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:33 / /srv rw shared:2 - xfs /dev/sdb rw
31 30 0:34 / /srv/share rw - nfs4 host:/x rw
32 30 0:35 / /srv/with\\040blank rw - vfat /dev/sdc rw
33 30 0:36 / /srv/share/local rw - ext4 /dev/sdd rw
34 22 0:37 / /twice rw - nfs host:/y rw
35 34 0:38 / /twice rw - ext4 /dev/sde rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/cache", "ext4"), ("/srv", "xfs"), ("/srv/sharedother", "xfs"), ("/srv/share", "nfs4"),
        ("/srv/share/a/b", "nfs4"), ("/srv/share/local/c", "ext4"), ("/srv/with blank/c", "vfat"), ("/twice/x", "ext4"),
    ],
)  # fmt: skip
def test_type_of_the_file_system_is_that_of_the_innermost_mount(path: str, kind: str) -> None:
    assert file_system_of(Path(path), MOUNTS) == kind
