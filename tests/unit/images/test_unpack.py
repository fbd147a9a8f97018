"""Unpacking archives of strangers: what is in them, whole and true, and what would do harm."""

import gzip
import hashlib
import io
import lzma
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nekko.errors import ArchiveInvalidError
from nekko.images import unpack as unpacking
from nekko.images.unpack import Unpacked, format_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners and attributes of files need root")
pytestmark = needs_root

Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: object) -> Entry:
    found = tarfile.TarInfo(name)
    found.type, found.size, found.mode, found.mtime = kind, len(content), 0o644, 1_000_000_000
    for key, value in fields.items():
        setattr(found, key, value)
    return found, content


def directory(name: str, **fields: object) -> Entry:
    return entry(name, b"", tarfile.DIRTYPE, **{"mode": 0o755, **fields})


def link(name: str, target: str) -> Entry:
    return entry(name, kind=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> Entry:
    return entry(name, kind=tarfile.LNKTYPE, linkname=target)


def archive(*entries: Entry) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for found, content in entries:
            tar.addfile(found, io.BytesIO(content))
    return made.getvalue()


def unpack(tmp_path: Path, packed: bytes, *, is_layer: bool = False, **more: int) -> Unpacked:
    (tmp_path / "packed").write_bytes(packed)
    (tmp_path / "place").mkdir(exist_ok=True)
    with (tmp_path / "packed").open("rb") as file:
        place = os.open(tmp_path / "place", os.O_RDONLY | os.O_DIRECTORY)
        try:
            return unpacking.unpack(
                file.fileno(), place, max_bytes=1 << 20, is_layer=is_layer, check=lambda: None, **more
            )
        finally:
            os.close(place)


def zstd(plain: bytes) -> bytes:
    return subprocess.run(["zstd", "-q"], input=plain, capture_output=True, check=True).stdout


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, zstd], ids=["plain", "gzip", "xz", "zstd"])
def test_archives_of_every_compression_are_unpacked_and_hashed(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    plain = archive(directory("a"), entry("a/b", b"content"), link("c", "a/b"), hard_link("d", "a/b"))
    packed = pack(plain)
    assert unpack(tmp_path, packed) == Unpacked(f"sha256:{hashlib.sha256(plain).hexdigest()}", 7)
    place = tmp_path / "place"
    assert (place / "c").read_bytes() == (place / "d").read_bytes() == b"content"
    assert (place / "a/b").stat().st_nlink == 2
    with (tmp_path / "packed").open("rb") as file:
        assert format_of(file.fileno()) == "tar"


def test_owner_mode_times_and_attributes_are_kept(tmp_path: Path) -> None:
    packed = archive(
        directory("d", mode=0o2750, uid=5, gid=6),
        entry("d/f", b"x", mode=0o4711, uid=7, gid=8, pax_headers={"SCHILY.xattr.user.colour": "red"}),
        entry("d/fifo", kind=tarfile.FIFOTYPE),
        link("d/l", "f"),
    )
    unpack(tmp_path, packed)
    place = tmp_path / "place"
    found = (place / "d/f").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime) == (0o4711, 7, 8, 1_000_000_000)
    assert os.getxattr(place / "d/f", "user.colour") == b"red"
    found = (place / "d").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime) == (0o2750, 5, 6, 1_000_000_000)
    assert (place / "d/fifo").is_fifo()


def test_missing_directories_are_made_and_links_inside_are_followed(tmp_path: Path) -> None:
    packed = archive(entry("usr/lib/a", b"1"), link("lib", "usr/lib"), link("abs", "/usr/lib"), entry("lib/b", b"2"),
                     entry("abs/c", b"3"))  # fmt: skip
    unpack(tmp_path, packed)
    assert {each.name for each in (tmp_path / "place/usr/lib").iterdir()} == {"a", "b", "c"}


def test_later_entry_replaces_an_earlier_one(tmp_path: Path) -> None:
    unpack(tmp_path, archive(entry("a", b"old"), link("b", "a"), entry("a", b"new"), entry("b", b"file")))
    assert (tmp_path / "place/a").read_bytes() == b"new"
    assert (tmp_path / "place/b").read_bytes() == b"file"


