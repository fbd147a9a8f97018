"""Registries that want to see credentials: tokens, refresh tokens, Basic, docker's config.json and its helpers."""

import base64
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trio

from nekko.config.settings import Host
from nekko.errors import UpstreamContentError, UpstreamDeniedError
from nekko.oci import mediatype
from nekko.sources.credentials import Credentials
from nekko.upstream.client import HttpClient
from nekko.upstream.credentials import RegistryLogin, configured_login
from nekko.upstream.tokens import TokenSource
from tests.fakes.far_end import Answer, FarEnd, Request, status, whole
from tests.fakes.registry import FakeRegistry, image
from tests.node import QUICK, Node, open_node

BODY = image([b"layer"])
BASIC = base64.b64encode(b"ann:s3cret").decode()


def guarded(answer: Answer, is_accepted: Callable[[str], bool], challenge: str) -> Answer:
    """Answer only requests whose Authorization is accepted."""

    async def guard(stream: trio.SocketStream, request: Request) -> None:
        if is_accepted(request.headers.get("authorization", "")):
            await answer(stream, request)
        else:
            await status(401, {"WWW-Authenticate": challenge})(stream, request)

    return guard


def serve_image(far: FarEnd, is_accepted: Callable[[str], bool], challenge: str) -> str:
    registry = FakeRegistry(far)
    manifest = whole(BODY, headers={"Content-Type": mediatype.OCI_MANIFEST})
    registry.manifest(BODY, "v1", guarded(manifest, is_accepted, challenge))
    registry.blob(b"layer", guarded(whole(b"layer"), is_accepted, challenge))
    registry.blob(b"{}", guarded(whole(b"{}"), is_accepted, challenge))
    return registry.reference()


def token(text: str, **more: object) -> Answer:
    return whole(json.dumps({"token": text, **more}).encode(), etag=None)


def token_path(far: FarEnd, query: str = "?service=s&scope=repository%3Aorg%2Fapp%3Apull") -> str:
    return f"/token{query}"


def bearer(far: FarEnd) -> str:
    return f'Bearer realm="{far.url("/token")}",service="s",scope="repository:org/app:pull"'


async def test_anonymous_token_is_asked_for_once_per_pull(node: Node, far: FarEnd) -> None:
    far.on(token_path(far), token("good"))
    url = serve_image(far, lambda header: header == "Bearer good", bearer(far))
    await node.pull(url)
    asked = far.asked(token_path(far))
    assert len(asked) == 1
    assert "authorization" not in asked[0].headers
    assert parse_qs(urlsplit(asked[0].path).query)["scope"] == ["repository:org/app:pull"]


async def test_password_goes_to_the_token_server_and_not_to_the_registry(node: Node, far: FarEnd) -> None:
    far.on(token_path(far), guarded(token("good"), lambda header: header == f"Basic {BASIC}", "Basic"))
    url = serve_image(far, lambda header: header == "Bearer good", bearer(far))
    await node.pull(url, credentials=Credentials("Basic", BASIC))
    assert {request.headers.get("authorization") for request in far.requests if request.path.startswith("/v2")} <= {
        None, "Bearer good",
    }  # fmt: skip


async def test_expired_token_is_replaced_in_the_middle_of_a_pull(node: Node, far: FarEnd) -> None:
    far.on(token_path(far), token("first", expires_in=3600), token("second", expires_in=3600))
    uses = {"Bearer first": 1, "Bearer second": 100}

    def is_accepted(header: str) -> bool:
        uses[header] = uses.get(header, 0) - 1
        return uses[header] >= 0

    await node.pull(serve_image(far, is_accepted, bearer(far)))
    assert len(far.asked(token_path(far))) >= 2


async def test_bearer_credentials_are_tried_as_they_are_and_then_as_refresh_token(node: Node, far: FarEnd) -> None:
    far.on("/token", token("access"))
    url = serve_image(far, lambda header: header == "Bearer access", bearer(far))
    await node.pull(url, credentials=Credentials("Bearer", "refresh-me"))
    assert far.requests[0].headers["authorization"] == "Bearer refresh-me"
    (exchange,) = far.asked("/token")
    form = parse_qs(exchange.body.decode())
    assert (exchange.method, form["grant_type"], form["refresh_token"]) == ("POST", ["refresh_token"], ["refresh-me"])


