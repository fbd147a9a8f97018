"""Lists of what a node should hold: what they say, and wrong ones, with the line at fault."""

import json
from pathlib import Path

import pytest

from nekko.config.wanted import MAX_LIST_BYTES, Wanted, read_file, read_list
from nekko.config.window import Window
from nekko.errors import ConfigInvalidError

FULL = {
    "url": "oci://r.example/a:1",
    "platform": "linux/arm64",
    "pin": False,
    "refresh": "12h",
    "window": "22:00-06:00",
}


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "list.yaml"
    file.write_text(text)
    return file


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    text = """
contents:
  - https://example.com/a   # short
  - {url: "oci://r.example/a:1", platform: linux/arm64, pin: no, refresh: 12h, window: 22:00-06:00}
"""
    found = read_file(written(tmp_path, text))
    assert found == (
        Wanted("https://example.com/a", where=f"{tmp_path}/list.yaml:3"),
        Wanted(
            "oci://r.example/a:1", "linux/arm64", False, 43200.0, Window(22 * 60, 6 * 60), f"{tmp_path}/list.yaml:4"
        ),
    )
    as_json = json.dumps({"contents": ["https://example.com/a", FULL]}, indent=2)
    by_request = read_list(["https://example.com/a", FULL])
    for other in (read_file(written(tmp_path, as_json)), by_request, read_list([each.to_plain() for each in found])):
        assert [each.to_plain() for each in other] == [each.to_plain() for each in found]


@pytest.mark.parametrize("text", ["", "# nothing\n", "contents:\n", "contents: []\n"])
def test_empty_list_has_nothing(tmp_path: Path, text: str) -> None:
    assert read_file(written(tmp_path, text)) == ()


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("- https://example.com/a\n", 1, "not a list of contents"),
        ("\nimages: []\n", 2, "not a list of contents"),
        ("contents: []\nmore: 1\n", 1, "not a list of contents"),
        ("contents: {a: b}\n", 1, "is not a list"),
        ("contents: word\n", 1, "is not a list"),
        ("contents:\n- url: https://example.com/a\n- nothing: 1\n", 3, "unknown key 'nothing'"),
        ("contents:\n- pin: yes\n", 2, "url is missing"),
        ("contents:\n- url:\n", 2, "url: the value is empty"),
        ("contents:\n- url: a\n\n- url: b\n  pin: perhaps\n", 5, "pin: 'perhaps' is neither"),
        ("contents:\n- url: b\n  refresh: soon\n", 3, "refresh: 'soon' is not a duration"),
        ("contents:\n- url: b\n  refresh: 0\n", 3, "without a pause"),
        ("contents:\n- url: b\n  window: nightly\n", 3, "window: 'nightly' is no time"),
        ("contents:\n- url: b\n  platform: amiga\n", 3, "platform: "),
        ("contents:\n- url: b\n  url: c\n", 3, "url is given twice"),
        ("contents:\n- url: [b]\n", 2, "url is not text"),
        ("contents:\n- [b]\n", 2, "neither a URL nor a table"),
        ("contents:\n- a\n- *b\n", 3, "not YAML"),
        ("contents:\n  - a\n b: [\n", 3, "not YAML"),
    ],
)
def test_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int, reason: str) -> None:
    with pytest.raises(ConfigInvalidError) as refused:
        read_file(written(tmp_path, text))
    assert str(refused.value).startswith(f"{tmp_path}/list.yaml:{line}: ")
    assert reason in str(refused.value)


def test_file_that_cannot_be_a_list_is_refused_by_name(tmp_path: Path) -> None:
    cases = {"not UTF-8": b"\xff", "larger than": b"#" * (MAX_LIST_BYTES + 1), "control": b"contents: [\x01]",
             "nested too deep": b"[" * 5000}  # fmt: skip
    file = tmp_path / "f"
    for reason, raw in cases.items():
        file.write_bytes(raw)
        with pytest.raises(ConfigInvalidError, match=f"{file}.*{reason}"):
            read_file(file)
    with pytest.raises(ConfigInvalidError, match="No such file"):
        read_file(tmp_path / "absent")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "is not a list"),
        ({}, "is not a list"),
        ([1], r"contents\[0\]: neither"),
        ([FULL, {"url": 1}], r"contents\[1\]: url: is neither text"),
        ([{}], "url is missing"),
        (["a"] * 1001, "at most 1000"),
    ],
)
def test_wrong_list_of_a_request_is_refused_with_its_place(value: object, reason: str) -> None:
    with pytest.raises(ConfigInvalidError, match=reason):
        read_list(value)
