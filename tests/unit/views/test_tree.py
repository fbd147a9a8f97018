"""Trees of names that come from strangers: what could do harm is refused, by name."""

import pytest

from nekko.errors import ViewInvalidError
from nekko.oci.digest import Digest
from nekko.views.tree import MARK, Entry, Tree

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")


def tree_of(*paths: str) -> list[str]:
    tree = Tree()
    for number, path in enumerate(paths):
        tree.add(Entry(path, Digest.of(str(number).encode())))
    return [entry.path for entry in tree.entries]


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a//b",
        "",
        ".",
        "a/",
        "a\0b",
        "a\nb",
        "a\\b",
        "C:x",
        "x" * 256,
        MARK,
        f"{MARK}/x",
    ],
)
def test_dangerous_path_is_refused(path: str) -> None:
    with pytest.raises(ViewInvalidError):
        tree_of(path)


@pytest.mark.parametrize(
    "paths", [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a/b/c", "a"), ("a/b/c", "a/b")], ids="-".join
)
def test_two_files_in_one_place_are_refused_and_named(paths: tuple[str, str]) -> None:
    with pytest.raises(ViewInvalidError, match=paths[1]):
        tree_of(*paths)


def test_names_may_differ_by_case() -> None:
    assert tree_of("A/x", "a/X", "ab", "a.b/c") == ["A/x", "a/X", "ab", "a.b/c"]


def test_same_file_may_come_twice() -> None:
    tree = Tree()
    for _ in range(2):
        tree.add(Entry("blobs/x", ONE))
        tree.add(Entry("refs/main", text="c"))
    assert list(tree.entries) == [Entry("blobs/x", ONE), Entry("refs/main", text="c")]
    with pytest.raises(ViewInvalidError, match="want one name"):
        tree.add(Entry("blobs/x", TWO))
    with pytest.raises(ViewInvalidError, match="want one name"):
        tree.add(Entry("refs/main", text="d"))
