"""OCI registries as an upstream. Source: OCI distribution specification, pull; see also `tokens`."""

import logging
import os
from dataclasses import dataclass

import httpx
import trio

from nekko.config.settings import Settings
from nekko.errors import DigestInvalidError, ManifestInvalidError, UpstreamContentError, UpstreamError
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
from nekko.upstream.session import Places, Session, Silences
from nekko.upstream.tokens import TokenSource

log = logging.getLogger(__name__)

_TYPES = (mediatype.OCI_INDEX, mediatype.DOCKER_INDEX, mediatype.OCI_MANIFEST, mediatype.DOCKER_MANIFEST)
ACCEPT = ", ".join((*_TYPES, "*/*;q=0.1"))


class OciUpstream:
    """Resolves `oci://` locators."""

    def __init__(self, client: HttpClient, settings: Settings, threads: trio.CapacityLimiter) -> None:
        self._client = client
        self._settings = settings
        self._threads = threads
        self._ecr = EcrLogins(client, os.environ)
        self._silences = Silences()
        self._shared: dict[tuple[str, RegistryLogin | None], TokenSource] = {}

    async def resolve(
        self, locator: OciLocator, *, credentials: Credentials | None = None, known: Known | None = None
    ) -> Resolution:
        """Fetch the root manifest; ask by HEAD first if `known` could spare that. See `upstream.base.Upstream`.

        A HEAD does not count against Docker Hub's limit of pulls.
        """
        reference = locator.reference

        async def root_at(session: Session) -> tuple[Descriptor, bytes] | None:
            url = f"{session.base}/manifests/{reference.digest or reference.tag}"
            if known is not None and await _is_unchanged(session, url, known.root):
                return None
            return await _fetch_root(session, url, reference.digest, self._settings)

        found, places = await (await self.places(reference, credentials or locator.credentials)).ask(root_at)
        return OciImage(*found, places, self._threads) if found is not None else Unchanged()

    def check(self, reference: Reference) -> None:
        """Refuse what the fetch policy keeps this node from asking for; sends nothing.

        Raises:
            UpstreamForbiddenError: The registry is denied, or not allowed.
        """
        self._client.check(httpx.URL(self._url(reference.registry)))

    async def places(self, reference: Reference, credentials: Credentials | None = None) -> Places:
        """Say where the repository of a reference is asked.

        Args:
            credentials: The login of one request, which its registry is shown and no mirror; else the configured one.
        """
        registry, sessions = reference.registry, list[Session]()
        for mirror in self._client.rules(registry).mirrors:
            host, slash, prefix = mirror.partition("/")
            if self._silences.covers(host):
                continue
            try:
                tokens = await self._tokens(host)
            except UpstreamError as error:  # no token of a provider
                log.info("%s; asking elsewhere for %s", error, registry)
                continue
            repository = f"{prefix}{slash}{reference.repository}"
            sessions.append(Session(
                self._client, f"{self._url(host)}/v2/{repository}", _answering(host), repository, tokens, registry
            ))  # fmt: skip
        if credentials is not None:  # of one request: its tokens are not for others
            tokens = TokenSource(self._client, self._url(registry), RegistryLogin.of_request(credentials))
        else:
            tokens = await self._tokens(registry)
        base = f"{self._url(registry)}/v2/{reference.repository}"
        sessions.append(Session(self._client, base, _answering(registry), reference.repository, tokens))
        return Places(tuple(sessions), self._silences)

    async def _tokens(self, registry: str) -> TokenSource:
        """Give the tokens of the configured login, which all requests share."""
        rules, url = self._client.rules(registry), self._url(registry)
        if rules.token_provider is None:
            login = await configured_login(registry, rules, self._settings.docker_config)
        else:
            login = await self._ecr.login(registry, rules)
        return self._shared.setdefault((url, login), TokenSource(self._client, url, login))

    def _url(self, registry: str) -> str:
        return f"{self._client.scheme(registry)}://{_answering(registry)}"


@dataclass(frozen=True, slots=True)
class OciImage:
    """A resolved reference; see `upstream.base.Image`."""

    root: Descriptor
    body: bytes
    places: Places
    threads: trio.CapacityLimiter

    def remote(self, descriptor: Descriptor) -> Remote:
        """Give the remote of a manifest or blob of this repository."""
        return self.places.remote(descriptor.digest, descriptor.size, descriptor.media_type, self.threads)


def _answering(registry: str) -> str:
    """Give the host that answers for a registry."""
    return DOCKER_HUB_API if registry == DOCKER_HUB else registry


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
