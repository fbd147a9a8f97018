"""Digests: the two algorithms that can be proven, exactly as written."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.errors import DigestInvalidError
from nekko.oci.digest import Digest


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_digest_of_bytes_survives_its_text(algorithm: str) -> None:
    digest = Digest.of(b"content", algorithm)
    assert str(digest) == f"{algorithm}:{hashlib.new(algorithm, b'content').hexdigest()}"
    assert Digest.parse(str(digest)) == digest


def test_hasher_computes_the_encoded_part_in_pieces() -> None:
    digest = Digest.of(b"content", "sha512")
    hasher = digest.hasher()
    hasher.update(b"con")
    hasher.update(memoryview(b"tent"))
    assert hasher.hexdigest() == digest.encoded


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a digest: write algorithm:hex"),
        ("sha256", "is not a digest: write algorithm:hex"),
        ("sha256:", "is not a digest: write algorithm:hex"),
        ("SHA256:" + "0" * 64, "is not a digest: write algorithm:hex"),
        ("sha256:" + "0" * 64 + "\n", "is not a digest: write algorithm:hex"),
        ("sha256:../../etc/passwd", "is not a digest: write algorithm:hex"),
        ("sha256:" + "0" * 600, "is not a digest: write algorithm:hex"),
        ("md5:" + "0" * 32, "algorithm 'md5' is not supported: nekko can prove sha256 and sha512"),
        ("sha256:" + "0" * 63, "sha256 has 64 lower-case hex digits"),
        ("sha256:" + "A" * 64, "sha256 has 64 lower-case hex digits"),
        ("sha512:" + "0" * 64, "sha512 has 128 lower-case hex digits"),
    ],
)
def test_text_that_is_no_provable_digest_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(DigestInvalidError, match=words):
        Digest.parse(text)


@given(st.one_of(st.text(), st.from_regex(r"(sha256|sha512|x):[0-9a-fA-F]*", fullmatch=True)))
def test_any_text_is_a_digest_or_invalid(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except DigestInvalidError:
        return
    assert str(digest) == text