async def test_basic_registry(node: Node, far: FarEnd) -> None:
    url = serve_image(far, lambda header: header == f"Basic {BASIC}", 'Basic realm="r"')
    await node.pull(url, credentials=Credentials("Basic", BASIC))


async def test_refused_credentials_are_told_and_not_echoed(node: Node, far: FarEnd) -> None:
    url = serve_image(far, lambda _: False, 'Basic realm="r"')
    with pytest.raises(UpstreamDeniedError, match="the credentials are not accepted") as caught:
        await node.pull(url, credentials=Credentials("Basic", BASIC))
    assert BASIC not in str(caught.value)
    with pytest.raises(UpstreamDeniedError, match="credentials are needed"):
        await node.pull(url)


async def test_tokens_of_one_request_are_not_used_for_another(node: Node, far: FarEnd) -> None:
    far.on(token_path(far), guarded(token("good"), lambda header: header == f"Basic {BASIC}", "Basic"))
    url = serve_image(far, lambda header: header == "Bearer good", bearer(far))
    await node.pull(url, credentials=Credentials("Basic", BASIC))
    await node.pulls.remove(url.removeprefix("oci://"))
    with pytest.raises(UpstreamDeniedError):
        await node.pull(url)


@pytest.mark.parametrize("body", [b"{}", b"[]", b"nonsense", b'{"token": 5}', b'{"token": "a\\nb"}'], ids=repr)
async def test_unusable_token_answer_is_the_upstreams_fault(node: Node, far: FarEnd, body: bytes) -> None:
    far.on(token_path(far), whole(body, etag=None))
    with pytest.raises(UpstreamContentError, match="token server"):
        await node.pull(serve_image(far, lambda _: False, bearer(far)))


REALMS = {
    ("https://registry-1.docker.io", "https://auth.docker.io/token"): True,
    ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth"): True,
    ("https://ghcr.io", "https://ghcr.io/token"): True,
    ("https://ghcr.io", "https://evil.io/token"): False,
    ("https://registry.example.com", "https://example.com.evil.net/token"): False,
    ("https://registry.example.com", "http://registry.example.com/token"): False,
    ("http://registry.example.com", "http://auth.example.com/token"): True,
    ("https://10.0.0.1", "https://10.0.0.2/token"): False,
    ("https://127.0.0.1:5000", "https://127.0.0.1:5001/token"): True,
    ("https://registry.example.com", "file:///token"): False,
}


@pytest.mark.parametrize(("registry", "realm"), REALMS, ids=lambda value: value)
async def test_realm_must_belong_to_the_registry(node: Node, registry: str, realm: str) -> None:
    source = TokenSource(node.client, registry, RegistryLogin("login", "s3cret", "ann"))
    if REALMS[registry, realm]:
        source._check_realm(realm, registry)
    else:
        with pytest.raises(UpstreamDeniedError, match="credentials are not sent"):
            source._check_realm(realm, registry)


# --- configured credentials --------------------------------------------------------------------------------------------

AUTH = base64.b64encode(b"ann:s3cret").decode()
CONFIGS = {
    "auth": ({"auths": {"r.example": {"auth": AUTH}}}, RegistryLogin("login", "s3cret", "ann")),
    "user and password": (
        {"auths": {"https://r.example/v1/": {"username": "ann", "password": "s3cret"}}},
        RegistryLogin("login", "s3cret", "ann"),
    ),
    "identity": ({"auths": {"r.example": {"auth": AUTH, "identitytoken": "id"}}}, RegistryLogin("identity", "id")),
    "registry token": ({"auths": {"r.example": {"registrytoken": "tok"}}}, RegistryLogin("bearer", "tok")),
    "another host": ({"auths": {"other.example": {"auth": AUTH}}}, None),
    "empty": ({}, None),
    "damaged": ({"auths": {"r.example": {"auth": "!!"}}}, None),
    "no mapping": ({"auths": ["r.example"]}, None),
}


