"""The body of an upload, read piece by piece."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import trio

from nekko.api.blobs import Receive
from nekko.config.settings import Settings
from nekko.errors import BodyCutError, BodyTooLargeError, BodyTypeError


@dataclass(frozen=True, slots=True)
class Body:
    """One request's body. `size` in bytes, None where the request does not tell."""

    size: int | None
    content_type: str
    receive: Receive
    settings: Settings

    def check(self) -> None:
        """Refuse by its headers what cannot be taken.

        Raises:
            BodyTypeError: The file is wrapped in a form.
            BodyTooLargeError: It is larger than may be uploaded.
        """
        if self.content_type.startswith("multipart/"):
            raise BodyTypeError("the body is a form: send the file itself, as `curl --data-binary @file` does")
        self._check_size(self.size or 0)

    def _check_size(self, size: int) -> None:
        limit = self.settings.max_upload_bytes
        if limit is not None and size > limit:
            raise BodyTooLargeError(f"the file has more than the {limit} bytes that are taken (maxUploadSize)")

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Receive it. A client that waits for `100 Continue` is told to send.

        Raises:
            BodyCutError: It ended early, or stalled.
            BodyTooLargeError: It is larger than may be uploaded.
        """
        received, has_more = 0, True
        seconds = self.settings.send_timeout_seconds
        while has_more:
            with trio.move_on_after(seconds) as waiting:
                event = await self.receive()
            if waiting.cancelled_caught:
                raise BodyCutError(f"no byte of the body arrived for {seconds:g} seconds")
            if event["type"] != "http.request":
                raise BodyCutError(f"the body was cut after {received} bytes")
            has_more = event["more_body"]
            received += len(event["body"])
            self._check_size(received)
            if event["body"]:
                yield event["body"]


def body_of(scope: Any, receive: Receive, settings: Settings) -> Body:
    """Give the body of a request."""
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    size = None if b"transfer-encoding" in headers else int(headers.get(b"content-length", "0"))
    return Body(size, headers.get(b"content-type", "").lower(), receive, settings)
