"""Users as images name them, looked up in an image's own files."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nekko.errors import ImageInvalidError
from nekko.images import users
from nekko.images.users import User, user_of

PASSWD = """root:x:0:0:root:/root:/bin/sh
broken
web:x:101:102::/var/web:/bin/false
high:x:4294967295:1::/:/bin/false
alias:x:101:7::/:/bin/false
"""
GROUP = """root:x:0:
adm:x:4:web,other
tape:x:26:other
web:x:102:
disk:x:6:other,web
again:x:4:web
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return tmp_path


@pytest.fixture
def root(image: Path) -> Iterator[int]:
    opened = os.open(image, os.O_PATH | os.O_DIRECTORY)
    yield opened
    os.close(opened)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", User()),
        ("root", User(0, 0)),
        ("web", User(101, 102, (4, 6))),
        ("101", User(101, 102, (4, 6))),
        ("web:tape", User(101, 26)),
        ("web:77", User(101, 77)),
        ("5000", User(5000, 0)),
        ("5000:web", User(5000, 102)),
        ("1:2", User(1, 2)),
    ],
)
def test_user_has_the_numbers_and_groups_of_the_image(root: int, text: str, found: User) -> None:
    assert user_of(text, root) == found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("nobody", "user 'nobody' is not in the image's /etc/passwd"),
        ("high", "user 'high'"),
        ("4294967295", "user '4294967295'"),
        ("-1", "user '-1'"),
        ("web:none", "group 'none' is not in the image's /etc/group"),
        ("web:", "group ''"),
        (":web", "user ''"),
    ],
)
def test_user_that_the_image_does_not_have_is_named(root: int, text: str, fault: str) -> None:
    with pytest.raises(ImageInvalidError) as caught:
        user_of(text, root)
    assert fault in str(caught.value)


def test_image_without_files_has_numbers_alone(image: Path, root: int) -> None:
    (image / "etc/passwd").unlink()
    (image / "etc/group").unlink()
    assert user_of("7", root) == User(7, 0)
    with pytest.raises(ImageInvalidError, match="user 'web'"):
        user_of("web", root)


def test_files_of_the_image_that_are_none_are_not_read(image: Path, root: int) -> None:
    (image / "etc/passwd").unlink()
    os.mkfifo(image / "etc/passwd")
    with pytest.raises(ImageInvalidError, match="user 'evil'"):
        user_of("evil", root)
    (image / "etc/group").unlink()
    (image / "etc/group").symlink_to("/etc/group")  # itself, for it is followed inside of the image
    with pytest.raises(ImageInvalidError, match="group 'root'"):
        user_of("1:root", root)


def test_file_too_large_to_be_read_is_refused(image: Path, root: int) -> None:
    with (image / "etc/passwd").open("ab") as file:
        file.truncate(users.MAX_BYTES + 1)
    with pytest.raises(ImageInvalidError, match="/etc/passwd has more than"):
        user_of("web", root)
