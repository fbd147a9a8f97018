"""Signatures of requests to S3 and other services of AWS. Pure: a request in, its headers out.

Source: Amazon S3's API reference, "Authenticating Requests (AWS Signature Version 4)".
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote, urlsplit

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs with one key pair for one region of one service."""

    access_key: str
    secret_key: str = field(repr=False)
    region: str
    service: str = "s3"

    def sign(
        self, method: str, url: str, headers: Mapping[str, str], *, payload_sha256: str, now: datetime
    ) -> tuple[dict[str, str], str]:
        """Sign a request.

        Args:
            method: Of the request.
            url: Its path and query percent-encoded, each parameter with a value, if only an empty one: `a=1&b=`.
            headers: To be signed with those that this adds; Host is taken from the URL.
            payload_sha256: Of the body, in hex.
            now: In UTC.

        Returns:
            All headers to send, and the value of Authorization.
        """
        parts, stamp = urlsplit(url), now.strftime("%Y%m%dT%H%M%SZ")
        sent = {name.lower(): value for name, value in headers.items()}
        sent |= {"x-amz-content-sha256": payload_sha256, "x-amz-date": stamp}
        signed = sorted((sent | {"host": parts.netloc}).items())
        names = ";".join(name for name, _ in signed)
        lines = "".join(f"{name}:{value.strip()}\n" for name, value in signed)
        query = "&".join(sorted(parts.query.split("&")))
        canonical = f"{method}\n{parts.path or '/'}\n{query}\n{lines}\n{names}\n{payload_sha256}"
        scope = f"{stamp[:8]}/{self.region}/{self.service}/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{self.secret_key}".encode()
        for step in scope.split("/"):
            key = hmac.digest(key, step.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        credential = f"{self.access_key}/{scope}"
        return sent, f"AWS4-HMAC-SHA256 Credential={credential},SignedHeaders={names},Signature={signature}"


def quoted(key: str) -> str:
    """Percent-encode the key of an object, as the signature counts it."""
    return quote(key, safe="/-_.~")
