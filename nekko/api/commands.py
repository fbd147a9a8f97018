"""What ociregistry's administrators know: `/cmd/prune`, the lists of images, manifests and blobs, and `/cmd/stop`.

Answers are text with blanks between columns, or JSON where `Accept` asks for it. Source: ociregistry's documents,
"Administrative REST API"; where its program and they differ, the documents.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NoReturn, cast, get_args

import trio
from quart import Blueprint, Response, request

from nekko.api.access import Access
from nekko.api.responses import error_response, json_response, status_of, time_text
from nekko.config import grammar
from nekko.config.settings import Settings
from nekko.errors import AccessDeniedError, ConfigInvalidError, InvalidError, NekkoError, RequestInvalidError
from nekko.oci.digest import Digest
from nekko.oci.mediatype import GRAPH
from nekko.store.content import Content
from nekko.store.snapshot import references
from nekko.store.store import Store
from nekko.transfer.manifests import Manifests
from nekko.transfer.patterns import matching, split_patterns
from nekko.transfer.pruning import PruneKind, PruneRule, image_names, prune_images

LISTED, PRUNED = 50, 5
"""How many, where the request does not say."""
SHORT_DIGEST_LENGTH = 10
NOTHING = "no manifests found\n"
_KINDS = get_args(PruneKind)


def build(store: Store, settings: Settings, access: Access, stop: Callable[[], None]) -> Blueprint:
    """Make the routes; `stop` begins the daemon's graceful stop."""
    door = Blueprint("commands", __name__)
    manifests = Manifests(store, settings)

    @door.errorhandler(NekkoError)
    async def told(error: NekkoError) -> Response:
        if _wants_json():
            return error_response(error)
        what = "invalid parameters: " if isinstance(error, InvalidError) else ""
        return Response(f"{what}{error}\n", status=status_of(type(error)), content_type="text/plain")

    @door.delete("/cmd/prune")
    async def prune() -> Response:
        access.may_change(request.scope)
        rule = _rule(_parameters("type", "dur", "expr", "count", "dryRun"))
        plan = await prune_images(store, rule)
        names = [item.name for item in plan.items]
        if _wants_json():
            return json_response({"dry_run": rule.is_trial, "freed_bytes": plan.freed_bytes, "images": names})
        mode = "dry run, nothing is removed:" if rule.is_trial else "pruned:"
        verb = "would be freed" if rule.is_trial else "freed"
        return _text(f"{mode} {len(names)} images, {plan.freed_bytes} bytes {verb}", *names)

    @door.get("/cmd/manifest/list")
    async def list_manifests() -> Response:
        given = _parameters("pattern", "count")

        async def lines() -> AsyncGenerator[_Line, None]:
            async with aclosing(_images(store, given.get("pattern"))) as images:
                async for content in images:
                    for name, digest in _manifests_of(content):
                        yield _Line(name, digest, content)

        return _answer(await _first(lines(), _count(given, LISTED)))

    @door.get("/cmd/image/list")
    async def list_images() -> Response:
        given = _parameters("pattern", "digest", "count")
        wanted = "" if "pattern" in given else given.get("digest", "")

        async def lines() -> AsyncGenerator[_Line, None]:
            async with aclosing(_images(store, given.get("pattern"))) as images:
                async for content in images:
                    for name, digest in _manifests_of(content) if wanted in _digests_of(content) else ():
                        found = await manifests.get(digest)
                        if found is None or found.parsed.is_index:
                            continue
                        config = [] if found.parsed.config is None else [found.parsed.config]
                        parts = [str(each.digest) for each in (*found.parsed.layers, *config)]
                        if wanted in " ".join(parts):
                            yield _Line(name, digest, content, parts)

        return _answer(await _first(lines(), _count(given, LISTED)))

    @door.get("/cmd/blob/list")
    async def list_blobs() -> Response:
        given = _parameters("substr", "count")
        limit = _count(given, LISTED)
        read = partial(references, store.layout.catalog, given.get("substr", ""), limit)
        rows = await trio.to_thread.run_sync(read)
        if _wants_json():
            return json_response([{"digest": str(digest), "references": count} for digest, count in rows])
        if not rows:
            return Response(NOTHING, content_type="text/plain")
        return _text("URL REFCNT", *(f"{digest.encoded} {count}" for digest, count in rows))

    @door.get("/cmd/stop")
    @door.post("/cmd/stop")
    async def stop_daemon() -> Response:
        access.may_change(request.scope)
        # A page can have any browser GET this, and then there is no Origin. Source: Fetch Metadata, "Sec-Fetch-Site".
        if request.headers.get("Sec-Fetch-Site", "none") != "none":
            raise AccessDeniedError("requests of web pages may not stop the daemon")
        _parameters()
        stop()
        return Response(b"", status=200, content_type="text/plain")

    return door


