"""One URL as a remote: a GET, from an offset where that is safe. Source: RFC 9110, sections 13 and 14."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import httpx
import trio

from nekko.errors import UpstreamContentError, UpstreamDeniedError, UpstreamUnavailableError
from nekko.oci.digest import Digest
from nekko.oci.ranges import parse_content_range
from nekko.upstream.base import Body, Remote, Validators
from nekko.upstream.body import HttpBody
from nekko.upstream.faults import refusal, where_of


class Send(Protocol):
    """Sends an authorised GET to this remote's host (`HttpClient.send`, or a registry's session)."""

    def __call__(
        self, method: str, url: str, *, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[httpx.Response]: ...


@dataclass(frozen=True, slots=True)
class HttpRemote:
    """A blob or file behind one URL; see `upstream.base.Remote`."""

    url: str
    host: str
    send: Send
    stall_seconds: float
    threads: trio.CapacityLimiter
    digest: Digest | None = None
    size: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    send_plain: Send | None = None
    """Sends a GET without credentials, to where a redirect led before; None: every part asks its way anew."""
    fallback: Remote | None = None

    @property
    def where(self) -> str:
        return where_of(self.url)

    @asynccontextmanager
    async def open(
        self,
        *,
        offset: int = 0,
        end: int | None = None,
        validators: Validators | None = None,
        beside: Body | None = None,
    ) -> AsyncIterator[Body]:
        """Ask for the bytes from `offset` to `end`; see `upstream.base.Remote.open`."""
        condition = validators.if_range if validators else None
        get = partial(self._get, beside.response.url if isinstance(beside, HttpBody) else None)
        if (offset or end is not None) and (self.digest is not None or condition is not None):
            part = f"bytes={offset}-{'' if end is None else end - 1}"
            async with get({"Range": part} | ({"If-Range": condition} if condition else {})) as response:
                if response.status_code != 416:
                    yield await self._body(response, offset, end)
                    return
        async with get({}) as response:
            yield await self._body(response, 0, None)

    def _get(self, at: httpx.URL | None, headers: Mapping[str, str]) -> AbstractAsyncContextManager[httpx.Response]:
        headers = {**self.headers, **headers}
        if at is not None and self.send_plain is not None and self._is_elsewhere(at):
            return self.send_plain("GET", str(at), headers=headers)
        return self.send("GET", self.url, headers=headers)

    def _is_elsewhere(self, url: httpx.URL) -> bool:
        return url.host != httpx.URL(self.url).host

    async def _body(self, response: httpx.Response, asked: int, end: int | None) -> HttpBody:
        if response.status_code not in (200, 206):
            fault = await refusal(response, self.where)
            if isinstance(fault, UpstreamDeniedError) and self._is_elsewhere(response.url):
                # A signed link to another host has run out; the next try gets a new one.
                fault = UpstreamUnavailableError(str(fault), status=fault.status)
            raise fault
        encoding = response.headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            raise UpstreamContentError(f"{self.where}: answered with Content-Encoding {encoding[:40]}, unasked")
        length = _content_length(response)
        offset, size = 0, length
        takes_ranges = "bytes" in response.headers.get("accept-ranges", "").lower()
        if response.status_code == 206:
            part = parse_content_range(response.headers.get("content-range", ""))
            wanted_end = end if part is None or end is not None else part.size
            if part is None or part.start != asked or (wanted_end is not None and part.end != wanted_end):
                given, to = response.headers.get("content-range", "none")[:80], "" if end is None else end - 1
                raise UpstreamContentError(f"{self.where}: asked for bytes {asked}-{to}, got Content-Range {given}")
            offset, takes_ranges = part.start, True
            size = part.end if part.size is None and end is None else part.size
        return HttpBody(
            response, self.where, offset, size, length, validators_of(response), takes_ranges, self.stall_seconds,
            self.threads,
        )  # fmt: skip


def validators_of(response: httpx.Response) -> Validators:
    """Read the validators of an answer."""
    return Validators(response.headers.get("etag"), response.headers.get("last-modified"))


def _content_length(response: httpx.Response) -> int | None:
    """Read Content-Length; h11 has refused one that is no number, and a chunked body has none that counts."""
    value = response.headers.get("content-length")
    return None if value is None or "transfer-encoding" in response.headers else int(value)
