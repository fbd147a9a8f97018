"""Making the directory of a view: what cannot be made leaves nothing behind, and what was there as it was."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from nekko.cli.exits import CommandError
from nekko.cli.place import canonical, open_place
from nekko.errors import ViewInvalidError

MARK = {"as": "files", "names": ["x"]}


@pytest.fixture
def blob(tmp_path: Path) -> str:
    (tmp_path / "blob").write_bytes(b"bytes")
    return str(tmp_path / "blob")


def put(place: Path, *entries: Mapping[str, str]) -> str:
    with open_place(str(place)) as opened:
        return opened.put(entries, MARK)


def test_tree_is_put_replaced_and_taken_away(tmp_path: Path, blob: str) -> None:
    place = tmp_path / "parent/view"
    place.parent.mkdir()
    put(place, {"path": "a/b", "source": blob}, {"path": "c", "text": "text"})
    assert ((place / "a/b").read_bytes(), (place / "c").read_text()) == (b"bytes", "text")
    put(place, {"path": "d", "source": blob})
    assert sorted(os.listdir(place)) == [".nekko-view", "d"]
    with open_place(str(place)) as opened:
        assert opened.mark() == MARK
        opened.clear()
        assert opened.mark() is None
        opened.clear()
    assert list(place.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ([{"path": "a", "source": "/no/such/blob"}], CommandError),
        ([{"path": "a", "source": "/"}], CommandError),
        ([{"path": "../a", "text": "x"}], ViewInvalidError),
        ([{"path": "/tmp/a", "text": "x"}], ViewInvalidError),
        ([{"path": ".nekko-view", "text": "x"}], ViewInvalidError),
        ([{"path": "a", "text": "x"}, {"path": "a/b", "text": "x"}], ViewInvalidError),
        ([{"path": "x" * 200 + "/" + "y" * 255, "text": ""}, {"path": "z", "source": "/no"}], CommandError),
    ],
    ids=str,
)
def test_what_cannot_be_made_changes_nothing(
    tmp_path: Path, blob: str, wrong: list[dict[str, str]], error: type[Exception]
) -> None:
    place = tmp_path / "parent/view"
    place.parent.mkdir()
    for is_there in (False, True):
        if is_there:
            put(place, {"path": "old", "source": blob})
        with pytest.raises(error):
            put(place, {"path": "good", "source": blob}, *wrong)
        assert [path.name for path in place.parent.iterdir()] == ["view"] * is_there
    assert (place / "old").read_bytes() == b"bytes"
    assert not (place / "good").exists()


def test_path_is_known_without_the_links_above_it(tmp_path: Path, blob: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert canonical(f"{tmp_path}/link/../link/view/") == tmp_path / "real/view"
    put(tmp_path / "link/view", {"path": "a", "source": blob})
    assert (tmp_path / "real/view/a").read_bytes() == b"bytes"
