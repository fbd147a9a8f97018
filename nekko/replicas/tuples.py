"""Tuples of storages: what each has of a file, and the room that they have. Everything blocks."""

import heapq
import logging
import os
import random
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Self

from nekko.config.settings import Settings
from nekko.errors import DigestMismatchError
from nekko.oci.digest import Digest
from nekko.replicas.proofs import Proofs
from nekko.replicas.storage import Storage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unread:
    """A copy that is there, and why it could not be looked at: the error's number, where the disk said it."""

    storage: Storage
    path: Path
    fault: str
    errno: int | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.fault}"


@dataclass(frozen=True, slots=True)
class Copies:
    """What a tuple has of one file.

    `descriptor` is of a proven copy, -1 if there is none; whoever asked closes it. `lacking` are the storages that have
    no copy, also because it was just set aside; `unreadable` says which others could not be looked at. `path` is the
    proven copy's.
    """

    descriptor: int
    lacking: tuple[Storage, ...]
    unreadable: tuple[Unread, ...]
    path: Path | None = None
    storage: Storage | None = None
    """Where the proven copy is."""
    found: os.stat_result | None = None
    """How it looks."""
    tried: int = 0
    """Storages that were looked at before the proven copy was found, with the one that has it; else all."""
    was_wrong: bool = False
    """A copy was just set aside, so the tuple should have the file, even if it now has none."""

    @property
    def faults(self) -> tuple[str, ...]:
        """Say why copies could not be looked at."""
        return tuple(str(unread) for unread in self.unreadable)


@dataclass(frozen=True, slots=True)
class Listed:
    """A file by the look of it: the places of its copies, unproven, and those where one is missing."""

    digest: Digest
    size: int
    modified: float
    paths: tuple[Path, ...]
    missing: tuple[Path, ...]

    @property
    def copies(self) -> str:
        """How many there are of how many: `2/2`."""
        return f"{len(self.paths)}/{len(self.paths) + len(self.missing)}"


