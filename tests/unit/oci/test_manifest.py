"""Manifests and indexes: what is read, and what of a stranger's JSON is refused, member by member."""

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.errors import ManifestInvalidError
from nekko.oci import manifest
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.manifest import Manifest
from nekko.oci.mediatype import DOCKER_INDEX, DOCKER_MANIFEST, OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST
from nekko.oci.platform import Platform

SHA256, SHA512 = Digest.of(b"content"), Digest.of(b"content", "sha512")


def descriptor(**members: Any) -> dict[str, Any]:
    return {"mediaType": "application/x-layer", "digest": str(SHA256), "size": 7} | members


def image(**members: Any) -> dict[str, Any]:
    config = descriptor(mediaType=OCI_CONFIG, digest=str(SHA512))
    return {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [descriptor()]} | members


def index(**members: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(mediaType=OCI_MANIFEST)]} | members


def without(value: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: member for name, member in value.items() if name not in names}


def parse(
    value: object, media_type: str | None = None, *, max_bytes: int = 100_000, max_children: int = 10
) -> Manifest:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return manifest.parse(body, media_type, max_bytes=max_bytes, max_children=max_children)


# --- what is read


def test_manifest_gives_config_then_layers_as_children() -> None:
    layers = [descriptor(size=1), descriptor(size=2, mediaType="application/vnd.never-heard-of")]
    found = parse(image(layers=layers, artifactType="application/x-model", annotations={"a": "b"}))
    assert (found.media_type, found.kind, found.is_index) == (OCI_MANIFEST, "manifest", False)
    assert found.config == Descriptor(OCI_CONFIG, SHA512, 7)
    assert [layer.size for layer in found.layers] == [1, 2]
    assert found.children == (found.config, *found.layers)
    assert (found.artifact_type, found.annotations, found.subject) == ("application/x-model", {"a": "b"}, None)


def test_index_gives_its_entries_with_their_platforms() -> None:
    entries = [
        descriptor(mediaType=OCI_MANIFEST, platform={"os": "linux", "architecture": "arm64", "variant": "v8"}),
        descriptor(mediaType=OCI_INDEX, artifactType="application/x-model"),
    ]
    found = parse(index(manifests=entries, artifactType="application/x-index"))
    assert (found.kind, found.is_index, found.config, found.layers) == ("index", True, None, ())
    assert [child.platform for child in found.children] == [Platform("linux", "arm64", "v8"), None]
    assert [child.artifact_type for child in found.children] == [None, "application/x-model"]
    assert found.artifact_type == "application/x-index"


def test_descriptor_members_are_all_read() -> None:
    layer = descriptor(annotations={"k": "v"}, urls=["https://h/x"], data=base64.b64encode(b"other").decode())
    found = parse(image(layers=[layer])).layers[0]
    assert found == Descriptor(
        "application/x-layer", SHA256, 7, annotations={"k": "v"}, urls=("https://h/x",), data=b"other"
    )


def test_embedded_data_is_kept_unproven_and_may_be_empty() -> None:
    assert parse(image(layers=[descriptor(data="")])).layers[0].data == b""


def test_subject_is_read_and_is_no_child() -> None:
    found = parse(image(subject=descriptor(size=99)))
    assert found.subject is not None
    assert found.subject.size == 99
    assert found.subject not in found.children


def test_null_members_count_as_absent() -> None:
    layer = descriptor(annotations=None, urls=None, data=None, platform=None, artifactType=None)
    found = parse(image(layers=[layer], annotations=None, subject=None, artifactType=None))
    assert found.layers == (Descriptor("application/x-layer", SHA256, 7),)
    assert (found.annotations, found.subject, found.artifact_type) == ({}, None, None)


def test_null_list_counts_as_empty() -> None:
    assert parse(image(layers=None)).layers == ()
    assert parse(index(manifests=None)).children == ()


def test_unknown_members_are_left_alone() -> None:
    assert parse(image(future={"x": [1.5]}, layers=[descriptor(future=True)])) == parse(image())


def test_size_may_be_anything_that_64_bits_hold() -> None:
    sizes = [0, (1 << 63) - 1]
    assert [layer.size for layer in parse(image(layers=[descriptor(size=size) for size in sizes])).layers] == sizes


# --- what it is


