"""Descriptors: what of them is written back."""

from nekko.oci.descriptor import TITLE, Descriptor
from nekko.oci.digest import Digest
from nekko.oci.mediatype import OCI_MANIFEST
from nekko.oci.platform import Platform

DIGEST = Digest.of(b"content")


def test_descriptor_without_optional_members_writes_three() -> None:
    assert Descriptor("a/b", DIGEST, 7).to_json() == {"mediaType": "a/b", "digest": str(DIGEST), "size": 7}


def test_descriptor_writes_every_member_it_has() -> None:
    descriptor = Descriptor(
        OCI_MANIFEST, DIGEST, 7, {TITLE: "t"}, Platform("linux", "arm64", "v8"), "application/x-model", ("https://h/x",)
    )
    assert descriptor.to_json() == {
        "mediaType": OCI_MANIFEST,
        "digest": str(DIGEST),
        "size": 7,
        "urls": ["https://h/x"],
        "annotations": {TITLE: "t"},
        "platform": {"architecture": "arm64", "os": "linux", "variant": "v8"},
        "artifactType": "application/x-model",
    }


def test_title_is_the_annotation_or_nothing() -> None:
    assert Descriptor("a/b", DIGEST, 7, {TITLE: "f.bin"}).title == "f.bin"
    assert Descriptor("a/b", DIGEST, 7).title is None
