"""Byte ranges: RFC 9110, section 14, clause by clause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.errors import RangeInvalidError
from nekko.oci.ranges import ByteRange, ContentRange, parse_content_range, parse_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-9", [(0, 10)]),
        ("bytes=10-", [(10, 100)]),
        ("bytes=-5", [(95, 100)]),
        ("bytes=-500", [(0, 100)]),
        ("bytes=90-500", [(90, 100)]),
        ("bytes=0-18446744073709551615", [(0, 100)]),
        ("bytes=099-0099", [(99, 100)]),
        ("Bytes=0-1", [(0, 2)]),
        ("bytes=0-0,-1", [(0, 1), (99, 100)]),
        ("bytes=50-59, 0-9", [(50, 60), (0, 10)]),
        ("bytes= ,0-0 ,\t, 5-5,", [(0, 1), (5, 6)]),
        ("bytes=0-0,100-,500-600", [(0, 1)]),
        ("bytes=0-59,40-79", [(0, 60), (40, 80)]),
    ],
)
def test_range_of_each_form_is_cut_to_the_size(header: str, expected: list[tuple[int, int]]) -> None:
    ranges = parse_range(header, 100)
    assert ranges is not None
    assert [(part.start, part.end) for part in ranges] == expected


@pytest.mark.parametrize(
    "header",
    [
        "", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=a-b", "bytes=1", "bytes=1-2-3", "bytes=--5", "bytes=+1-2",
        "bytes=1 -2", "bytes=0-1;2-3", "bytes=0-1,x", "bytes=\u0660-\u0661", "bytes 0-1", "items=0-1",
        "bytes=0x1-2", "bytes=1.5-2", "bytes=0-1\n", "bytes=0-" + "9" * 41,
    ],
)  # fmt: skip
def test_range_of_another_unit_or_grammar_is_ignored(header: str) -> None:
    assert parse_range(header, 100) is None


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=-5", "bytes=5-1", "bytes=7-9"])
def test_range_of_an_empty_whole_is_ignored(header: str) -> None:
    assert parse_range(header, 0) is None


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("bytes=100-", "no byte of '100-'"),
        ("bytes=100-200", "the size is 100 bytes"),
        ("bytes=-0", "no byte"),
        ("bytes=100-,-0", "no byte"),
        ("bytes=50-49", "50-49 ends before it starts"),
        ("bytes=0-1,9-8", "9-8 ends before it starts"),
        ("bytes=500-0", "500-0 ends before it starts"),
        ("bytes=0-,0-", "overlap"),
        ("bytes=0-99,-1", "overlap"),
        ("bytes=" + ",".join(f"{n}-{n}" for n in range(17)), "17 ranges"),
    ],
)
def test_range_that_cannot_be_served_is_invalid_and_tells_the_size(header: str, words: str) -> None:
    with pytest.raises(RangeInvalidError, match=words) as caught:
        parse_range(header, 100)
    assert caught.value.size == 100


def test_as_many_ranges_as_the_limit_are_served() -> None:
    ranges = parse_range("bytes=" + ",".join(f"{n}-{n}" for n in range(16)), 100)
    assert ranges == tuple(ByteRange(n, n + 1) for n in range(16))


def test_byte_range_writes_its_header_inclusive() -> None:
    part = ByteRange(10, 20)
    assert part.size == 10
    assert part.content_range(100) == "bytes 10-19/100"
    assert parse_content_range(part.content_range(100)) == ContentRange(10, 20, 100)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/100", ContentRange(0, 10, 100)),
        ("bytes 90-99/100", ContentRange(90, 100, 100)),
        ("bytes 5-5/*", ContentRange(5, 6, None)),
        (" BYTES  0-0/1 ", ContentRange(0, 1, 1)),
    ],
)
def test_content_range_of_a_part_is_read(text: str, expected: ContentRange) -> None:
    assert parse_content_range(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "bytes */100", "bytes 9-0/100", "bytes 0-100/100", "bytes 0-9", "bytes 0-/100", "bytes -9/100",
        "items 0-9/100", "bytes=0-9/100", "bytes 0-9/x", "bytes 0-9/100 x", "bytes 0-" + "9" * 41 + "/*",
    ],
)  # fmt: skip
def test_content_range_that_positions_no_part_is_none(text: str) -> None:
    assert parse_content_range(text) is None


_HEADERS = st.one_of(st.text(), st.text(alphabet="0123456789-, ").map("bytes=".__add__))


@given(_HEADERS, st.integers(min_value=0, max_value=1 << 63))
def test_any_header_gives_ranges_inside_the_whole_or_none_or_invalid(header: str, size: int) -> None:
    try:
        ranges = parse_range(header, size)
    except RangeInvalidError:
        return
    if ranges is not None:
        assert ranges
        assert all(0 <= part.start < part.end <= size for part in ranges)
        assert sum(part.size for part in ranges) <= size


@given(st.one_of(st.text(), st.text(alphabet="0123456789-/*").map("bytes ".__add__)))
def test_any_content_range_is_a_part_of_its_whole_or_none(text: str) -> None:
    found = parse_content_range(text)
    if found is not None:
        assert 0 <= found.start < found.end
        assert found.size is None or found.end <= found.size


@given(st.integers(0, 1 << 62), st.integers(1, 1 << 62), st.integers(0, 1 << 62))
def test_a_range_survives_its_header(start: int, length: int, beyond: int) -> None:
    part, size = ByteRange(start, start + length), start + length + beyond
    assert parse_range(f"bytes={part.start}-{part.end - 1}", size) == (part,)
    assert parse_content_range(part.content_range(size)) == ContentRange(part.start, part.end, size)
