"""Amazon's ECR on a scripted far end: gives tokens for signatures that it has worked out by itself."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from tests.fakes.far_end import FarEnd, Request, status, whole

NEEDED = {"content-type", "host", "x-amz-date", "x-amz-target"}


@dataclass
class FakeEcr:
    """Answers `POST /` of a far end. `tokens` are those that it has given."""

    far: FarEnd
    access_key: str = "AKIDEXAMPLE"
    secret_key: str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    session_token: str | None = None
    region: str = "eu-west-1"
    expires_at: float = 4102444800.5
    tokens: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.far.on("/", self.answer)

    async def answer(self, stream: trio.SocketStream, request: Request) -> None:
        fault = self._fault(request)
        if fault is not None:
            body = {"__type": fault, "message": "look at your request"}
            await status(400, body=json.dumps(body).encode())(stream, request)
            return
        self.tokens.append(base64.b64encode(f"AWS:password{len(self.tokens)}".encode()).decode())
        data = {
            "authorizationToken": self.tokens[-1], "expiresAt": self.expires_at, "proxyEndpoint": "https://registry",
        }  # fmt: skip
        await whole(json.dumps({"authorizationData": [data]}).encode(), etag=None)(stream, request)

    def _fault(self, request: Request) -> str | None:
        headers = request.headers
        target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
        if request.method != "POST" or headers.get("x-amz-target") != target or json.loads(request.body) != {}:
            return "UnknownOperationException"
        if headers.get("content-type") != "application/x-amz-json-1.1":
            return "SerializationException"
        if headers.get("x-amz-security-token") != self.session_token:
            return "UnrecognizedClientException"
        scheme, _, rest = headers.get("authorization", "").partition(" ")
        given = dict(part.strip().split("=", 1) for part in rest.split(","))
        stamp = headers.get("x-amz-date", "")
        scope = f"{stamp[:8]}/{self.region}/ecr/aws4_request"
        if scheme != "AWS4-HMAC-SHA256" or given.get("Credential") != f"{self.access_key}/{scope}":
            return "InvalidSignatureException"
        names = given["SignedHeaders"].split(";")
        must = NEEDED | ({"x-amz-security-token"} if self.session_token else set())
        if names != sorted(names) or not must <= set(names):
            return "InvalidSignatureException"
        is_right = hmac.compare_digest(given["Signature"], self._signature(request, headers, names, stamp, scope))
        return None if is_right else "InvalidSignatureException"

    def _signature(self, request: Request, headers: Mapping[str, str], names: list[str], stamp: str, scope: str) -> str:
        lines = [request.method, "/", "", *(f"{name}:{headers[name]}" for name in names), "", ";".join(names)]
        canonical = "\n".join([*lines, hashlib.sha256(request.body).hexdigest()])
        text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = b"AWS4" + self.secret_key.encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
