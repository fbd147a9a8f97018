"""Conditions of readers: by ETag and by date."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.oci.conditions import is_known, is_unchanged

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(None, False), ("", False), ('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ("a", False)],
)  # fmt: skip
def test_etag_is_one_of_those_that_a_client_has(wanted: str | None, expected: bool) -> None:
    assert is_known(wanted, '"a"') is expected


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (DATE, True),
        ("Sun, 06 Nov 1994 08:49:38 GMT", True),
        ("Sun, 06 Nov 1994 08:49:36 GMT", False),
        ("Sunday, 06-Nov-94 08:49:37 GMT", True),
        ("Sun Nov  6 08:49:37 1994", True),
        ("Sun Nov  6 08:49:36 1994", False),
        ("yesterday", False),
        ("Sun, 06 Nov 99999999999 08:49:37 GMT", False),
        ("", False),
        (None, False),
    ],
)
def test_date_is_compared_in_each_form_that_http_has(since: str | None, expected: bool) -> None:
    assert is_unchanged(since, DATE) is expected
    assert is_unchanged(since, None) is False


@given(st.text())
def test_any_text_is_a_date_or_none(text: str) -> None:
    assert is_unchanged(text, DATE) in (True, False)
