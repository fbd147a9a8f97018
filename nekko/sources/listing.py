"""What a Hugging Face Hub says is in a repository: pure reading of its answers, none of which is believed.

Source: the Hub's API as huggingface_hub uses it: `revision` (siblings) and `paths-info`.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from nekko.errors import UpstreamContentError, UpstreamNotFoundError
from nekko.oci import filepath
from nekko.oci.descriptor import MAX_SIZE
from nekko.oci.digest import Digest
from nekko.oci.reference import is_tag

_SHA1, _SHA256 = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{64}")
_SHOWN = 80
"""Characters of a hostile name that a message shows."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a listing, unproven. A large file has a `digest`, a small one a `blob_id`."""

    path: str
    size: int | None
    digest: Digest | None
    blob_id: str | None

    @property
    def etag(self) -> str | None:
        """The ETag that the Hub's file endpoint gives for it, as in the header."""
        content = self.digest.encoded if self.digest else self.blob_id
        return content and f'"{content}"'

    def proofs(self) -> Sequence["GitBlob"]:
        """Start the proofs besides the digest."""
        return () if self.blob_id is None or self.size is None else (GitBlob(self.blob_id, self.size),)


@dataclass(frozen=True, slots=True)
class Listing:
    """Files of a repository at one commit; or at a branch or tag, where only single paths were asked for."""

    where: str
    commit: str
    entries: Sequence[Entry]
    told: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The whole answer, of which nothing else is checked; empty where single paths were asked for."""
    _by_path: dict[str, Entry] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._by_path.update((entry.path, entry) for entry in reversed(self.entries))

    @classmethod
    def parse(cls, raw: bytes, where: str) -> "Listing":
        """Read the answer about a whole repository.

        Raises:
            UpstreamContentError: It is not of the API's shape, or contradicts itself.
        """
        with _reading(where):
            told = json.loads(raw)
            commit, siblings = told["sha"], told["siblings"]
            if not isinstance(commit, str) or not _SHA1.fullmatch(commit):
                raise ValueError("sha is no commit")
            return cls(where, commit, tuple(_entry(sibling) for sibling in siblings), told)

    @classmethod
    def parse_paths(cls, raw: bytes, where: str, revision: str) -> "Listing":
        """Read the answer about single paths, which has other words for the same and tells no commit.

        Raises:
            UpstreamContentError: As `parse`.
        """
        with _reading(where):
            return cls(where, revision, tuple(_entry(_sibling(told)) for told in json.loads(raw)))

    def entry(self, path: str) -> Entry:
        """Give one file.

        Raises:
            UpstreamNotFoundError: It is not there.
        """
        if (entry := self.find(path)) is not None:
            return entry
        raise UpstreamNotFoundError(f"{self.where}: has no file {path} at {self.commit}", status=404)

    def find(self, path: str) -> Entry | None:
        """Give one file, or None where it is not there."""
        return self._by_path.get(path)

    def pack(self) -> bytes:
        """Write the whole answer for keeping; `parse(unpacked(…))` reads it again. Up to a second, so for a thread."""
        return zlib.compress(json.dumps(self.told, separators=(",", ":")).encode())

    def check(self, *, max_files: int) -> None:
        """Refuse a repository that cannot be kept as a whole.

        Raises:
            UpstreamContentError: It has no files or more than `max_files`, or names that no folder could hold.
        """
        if not 0 < len(self.entries) <= max_files:
            raise UpstreamContentError(
                f"{self.where}: lists {len(self.entries)} files; a repository is kept with 1 to {max_files} "
                "(maxGraphBlobs)"
            )
        paths = {entry.path for entry in self.entries}
        if len(paths) < len(self.entries):
            raise UpstreamContentError(f"{self.where}: lists a file twice")
        for path in paths:
            if fault := filepath.fault_of(path):
                raise UpstreamContentError(f"{self.where}: lists a file {path[:_SHOWN]!r}, whose path {fault}")
            folder = path.rpartition("/")[0]
            while folder:
                if folder in paths:
                    raise UpstreamContentError(f"{self.where}: lists {folder[:_SHOWN]!r} as a file and as a folder")
                folder = folder.rpartition("/")[0]


def names_of_refs(raw: bytes, where: str) -> list[str]:
    """Read the names of branches and tags that may be tags of a registry as well.

    Raises:
        UpstreamContentError: It is no list of them.
    """
    with _reading(where):
        told = json.loads(raw)
        names = [each["name"] for key in ("branches", "tags") for each in told[key]]
        return [name for name in names if isinstance(name, str) and is_tag(name)]


def unpacked(packed: bytes) -> bytes:
    """Undo `Listing.pack`."""
    return zlib.decompress(packed)


def is_commit(revision: str) -> bool:
    """Tell whether a revision is a commit: it always means the same."""
    return _SHA1.fullmatch(revision) is not None


class GitBlob:
    """Proves bytes against a git blob id: SHA-1 over `blob <size>`, NUL and the content."""

    def __init__(self, blob_id: str, size: int) -> None:
        self._blob_id = blob_id
        self._hash = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def update(self, data: memoryview) -> None:
        self._hash.update(data)

    def verdict(self) -> str | None:
        actual = self._hash.hexdigest()
        return None if actual == self._blob_id else f"git blob id expected {self._blob_id}, got {actual}"


@contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UpstreamContentError(f"{where}: not a Hub's listing: {type(error).__name__}: {error}") from error


def _sibling(told: Mapping[str, Any]) -> Mapping[str, Any]:
    lfs = told.get("lfs")
    large = None if lfs is None else {"sha256": lfs["oid"], "size": lfs["size"]}
    return {"rfilename": told["path"], "size": told["size"], "blobId": told["oid"], "lfs": large}


def _entry(sibling: Mapping[str, Any]) -> Entry:
    path, size, blob_id, lfs = (sibling.get(key) for key in ("rfilename", "size", "blobId", "lfs"))
    if not isinstance(path, str):
        raise ValueError("a file without rfilename")
    shown = path[:_SHOWN]
    if blob_id is not None and (not isinstance(blob_id, str) or not _SHA1.fullmatch(blob_id)):
        raise ValueError(f"blobId of {shown!r} is no git id")
    digest = None
    if lfs is not None:
        encoded = lfs["sha256"]
        if not isinstance(encoded, str) or not _SHA256.fullmatch(encoded):
            raise ValueError(f"lfs.sha256 of {shown!r} is no SHA-256")
        digest, blob_id = Digest("sha256", encoded), None  # a large file's blob id is of its pointer
        if size is not None and size != lfs.get("size", size):
            raise ValueError(f"{shown!r} has two sizes")
        size = lfs.get("size", size)
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_SIZE):
        raise ValueError(f"size of {shown!r} is no size")
    return Entry(path, size, digest, blob_id)
