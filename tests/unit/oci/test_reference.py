"""References: Docker's rules for names, and nothing but an invalid-input error for anything else."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.errors import DigestInvalidError, InvalidError, ReferenceInvalidError
from nekko.oci.digest import Digest
from nekko.oci.reference import Reference, is_registry, parse_reference

SHA256 = Digest.of(b"content")
SHA512 = Digest.of(b"content", "sha512")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("library/alpine", "docker.io/library/alpine:latest"),
        ("org/model", "docker.io/org/model:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("registry-1.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("Docker.IO/org/model", "docker.io/org/model:latest"),
        ("docker.io:443/alpine", "docker.io:443/alpine:latest"),
        ("ghcr.io/org/model:v1", "ghcr.io/org/model:v1"),
        ("ghcr.io/model", "ghcr.io/model:latest"),
        ("GHCR.io/org/model:V1", "ghcr.io/org/model:V1"),
        ("ghcr.io", "docker.io/library/ghcr.io:latest"),
        ("localhost/model", "localhost/model:latest"),
        ("LOCALHOST/model", "localhost/model:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("localhost:5000/org/model:v1", "localhost:5000/org/model:v1"),
        ("registry:05000/model", "registry:5000/model:latest"),
        ("registry/model", "docker.io/registry/model:latest"),
        ("127.0.0.1:5000/m", "127.0.0.1:5000/m:latest"),
        ("[::1]:5000/a/b:c", "[::1]:5000/a/b:c"),
        ("[0:0:0::1]/a", "[::1]/a:latest"),
        ("[2001:DB8::A]/a", "[2001:db8::a]/a:latest"),
        ("r.io/a/b/c/d/e:t", "r.io/a/b/c/d/e:t"),
        ("r.io/a.b_c__d-e--f/0", "r.io/a.b_c__d-e--f/0:latest"),
        ("r.io/a:_x.Y-z_", "r.io/a:_x.Y-z_"),
        ("r.io/a:" + "t" * 128, "r.io/a:" + "t" * 128),
        (f"ghcr.io/org/model@{SHA256}", f"ghcr.io/org/model@{SHA256}"),
        (f"ghcr.io/org/model@{SHA512}", f"ghcr.io/org/model@{SHA512}"),
        (f"ghcr.io/org/model:v1@{SHA256}", f"ghcr.io/org/model@{SHA256}"),
        (f"alpine@{SHA256}", f"docker.io/library/alpine@{SHA256}"),
    ],
)
def test_reference_of_each_form_has_its_canonical_name(text: str, name: str) -> None:
    reference = parse_reference(text)
    assert reference.name == name
    assert parse_reference(name).name == name


def test_reference_with_tag_and_digest_keeps_both() -> None:
    expected = Reference("ghcr.io", "org/model", "v1", SHA256)
    assert parse_reference(f"ghcr.io/org/model:v1@{SHA256}") == expected


def test_reference_with_digest_only_has_no_tag() -> None:
    assert parse_reference(f"ghcr.io/org/model@{SHA256}").tag is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "repository ''"),
        ("ghcr.io/", "repository ''"),
        ("/alpine", "repository '/alpine'"),
        ("ghcr.io//a", "repository '/a'"),
        ("ghcr.io/a/", "repository 'a/'"),
        ("ghcr.io/Org/Model", "has upper-case letters: write 'org/model'"),
        ("Alpine", "has upper-case letters: write 'alpine'"),
        ("ghcr.io/a b", "repository 'a b'"),
        ("ghcr.io/a___b", "repository 'a___b'"),
        ("ghcr.io/a..b", "repository 'a..b'"),
        ("ghcr.io/-a", "repository '-a'"),
        ("ghcr.io/a\n", "repository 'a\\n'"),
        ("ghcr.io/é", "repository 'é'"),
        ("ghcr.io/a%2Fb", "repository 'a%2Fb'"),
        ("ghcr.io/a:", "tag ''"),
        ("ghcr.io/a:.x", "tag '.x'"),
        ("ghcr.io/a:-x", "tag '-x'"),
        ("ghcr.io/a:b:c", "tag 'b:c'"),
        ("ghcr.io/a:b/c", "tag 'b/c'"),
        ("ghcr.io/a:b\n", "tag 'b\\n'"),
        ("ghcr.io/a:" + "t" * 129, "a tag has 1 to 128"),
        ("gh_cr.io/a", "registry 'gh_cr.io'"),
        ("-h.io/a", "registry '-h.io'"),
        ("h..io/a", "registry 'h..io'"),
        ("h.io./a", "registry 'h.io.'"),
        ("h.io:/a", "registry 'h.io:'"),
        ("h.io:x/a", "registry 'h.io:x'"),
        ("h.io:0/a", "1 to 65535"),
        ("h.io:65536/a", "1 to 65535"),
        ("h.io:123456/a", "registry 'h.io:123456'"),
        ("[::1/a", "registry '[::1'"),
        ("[:::1]/a", "registry '[:::1]'"),
        ("[fe80::1%eth0]/a", "registry '[fe80::1%eth0]'"),
        ("h.io/" + "a" * 251, "exceeds 255 characters"),
        (f"h.io/a@{SHA256}@{SHA256}", "one '@' at most"),
    ],
)
def test_reference_out_of_grammar_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ReferenceInvalidError, match=re.escape(words)):
        parse_reference(text)


def test_reference_of_the_greatest_length_is_taken() -> None:
    assert parse_reference("h.io/" + "a" * 250).repository == "a" * 250


def test_reference_counts_library_in_its_length() -> None:
    with pytest.raises(ReferenceInvalidError, match="255"):
        parse_reference("a" * (255 - len("docker.io/")))


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:123", "md5:" + "0" * 32, "ghcr.io/a"])
def test_reference_with_an_unusable_digest_is_refused(digest: str) -> None:
    with pytest.raises(DigestInvalidError):
        parse_reference(f"ghcr.io/a@{digest}")


@pytest.mark.parametrize("text", ["user:secret@ghcr.io/a/b", "user:sec/secret@ghcr.io/a", "u:secret@secret@ghcr.io/a"])
def test_reference_error_never_shows_a_misplaced_password(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_reference(text)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize(
    ("component", "expected"),
    [("localhost", True), ("a.b", True), ("a:1", True), ("[::1]", True), ("a", False), ("", False), ("a-b_c", False)],
)
def test_is_registry_follows_docker(component: str, expected: bool) -> None:
    assert is_registry(component) is expected


@given(st.one_of(st.text(), st.text(alphabet="aA0._-/:@[]", max_size=40)))
def test_any_text_is_a_stable_reference_or_invalid(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidError:
        return
    again = parse_reference(reference.name)
    assert (again.registry, again.repository, again.digest) == (
        reference.registry,
        reference.repository,
        reference.digest,
    )
    assert again.name == reference.name


def test_long_hostile_references_are_refused_at_once() -> None:
    for text in ("a" * 1_000_000, "a-" * 500_000 + "!", "a." * 500_000 + "/x", "r.io/a:" + "t" * 1_000_000):
        with pytest.raises(InvalidError) as caught:
            parse_reference(text)
        assert len(str(caught.value)) < 500