@dataclass(frozen=True, slots=True)
class _Line:
    """One manifest of a list: of an image, with the digests of its parts."""

    name: str
    digest: Digest
    content: Content
    parts: list[str] | None = None

    def to_json(self) -> dict[str, Any]:
        described = {
            "name": self.name, "digest": str(self.digest), "created": time_text(self.content.created),
            "pulled": time_text(self.content.last_used),
        }  # fmt: skip
        return described if self.parts is None else described | {"blobs": self.parts}

    def __str__(self) -> str:
        name, at, digest = self.name.partition("@")
        short = f"{name}@{_shortened(digest)}" if at else name
        times = " ".join(_local(moment) for moment in (self.content.created, self.content.last_used))
        return "\n- ".join((f"{short} {self.digest.encoded}  {times}", *(self.parts or ())))


def _answer(lines: list[_Line]) -> Response:
    if _wants_json():
        return json_response([line.to_json() for line in lines])
    if not lines:
        return Response(NOTHING, content_type="text/plain")
    return _text("URL DIGEST CREATED PULLED", *map(str, lines))


async def _images(store: Store, pattern: str | None) -> AsyncGenerator[Content, None]:
    names = await image_names(store)
    if pattern:
        names = await matching(split_patterns(pattern), names)
    for name in names:
        content = store.catalog.held(name)
        if content is not None:  # else it went meanwhile
            yield content
        await trio.lowlevel.checkpoint()


def _manifests_of(content: Content) -> list[tuple[str, Digest]]:
    """Give the manifests of an image: its root by the image's own name, those of a list by their digests."""
    assert content.root is not None
    name = content.naming.name
    image = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
    others = [i.digest for i in content.required if i.media_type in GRAPH and i.digest != content.root.digest]
    return [(name, content.root.digest), *((f"{image}@{digest}", digest) for digest in others)]


def _digests_of(content: Content) -> str:
    return " ".join(str(item.digest) for item in content.required)


async def _first(lines: AsyncGenerator[_Line, None], limit: int | None) -> list[_Line]:
    found: list[_Line] = []
    async with aclosing(lines):
        while limit is None or len(found) < limit:
            line = await anext(lines, None)
            if line is None:
                break
            found.append(line)
    return found


def _rule(given: Mapping[str, str]) -> PruneRule:
    kind = given.get("type", "")
    if kind not in _KINDS:
        _refuse("type", kind, f"it is one of {', '.join(_KINDS)}")
    dry_run = given.get("dryRun", "false").lower()
    if dry_run not in ("true", "false"):
        _refuse("dryRun", dry_run, "it is true or false")
    if kind == "pattern" and "dur" in given:
        _refuse("dur", given["dur"], "it has no meaning with type pattern")
    if kind != "pattern" and "expr" in given:
        _refuse("expr", given["expr"], "it has a meaning with type pattern only")
    seconds = 0.0
    if kind != "pattern":
        try:
            seconds = grammar.age(given.get("dur", ""))
        except ConfigInvalidError as error:
            _refuse("dur", given.get("dur", ""), str(error))
    return PruneRule(cast("PruneKind", kind), seconds, given.get("expr", ""), _count(given, PRUNED), dry_run == "true")


def _parameters(*known: str) -> Mapping[str, str]:
    given = request.args
    for key in given:
        if key not in known:
            raise RequestInvalidError(f"unknown parameter {key[:60]!r}: this takes {', '.join(known) or 'none'}")
        if len(given.getlist(key)) > 1:
            raise RequestInvalidError(f"parameter {key!r} is given twice")
    return dict(given.items())


def _count(given: Mapping[str, str], default: int) -> int | None:
    text = given.get("count", str(default))
    try:
        found = grammar.limit(text)
    except ConfigInvalidError:
        _refuse("count", text, "it is a whole number, or -1 for all")
    return None if found < 0 else found


def _refuse(key: str, value: str, problem: str) -> NoReturn:
    raise RequestInvalidError(f"parameter {key!r}: {value[:100]!r}: {problem}")


def _wants_json() -> bool:
    return "application/json" in request.headers.get("Accept", "")


def _text(*lines: str) -> Response:
    return Response("".join(f"{line}\n" for line in lines), content_type="text/plain; charset=utf-8")


def _shortened(digest: str) -> str:
    return digest.partition(":")[2][:SHORT_DIGEST_LENGTH]


def _local(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%dT%H:%M:%S")
