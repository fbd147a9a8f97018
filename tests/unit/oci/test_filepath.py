"""Paths that strangers list: what is safe below a folder of ours, and nothing else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.oci.filepath import fault_of


@pytest.mark.parametrize(
    "path", ["a", "a/b/c.bin", "...", ".gitattributes", "a b/ü", "C", "x/C:", "a" * 255, "/".join(["a" * 200] * 20)]
)
def test_relative_path_is_taken(path: str) -> None:
    assert fault_of(path) is None


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", "empty part"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("..", "one that is"),
        ("a/../b", "one that is"),
        ("./a", "one that is"),
        ("/etc/passwd", "absolute"),
        ("C:/x", "absolute"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("a\\b", "backslash"),
        ("\ud800", "surrogate"),
        ("a" * 10_000, "longer than"),
        ("a" * 256, "longer than"),
        ("ü" * 128, "longer than"),
        ("/".join(["a" * 255] * 17), "longer than"),
    ],
    ids=lambda text: text[:12].encode("ascii", "backslashreplace").decode(),
)
def test_path_that_no_folder_could_hold_is_refused(path: str, fault: str) -> None:
    told = fault_of(path)
    assert told is not None
    assert fault in told


@given(st.text())
def test_taken_path_stays_below_its_folder(path: str) -> None:
    if fault_of(path) is None:
        folder = Path("/folder")
        assert folder in Path("/folder", path).parents
        assert ".." not in Path(path).parts
