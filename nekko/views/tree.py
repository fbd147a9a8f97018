"""A tree of names that stand for blobs, and of some small texts. The names may come from a stranger."""

from collections.abc import Iterable
from dataclasses import dataclass

from nekko.errors import ViewInvalidError
from nekko.oci import filepath
from nekko.oci.digest import Digest

MARK = ".nekko-view"
"""The file that tells a view from any other directory; no content may bring one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file: its path in the tree, and what is in it: the blob of `digest`, or `text`."""

    path: str
    digest: Digest | None = None
    text: str | None = None


class Tree:
    """The files of a view, by their paths."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._folders: dict[str, str] = {}
        """A file in each folder."""

    @property
    def entries(self) -> Iterable[Entry]:
        """Every file, in the order in which they were added."""
        return self._entries.values()

    def add(self, entry: Entry) -> None:
        """Add a file. The same one may be added again.

        Raises:
            ViewInvalidError: Its path is not safe, or another file is in its place.
        """
        path = entry.path
        if fault := filepath.fault_of(path):
            raise ViewInvalidError(f"a file's name {fault}: {path[:200]!r}")
        if path.partition("/")[0] == MARK:
            raise ViewInvalidError(f"a file is called {MARK}, which is nekko's own name in a view")
        known = self._entries.get(path, entry)
        if known != entry:
            raise ViewInvalidError(f"two files want one name: {path!r}")
        folders = [path[:at] for at, char in enumerate(path) if char == "/"]
        inner = self._folders.get(path) or next((folder for folder in folders if folder in self._entries), None)
        if inner is not None:
            raise ViewInvalidError(f"a file is in the place of a folder: {path!r} and {inner!r}")
        self._entries[path] = entry
        for folder in folders:
            self._folders.setdefault(folder, path)