@pytest.mark.parametrize("given_type", [None, "", "text/plain; charset=utf-8", "application/json", "Application/JSON"])
@pytest.mark.parametrize("own_type", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_type_comes_from_the_body_where_the_header_says_nothing(given_type: str | None, own_type: str) -> None:
    assert parse(image(mediaType=own_type), given_type).media_type == own_type


@pytest.mark.parametrize(
    ("value", "media_type"), [(image(), OCI_MANIFEST), (image(), DOCKER_MANIFEST), (index(), DOCKER_INDEX)]
)
def test_type_comes_from_the_header_where_the_body_says_nothing(value: dict[str, Any], media_type: str) -> None:
    assert parse(without(value, "mediaType"), media_type + ";charset=utf-8").media_type == media_type


@pytest.mark.parametrize(("value", "media_type"), [(image(), OCI_MANIFEST), (index(), OCI_INDEX)])
def test_type_is_sniffed_where_neither_tells(value: dict[str, Any], media_type: str) -> None:
    assert parse(without(value, "mediaType")).media_type == media_type


def test_type_in_header_and_body_may_agree() -> None:
    assert parse(index(mediaType=DOCKER_INDEX), DOCKER_INDEX).media_type == DOCKER_INDEX


@pytest.mark.parametrize(
    ("value", "media_type", "words"),
    [
        (image(), DOCKER_MANIFEST, f"mediaType is '{OCI_MANIFEST}', but the Content-Type is '{DOCKER_MANIFEST}'"),
        (image(), OCI_INDEX, "but the Content-Type is"),
        (image(), "application/octet-stream2", "but the Content-Type is"),
        (image(mediaType=OCI_CONFIG), None, f"'{OCI_CONFIG}' is the type of neither"),
        (image(mediaType=""), None, "'' is the type of neither"),
        (without(image(), "mediaType"), "text/html", "'text/html' is the type of neither"),
        (image(manifests=[]), None, f"manifests has no place in {OCI_MANIFEST}"),
        (index(layers=[]), None, f"layers has no place in {OCI_INDEX}"),
        (index(config=None), None, f"config has no place in {OCI_INDEX}"),
        (without(image(manifests=[]), "mediaType"), None, "one of the members 'layers' and 'manifests'"),
        ({"schemaVersion": 2}, None, "one of the members 'layers' and 'manifests'"),
        (without(image(), "schemaVersion"), None, "schemaVersion is not 2"),
        (image(schemaVersion=3), None, "schemaVersion is not 2"),
        (image(schemaVersion="2"), None, "schemaVersion is not a whole number"),
        (image(schemaVersion=True), None, "schemaVersion is not a whole number"),
        (image(schemaVersion=2.0), None, "schemaVersion is not a whole number"),
        (image(mediaType=7), None, "mediaType is not text"),
    ],
)
def test_type_that_is_doubtful_is_refused(value: object, media_type: str | None, words: str) -> None:
    with pytest.raises(ManifestInvalidError, match=re.escape(words)):
        parse(value, media_type)


@pytest.mark.parametrize(
    ("value", "media_type"),
    [
        ({"schemaVersion": 1, "fsLayers": []}, None),
        ({"schemaVersion": 1, "fsLayers": []}, "text/plain"),
        (without(image(), "mediaType"), "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (image(mediaType="application/vnd.docker.distribution.manifest.v1+json"), None),
    ],
)
def test_docker_schema_1_is_refused_by_name(value: object, media_type: str | None) -> None:
    with pytest.raises(ManifestInvalidError, match="Docker schema 1"):
        parse(value, media_type)


# --- what is wrong in one member


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (without(image(), "config"), "config is missing"),
        (image(config=None), "config is missing"),
        (image(config=[]), "config is not an object"),
        (without(image(), "layers"), "layers is missing"),
        (image(layers={}), "layers is not a list"),
        (image(layers=[descriptor(), 7]), "layers[1] is not an object"),
        (without(index(), "manifests"), "manifests is missing"),
        (index(manifests="x"), "manifests is not a list"),
        (index(manifests=[None]), "manifests[0] is not an object"),
        (image(subject="x"), "subject is not an object"),
        (image(subject={}), "subject.mediaType is missing"),
        (image(artifactType=1), "artifactType is not text"),
        (image(annotations=[]), "annotations is not an object"),
        (image(annotations={"a": 1}), "annotations['a'] is not text"),
        (image(config={}), "config.mediaType is missing"),
        (image(config=descriptor(mediaType="")), "config.mediaType is not a media type"),
        (image(config=descriptor(mediaType="a/b\r\nX: y")), "config.mediaType is not a media type"),
        (image(config=descriptor(mediaType="a/é")), "config.mediaType is not a media type"),
        (image(layers=[without(descriptor(), "size")]), "layers[0].size is missing"),
        (image(layers=[descriptor(size=-1)]), "layers[0].size is not between 0 and 9223372036854775807"),
        (image(layers=[descriptor(size=1 << 63)]), "layers[0].size is not between"),
        (image(layers=[descriptor(size=True)]), "layers[0].size is not a whole number"),
        (image(layers=[descriptor(size=1e3)]), "layers[0].size is not a whole number"),
        (image(layers=[descriptor(size="7")]), "layers[0].size is not a whole number"),
        (image(layers=[without(descriptor(), "digest")]), "layers[0].digest is missing"),
        (image(layers=[descriptor(digest="sha256:xyz")]), "layers[0].digest: "),
        (image(layers=[descriptor(digest="blake3:" + "0" * 64)]), "layers[0].digest: digest algorithm 'blake3'"),
        (image(layers=[descriptor(digest=7)]), "layers[0].digest is not text"),
        (image(layers=[descriptor(urls="x")]), "layers[0].urls is not a list"),
        (image(layers=[descriptor(urls=[1])]), "layers[0].urls is not a list of text"),
        (image(layers=[descriptor(data="e30")]), "layers[0].data is not base64"),
        (image(layers=[descriptor(data="e3 0=")]), "layers[0].data is not base64"),
        (image(layers=[descriptor(data="é")]), "layers[0].data is not base64"),
        (image(layers=[descriptor(data=1)]), "layers[0].data is not text"),
        (image(layers=[descriptor(annotations={"a": None})]), "layers[0].annotations['a'] is not text"),
        (image(layers=[descriptor(artifactType=[])]), "layers[0].artifactType is not text"),
        (index(manifests=[descriptor(), descriptor(platform="linux/amd64")]), "manifests[1].platform is not an object"),
    ],
)
def test_wrong_member_is_named(value: object, words: str) -> None:
    with pytest.raises(ManifestInvalidError, match=re.escape(words)):
        parse(value)


