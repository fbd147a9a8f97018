"""`/content-files/<b64>/<name>`: the files of a content by their names, and a list of those; raw ASGI, as blobs are.

`<b64>` is base64 of the URL as in the content API, but ends at the first slash: one of its own is written `_` or `%2F`.
Everything behind it is the file's name, which may hold slashes. A file that is still to come is waited for while a pull
brings it, and streamed while it arrives; nothing else is fetched. What is private has no content, so it is not found.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import trio

from nekko.api.asked import Asked, Headers, answer_while_there
from nekko.api.blobs import BlobDoor, Head, Receive, Send, send_opened
from nekko.api.requests import name_of
from nekko.api.responses import json_body, problem, problem_of, retry_of
from nekko.errors import (
    BlobUnknownError,
    ConflictError,
    ContentFileUnknownError,
    ContentUnknownError,
    NekkoError,
    RangeInvalidError,
)
from nekko.metrics import Counters
from nekko.sources.base64url import decode_url, encode_url
from nekko.store.content import Content, Required
from nekko.store.store import Store
from nekko.transfer.pull import Pulls
from nekko.transfer.running import Pull
from nekko.transfer.table import Transfer, retold

ROOT = "/content-files/"
METHODS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class ContentFiles:
    """An ASGI application for paths below `ROOT`."""

    store: Store
    pulls: Pulls
    blobs: BlobDoor
    counters: Counters

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        await answer_while_there(scope, receive, send, work=self._answer, refuse=_refuse)

    async def _answer(self, asked: Asked) -> None:
        if asked.method not in METHODS:
            await _tell(asked, problem("", "only GET and HEAD are served here", 405), [("Allow", ", ".join(METHODS))])
            return
        raw = asked.scope["raw_path"].partition(b"?")[0].decode("latin-1")
        encoded, _, rest = raw.removeprefix(ROOT).partition("/")
        name = name_of(self.store, decode_url(encoded))
        content = self._content(name)
        self.store.uses.note(content)
        if rest:
            await self._send(asked, name, unquote(rest))
        else:
            body = await trio.to_thread.run_sync(lambda: json_body(_listed(content)))
            await asked.answer(200, body, [("Content-Type", "application/json")])

    def _content(self, name: str) -> Content:
        content = self.store.catalog.held(name) or self.store.catalog.arriving(name)
        if content is None:
            raise ContentUnknownError(name)
        return content

    async def _send(self, asked: Asked, name: str, file: str) -> None:
        while True:
            content = self._content(name)
            item = next((item for item in content.files if item.name == file), None)
            pull = None if content.state == "complete" else self.pulls.running(name)
            moved = None if pull is None else pull.moved  # taken before looking, so that no wake-up is lost
            if (transfer := self._transfer_of(file, item, pull)) is not None:
                self.counters.misses["content"] += 1
                head = Head(None) if item is None else Head.of(item.digest)
                async with self.blobs.transfers.join_running(transfer):
                    await self.blobs.send_arriving(transfer, head, asked.scope, asked.send)
                return
            if item is not None and await self._send_held(asked, item):
                return
            is_all_named = pull is None or (pull.rooted.is_set() and bool(pull.parts))
            if pull is None or moved is None or (item is None and is_all_named):
                raise _absence_of(content, file, item)
            await moved.wait()
            if pull.error is not None:
                raise retold(pull.error)

    def _transfer_of(self, file: str, item: Required | None, pull: Pull | None) -> Transfer | None:
        if item is not None:
            return self.blobs.transfers.running(str(item.digest))
        return None if pull is None else pull.transfer_of(file)

    async def _send_held(self, asked: Asked, item: Required) -> bool:
        """Answer with a file that is here; tell whether it is."""
        try:
            blob, descriptor = await self.blobs.open(item.digest)
        except BlobUnknownError:
            return False
        self.counters.hits["content"] += 1
        await send_opened(blob, descriptor, Head.of(item.digest), asked.scope, asked.send)
        return True


def _listed(content: Content) -> dict[str, Any]:
    """List the files of a content; for a large one in tenths of a second, so for a thread."""
    base = f"{ROOT}{encode_url(content.naming.url)}/"
    files = [
        {
            "name": item.name, "href": base + quote(item.name), "digest": str(item.digest),
            "media_type": item.media_type, "size": item.size,
        }
        for item in content.files
    ]  # fmt: skip
    return {"url": content.naming.url, "name": content.naming.name, "state": content.state, "files": files}


def _absence_of(content: Content, file: str, item: Required | None) -> NekkoError:
    if item is None:
        return ContentFileUnknownError(content.naming.name, file)
    return ConflictError(
        f"{content.naming.name}: {file} is not here, and no pull is bringing it: POST /content/ pulls the rest"
    )


async def _refuse(asked: Asked, error: NekkoError | None) -> None:
    if error is None:
        await _tell(asked, problem("", "internal error; the daemon's log says more", 500))
        return
    headers = list(retry_of(error).items())
    if isinstance(error, RangeInvalidError):
        headers.append(("Content-Range", f"bytes */{error.size}"))
    await _tell(asked, problem_of(error), headers)


async def _tell(asked: Asked, told: dict[str, Any], headers: Headers | None = None) -> None:
    given = [("Content-Type", "application/problem+json"), *(headers or [])]
    await asked.answer(told["status"], json_body(told), given)