def test_whiteouts_of_a_layer_become_those_of_overlayfs(tmp_path: Path) -> None:
    packed = archive(directory("d"), entry("d/.wh.gone"), entry("e/.wh..wh..opq"), entry("d/.wh..wh.plnk"))
    unpack(tmp_path, packed, is_layer=True)
    gone = (tmp_path / "place/d/gone").stat()
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert os.getxattr(tmp_path / "place/e", "trusted.overlay.opaque") == b"y"
    assert os.listdir(tmp_path / "place/d") == ["gone"]


def test_devices_of_the_images_own_dev_are_left_out(tmp_path: Path) -> None:
    packed = archive(
        directory("./dev"), entry("./dev/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry("./dev/loop0", kind=tarfile.BLKTYPE, devmajor=7), link("./dev/stdin", "/proc/self/fd/0"), entry("./init"),
    )  # fmt: skip
    unpack(tmp_path, packed, is_layer=True)
    assert os.listdir(tmp_path / "place/dev") == ["stdin"]
    assert (tmp_path / "place/init").is_file()


def bomb() -> bytes:
    return gzip.compress(archive(entry("zeros", bytes(4 << 20))))


HOSTILE = {
    "parts that climb": (archive(entry("a/../../outside", b"x")), "leads out"),
    "a link out, then through it": (archive(link("up", "../../.."), entry("up/outside", b"x")), None),
    "an absolute link, then through it": (archive(link("etc", "/etc"), entry("etc/outside-of-test", b"x")), "no directory"),
    "a hard link out": (archive(hard_link("passwd", "/etc/passwd")), "is no file here"),
    "a hard link that climbs": (archive(hard_link("passwd", "../../../etc/passwd")), "leads out"),
    "a hard link to a directory": (archive(directory("d"), hard_link("e", "d")), "is no file here"),
    "a device": (archive(entry("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)), "is a device"),
    "a disk": (archive(entry("sda", kind=tarfile.BLKTYPE, devmajor=8)), "is a device"),
    "a disk below another dev": (archive(entry("srv/dev/sda", kind=tarfile.BLKTYPE, devmajor=8)), "is a device"),
    "an attribute of overlays": (
        archive(entry("f", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc"})), "overlayfs' own"),
    "a bomb": (bomb(), "more than 1048576 bytes"),
    "a huge header": (archive(entry("f", pax_headers={"comment": "x" * (2 << 20)})), "extended header"),
    "a directory in the place of a file": (archive(directory("d"), entry("d/f"), entry("d", b"x")), "twice"),
    "no archive": (b"nothing of the kind" * 100, "not an archive"),
    "a cut archive": (gzip.compress(archive(entry("f", bytes(100_000))))[:-40], "not an archive"),
    "a cut zstd archive": (zstd(archive(entry("f", os.urandom(100_000))))[:-400], "not an archive"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused_and_touches_nothing_outside(tmp_path: Path, name: str) -> None:
    packed, fault = HOSTILE[name]
    if fault is None:
        unpack(tmp_path, packed)
    else:
        with pytest.raises(ArchiveInvalidError, match=fault):
            unpack(tmp_path, packed)
    assert {each.name for each in tmp_path.iterdir()} == {"packed", "place"}
    assert not Path("/etc/outside-of-test").exists()
    assert not Path("/outside").exists()


def test_number_of_entries_is_limited(tmp_path: Path) -> None:
    with pytest.raises(ArchiveInvalidError, match="more than 3 entries"):
        unpack(tmp_path, archive(*(entry(str(number)) for number in range(4))), max_entries=3)


def test_work_ends_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(archive(entry("f", bytes(3 << 20))))

    def check() -> None:
        raise KeyboardInterrupt

    with (tmp_path / "packed").open("rb") as file, pytest.raises(KeyboardInterrupt):
        place = os.open(tmp_path, os.O_RDONLY)
        try:
            unpacking.unpack(file.fileno(), place, max_bytes=1 << 30, is_layer=False, check=check)
        finally:
            os.close(place)
