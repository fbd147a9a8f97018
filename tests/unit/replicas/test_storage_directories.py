"""Directories of a storage: made with what is above them, and in use only when they would survive power loss."""

import errno
import os
import threading
from pathlib import Path

import pytest

from nekko.oci.digest import Digest
from nekko.replicas.storage import Storage, writer
from nekko.store.boot import boot_id

SECONDS = 10.0


def test_directory_is_made_with_those_above_it_and_each_is_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: forced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    storage = Storage(tmp_path)
    storage.make_directory(tmp_path / "AA" / "BB" / "CC")
    storage.make_directory(tmp_path / "AA" / "BB" / "DD")
    storage.make_directory(tmp_path / "AA" / "BB" / "DD")
    assert forced == [str(tmp_path / place) for place in ("", "AA", "AA/BB", "AA/BB")]
    assert (tmp_path / "AA" / "BB" / "CC").is_dir()


def test_directory_that_could_not_be_forced_is_forced_before_its_next_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[str] = []
    faults = [OSError(errno.EIO, os.strerror(errno.EIO))] * 2

    def force(descriptor: int) -> None:
        place = os.readlink(f"/proc/self/fd/{descriptor}")
        if faults and place == str(tmp_path / "AA"):
            raise faults.pop()
        forced.append(place)

    monkeypatch.setattr(os, "fsync", force)
    storage = Storage(tmp_path)
    for _ in range(2):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            storage.make_directory(tmp_path / "AA" / "BB" / "CC")
        assert not (tmp_path / "AA" / "BB" / "CC").exists()
    for _ in range(2):
        storage.make_directory(tmp_path / "AA" / "BB" / "CC")
    assert forced == [str(tmp_path / place) for place in ("", "AA", "AA/BB")]


def test_directories_of_a_writer_that_was_killed_are_forced_before_it_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, digest = Storage(tmp_path), Digest.of(b"x")
    leaf = storage.path(digest).parent
    leaf.parent.mkdir(parents=True)
    storage.incoming.mkdir(parents=True)
    left = storage.incoming / f"{digest.encoded}.0.{writer()}"
    left.touch()
    forced: list[str] = []

    def force(descriptor: int) -> None:
        assert left.exists()
        forced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", force)
    storage.remove_stale()
    assert forced == [str(place) for place in (leaf.parent, leaf.parent.parent, tmp_path)]
    assert not left.exists()


@pytest.mark.parametrize(
    ("boot", "stays"), [(boot_id().partition("-")[0], True), ("0", False)], ids=["this boot", "another boot"]
)
def test_what_a_process_that_runs_is_writing_stays_unless_it_is_of_another_boot(
    tmp_path: Path, boot: str, stays: bool
) -> None:
    storage = Storage(tmp_path)
    storage.incoming.mkdir(parents=True)
    left = storage.incoming / f"{Digest.of(b'x').encoded}.0.{boot}.{os.getppid()}"
    left.touch()
    storage.remove_stale()
    assert left.exists() == stays


def test_directory_that_another_thread_is_making_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, leaf = Storage(tmp_path), tmp_path / "AA" / "BB" / "CC"
    storage.make_directory(leaf.parent)
    is_forcing, may_end, fsync = threading.Event(), threading.Event(), os.fsync

    def force_when_told(descriptor: int) -> None:
        is_forcing.set()
        assert may_end.wait(SECONDS)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", force_when_told)
    first = threading.Thread(target=storage.make_directory, args=[leaf])
    second = threading.Thread(target=storage.make_directory, args=[leaf])
    first.start()
    try:
        assert is_forcing.wait(SECONDS)
        assert leaf.is_dir()
        second.start()
        second.join(0.2)
        assert second.is_alive()
    finally:
        may_end.set()
        first.join(SECONDS)
    second.join(SECONDS)
    assert not second.is_alive()


def test_storage_that_is_gone_is_not_made(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        storage.make_directory(storage.root / "AA" / "BB" / "CC")
    assert not storage.root.exists()


def test_directory_made_without_force_is_forced_by_the_next_who_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: forced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    storage, leaf = Storage(tmp_path), tmp_path / "AA" / "BB" / "CC"
    made = storage.make_unforced(str(leaf))
    assert leaf.is_dir()
    assert forced == []
    storage.make_directory(leaf)
    assert forced == [str(tmp_path / place) for place in ("", "AA", "AA/BB")]
    other = storage.make_unforced(str(tmp_path / "AA" / "BB" / "DD"))
    storage.are_forced([*made, *other])
    storage.make_directory(tmp_path / "AA" / "BB" / "DD")
    assert len(forced) == 3, "a file system that was forced as a whole is not forced again"


def test_directory_of_a_storage_that_is_gone_is_not_made_without_force_either(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        storage.make_unforced(f"{storage.root}/AA/BB/CC")
    assert not storage.root.exists()
