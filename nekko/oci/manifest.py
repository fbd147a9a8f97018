"""Manifests and indexes: the JSON that lists descriptors. Source: image-spec, manifest.md and image-index.md.

The bytes come from a stranger, and other tools read the same bytes after us. So what two readers could understand in
two ways is refused (a member that appears twice, a document that is manifest and index at once), and so is what could
not be stored or sent on. What the specification leaves open, unknown media types above all, is left alone.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NoReturn, TypeVar

from nekko.errors import DigestInvalidError, ManifestInvalidError
from nekko.oci.descriptor import MAX_SIZE, Descriptor
from nekko.oci.digest import Digest
from nekko.oci.mediatype import GRAPH, INDEXES, OCI_INDEX, OCI_MANIFEST, OCTET_STREAM, essence
from nekko.oci.platform import Platform

_SCHEMA_1 = frozenset({
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
})  # fmt: skip
_GENERIC = frozenset({"", "application/json", "text/plain", "binary/octet-stream", OCTET_STREAM})
"""Content types of servers that do not know what they serve; then the body tells."""

_MEDIA_TYPE = re.compile(r"[ -~]+")  # it ends up in headers
_KINDS: Mapping[type, str] = {dict: "an object", list: "a list", str: "text", int: "a whole number"}

_T = TypeVar("_T", dict, list, str, int)  # type: ignore[type-arg]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed manifest (`config` and `layers`) or index (`entries`), told apart by `media_type`.

    `subject` is what the manifest refers to; it is no child, and need not exist anywhere.
    """

    media_type: str
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    entries: tuple[Descriptor, ...] = ()
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    subject: Descriptor | None = None

    @property
    def kind(self) -> Literal["manifest", "index"]:
        """Which of the two this is."""
        return "index" if self.media_type in INDEXES else "manifest"

    @property
    def is_index(self) -> bool:
        """Whether `children` are alternatives to choose from, by platform."""
        return self.kind == "index"

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """What must be there for this to be complete: the config, then the layers in order; an index's entries."""
        return (*(() if self.config is None else (self.config,)), *self.layers, *self.entries)


def parse(body: bytes, media_type: str | None = None, *, max_bytes: int, max_children: int) -> Manifest:
    """Read a manifest or index.

    Args:
        body: The exact bytes.
        media_type: The Content-Type that came with them, if any. Without one, or with one that says nothing (such as
            `text/plain`), the body's own `mediaType` tells what it is, and without that its members do.
        max_bytes: Largest body taken.
        max_children: Most children taken.

    Raises:
        ManifestInvalidError: Past a limit, neither a manifest nor an index, or wrong in one member, which is named.
    """
    if len(body) > max_bytes:
        raise ManifestInvalidError(f"manifest of {len(body)} bytes: at most {max_bytes} are taken")
    members = _Members(_load(body))
    actual_type = _media_type(members, essence(media_type or ""))
    is_index = actual_type in INDEXES
    # A body that different readers may take for different things is refused, as image-spec demands (CVE-2021-41190).
    for name in ("config", "layers") if is_index else ("manifests",):
        if name in members.value:
            members.fail(name, f"has no place in {actual_type}")
    config = None if is_index else members.need("config", dict)
    listed = members.need_list("manifests" if is_index else "layers")
    if len(listed) + (not is_index) > max_children:
        members.fail("manifests" if is_index else "layers", f"names more than {max_children} blobs")
    subject = members.get("subject", dict)
    children = tuple(_descriptor(child) for child in listed)
    return Manifest(
        media_type=actual_type,
        config=None if config is None else _descriptor(_Members(config, "config.")),
        layers=() if is_index else children,
        entries=children if is_index else (),
        artifact_type=members.get("artifactType", str),
        annotations=members.get_annotations(),
        subject=None if subject is None else _descriptor(_Members(subject, "subject.")),
    )


