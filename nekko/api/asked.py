"""What the doors that are raw ASGI share: a request taken apart, and the answering while its client is there."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import parse_qs

import trio

from nekko.api.blobs import Receive, Send, cancel_when_gone
from nekko.errors import BodyTooLargeError, NekkoError

log = logging.getLogger(__name__)

Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    scope: dict[str, Any]
    send: Send
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = field(default=b"", kw_only=True)

    @classmethod
    def of(cls, scope: dict[str, Any], send: Send) -> Self:
        """Take a request apart."""
        headers: dict[str, str] = {}
        for raw_name, value in scope["headers"]:  # several lines of Accept are one list
            name = raw_name.decode("latin-1").lower()
            headers[name] = f"{headers[name]},{value.decode('latin-1')}" if name in headers else value.decode("latin-1")
        return cls(scope, send, query_of(scope["query_string"].decode("latin-1")), headers)

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def is_of_web_page(self) -> bool:
        """Whether a page of another site, open in a browser, sent this. Source: Fetch Metadata, "Sec-Fetch-Site"."""
        return "origin" in self.headers or self.headers.get("sec-fetch-site") in ("cross-site", "same-site")

    async def answer(self, status: int, body: bytes, headers: Headers) -> None:
        """Send a whole answer; to a HEAD, all but its body."""
        given = headers if status == 304 else [*headers, ("Content-Length", str(len(body)))]
        encoded = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in given]
        await self.send_whole(encoded, status, body)

    async def send_whole(self, head: list[tuple[bytes, bytes]], status: int, body: bytes) -> None:
        """Send a whole answer whose headers are complete; to a HEAD, all but its body."""
        await self.send({"type": "http.response.start", "status": status, "headers": head})
        await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})


def query_of(text: str) -> dict[str, str]:
    """Read a query; of a parameter that comes more than once, the first counts."""
    return {key: values[0] for key, values in parse_qs(text).items()}


async def answer_while_there(
    scope: dict[str, Any],
    receive: Receive,
    send: Send,
    *,
    work: Callable[[Asked], Awaitable[None]],
    refuse: Callable[[Asked, NekkoError | None], Awaitable[None]],
    max_body_bytes: int | None = None,
) -> None:
    """Answer one request until it is answered or its client has hung up.

    Args:
        work: Answers. What it raises after it has begun breaks the answer off.
        refuse: Tells of an error that `work` raised; of None where that was a bug, which is logged.
        max_body_bytes: Size of the largest body; without it bodies are not looked at.
    """
    is_begun = False

    async def watched(message: dict[str, Any]) -> None:
        nonlocal is_begun
        is_begun = True
        await send(message)

    asked = Asked.of(scope, watched)
    async with trio.open_nursery() as nursery:
        try:
            if max_body_bytes is not None:
                asked = replace(asked, body=await _read_body(receive, max_body_bytes))
            nursery.start_soon(cancel_when_gone, receive, nursery.cancel_scope)
            await work(asked)
        except NekkoError as error:
            await refuse(asked, error)
        except Exception as error:
            if is_begun:
                raise  # the server closes the connection
            log.error("unexpected error in a request", exc_info=error)
            await refuse(asked, None)
        nursery.cancel_scope.cancel()


async def _read_body(receive: Receive, max_bytes: int) -> bytes:
    body, is_more = bytearray(), True
    while is_more:
        message = await receive()
        body += message.get("body", b"")
        is_more = message.get("more_body", False)
        if len(body) > max_bytes:
            raise BodyTooLargeError(f"the body is larger than {max_bytes} bytes (maxRequestBody)")
    return bytes(body)
