"""URLs in paths of the content API: every way that clients write base64, and only those."""

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.errors import LocatorInvalidError
from nekko.sources.base64url import decode_url, encode_url

URLS = ["http://h/ab?x=1", "http://h/x/?q", "http://hhh/~b", "http://hst/~u/m.gguf"]


@pytest.mark.parametrize(
    ("url", "standard", "url_safe"),
    [
        (URLS[0], "aHR0cDovL2gvYWI/eD0x", "aHR0cDovL2gvYWI_eD0x"),
        (URLS[1], "aHR0cDovL2gveC8/cQ==", "aHR0cDovL2gveC8_cQ"),
        (URLS[2], "aHR0cDovL2hoaC9+Yg==", "aHR0cDovL2hoaC9-Yg"),
        (URLS[3], "aHR0cDovL2hzdC9+dS9tLmdndWY=", "aHR0cDovL2hzdC9-dS9tLmdndWY"),
    ],
)
def test_url_is_read_in_every_alphabet_padding_and_escaping(url: str, standard: str, url_safe: str) -> None:
    bare = standard.rstrip("=")
    assert encode_url(url) == url_safe
    for text in (standard, url_safe, bare, bare + "=", bare + "==", quote(standard, safe=""), quote(url_safe)):
        assert decode_url(text) == url


@pytest.mark.parametrize(
    "raw", ["fn5-Pz8_", "fn5+Pz8/", "fn5-Pz8/", "fn5+Pz8_", "fn5%2BPz8%2F", "fn5%2bPz8%2f", "%66n5-Pz8_%3D%3d"]
)
def test_both_alphabets_mix_and_escapes_are_decoded_once(raw: str) -> None:
    assert decode_url(raw) == "~~~???"


def test_slashes_are_part_of_the_text() -> None:
    assert decode_url("Pz8/Pz8/") == "??????"


def test_consecutive_slashes_do_not_collapse() -> None:
    # No UTF-8 text encodes to `//`; with one slash less it would be another URL.
    with pytest.raises(LocatorInvalidError, match="not UTF-8"):
        decode_url("Pz8//z78")
    assert decode_url("Pz8/z78") == "???\u03ff"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("", "has no URL"),
        ("=", "has no URL"),
        ("%3D%3D", "has no URL"),
        ("aHR0 cDov", "characters outside"),
        ("aHR0%20cDov", "characters outside"),
        ("aHR0%250AcDov", "characters outside"),
        ("aHR0\ncDov", "characters outside"),
        ("aHR0%zzcDov", "characters outside"),
        ("aHR0%", "characters outside"),
        ("aH=R0cDov", "characters outside"),
        ("aHR0cDov.", "characters outside"),
        ("aHR0cDové", "characters outside"),
        ("aHR0cDov%C3%A9", "characters outside"),
        ("aHR0cDov%ff", "characters outside"),
        ("aHR0cDov\ud800", "characters outside"),
        ("%41\ud800", "characters outside"),
        ("a", "no text encodes to this length"),
        ("aHR0c", "no text encodes to this length"),
        ("aHR0c===", "no text encodes to this length"),
        ("gA", "not UTF-8"),
        ("L2NvbnRlbnQv//8", "not UTF-8"),
        ("7aCA", "not UTF-8"),
    ],
)
def test_path_that_is_no_url_is_refused_in_words(raw: str, words: str) -> None:
    with pytest.raises(LocatorInvalidError, match=re.escape(words)):
        decode_url(raw)


def test_error_never_shows_the_text() -> None:
    raw = encode_url("http://user:secret@h/") + "!"
    with pytest.raises(LocatorInvalidError) as caught:
        decode_url(raw)
    assert raw[:12] not in str(caught.value)


@given(st.text(min_size=1), st.integers(0, 3), st.booleans(), st.booleans())
def test_any_url_survives_every_form(url: str, padding: int, is_standard: bool, is_escaped: bool) -> None:
    text = encode_url(url)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text)
    if is_standard:
        text = text.translate(str.maketrans("-_", "+/"))
    text += "=" * padding
    assert decode_url(quote(text, safe="") if is_escaped else text) == url


@given(st.one_of(st.text(), st.text(alphabet="AQZaz09+/-_=%2F3D")))
def test_any_path_is_a_url_or_invalid(raw: str) -> None:
    try:
        url = decode_url(raw)
    except LocatorInvalidError:
        return
    assert decode_url(encode_url(url)) == url