@dataclass(frozen=True, slots=True)
class StorageTuple:
    """Storages that hold the same files. `is_writable`: it takes new ones."""

    storages: tuple[Storage, ...]
    is_writable: bool = True

    def __str__(self) -> str:
        return " + ".join(str(storage.root) for storage in self.storages)

    def without(self, others: Collection[Storage]) -> Self:
        """Give the tuple as if some of its storages were not there."""
        return replace(self, storages=tuple(storage for storage in self.storages if storage not in others))

    def has(self, path: Path) -> bool:
        """Tell whether a path is on one of the storages."""
        return any(path.is_relative_to(storage.root) for storage in self.storages)

    def look(self, digest: Digest, proofs: Proofs, *, prove_all: bool = False) -> Copies:
        """Find a proven copy, and who lacks one. One that fails its proof is set aside.

        A storage that only has a file of the right size is not said to lack it, unless all are to be proven.
        """
        descriptor, found, source, looked, tried, was_wrong = -1, None, None, None, 0, False
        lacking: list[Storage] = []
        unreadable: list[Unread] = []
        wrong: list[tuple[Storage, Path, DigestMismatchError]] = []
        for storage in random.sample(self.storages, len(self.storages)):
            path = storage.path(digest)
            tried += descriptor < 0
            try:
                if descriptor < 0 or prove_all or path.stat().st_size != os.fstat(descriptor).st_size:
                    opened = proofs.open(path, digest)
                    if descriptor < 0:
                        descriptor, found, source, looked = opened, path, storage, os.fstat(opened)
                    else:
                        os.close(opened)
            except (FileNotFoundError, NotADirectoryError):
                lacking.append(storage)
            except OSError as error:
                log.error("%s: cannot be read: %s", path, error.strerror)
                unreadable.append(Unread(storage, path, error.strerror or str(error), error.errno))
            except DigestMismatchError as error:
                wrong.append((storage, path, error))
        for storage, path, mismatch in wrong:
            try:
                if proofs.has(path, path.stat()):  # it was stored anew while the wrong one was read
                    continue
                storage.set_aside(path, is_last=descriptor < 0)
            except FileNotFoundError:  # somebody else was faster, or has removed it
                lacking.append(storage)
            except OSError as error:
                log.error("%s: its bytes are wrong, and it cannot be set aside: %s", path, error.strerror)
                unreadable.append(Unread(storage, path, str(mismatch)))
            else:
                log.error("%s: its bytes are wrong, set aside: %s", path, mismatch)
                was_wrong = True
                lacking.append(storage)
        return Copies(descriptor, tuple(lacking), tuple(unreadable), found, source, looked, tried, was_wrong)

    def stat(self, digest: Digest) -> tuple[Storage, os.stat_result] | None:
        """Find a file without reading it; None if there is none, or its copies differ: then a proof has to tell."""
        found: list[tuple[Storage, os.stat_result]] = []
        for storage in self.storages:
            with suppress(OSError):  # one that cannot be looked at has no say, as long as another has the file
                found.append((storage, storage.path(digest).stat()))
        looks = {(stat.S_ISREG(seen.st_mode), seen.st_size) for _, seen in found}
        return found[0] if len(looks) == 1 and all(is_file for is_file, _ in looks) else None

    def digests(self, *, after: str = "") -> Iterator[Digest]:
        """Give every file that any storage has, in order, from behind a hash on. A storage that is gone has none.

        Raises:
            OSError: A storage cannot be listed.
        """
        there = [storage for storage in self.storages if storage.root.is_dir()]
        before = None
        for leaf in heapq.merge(*(storage.leaves(begin=after) for storage in there)):
            if leaf != before:
                names = set[Digest]().union(*(storage.digests_in(leaf) for storage in there))
                yield from sorted(digest for digest in names if digest.encoded > after)
            before = leaf

    def lost(self) -> set[Digest]:
        """Give the files that were lost, and are remembered by a storage. A storage that is gone remembers none.

        Raises:
            OSError: A storage cannot be listed.
        """
        return set[Digest]().union(*(storage.lost() for storage in self.storages if storage.root.is_dir()))

    def examine(self, digest: Digest) -> list[str]:
        """Prove every copy of a file, and change nothing; say what is wrong."""
        faults = []
        for storage in self.storages:
            path = storage.path(digest)
            try:
                os.close(Proofs().open(path, digest))
            except (FileNotFoundError, NotADirectoryError):
                faults.append(f"{path}: is missing")
            except DigestMismatchError as error:
                faults.append(f"{path}: {error}")
            except OSError as error:
                faults.append(f"{path}: {error.strerror}")
        return faults

    def free_part(self, *, less: int = 0) -> float:
        """Tell how much of the fullest storage would be free with `less` bytes fewer. OSError: a storage is gone."""
        return min(storage.free_part(less=less) for storage in self.storages)

    def problems(self) -> list[str]:
        """Say of each storage that cannot be used or written why not."""
        return [problem for storage in self.storages if (problem := storage.problem())]

    def is_on_one_disk(self) -> bool:
        """Tell whether storages that should be disks share a file system. OSError: a storage is gone."""
        disks = [storage.device() for storage in self.storages if storage.is_mount_needed]
        return len(set(disks)) < len(disks)


def digests_on(tuples: Sequence[StorageTuple], *, after: str, limit: int) -> list[Digest]:
    """Give the files that follow a hash in their order, each once, on whichever tuples they are.

    Raises:
        OSError: A storage cannot be listed.
    """
    merged = heapq.merge(*(storages.digests(after=after) for storages in tuples))
    return [digest for digest, _ in islice(groupby(merged), limit)]


def listed(tuples: Sequence[StorageTuple], digest: Digest) -> Listed | None:
    """Describe a file; None if no storage has it. OSError: one cannot be looked at."""
    paths: list[Path] = []
    missing: list[Path] = []
    newest: os.stat_result | None = None
    for storages in tuples:
        here, away = [], []
        for storage in storages.storages:
            path = storage.path(digest)
            try:
                newest = path.stat()
                here.append(path)
            except (FileNotFoundError, NotADirectoryError):
                away.append(path)
        if here:
            paths += here
            missing += away
    return newest and Listed(digest, newest.st_size, newest.st_mtime, tuple(paths), tuple(missing))


def tuples_of(settings: Settings) -> tuple[StorageTuple, ...]:
    """Give the tuples that are configured."""
    writable = re.compile(settings.writable_pairs_regex)
    return tuple(
        StorageTuple(_storages_at(roots, settings), all(writable.search(str(root)) for root in roots))
        for roots in settings.storage_pairs
    )


def _storages_at(roots: Sequence[Path], settings: Settings) -> tuple[Storage, ...]:
    storages: tuple[Storage, ...] = ()
    for root in roots:  # of two that are one directory the second cannot be used
        storages = (*storages, Storage(root, settings.require_mounts, storages))
    return storages
