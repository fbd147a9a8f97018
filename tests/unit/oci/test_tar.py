"""Headers of tar archives: those of real writers, and those that lie."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.errors import ArchiveInvalidError
from nekko.oci.tar import BLOCK_BYTES, MAX_EXTENSION_BYTES, Headers, Member
from tests.fakes.archives import tar

LONG = "/".join(["folder" * 10] * 5) + "/layer.tar"


def members(raw: bytes) -> list[Member]:
    """Read every header of an archive."""
    headers, found, offset = Headers(), [], 0
    while (block := raw[offset : offset + BLOCK_BYTES]).strip(b"\0"):
        offset += BLOCK_BYTES
        member = headers.feed(block)
        if member is None:
            body = raw[offset : offset + headers.wants]
            offset += headers.wants
            headers.extend(body)
        else:
            found.append(member)
            offset += member.size + member.padding
    return found


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_each_form_are_read(form: int) -> None:
    raw = tar({"./a/b.json": b"12345", "c": b""}, links={"a/l.tar": "../c"}, form=form)
    assert members(raw) == [Member("a/b.json", "file", 5), Member("c", "file", 0), Member("a/l.tar", "link", 0, "c")]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read(form: int) -> None:
    raw = tar({LONG: b"x", "after": b""}, links={"l": LONG}, form=form)
    assert members(raw) == [Member(LONG, "file", 1), Member("after", "file", 0), Member("l", "link", 0, LONG)]


def test_large_size_is_read_by_its_header_alone() -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("big")
        info.size = 9 << 33
        headers, raw = Headers(), info.tobuf(form)
        found = headers.feed(raw[:BLOCK_BYTES])
        if found is None:
            headers.extend(raw[BLOCK_BYTES : BLOCK_BYTES + headers.wants])
            found = headers.feed(raw[-BLOCK_BYTES:])
        assert found == Member("big", "file", 9 << 33)


def header(name: str = "x", kind: bytes = tarfile.REGTYPE, *, target: str = "", size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (header("../x"), "leads out"),
        (header("a/../../x"), "leads out"),
        (header("/etc/passwd"), "leads out"),
        (header("a/x", tarfile.SYMTYPE, target="../../etc/passwd"), "leads out"),
        (header("a/x", tarfile.SYMTYPE, target="/etc/passwd"), "leads out"),
        (header("a/x", tarfile.LNKTYPE, target="../x"), "leads out"),
        (header("x", tarfile.CHRTYPE), "no place among images"),
        (header("x", tarfile.FIFOTYPE), "no place among images"),
        (header("x", tarfile.GNUTYPE_SPARSE), "no place among images"),
        (header("x", size=-1), "below 0"),
        (header("x", tarfile.XHDTYPE, size=MAX_EXTENSION_BYTES + 1), "extended header of"),
        (header("x", tarfile.GNUTYPE_LONGNAME, size=1 << 40), "extended header of"),
        (b"\x01" * BLOCK_BYTES, "not a tar archive"),
        (header()[:-1], "not a tar archive"),
    ],
)
def test_hostile_header_is_refused(raw: bytes, problem: str) -> None:
    with pytest.raises(ArchiveInvalidError, match=problem):
        Headers().feed(raw)


@pytest.mark.parametrize(
    "body", [b"12", b"99 path=x\n", b"0 path=x\n", b"x path=y\n", b"6 path\n", b"9 size=x\n", b"11 path=\xff\xfe\n"]
)
def test_damaged_extension_is_refused(body: bytes) -> None:
    headers = Headers()
    assert headers.feed(header("x", tarfile.XHDTYPE, size=len(body))) is None
    with pytest.raises(ArchiveInvalidError):
        headers.extend(body)
        headers.feed(header())


def test_sparse_file_of_pax_is_refused() -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("x")
        info.pax_headers = {"GNU.sparse.major": "1"}
        archive.addfile(info)
    with pytest.raises(ArchiveInvalidError, match="sparse"):
        members(raw.getvalue())


@given(st.binary(max_size=3 * BLOCK_BYTES))
def test_anything_else_is_read_or_refused(raw: bytes) -> None:
    headers = Headers()
    try:
        headers.feed(raw[:BLOCK_BYTES])
        headers.feed(header("x", tarfile.XHDTYPE, size=len(raw)))
        headers.extend(raw)
        headers.feed(header())
    except ArchiveInvalidError:
        pass
