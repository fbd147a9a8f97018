"""Media types: headers reduced to their essence, and layers that registries need not have."""

import pytest

from nekko.oci.mediatype import OCI_MANIFEST, essence, is_foreign


@pytest.mark.parametrize("header", [OCI_MANIFEST, f" {OCI_MANIFEST} ; charset=utf-8", OCI_MANIFEST.upper()])
def test_essence_drops_parameters_and_case(header: str) -> None:
    assert essence(header) == OCI_MANIFEST


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", True),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", True),
        ("application/vnd.oci.image.layer.v1.tar+gzip", False),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", False),
    ],
)
def test_foreign_layers_are_told_by_their_type(media_type: str, expected: bool) -> None:
    assert is_foreign(media_type) is expected
