"""Plain web servers as an upstream: one file behind one URL, its digest known only after its last byte."""

from collections.abc import Sequence
from functools import partial

import trio

from nekko.oci import mediatype
from nekko.oci.artifact import file_artifact
from nekko.sources.credentials import Credentials
from nekko.sources.http import HttpLocator
from nekko.upstream.base import Assembly, File, Files, Known, Resolution, StoredFile, Unchanged, Validators
from nekko.upstream.client import HttpClient
from nekko.upstream.credentials import configured_header
from nekko.upstream.faults import refusal, where_of
from nekko.upstream.remote import HttpRemote, validators_of


class HttpUpstream:
    """Resolves `http://` and `https://` locators."""

    def __init__(self, client: HttpClient, threads: trio.CapacityLimiter) -> None:
        self._client = client
        self._threads = threads

    async def resolve(
        self, locator: HttpLocator, *, credentials: Credentials | None = None, known: Known | None = None
    ) -> Resolution:
        """Give the one file; ask first only if `known` could spare fetching it. See `upstream.base.Upstream`."""
        given = credentials or locator.credentials
        authorization = given.header if given else configured_header(self._client.rules(locator.host))
        if (
            known is not None
            and known.validators
            and await self._is_unchanged(locator, authorization, known.validators)
        ):
            return Unchanged()
        remote = HttpRemote(
            locator.url, locator.host, partial(self._client.send, authorization=authorization),
            self._client.stall_seconds(locator.host), self._threads, send_plain=self._client.send,
        )  # fmt: skip
        return Files((File(locator.file_name, remote),), partial(_assemble, locator))

    async def _is_unchanged(self, locator: HttpLocator, authorization: str | None, held: Validators) -> bool:
        conditions = {"If-None-Match": held.etag, "If-Modified-Since": None if held.etag else held.last_modified}
        headers = {name: value for name, value in conditions.items() if value is not None}
        async with self._client.send("HEAD", locator.url, headers=headers, authorization=authorization) as response:
            if response.status_code == 304:
                return True
            if response.status_code in (403, 405, 501):  # no HEAD here: a GET will tell
                return False
            if response.status_code != 200:
                raise await refusal(response, where_of(locator.url))
            now = validators_of(response)
            return now.if_range is not None and now == held


def _assemble(locator: HttpLocator, stored: Sequence[StoredFile]) -> Assembly:
    (file,) = stored
    manifest, blobs = file_artifact(
        file.name, file.digest, file.size, url=locator.given,
        etag=file.validators.etag, last_modified=file.validators.last_modified,
    )  # fmt: skip
    return Assembly(manifest, mediatype.OCI_MANIFEST, file.digest, blobs)
