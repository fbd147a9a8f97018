"""The walk over a manifest graph."""

import pytest

from nekko.errors import ManifestInvalidError, UpstreamNotFoundError
from nekko.oci import mediatype
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.graph import MAX_DEPTH, Walk
from nekko.oci.manifest import Manifest
from nekko.oci.platform import ALL_PLATFORMS, Platform, PlatformSelection


def leaf(name: str, size: int = 5) -> Descriptor:
    return Descriptor("application/x", Digest.of(name.encode()), size)


def manifest(name: str, platform: str | None = None) -> Descriptor:
    return Descriptor(
        mediatype.OCI_MANIFEST, Digest.of(name.encode()), 9, platform=Platform.parse(platform) if platform else None
    )


def index(name: str) -> Descriptor:
    return Descriptor(mediatype.OCI_INDEX, Digest.of(name.encode()), 9)


def image_of(*layers: Descriptor) -> Manifest:
    return Manifest(mediatype.OCI_MANIFEST, config=leaf("config"), layers=layers)


def index_of(*entries: Descriptor) -> Manifest:
    return Manifest(mediatype.OCI_INDEX, entries=entries)


def test_walk_names_each_digest_once_root_first() -> None:
    walk = Walk(index("i"), ALL_PLATFORMS, max_blobs=100)
    assert walk.next_level() == [index("i")]
    children = [manifest("a", "linux/amd64"), manifest("b", "linux/arm64")]
    walk.feed(index("i"), index_of(*children))
    assert walk.next_level() == children
    walk.feed(children[0], image_of(leaf("1"), leaf("2")))
    walk.feed(children[1], image_of(leaf("2"), leaf("3")))
    assert walk.next_level() == []
    names = [index("i"), *children, leaf("config"), leaf("1"), leaf("2"), leaf("3")]
    assert [d.digest for d in walk.required] == [d.digest for d in names]


def test_selection_leaves_other_platforms_out_and_takes_entries_without_one() -> None:
    walk = Walk(index("i"), PlatformSelection.parse("linux/arm64"), max_blobs=100)
    walk.next_level()
    walk.feed(index("i"), index_of(manifest("a", "linux/amd64"), manifest("b", "linux/arm64/v8"), manifest("c")))
    assert [d.digest for d in walk.next_level()] == [manifest("b").digest, manifest("c").digest]


def test_platform_that_the_root_lacks_is_not_found() -> None:
    walk = Walk(index("i"), PlatformSelection.parse("linux/arm64,linux/s390x"), max_blobs=100)
    walk.next_level()
    with pytest.raises(UpstreamNotFoundError, match="nothing for linux/s390x"):
        walk.feed(index("i"), index_of(manifest("b", "linux/arm64")))


def test_limits_hold() -> None:
    walk = Walk(manifest("m"), ALL_PLATFORMS, max_blobs=3)
    walk.next_level()
    with pytest.raises(ManifestInvalidError, match="more than 3 blobs"):
        walk.feed(manifest("m"), image_of(leaf("1"), leaf("2")))
    walk = Walk(index("0"), ALL_PLATFORMS, max_blobs=100)
    with pytest.raises(ManifestInvalidError, match="nested more than"):
        for depth in range(MAX_DEPTH + 1):
            (current,) = walk.next_level()
            walk.feed(current, index_of(index(str(depth + 1))))


def test_one_digest_has_one_size() -> None:
    walk = Walk(manifest("m"), ALL_PLATFORMS, max_blobs=100)
    walk.next_level()
    with pytest.raises(ManifestInvalidError, match="with 5 and 6 bytes"):
        walk.feed(manifest("m"), image_of(leaf("1", 5), leaf("1", 6)))