# --- what is not the JSON that every reader understands alike


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is not JSON in UTF-8"),
        (b"{", "is not JSON in UTF-8"),
        (b"<html>", "is not JSON in UTF-8"),
        (b"[]", "is not a JSON object"),
        (b"7", "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b'{"a": "\xff"}', "is not JSON in UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "is not JSON in UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "is not JSON in UTF-8"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": [-Infinity]}', "-Infinity is not a JSON number"),
        (b'{"a": "\\ud800"}', "is not JSON in UTF-8"),
        (b'{"\\udfff": "a"}', "is not JSON in UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON in UTF-8"),
        (b'{"a": 1, "a": 1}', "member 'a' appears twice"),
        (b'{"x": [{"layers": [], "b": 0, "layers": []}]}', "member 'layers' appears twice"),
        (b'{"a":' * 30_000 + b"1" + b"}" * 30_000, "nested too deeply"),
        (b"[" * 90_000, "nested too deeply"),
    ],
)
def test_body_that_is_not_strict_json_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(ManifestInvalidError, match=re.escape(words)):
        parse(body, max_bytes=1_000_000)


def test_whole_surrogate_pairs_are_characters() -> None:
    body = json.dumps(image(annotations={"a": "\N{GRINNING FACE}"}), ensure_ascii=True).encode()
    assert b"\\ud83d" in body
    assert parse(body).annotations == {"a": "\N{GRINNING FACE}"}


# --- limits


def test_body_of_the_greatest_size_is_taken_and_one_byte_more_is_not() -> None:
    body = json.dumps(image()).encode()
    assert parse(body, max_bytes=len(body)).kind == "manifest"
    with pytest.raises(ManifestInvalidError, match=f"of {len(body)} bytes: at most {len(body) - 1}"):
        parse(body, max_bytes=len(body) - 1)


@pytest.mark.parametrize(("make", "member", "extra"), [(image, "layers", 1), (index, "manifests", 0)])
def test_as_many_children_as_the_limit_are_taken_and_one_more_is_not(make: Any, member: str, extra: int) -> None:
    value = make(**{member: [descriptor()] * 5})
    assert len(parse(value, max_children=5 + extra).children) == 5 + extra
    with pytest.raises(ManifestInvalidError, match=f"{member} names more than {4 + extra} blobs"):
        parse(value, max_children=4 + extra)


# --- anything at all

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_MEMBERS = ["mediaType", "digest", "size", "annotations", "platform", "artifactType", "urls", "data"]
_TOP = ["schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "annotations", "artifactType"]


def accepts_or_refuses(body: bytes, media_type: str | None = None) -> None:
    try:
        found = parse(body, media_type)
    except ManifestInvalidError:
        return
    assert found.media_type in {OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX}
    assert all(0 <= child.size < 1 << 63 for child in found.children)
    json.dumps([child.to_json() for child in found.children], ensure_ascii=False).encode()


@given(st.binary(), st.none() | st.text())
def test_any_bytes_are_a_manifest_or_invalid(body: bytes, media_type: str | None) -> None:
    accepts_or_refuses(body, media_type)


@given(st.dictionaries(st.sampled_from(_TOP), _JSON), st.booleans())
def test_any_top_level_member_is_read_or_invalid(members: dict[str, Any], is_index: bool) -> None:
    accepts_or_refuses(json.dumps((index() if is_index else image()) | members).encode())


@given(st.dictionaries(st.sampled_from(_MEMBERS), _JSON))
def test_any_descriptor_member_is_read_or_invalid(members: dict[str, Any]) -> None:
    accepts_or_refuses(json.dumps(image(layers=[descriptor(**members)])).encode())


def test_empty_config_of_artifacts_is_an_ordinary_child() -> None:
    config = descriptor(mediaType=OCI_EMPTY, digest=str(Digest.of(b"{}")), size=2, data="e30=")
    assert parse(image(config=config)).children[0].data == b"{}"
