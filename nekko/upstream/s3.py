"""An object store that speaks S3 (Amazon's, Ceph, MinIO, SeaweedFS): files are objects of one bucket, by their hash."""

import base64
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx
import trio

from nekko.config.settings import Settings
from nekko.oci.digest import Digest
from nekko.upstream.base import ObjectStat, Remote
from nekko.upstream.client import HttpClient
from nekko.upstream.faults import refusal, where_of
from nekko.upstream.remote import HttpRemote
from nekko.upstream.sigv4 import EMPTY_SHA256, Signer, quoted


class S3:
    """One bucket: an `upstream.base.Objects`."""

    def __init__(self, client: HttpClient, settings: Settings, threads: trio.CapacityLimiter) -> None:
        """Reach the bucket that the settings name; they do name one."""
        assert settings.s3_endpoint is not None
        self._client = client
        self._settings = settings
        self._threads = threads
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

    async def put(self, digest: Digest, size: int, content: AsyncIterable[bytes], *, replaces: bool) -> None:
        """Write a file's object; see `upstream.base.Objects`.

        The store is told the file's hash twice: in the signature, and as the checksum that it keeps. Source: Amazon
        S3's API reference, PutObject, and "Conditional writes".
        """
        url, checksum = self._url(digest), base64.b64encode(bytes.fromhex(digest.encoded)).decode()
        headers = {"content-length": str(size), "x-amz-checksum-sha256": checksum}
        if not replaces:
            headers["if-none-match"] = "*"
        async with self._send("PUT", url, headers=headers, payload_sha256=digest.encoded, content=content) as response:
            if response.status_code not in (200, 412):
                raise await refusal(response, where_of(url))

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
        content: AsyncIterable[bytes] | None = None,
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
