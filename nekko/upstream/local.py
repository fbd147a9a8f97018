"""The daemon of this node that has the cache, as another process of nekko asks it: JSON over its Unix socket."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from nekko.errors import (
    AccessDeniedError,
    CacheAwayError,
    CapacityError,
    ConflictError,
    HostError,
    NekkoError,
    NotFoundError,
    RequestInvalidError,
    UpstreamError,
)

CONNECT_SECONDS = 10.0
"""A socket of systemd takes connections at once. An answer has no limit: a pull takes as long as it takes."""
_BY_STATUS: Mapping[int, type[NekkoError]] = {
    400: RequestInvalidError, 403: AccessDeniedError, 404: NotFoundError, 409: ConflictError, 502: UpstreamError,
    503: UpstreamError, 504: UpstreamError, 507: CapacityError,
}  # fmt: skip


class LocalDaemon:
    """That daemon; an async context manager that closes its connections."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket)), base_url="http://nekko",
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS), trust_env=False,
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a request; give what the JSON of its answer says, None where there is none.

        Raises:
            CacheAwayError: It does not answer, or broke off.
            NekkoError: What it refused, by the nearest class of its status.

        Cancellation: The connection is dropped.
        """
        try:
            answer = await self._client.request(method, path, json=body)
            told = answer.json() if answer.content else None
        except (httpx.TransportError, ValueError) as error:
            raise CacheAwayError(self._socket, str(error) or type(error).__name__) from error
        if answer.is_error:
            detail = told.get("detail") if isinstance(told, dict) else None
            raise _BY_STATUS.get(answer.status_code, HostError)(
                str(detail or f"the daemon at {self._socket} answered with status {answer.status_code}")
            )
        return told