@dataclass(frozen=True, slots=True)
class _Members:
    """One JSON object, read member by member. `path` leads to it, for messages; `null` counts as absent, for Go
    writes its empty slices and maps so.
    """

    value: Mapping[str, object]
    path: str = ""

    def fail(self, name: str, problem: str) -> NoReturn:
        raise ManifestInvalidError(f"manifest: {self.path}{name} {problem}")

    def get(self, name: str, kind: type[_T]) -> _T | None:
        found = self.value.get(name)
        if found is None:
            return None
        if not isinstance(found, kind) or isinstance(found, bool):
            self.fail(name, f"is not {_KINDS[kind]}")
        return found

    def need(self, name: str, kind: type[_T]) -> _T:
        found = self.get(name, kind)
        if found is None:
            self.fail(name, "is missing")
        return found

    def need_list(self, name: str) -> "list[_Members]":
        """Give a list of objects. The member must be there; an empty list may be `null`."""
        if name not in self.value:
            self.fail(name, "is missing")
        found = []
        for position, value in enumerate(self.get(name, list) or ()):
            if not isinstance(value, dict):
                self.fail(f"{name}[{position}]", "is not an object")
            found.append(_Members(value, f"{self.path}{name}[{position}]."))
        return found

    def get_annotations(self) -> dict[str, str]:
        found = self.get("annotations", dict) or {}
        for key, value in found.items():
            if not isinstance(value, str):
                self.fail(f"annotations[{key[:100]!r}]", "is not text")
        return found


def _load(body: bytes) -> dict[str, object]:
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
        # An escape such as \ud800 makes half a character, which can neither be stored nor sent on.
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ManifestInvalidError("manifest: JSON is nested too deeply") from error
    except ValueError as error:  # of JSON, of UTF-8, or a number of thousands of digits
        raise ManifestInvalidError(f"manifest is not JSON in UTF-8: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise ManifestInvalidError("manifest is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"member {name[:100]!r} appears twice")
        members[name] = value
    return members


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _media_type(members: _Members, given: str) -> str:
    version, own = members.get("schemaVersion", int), members.get("mediaType", str)
    if version == 1 or not _SCHEMA_1.isdisjoint({given, own}):
        raise ManifestInvalidError(
            "manifest is of Docker schema 1, which is withdrawn: push it again with a current tool"
        )
    if version != 2:
        members.fail("schemaVersion", "is not 2")
    if given in _GENERIC:
        given = ""
    if given and own is not None and given != own:
        members.fail("mediaType", f"is {own[:100]!r}, but the Content-Type is {given[:100]!r}")
    media_type = given or own
    if media_type is None:
        is_index, is_manifest = "manifests" in members.value, "layers" in members.value
        if is_index == is_manifest:
            raise ManifestInvalidError("manifest: one of the members 'layers' and 'manifests' tells what it is")
        return OCI_INDEX if is_index else OCI_MANIFEST
    if media_type not in GRAPH:
        raise ManifestInvalidError(f"{media_type[:100]!r} is the type of neither a manifest nor an index")
    return media_type


def _descriptor(members: _Members) -> Descriptor:
    media_type, size = members.need("mediaType", str), members.need("size", int)
    if not _MEDIA_TYPE.fullmatch(media_type):
        members.fail("mediaType", "is not a media type")
    if not 0 <= size <= MAX_SIZE:
        members.fail("size", f"is not between 0 and {MAX_SIZE}")
    try:
        digest = Digest.parse(members.need("digest", str))
    except DigestInvalidError as error:
        raise ManifestInvalidError(f"manifest: {members.path}digest: {error}") from error
    urls = members.get("urls", list) or ()
    if not all(isinstance(url, str) for url in urls):
        members.fail("urls", "is not a list of text")
    embedded = members.get("data", str)
    try:
        data = None if embedded is None else base64.b64decode(embedded, validate=True)
    except ValueError:
        members.fail("data", "is not base64")
    platform = members.get("platform", dict)
    return Descriptor(
        media_type=media_type,
        digest=digest,
        size=size,
        annotations=members.get_annotations(),
        platform=None if platform is None else Platform.from_json(platform),
        artifact_type=members.get("artifactType", str),
        urls=tuple(urls),
        data=data,
    )