@pytest.mark.parametrize(("config", "expected"), CONFIGS.values(), ids=CONFIGS.keys())
async def test_docker_config_is_read(tmp_path: Path, config: object, expected: RegistryLogin | None) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert await configured_login("r.example", Host(), path) == expected


async def test_docker_hub_has_its_old_key(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": AUTH}}}))
    assert await configured_login("docker.io", Host(), path) == RegistryLogin("login", "s3cret", "ann")


async def test_settings_of_a_host_win(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {"r.example": {"auth": AUTH}}}))
    assert await configured_login("r.example", Host(token="t"), path) == RegistryLogin("bearer", "t")
    login = await configured_login("r.example", Host(username="u", password="p"), path)
    assert login == RegistryLogin("login", "p", "u")


async def test_helper_is_asked_and_a_broken_one_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    helper = tmp_path / "docker-credential-test"
    helper.write_text(
        '#!/bin/sh\nread server; echo "{\\"ServerURL\\":\\"$server\\",\\"Username\\":\\"u\\",\\"Secret\\":\\"of $server\\"}"\n'
    )
    helper.chmod(0o755)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"credHelpers": {"r.example": "test", "b.example": "missing"}}))
    assert await configured_login("r.example", Host(), path) == RegistryLogin("login", "of r.example", "u")
    assert await configured_login("b.example", Host(), path) is None
    assert "docker-credential-missing" in caplog.text
    helper.write_text("#!/bin/sh\necho credentials not found in native keychain\nexit 1\n")
    assert await configured_login("r.example", Host(), path) is None


async def test_missing_config_that_was_named_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert await configured_login("r.example", Host(), tmp_path / "none.json") is None
    assert "no such file" in caplog.text


async def test_configured_login_is_used(tmp_path: Path, far: FarEnd) -> None:
    url = serve_image(far, lambda header: header == f"Basic {BASIC}", 'Basic realm="r"')
    hosts = {far.host: Host(username="ann", password="s3cret")}
    async with open_node(tmp_path / "c", replace(QUICK, hosts=hosts)) as node:
        await node.pull(url)


async def test_client_drops_secrets_from_representations() -> None:
    assert "s3cret" not in repr(RegistryLogin("login", "s3cret", "ann"))
    assert "s3cret" not in repr(Credentials("Bearer", "s3cret"))
    async with HttpClient(QUICK) as client:
        assert "s3cret" not in repr(TokenSource(client, "https://h", RegistryLogin("login", "s3cret")))


async def test_basic_token_goes_as_it_is_and_unasked(tmp_path: Path, far: FarEnd) -> None:
    url = serve_image(far, lambda header: header == f"Basic {BASIC}", "Basic")
    settings = replace(QUICK, hosts={far.host: Host(scheme="http", basic_token=BASIC)})
    async with open_node(tmp_path / "c", settings) as node:
        await node.pull(url)
    assert all(each.headers["authorization"] == f"Basic {BASIC}" for each in far.requests)


async def test_basic_token_that_is_refused_is_told(tmp_path: Path, far: FarEnd) -> None:
    url = serve_image(far, lambda header: False, bearer(far))
    settings = replace(QUICK, hosts={far.host: Host(scheme="http", basic_token="stale")})
    async with open_node(tmp_path / "c", settings) as node:
        with pytest.raises(UpstreamDeniedError, match="the configured token is not accepted"):
            await node.pull(url)
    assert not far.asked(token_path(far))


async def test_password_of_the_environment_wins(tmp_path: Path, far: FarEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_PASSWORD", "s3cret")
    url = serve_image(far, lambda header: header == f"Basic {BASIC}", "Basic")
    rules = Host(scheme="http", username="ann", password="old", password_env="THE_PASSWORD")
    async with open_node(tmp_path / "c", replace(QUICK, hosts={far.host: rules})) as node:
        await node.pull(url)


async def test_docker_hub_is_spoken_to_by_the_settings_of_its_name() -> None:
    rules = Host(insecure_skip_verify=True)
    client = HttpClient(replace(QUICK, hosts={"docker.io": rules}))
    assert client.rules("registry-1.docker.io") is rules
    assert client.rules("docker.io") is rules
    assert client.rules("auth.docker.io") == Host()
