"""An object store that speaks S3 (Amazon's, Ceph, MinIO, SeaweedFS): files are objects of one bucket, by their hash."""

import base64
import hashlib
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from urllib.parse import urlsplit

import httpx
import trio

from nekko.config.settings import Settings
from nekko.errors import UpstreamError, UpstreamStatusError
from nekko.oci.digest import Digest
from nekko.upstream import multipart
from nekko.upstream.base import ObjectStat, Payload, Remote
from nekko.upstream.client import HttpClient
from nekko.upstream.faults import read_small, refusal, where_of
from nekko.upstream.remote import HttpRemote
from nekko.upstream.sigv4 import EMPTY_SHA256, Signer, quoted

log = logging.getLogger(__name__)

ABORT_SECONDS = 10.0
PRECONDITION_FAILED = 412
UNCONDITIONAL = (400, 501)
"""What stores that know no conditional writes answer to one."""


class S3:
    """One bucket: an `upstream.base.Objects`."""

    def __init__(self, client: HttpClient, settings: Settings, threads: trio.CapacityLimiter) -> None:
        """Reach the bucket that the settings name; they do name one."""
        assert settings.s3_endpoint is not None
        self._client = client
        self._settings = settings
        self._threads = threads
        self._takes_conditions = True
        self._signer = None
        if settings.s3_access_key is not None and settings.s3_secret_key is not None:
            self._signer = Signer(settings.s3_access_key, settings.s3_secret_key, settings.s3_region)
        endpoint, bucket = urlsplit(settings.s3_endpoint), settings.s3_bucket
        self._base = f"{endpoint.scheme}://{endpoint.netloc}{endpoint.path}/{bucket}"
        if settings.s3_virtual_host:
            self._base = f"{endpoint.scheme}://{bucket}.{endpoint.netloc}{endpoint.path}"

    def remote(self, digest: Digest, size: int) -> Remote:
        """Give the object of a file as something that can be fetched."""
        url = self._url(digest)
        return HttpRemote(
            url, urlsplit(url).netloc, self._send, self._settings.stall_timeout_seconds, self._threads, digest, size
        )

    async def stat(self, digest: Digest) -> ObjectStat | None:
        """Ask for size and age of a file's object; None if there is none.

        Raises:
            UpstreamError: The store does not say.
        """
        url = self._url(digest)
        async with self._send("HEAD", url, headers={}) as response:
            if response.status_code == 404:
                return None
            if response.status_code != 200:
                raise await refusal(response, where_of(url))
            modified = response.headers.get("last-modified")
            return ObjectStat(int(response.headers.get("content-length", "0")), _seconds(modified))

    async def check(self) -> None:
        """Have one name of the bucket listed: unlike that of a HEAD, the answer to this says what is wrong."""
        await self._ask("GET", f"{self._base}/?list-type=2&max-keys=1")

    async def put(self, digest: Digest, size: int, content: Payload, *, replaces: bool) -> None:
        """Write a file's object; see `upstream.base.Objects`."""
        try:
            if size <= self._settings.s3_part_size_bytes:
                await self._unless_there(partial(self._put_whole, digest, size, content), replaces=replaces)
            else:
                await self._put_parts(self._url(digest), size, content, replaces=replaces)
        except UpstreamStatusError as error:
            if error.status != PRECONDITION_FAILED:
                raise  # else another node was faster

    async def _put_whole(self, digest: Digest, size: int, content: Payload, condition: Mapping[str, str]) -> None:
        """Write an object by one request.

        The store is told the file's hash twice: in the signature, and as the checksum that it keeps. Source: Amazon
        S3's API reference, PutObject.
        """
        url, checksum = self._url(digest), base64.b64encode(bytes.fromhex(digest.encoded)).decode()
        headers = {"content-length": str(size), "x-amz-checksum-sha256": checksum, **condition}
        async with self._send("PUT", url, headers=headers, payload_sha256=digest.encoded, content=content) as response:
            if response.status_code != 200:
                raise await refusal(response, where_of(url))

    async def _put_parts(self, url: str, size: int, content: Payload, *, replaces: bool) -> None:
        """Write an object part after part; after a failure or a cancellation the store is told to drop them."""
        parts = await content.parts(multipart.part_size(size, self._settings.s3_part_size_bytes))
        upload = multipart.upload_in(await self._ask("POST", multipart.begun(url)), where_of(url))
        try:
            etags = [await self._put_part(multipart.part(url, upload, n), part) for n, part in enumerate(parts, 1)]
            complete = partial(self._complete, multipart.whole(url, upload), multipart.completion(etags))
            await self._unless_there(complete, replaces=replaces)
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + ABORT_SECONDS):
                await self._abort(multipart.whole(url, upload))
            raise

    async def _put_part(self, url: str, part: Payload) -> str:
        headers = {"content-length": str(part.size)}
        sha = part.digest.encoded
        async with self._send("PUT", url, headers=headers, payload_sha256=sha, content=part) as response:
            if response.status_code != 200 or "etag" not in response.headers:
                raise await refusal(response, where_of(url))
            return str(response.headers["etag"])

    async def _complete(self, url: str, body: bytes, condition: Mapping[str, str]) -> None:
        answer = await self._ask("POST", url, body=body, headers=condition)
        multipart.check_completed(answer, where_of(url))

    async def _abort(self, url: str) -> None:
        try:
            await self._ask("DELETE", url, accepted=(200, 204, 404))
        except UpstreamError as error:
            log.warning("parts of an upload stay in the object store until it drops them by itself: %s", error)

    async def _unless_there(self, write: Callable[[Mapping[str, str]], Awaitable[None]], *, replaces: bool) -> None:
        """Write under the condition that there is no object yet; without it where the store does not take one.

        Source: Amazon S3's user guide, "Conditional writes".
        """
        if replaces or not self._takes_conditions:
            await write({})
            return
        try:
            await write({"if-none-match": "*"})
        except UpstreamStatusError as error:
            if error.status not in UNCONDITIONAL:
                raise
            await write({})
            self._takes_conditions = False
            log.info("the object store takes no If-None-Match: %s", error)

    async def _ask(
        self,
        method: str,
        url: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        accepted: Sequence[int] = (200,),
    ) -> bytes:
        """Send a short request and give its short answer."""
        sha = hashlib.sha256(body).hexdigest()
        async with self._send(method, url, headers=headers or {}, payload_sha256=sha, content=body) as response:
            if response.status_code not in accepted:
                raise await refusal(response, where_of(url))
            return await read_small(response, where_of(url), max_bytes=multipart.MAX_ANSWER_BYTES)

    def _url(self, digest: Digest) -> str:
        sha = digest.encoded
        key = self._settings.s3_key.format(a=sha[:2], b=sha[2:4], c=sha[4:6], sha256=sha)
        return f"{self._base}/{quoted(key)}"

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        payload_sha256: str = EMPTY_SHA256,
        content: bytes | AsyncIterable[bytes] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        sent, authorization = dict(headers), None
        if self._signer is not None:
            # Headers of the store's own must be signed; others, such as Range, may be sent all the same.
            own = {name: value for name, value in headers.items() if name.startswith("x-amz-")}
            signed, authorization = self._signer.sign(
                method, url, own, payload_sha256=payload_sha256, now=datetime.now(UTC)
            )
            sent |= signed
        async with self._client.send(
            method, url, headers=sent, authorization=authorization, content=content
        ) as response:
            yield response


def _seconds(modified: str | None) -> float | None:
    try:
        return None if modified is None else parsedate_to_datetime(modified).timestamp()
    except ValueError:
        return None
