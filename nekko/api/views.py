"""`/admin/views`: the trees that engines read. The daemon describes them and keeps their blobs; its client makes them.

A client that makes a tree anew posts it, puts it in the place of the one before, and deletes what `superseded` lists.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from quart import Blueprint, Response, request

from nekko.api.access import Access
from nekko.api.requests import check_fields, held_content, read_json
from nekko.api.responses import json_response, time_text
from nekko.config.settings import Settings
from nekko.errors import ConflictError, RequestInvalidError
from nekko.oci.manifest import Manifest
from nekko.sources.locator import parse_locator
from nekko.store.content import Content, NewView, View
from nekko.store.store import Store, digests_of
from nekko.transfer.bring import parse_manifest
from nekko.views.kinds import KINDS, Shown, needs_config, tree_of
from nekko.views.tree import Entry

MAX_URLS = 1000
_FIELDS: Mapping[str, type] = {"directory": str, "as": str, "urls": list}


def build(store: Store, settings: Settings, access: Access) -> Blueprint:
    """Make the routes."""
    door = Blueprint("views", __name__)

    @door.get("/admin/views")
    async def list_views() -> Response:
        return json_response({"views": [_described(store, view) for view in store.views.all()]})

    @door.post("/admin/views")
    async def make_view() -> Response:
        access.may_change(request.scope)
        body = await read_json(settings)
        urls = _urls(body)
        directory, kind = _directory(body.get("directory", "")), body.get("as", "")
        if kind not in KINDS:
            raise RequestInvalidError(f"field 'as': {kind[:40]!r} is none of {', '.join(KINDS)}")
        with ExitStack() as stack:
            lease = stack.enter_context(store.leases.hold(directory))
            contents = [held_content(store, url, "viewed") for url in dict.fromkeys(urls)]
            digests = frozenset(digest for content in contents for digest in digests_of(content))
            for digest in digests:
                lease.add(digest)
            tree = tree_of(kind, [await _shown(store, settings, content) for content in contents])
            roots = {content.naming.name: content.root.digest for content in contents if content.root}
            superseded = store.views.of(directory)
            view = store.views.add(NewView(directory, kind, roots, digests))
        await store.catalog.sync()
        for content in contents:
            store.uses.note(content)
        told = _described(store, view) | {
            "entries": [_entry(store, entry) for entry in tree.entries],
            "superseded": [each.id for each in superseded],
        }
        return json_response(told, 201)

    @door.delete("/admin/views/<int:number>")
    async def drop_view(number: int) -> Response:
        access.may_change(request.scope)
        kept = store.views.drop(number)
        await store.catalog.sync()
        await store.collect(kept)
        return Response(b"", status=204)

    return door


def _urls(body: Mapping[str, Any]) -> Sequence[str]:
    urls = body.get("urls")
    if not isinstance(urls, list) or not 0 < len(urls) <= MAX_URLS or not all(isinstance(url, str) for url in urls):
        raise RequestInvalidError(f"field 'urls' is not a list of 1 to {MAX_URLS} strings")
    check_fields(body, _FIELDS)
    return urls


def _directory(text: str) -> str:
    is_plain = text.isprintable() and os.path.isabs(text) and os.path.normpath(text) == text and text != "/"
    if not is_plain:
        raise RequestInvalidError(f"field 'directory': {text[:200]!r} is not an absolute path without `.` and `..`")
    return text


async def _shown(store: Store, settings: Settings, content: Content) -> Shown:
    assert content.root is not None, "a complete content has a root"
    name = content.naming.name
    if missing := await store.missing(content):
        raise ConflictError(f"{name} is not whole, {len(missing)} of its blobs are gone: pull it again")
    manifest = parse_manifest(await store.blobs.read(content.root.digest), content.root, name, settings)
    config = await _config(store, settings, manifest)
    return Shown(parse_locator(content.naming.url), content.root.digest, manifest, config)


async def _config(store: Store, settings: Settings, manifest: Manifest) -> bytes:
    config = manifest.config
    if config is None or not needs_config(manifest) or config.size > settings.max_manifest_bytes:
        return b""
    return await store.blobs.read(config.digest)


def _described(store: Store, view: View) -> dict[str, Any]:
    held = {name: store.catalog.outline(name) for name in view.roots}
    current = {name: outline.root if outline else None for name, outline in held.items()}
    return {
        "id": view.id, "directory": view.directory, "as": view.kind, "names": list(view.roots),
        "missing": [name for name, root in current.items() if root is None],
        "created": time_text(view.created), "current": current == dict(view.roots),
    }  # fmt: skip


def _entry(store: Store, entry: Entry) -> dict[str, Any]:
    if entry.digest is None:
        return {"path": entry.path, "text": entry.text}
    return {"path": entry.path, "digest": str(entry.digest), "source": str(store.blobs.path(entry.digest))}
