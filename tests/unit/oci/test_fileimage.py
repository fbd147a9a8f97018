"""Images of files: the bytes of their layer, which must never change, and names that cannot stand in one."""

import io
import json
import random
import tarfile
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.errors import FileImageError
from nekko.oci.descriptor import TITLE, Descriptor
from nekko.oci.digest import Digest
from nekko.oci.fileimage import FileLayer, image_of, layer_of
from nekko.oci.manifest import Manifest, parse
from nekko.oci.mediatype import OCI_INDEX, OCI_MANIFEST, OCTET_STREAM
from nekko.oci.ranges import ByteRange

FILES = {
    "sub/deep/b.bin": random.Random(1).randbytes(1000), "a.json": b"{}", "sub/empty": b"", "sub-x": b"512" * 512,
    "é/" + "long" * 40 + "/" + "n" * 120: b"far",
}  # fmt: skip
LAYER = Digest.parse("sha256:421993c104603c1ee4ee04d5e57410fccc608cbc2b098e1c392d5ec10031474b")
INDEX = Digest.parse("sha256:7d0cdd9a6562009bc3100f655f7f1c7ba7056181e7259fc84c137fecabba1bf2")
"""The same on every node, by every version of Python and of nekko: what was made once is served by its digest."""


def artifact(files: Mapping[str, bytes]) -> Manifest:
    layers = [Descriptor(OCTET_STREAM, Digest.of(body), len(body), {TITLE: name}) for name, body in files.items()]
    return Manifest(OCI_MANIFEST, layers=tuple(layers))


def written(layer: FileLayer, wanted: ByteRange | None = None) -> bytes:
    blobs = {Digest.of(body): body for body in FILES.values()}
    return b"".join(
        piece.made if piece.digest is None else blobs[piece.digest][piece.part.start : piece.part.end]
        for piece in layer.within(wanted or ByteRange(0, layer.size))
    )


def test_layer_has_the_files_and_nothing_of_its_node() -> None:
    layer = layer_of(artifact(FILES))
    whole = written(layer)
    assert len(whole) == layer.size
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == sorted(member.name for member in members)
        read = {member.name: archive.extractfile(member) for member in members if member.isfile()}
        assert {name: file.read() for name, file in read.items() if file is not None} == FILES
        assert {member.name for member in members if member.isdir()} >= {"sub", "sub/deep", "é"}
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 0)}
        assert {(member.isdir(), member.mode) for member in members} == {(True, 0o755), (False, 0o644)}


def test_bytes_are_the_same_whatever_the_order_and_the_node() -> None:
    for files in (FILES, dict(reversed(FILES.items()))):
        whole = written(layer_of(artifact(files)))
        index, _ = image_of(Digest.of(whole), len(whole))
        assert (Digest.of(whole), Digest.of(index)) == (LAYER, INDEX)


@given(st.integers(0, 20_000), st.integers(0, 20_000))
def test_any_part_is_that_part_of_the_whole(start: int, end: int) -> None:
    layer = layer_of(artifact(FILES))
    assert written(layer, ByteRange(start, end)) == written(layer)[start:end]
    assert all(piece.size for piece in layer.within(ByteRange(start, end)))


def test_file_beyond_the_octal_size_of_tar() -> None:
    size = 9 << 30
    manifest = Manifest(OCI_MANIFEST, layers=(Descriptor(OCTET_STREAM, LAYER, size, {TITLE: "large"}),))
    layer = layer_of(manifest)
    with tarfile.open(fileobj=io.BytesIO(layer.pieces[0].made)) as archive:
        head = archive.next()
    assert head is not None
    assert (head.name, head.size) == ("large", size)


def test_image_names_its_layer_for_every_platform() -> None:
    index, blobs = image_of(LAYER, 10)
    parsed = parse(index, OCI_INDEX, max_bytes=10_000, max_children=10)
    assert [str(entry.platform) for entry in parsed.entries] == ["linux/amd64", "linux/arm64"]
    for entry in parsed.entries:
        assert entry.platform is not None
        manifest = parse(blobs[entry.digest], OCI_MANIFEST, max_bytes=10_000, max_children=10)
        assert [layer.digest for layer in manifest.layers] == [LAYER]
        assert manifest.config is not None
        config = json.loads(blobs[manifest.config.digest])
        assert config["architecture"] == entry.platform.architecture
        assert config["rootfs"]["diff_ids"] == [str(LAYER)]


@pytest.mark.parametrize(
    "names", [["../x"], ["/x"], ["a//b"], [".wh.x"], ["sub/.wh..wh..opq"], ["a", "a/b"], ["a\\b"], []]
)
def test_names_that_cannot_stand_in_an_image(names: list[str]) -> None:
    with pytest.raises(FileImageError):
        layer_of(artifact(dict.fromkeys(names, b"x")))


def test_two_files_of_one_name_and_an_index() -> None:
    twice = artifact({"a": b"1"}).layers + artifact({"a": b"2"}).layers
    with pytest.raises(FileImageError, match="two files want one name"):
        layer_of(Manifest(OCI_MANIFEST, layers=twice))
    with pytest.raises(FileImageError, match="index"):
        layer_of(Manifest(OCI_INDEX))
