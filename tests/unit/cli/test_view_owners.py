"""Whose view a directory is: only what is surely the caller's is made anew without being named."""

import os
from pathlib import Path

import pytest

from nekko.cli.place import is_own

OTHER = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving directories away needs root")


@pytest.fixture
def view(tmp_path: Path) -> Path:
    path = tmp_path / "above/parent/view"
    path.mkdir(parents=True)
    return path


def test_directories_of_the_caller_alone_are_its_own(view: Path) -> None:
    assert is_own(view)


@pytest.mark.parametrize(("depth", "mode", "is_safe"), [
    (0, 0o1777, False), (0, 0o777, False), (0, 0o707, False), (1, 0o777, False), (1, 0o1777, True), (1, 0o755, True),
])  # fmt: skip
def test_directory_above_that_others_may_write_counts_as_theirs(
    view: Path, depth: int, mode: int, is_safe: bool
) -> None:
    view.parents[depth].chmod(mode)
    assert is_own(view) is is_safe


@needs_root
@pytest.mark.parametrize("above", [False, True], ids=["the view", "its parent"])
def test_directory_of_another_user_is_not_the_callers(view: Path, above: bool) -> None:
    os.chown(view.parent if above else view, OTHER, -1)
    assert not is_own(view)


@needs_root
def test_directory_that_a_foreign_group_may_write_is_not_the_callers(view: Path) -> None:
    view.parent.chmod(0o775)
    assert is_own(view)
    os.chown(view.parent, -1, OTHER)
    assert not is_own(view)


def test_path_that_is_gone_is_nobodys(view: Path) -> None:
    assert not is_own(view.parent / "gone")
