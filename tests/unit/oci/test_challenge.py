"""WWW-Authenticate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.oci.challenge import Challenge, parse_challenges

CASES = {
    "": [],
    "Basic": [Challenge("basic", {})],
    'Basic realm="a b"': [Challenge("basic", {"realm": "a b"})],
    'bearer Realm="https://h/token",SERVICE="s",scope="repository:a/b:pull,push"': [
        Challenge("bearer", {"realm": "https://h/token", "service": "s", "scope": "repository:a/b:pull,push"})
    ],
    'Basic realm="x", Bearer realm="y", error="insufficient_scope"': [
        Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y", "error": "insufficient_scope"}),
    ],
    r'Digest realm="quo\"ted", nonce=abc': [Challenge("digest", {"realm": 'quo"ted', "nonce": "abc"})],
    "Negotiate abcd==, Basic realm=x": [Challenge("negotiate", {}), Challenge("basic", {"realm": "x"})],
    "Negotiate, Basic realm=x": [Challenge("negotiate", {}), Challenge("basic", {"realm": "x"})],
    ",, Basic realm=x ,": [Challenge("basic", {"realm": "x"})],
    'Basic realm="never closed': [Challenge("basic", {})],
    "=": [],
}  # fmt: skip


@pytest.mark.parametrize("header", CASES, ids=repr)
def test_challenges_are_read(header: str) -> None:
    expected = CASES[header]
    assert parse_challenges(header)[: len(expected)] == expected
    if header != 'Basic realm="never closed':
        assert len(parse_challenges(header)) == len(expected)


@given(st.text(alphabet='abB=" ,\\/:é\n', max_size=60))
def test_any_header_is_read_without_an_error(header: str) -> None:
    parse_challenges(header)
