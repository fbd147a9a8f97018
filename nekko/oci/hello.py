"""An image that is built in: `docker.io/library/hello-world:latest`, for a first try where no network is.

Its only file greets and ends: an ELF executable of some hundred bytes that asks the kernel for `write` and `exit`, put
together here by hand for each of two processors. `python -m nekko.oci.hello` writes the image to standard output, as
an archive.
Sources: System V ABI, "ELF Header" and "Program Header"; Arm Architecture Reference Manual, A64 instructions.
"""

import struct
import sys
import tarfile
from collections.abc import Callable, Mapping

from nekko.oci.archive import IMAGE_NAME, LAYER
from nekko.oci.artifact import canonical_json
from nekko.oci.bundle import END, Bundle
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.mediatype import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from nekko.oci.platform import Platform

NAME = "docker.io/library/hello-world:latest"
GREETING = b"""
Hello from nekko!

This image was served from your own node, and no registry was asked for it:
it is built into nekko, and runs on linux/amd64 and linux/arm64.

"""

_ADDRESS = 0x400000
_HEADERS = struct.Struct("<16sHHIQQQIHHHHHH IIQQQQQQ")
"""The ELF header, and its one program header."""
_EXECUTABLE, _LOAD, _READ_AND_RUN, _PAGE = 2, 1, 5, 0x10000


def _amd64(address: int, size: int) -> bytes:
    """Give the code that writes the greeting at an address, and ends."""
    return (
        b"\xb8" + struct.pack("<I", 1)  # mov eax, 1 (write)
        + b"\xbf" + struct.pack("<I", 1)  # mov edi, 1
        + b"\xbe" + struct.pack("<I", address)  # mov esi, address
        + b"\xba" + struct.pack("<I", size)  # mov edx, size
        + b"\x0f\x05"  # syscall
        + b"\xb8" + struct.pack("<I", 60)  # mov eax, 60 (exit)
        + b"\x31\xff"  # xor edi, edi
        + b"\x0f\x05"  # syscall
    )  # fmt: skip


def _arm64(address: int, size: int) -> bytes:
    """Give the code that writes the greeting at an address, and ends."""

    def movz(register: int, value: int) -> int:
        return 0xD2800000 | value << 5 | register

    svc = 0xD4000001
    words = [
        movz(8, 64), movz(0, 1),  # write, to 1
        movz(1, address & 0xFFFF), 0xF2A00000 | (address >> 16) << 5 | 1,  # the second: movk x1, #…, lsl #16
        movz(2, size), svc,
        movz(8, 93), movz(0, 0), svc,  # exit
    ]  # fmt: skip
    return struct.pack(f"<{len(words)}I", *words)


_PROCESSORS: Mapping[Platform, tuple[int, Callable[[int, int], bytes]]] = {
    Platform("linux", "amd64"): (62, _amd64),
    Platform("linux", "arm64"): (183, _arm64),
}
"""For each platform its number in an ELF header, and its code."""


def executable(platform: Platform) -> bytes:
    """Give the executable for one of the two platforms."""
    machine, code_for = _PROCESSORS[platform]
    start = _HEADERS.size
    code = code_for(_ADDRESS + start + len(code_for(0, 0)), len(GREETING))
    size = start + len(code) + len(GREETING)
    headers = _HEADERS.pack(
        b"\x7fELF\x02\x01\x01", _EXECUTABLE, machine, 1, _ADDRESS + start, 64, 0, 0, 64, 56, 1, 0, 0, 0,
        _LOAD, _READ_AND_RUN, 0, _ADDRESS, _ADDRESS, size, size, _PAGE,
    )  # fmt: skip
    return headers + code + GREETING


def archive() -> bytes:
    """Give the image for both platforms as a tar file of an OCI layout, always of the same bytes."""
    bundle = Bundle()
    entries = [_image(bundle, platform) for platform in _PROCESSORS]
    index = canonical_json(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry.to_json() for entry in entries]}
    )
    root = _added(bundle, OCI_INDEX, index)
    bundle.add_root(root, {IMAGE_NAME: NAME})
    files = b"".join(member.header + (member.body or b"") + member.padding for member in bundle.members())
    return files + END


def _image(bundle: Bundle, platform: Platform) -> Descriptor:
    program = executable(platform)
    entry = tarfile.TarInfo("hello")
    entry.size, entry.mode = len(program), 0o755
    layer = entry.tobuf(tarfile.USTAR_FORMAT) + program + bytes(-len(program) % tarfile.BLOCKSIZE) + END
    described = _added(bundle, LAYER, layer)
    config = canonical_json({
        **platform.to_json(), "created": "1970-01-01T00:00:00Z", "config": {"Cmd": ["/hello"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [str(described.digest)]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "nekko"}],
    })  # fmt: skip
    manifest = canonical_json({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": _added(bundle, OCI_CONFIG, config).to_json(),
        "layers": [described.to_json()],
    })  # fmt: skip
    return _added(bundle, OCI_MANIFEST, manifest, platform)


def _added(bundle: Bundle, media_type: str, body: bytes, platform: Platform | None = None) -> Descriptor:
    descriptor = Descriptor(media_type, Digest.of(body), len(body), platform=platform)
    bundle.add_blob(descriptor, body)
    return descriptor


if __name__ == "__main__":
    sys.stdout.buffer.write(archive())
