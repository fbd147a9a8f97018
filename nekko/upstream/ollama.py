"""Ollama's registry, and those that speak its dialect, as an upstream.

It is the distribution protocol with exceptions: no ping and no HEAD of a manifest, a Content-Type that says nothing, no
digest told for a manifest. So the manifest is always asked for by GET and tag, and its digest is computed.
Source: server/images.go and server/download.go of ollama/ollama.
"""

import json

import httpx
import trio

from nekko.config.settings import Settings
from nekko.errors import UpstreamNotFoundError
from nekko.oci.digest import Digest
from nekko.oci.mediatype import DOCKER_MANIFEST
from nekko.sources.credentials import Credentials
from nekko.sources.ollama import OLLAMA, OllamaLocator
from nekko.upstream.base import Known, Resolution, Unchanged
from nekko.upstream.client import HttpClient
from nekko.upstream.credentials import RegistryLogin
from nekko.upstream.faults import read_small, refusal
from nekko.upstream.registry import OciImage, root_of
from nekko.upstream.repository import OciRepository
from nekko.upstream.session import Places, Session, Silences
from nekko.upstream.tokens import TokenSource


class OllamaUpstream:
    """Resolves `ollama://` locators."""

    def __init__(self, client: HttpClient, settings: Settings, threads: trio.CapacityLimiter) -> None:
        self._client = client
        self._settings = settings
        self._threads = threads

    async def resolve(
        self, locator: OllamaLocator, *, credentials: Credentials | None = None, known: Known | None = None
    ) -> Resolution:
        """Fetch the manifest. See `upstream.base.Upstream`."""
        session = self._session(locator, credentials)
        url = f"{session.base}/manifests/{locator.tag}"
        async with session.send("GET", url, headers={"Accept": DOCKER_MANIFEST}) as response:
            if response.status_code != 200:
                fault = await refusal(response, url)
                if response.status_code == 400:  # hf.co, of a tag that is no quantization of the model
                    fault = UpstreamNotFoundError(str(fault), status=400)
                raise fault
            raw = await read_small(response, url, max_bytes=self._settings.max_manifest_bytes)
        digest = Digest.of(raw)
        if known is not None and known.root == digest:
            return Unchanged()
        root = root_of(raw, _own_type(raw), digest, url, self._settings)
        return OciImage(root, raw, _only(session), self._threads)

    def check(self, locator: OllamaLocator) -> None:
        """Refuse what the fetch policy keeps this node from asking for; sends nothing.

        Raises:
            UpstreamForbiddenError: The registry is denied, or not allowed.
        """
        self._client.check(httpx.URL(self._url(locator)))

    def repository(self, locator: OllamaLocator) -> OciRepository:
        """Open the repository of a model, with the configured token."""
        return OciRepository(_only(self._session(locator, None)), self._settings, self._threads)

    def _url(self, locator: OllamaLocator) -> str:
        if locator.host == OLLAMA:
            return self._settings.ollama_endpoint
        return f"{self._client.scheme(locator.host)}://{locator.host}"

    def _session(self, locator: OllamaLocator, credentials: Credentials | None) -> Session:
        token = credentials.secret if credentials else self._client.rules(locator.host).token
        login = None if token is None else RegistryLogin("bearer", token)
        url, repository = self._url(locator), f"{locator.namespace}/{locator.model}"
        tokens = TokenSource(self._client, url, login)
        return Session(self._client, f"{url}/v2/{repository}", locator.host, repository, tokens)


def _only(session: Session) -> Places:
    return Places((session,), Silences())


def _own_type(raw: bytes) -> str:
    """Give the type that a manifest says it is of; without one, Ollama's readers take it for Docker's."""
    try:
        own = json.loads(raw)["mediaType"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return DOCKER_MANIFEST
    return own if isinstance(own, str) else DOCKER_MANIFEST
