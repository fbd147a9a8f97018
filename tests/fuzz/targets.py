"""What reads input of strangers, as functions of bytes: nothing but the room's own errors may come out.

The suite runs each with hypothesis; `make fuzz` runs them with atheris, which looks for new paths through the code.
"""

import base64
import contextlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from nekko.api.hub import answers, route
from nekko.config.doors import parse_listen
from nekko.config.sources import read
from nekko.errors import ConfigInvalidError, InvalidError, UpstreamContentError
from nekko.oci import filepath, manifest
from nekko.oci.challenge import parse_challenges
from nekko.oci.digest import Digest
from nekko.oci.distribution import Route, accepts_index
from nekko.oci.ociregistry import parse_record
from nekko.oci.platform import PlatformSelection
from nekko.oci.ranges import parse_content_range, parse_range
from nekko.oci.reference import is_tag, parse_reference
from nekko.sources.base64url import decode_url, encode_url
from nekko.sources.credentials import Credentials
from nekko.sources.hub import make_hub
from nekko.sources.listing import Listing
from nekko.sources.locator import parse_locator
from nekko.upstream.repository import read_tags
from tests.fakes.registry import image

Target = Callable[[bytes], None]
MANIFEST = image([], b"{}")


def text_of(data: bytes) -> str:
    """Make text of any bytes; half characters stay, for JSON and YAML can bring them too."""
    return data.decode("utf-8", "surrogatepass") if _is_text(data) else data.decode("latin-1")


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def locator(data: bytes) -> None:
    found = parse_locator(text_of(data))
    assert parse_locator(found.name if "://" in found.name else f"oci://{found.name}").name == found.name
    assert found.where.isprintable() or not found.given.isprintable()


def reference(data: bytes) -> None:
    found = parse_reference(text_of(data))
    assert parse_reference(found.name).name == found.name


def digest(data: bytes) -> None:
    assert str(Digest.parse(text_of(data))) == text_of(data)


def registry_path(data: bytes) -> None:
    path, _, rest = text_of(data).partition("\n")
    namespace, _, accept = rest.partition("\n")
    accepts_index(accept)
    route = Route.parse(f"/v2/{path}")
    found = route.reference(namespace or None, "docker.io")
    assert found.name == parse_reference(found.name).name


def tag_list(data: bytes) -> None:
    assert all(is_tag(tag) for tag in read_tags(data, "https://registry/v2/a/tags/list"))


def base64_path(data: bytes) -> None:
    url = decode_url(data.decode("latin-1"))
    assert decode_url(encode_url(url)) == url


def byte_range(data: bytes) -> None:
    size = len(data)
    for part in parse_range(data.decode("latin-1"), size) or ():
        assert 0 <= part.start < part.end <= size


def content_range(data: bytes) -> None:
    found = parse_content_range(data.decode("latin-1"))
    if found is not None:
        assert 0 <= found.start < found.end
        assert found.size is None or found.end <= found.size


def manifest_body(data: bytes) -> None:
    parsed = manifest.parse(data, max_bytes=1 << 20, max_children=1000)
    assert all(child.size >= 0 for child in parsed.children)


def challenge(data: bytes) -> None:
    parse_challenges(data.decode("latin-1"))


def file_path(data: bytes) -> None:
    path = text_of(data)
    if filepath.fault_of(path) is None:
        assert Path("/folder") in Path("/folder", path).parents


def platform(data: bytes) -> None:
    PlatformSelection.parse(text_of(data))


def credentials(data: bytes) -> None:
    kind, _, secret = text_of(data).partition("\n")
    Credentials.parse(secret, kind)


def hub_listing(data: bytes) -> None:
    listing = Listing.parse(data, "https://hub/api")
    listing.check(max_files=1000)
    assert all(filepath.fault_of(entry.path) is None for entry in listing.entries)


def hub_answers(data: bytes) -> None:
    listing = Listing.parse(data, "https://hub/api")
    files = {entry.path for entry in listing.entries}
    assert "siblings" in json.dumps(answers.info(listing, has_blobs=True))
    tree = answers.tree(listing, "", is_recursive=True)
    assert tree is not None
    assert files <= {entry["path"] for entry in tree}
    assert json.dumps(answers.paths_info(listing, files))


def hub_request(data: bytes) -> None:
    asked = route.Route.parse(b"/" + data)
    if asked.repository:
        make_hub(asked.kind, asked.repository, asked.revision, asked.path or None)


def hub_paths(data: bytes) -> None:
    Listing.parse_paths(data, "https://hub/api", "main")


def listen(data: bytes) -> None:
    assert parse_listen(text_of(data)).doors


def settings_file(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        read({"config_file": file.name}, {})


def settings_environment(data: bytes) -> None:
    names = ("NEKKO_LISTEN", "NEKKO_DENIED_ADDRESSES", "NEKKO_MIN_FREE_SPACE", "NEKKO_PLATFORM", "NEKKO_HUB_ENDPOINT")
    value = text_of(data).replace("\0", "")
    for name in names:
        try:
            read({}, {name: value})
        except ConfigInvalidError:
            continue


def left_record(data: bytes) -> None:
    parse_record(data, "0" * 64, max_bytes=1 << 20, max_children=100)


def left_name(data: bytes) -> None:
    said = {
        "type": 3,
        "imageUrl": text_of(data),
        "bytes": base64.b64encode(MANIFEST).decode(),
        "created": text_of(data),
    }
    found = parse_record(
        json.dumps(said).encode(), Digest.of(MANIFEST).encoded, max_bytes=1 << 20, max_children=100
    ).reference
    assert parse_reference(found.name) == found


TARGETS: Mapping[str, Target] = {
    target.__name__: target
    for target in (
        locator, reference, digest, registry_path, tag_list, base64_path, byte_range, content_range, manifest_body, challenge, file_path,
        platform, credentials, hub_listing, hub_answers, hub_request, hub_paths, listen, settings_file, settings_environment,
        left_record, left_name,
    )
}  # fmt: skip
EXPECTED = (InvalidError, UpstreamContentError)
"""The errors that wrong input is told by; a file of settings is told by one of the first kind."""

WORDS = (
    b"oci://", b"hf:///", b"huggingface://", b"ollama://", b"https://", b"localhost:5000/", b"a/b", b":latest", b"@sha256:",
    b"0" * 64, b"datasets/", b"@refs%2Fpr%2F1", b"?revision=", b"%2e%2e/", b"../", b"bytes=", b"0-0", b"-5", b"bytes 0-1/2",
    b'Bearer realm="', b'service="', b"Basic ", b'{"schemaVersion":2,', b'"mediaType":', b'"layers":[', b'"config":{',
    b'"digest":"sha256:', b'"size":1', b'{"sha":"', b'"siblings":[', b'{"rfilename":"a","lfs":{"sha256":"', b'"blobId":"',
    b"linux/amd64", b"=content,files", b"/manifests/", b"/blobs/", b"/tags/list", b"/referrers/", b'{"tags":["', b"unix:/", b"[::1]:80", b"hosts:\n  h:\n    ", b"/resolve/main/", b"api/models/", b"/tree/", b"cacheDir: ", b"10GiB", b"\n", b",",
)  # fmt: skip
"""Pieces that the inputs are made of: without them, few would get beyond the first check."""


def try_out(target: Target, data: bytes) -> None:
    """Run a target; whatever it raises besides the expected errors is a fault."""
    with contextlib.suppress(*EXPECTED):
        target(data)
