"""OCI registries as an upstream. Source: OCI distribution specification, pull; see also `tokens`."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import trio

from nekko.config.settings import Settings
from nekko.errors import DigestInvalidError, ManifestInvalidError, UpstreamContentError
from nekko.oci import manifest, mediatype
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.reference import DOCKER_HUB, DOCKER_HUB_API, Reference
from nekko.sources.credentials import Credentials
from nekko.sources.oci import OciLocator
from nekko.upstream.base import Known, Remote, Resolution, Unchanged
from nekko.upstream.client import HttpClient
from nekko.upstream.credentials import RegistryLogin, configured_login
from nekko.upstream.ecr import EcrLogins
from nekko.upstream.faults import read_small, refusal
from nekko.upstream.remote import HttpRemote
from nekko.upstream.tokens import TokenSource

_TYPES = (mediatype.OCI_INDEX, mediatype.DOCKER_INDEX, mediatype.OCI_MANIFEST, mediatype.DOCKER_MANIFEST)
ACCEPT = ", ".join((*_TYPES, "*/*;q=0.1"))


class OciUpstream:
    """Resolves `oci://` locators."""

    def __init__(self, client: HttpClient, settings: Settings, threads: trio.CapacityLimiter) -> None:
        self._client = client
        self._settings = settings
        self._threads = threads
        self._ecr = EcrLogins(client, os.environ)
        self._shared: dict[tuple[str, RegistryLogin | None], TokenSource] = {}

    async def resolve(
        self, locator: OciLocator, *, credentials: Credentials | None = None, known: Known | None = None
    ) -> Resolution:
        """Fetch the root manifest; ask by HEAD first if `known` could spare that. See `upstream.base.Upstream`.

        A HEAD does not count against Docker Hub's limit of pulls.
        """
        reference = locator.reference
        session = await self.session(reference, credentials or locator.credentials)
        url = f"{session.base}/manifests/{reference.digest or reference.tag}"
        if known is not None and await _is_unchanged(session, url, known.root):
            return Unchanged()
        root, body = await _fetch_root(session, url, reference.digest, self._settings)
        return OciImage(root, body, session, self._threads)

    def check(self, reference: Reference) -> None:
        """Refuse what the fetch policy keeps this node from asking for; sends nothing.

        Raises:
            UpstreamForbiddenError: The registry is denied, or not allowed.
        """
        self._client.check(httpx.URL(self._url(reference)))

    async def session(self, reference: Reference, credentials: Credentials | None = None) -> "Session":
        """Open the repository of a reference, with a login of one request or the configured one."""
        registry, url, host = reference.registry, self._url(reference), _host(reference)
        if credentials is not None:  # of one request: its tokens are not for others
            tokens = TokenSource(self._client, url, RegistryLogin.of_request(credentials))
        else:
            rules = self._client.rules(registry)
            if rules.token_provider is None:
                login = await configured_login(registry, rules, self._settings.docker_config)
            else:
                login = await self._ecr.login(registry, rules)
            tokens = self._shared.setdefault((url, login), TokenSource(self._client, url, login))
        return Session(self._client, f"{url}/v2/{reference.repository}", host, reference.repository, tokens)

    def _url(self, reference: Reference) -> str:
        return f"{self._client.scheme(reference.registry)}://{_host(reference)}"


@dataclass(frozen=True, slots=True)
class Session:
    """One repository, spoken to with one login. `base` is the URL of its API."""

    client: HttpClient
    base: str
    host: str
    repository: str
    tokens: TokenSource

    @asynccontextmanager
    async def send(self, method: str, url: str, *, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """Send a request with what the registry wants to see; one new token when the old one has run out."""
        scope = f"repository:{self.repository}:pull"
        header = self.tokens.header(scope)
        async with self.client.send(method, url, headers=headers, authorization=header) as response:
            if response.status_code != 401:
                yield response
                return
            header = await self.tokens.answer(response, scope, url)
        async with self.client.send(method, url, headers=headers, authorization=header) as response:
            if response.status_code == 401:
                raise self.tokens.refused(url)
            yield response


@dataclass(frozen=True, slots=True)
class OciImage:
    """A resolved reference; see `upstream.base.Image`."""

    root: Descriptor
    body: bytes
    session: Session
    threads: trio.CapacityLimiter

    def remote(self, descriptor: Descriptor) -> Remote:
        """Give the remote of a manifest or blob of this repository."""
        return remote_of(self.session, descriptor.digest, descriptor.size, descriptor.media_type, self.threads)


def remote_of(
    session: Session,
    digest: Digest,
    size: int | None,
    media_type: str | None,
    threads: trio.CapacityLimiter,
) -> Remote:
    """Give the remote of a blob of a repository, or of a manifest where the media type is one's."""
    is_manifest = media_type in mediatype.GRAPH
    return HttpRemote(
        f"{session.base}/{'manifests' if is_manifest else 'blobs'}/{digest}", session.host, session.send,
        session.client.stall_seconds(session.host), threads, digest, size,
        {"Accept": f"{media_type}, */*;q=0.1"} if is_manifest else {}, session.client.send,
    )  # fmt: skip


def _host(reference: Reference) -> str:
    return DOCKER_HUB_API if reference.registry == DOCKER_HUB else reference.registry


async def _is_unchanged(session: Session, url: str, root: Digest) -> bool:
    """Tell whether a reference still means `root`; False where a HEAD does not tell."""
    async with session.send("HEAD", url, headers={"Accept": ACCEPT}) as response:
        if response.status_code == 200:
            return bool(response.headers.get("docker-content-digest") == str(root))
        if response.status_code in (400, 405, 501):
            return False
        raise await refusal(response, url)


async def _fetch_root(
    session: Session, url: str, expected: Digest | None, settings: Settings
) -> tuple[Descriptor, bytes]:
    """Fetch what a reference means now, and prove it where the digest is known."""
    limit = settings.max_manifest_bytes
    async with session.send("GET", url, headers={"Accept": ACCEPT}) as response:
        if response.status_code != 200:
            raise await refusal(response, url)
        raw = await read_small(response, url, max_bytes=limit)
        told = response.headers.get("docker-content-digest")
        content_type = response.headers.get("content-type")
    expected = expected or _digest_told(told, url)
    digest = Digest.of(raw, expected.algorithm if expected else "sha256")
    if expected is not None and digest != expected:
        raise UpstreamContentError(f"{url}: expected {expected}, got a manifest with {digest}")
    return root_of(raw, content_type, digest, url, settings), raw


def root_of(raw: bytes, content_type: str | None, digest: Digest, url: str, settings: Settings) -> Descriptor:
    """Describe a root manifest that an upstream sent.

    Raises:
        UpstreamContentError: It is none.
    """
    try:
        parsed = manifest.parse(
            raw, content_type, max_bytes=settings.max_manifest_bytes, max_children=settings.max_graph_blobs
        )
    except ManifestInvalidError as error:
        raise UpstreamContentError(f"{url}: {error}") from error
    return Descriptor(parsed.media_type, digest, len(raw), artifact_type=parsed.artifact_type)


def _digest_told(header: str | None, url: str) -> Digest | None:
    """Read Docker-Content-Digest."""
    if header is None:
        return None
    try:
        return Digest.parse(header)
    except DigestInvalidError as error:
        raise UpstreamContentError(f"{url}: Docker-Content-Digest: {error}") from error
