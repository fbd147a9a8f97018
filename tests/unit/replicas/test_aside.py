"""Copies that were set aside: the newest few of those that have a right one, and the names of those that have none."""

import os
import random
from pathlib import Path

import pytest

from nekko.oci.digest import Digest
from nekko.replicas.aside import MAX_COPIES, Aside
from nekko.replicas.storage import Storage

DIGESTS = [Digest.of(random.Random(number).randbytes(9)) for number in range(MAX_COPIES + 4)]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


def spoil(storage: Storage, digest: Digest, content: bytes = b"wrong") -> Path:
    path = storage.path(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(directory: Path) -> set[str]:
    return {path.name.rpartition("-")[2] for path in directory.iterdir()}


@pytest.mark.parametrize("content", [b"wrong", b""])
def test_newest_few_copies_are_kept(storage: Storage, content: bytes) -> None:
    for digest in DIGESTS:
        storage.set_aside(spoil(storage, digest, content))
    assert names(storage.aside.quarantine) == {storage.path(digest).name for digest in DIGESTS[-MAX_COPIES:]}
    assert storage.lost() == set()


def test_names_of_lost_files_are_kept_longer_than_their_bytes(storage: Storage) -> None:
    for digest in DIGESTS:
        storage.set_aside(spoil(storage, digest), is_last=True)
    assert storage.lost() == set(DIGESTS)
    with_bytes = {path.name for path in storage.aside.lost.iterdir() if path.stat().st_size}
    assert with_bytes == {storage.path(digest).name for digest in DIGESTS[-MAX_COPIES:]}
    for digest in DIGESTS:
        assert storage.has_lost(digest)
        storage.settle(digest)
        storage.settle(digest)
        assert not storage.has_lost(digest)
    assert names(storage.aside.quarantine) == with_bytes


def test_names_of_lost_files_are_not_kept_without_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    aside, kept = Aside(tmp_path, max_lost=2), MAX_COPIES + 2
    for number in range(kept + 2):
        path = tmp_path / f"{number}"
        path.write_bytes(b"wrong")
        aside.put_last(path)
    assert names(aside.lost) == {f"{number}" for number in range(2, kept + 2)}
    assert caplog.text.count("this one is forgotten") == 2


def test_what_is_gone_already_is_told_and_not_remembered(storage: Storage) -> None:
    for is_last in (True, False):
        with pytest.raises(FileNotFoundError):
            storage.set_aside(storage.path(DIGESTS[0]), is_last=is_last)
    assert storage.lost() == set()


def test_removal_forgets_what_was_lost(storage: Storage) -> None:
    storage.set_aside(spoil(storage, DIGESTS[0]), is_last=True)
    assert not storage.remove(DIGESTS[0])
    assert storage.lost() == set()


def test_copy_is_aside_even_if_older_ones_cannot_be_dropped(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(MAX_COPIES):
        os.makedirs(storage.aside.quarantine / f"{number}")
    path = spoil(storage, DIGESTS[0])
    storage.set_aside(path)
    assert not path.exists()
    assert "older copies cannot be dropped" in caplog.text
