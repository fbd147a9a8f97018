"""Tokens of Amazon's ECR: asked for lazily, once, renewed in time, and never the end of anything."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from nekko.config.settings import Host
from nekko.errors import ConfigInvalidError, UpstreamDeniedError
from nekko.upstream.client import HttpClient
from nekko.upstream.ecr import MARGIN_SECONDS, EcrLogins, aws_keys
from tests.fakes.ecr import FakeEcr
from tests.fakes.far_end import FarEnd, far_end, status
from tests.node import QUICK, open_node
from tests.unit.upstream.test_upstream_auth import serve_image

REGISTRY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
RULES = Host(token_provider="ecr")


@pytest.fixture
async def ecr() -> AsyncIterator[FakeEcr]:
    async with far_end() as end:
        yield FakeEcr(end)


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    async with HttpClient(QUICK, {}) as opened:
        yield opened


def environ(ecr: FakeEcr, **more: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL_ECR": ecr.far.url(""), "AWS_ACCESS_KEY_ID": ecr.access_key,
        "AWS_SECRET_ACCESS_KEY": ecr.secret_key, **more,
    }  # fmt: skip


async def test_many_who_ask_get_one_token(ecr: FakeEcr, client: HttpClient) -> None:
    logins = EcrLogins(client, environ(ecr))
    assert not ecr.far.requests, "nothing is asked before somebody needs it"
    found = []

    async def ask() -> None:
        found.append(await logins.login(REGISTRY, RULES))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert len(ecr.tokens) == 1
    assert {(login.kind, login.secret) for login in found if login} == {("basic", ecr.tokens[0])}


async def test_registries_have_tokens_of_their_own(ecr: FakeEcr, client: HttpClient) -> None:
    logins = EcrLogins(client, environ(ecr))
    first = await logins.login(REGISTRY, RULES)
    second = await logins.login("2" + REGISTRY, RULES)
    assert first != second
    ecr.region = "us-east-2"
    options = replace(RULES, token_provider_options=("region=us-east-2",))
    assert await logins.login("registry.example.com", options) is not None


async def test_session_token_is_sent_and_signed(ecr: FakeEcr, client: HttpClient) -> None:
    ecr.session_token = "FwoGZXIvYXdzE"
    assert await EcrLogins(client, environ(ecr)).login(REGISTRY, RULES) is None
    assert await EcrLogins(client, environ(ecr, AWS_SESSION_TOKEN=ecr.session_token)).login(REGISTRY, RULES) is not None


async def test_wrong_keys_are_told_and_not_asked_with_again_at_once(
    ecr: FakeEcr, client: HttpClient, caplog: pytest.LogCaptureFixture
) -> None:
    logins = EcrLogins(client, environ(ecr, AWS_SECRET_ACCESS_KEY="wrong"))
    for _ in range(3):
        assert await logins.login(REGISTRY, RULES) is None
    assert len(ecr.far.requests) == 1
    assert "InvalidSignatureException" in caplog.text
    assert "wrong" not in caplog.text


@pytest.mark.parametrize("left", [MARGIN_SECONDS - 60, -60.0], ids=["about to run out", "run out"])
async def test_token_is_asked_for_anew_before_it_has_run_out(ecr: FakeEcr, client: HttpClient, left: float) -> None:
    logins = EcrLogins(client, environ(ecr))
    ecr.expires_at = time.time() + left
    first = await logins.login(REGISTRY, RULES)
    assert (first is None) == (left < 0)
    kept = logins._kept[REGISTRY]
    assert kept.renew_at < kept.good_until or left < 0
    kept.renew_at = 0.0  # as after half a minute
    ecr.far.on("/", status(500))
    assert await logins.login(REGISTRY, RULES) == first, "one that is still good is used on"
    kept.renew_at = 0.0
    ecr.far.on("/", ecr.answer)
    ecr.expires_at = time.time() + 7200
    second = await logins.login(REGISTRY, RULES)
    assert second is not None
    assert second != first
    expiry = replace(RULES, token_expiry_seconds=60.0)
    kept.renew_at = 0.0
    await logins.login(REGISTRY, expiry)
    assert kept.renew_at < time.time() + 61


async def test_pull_shows_the_token_to_the_registry(
    tmp_path: Path, far: FarEnd, ecr: FakeEcr, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ(ecr).items():
        monkeypatch.setenv(name, value)
    url = serve_image(far, lambda header: header == f"Basic {ecr.tokens[0] if ecr.tokens else ''}", "Basic")
    rules = Host(scheme="http", token_provider="ecr", token_provider_options=("region=eu-west-1",))
    async with open_node(tmp_path / "c", replace(QUICK, hosts={far.host: rules})) as node:
        assert not ecr.tokens
        await node.pull(url)
        assert len(ecr.tokens) == 1


async def test_pull_without_a_token_tells_the_registrys_refusal(tmp_path: Path, far: FarEnd) -> None:
    url = serve_image(far, lambda header: False, "Basic")
    rules = Host(scheme="http", token_provider="ecr", token_provider_options=("region=x", "profile=nobody"))
    async with open_node(tmp_path / "c", replace(QUICK, hosts={far.host: rules})) as node:
        with pytest.raises(UpstreamDeniedError, match="credentials are needed"):
            await node.pull(url)


def test_keys_come_from_where_aws_has_them(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = B%C\n"
        "[other]\naws_access_key_id = D\naws_secret_access_key = E\naws_session_token = F\n[half]\naws_access_key_id=G\n"
    )
    of_file = {"AWS_SHARED_CREDENTIALS_FILE": str(file)}
    of_both = of_file | {"AWS_ACCESS_KEY_ID": "X", "AWS_SECRET_ACCESS_KEY": "Y"}
    assert (aws_keys(of_file, None).access_key, aws_keys(of_file, None).secret_key) == ("A", "B%C")
    assert aws_keys(of_both, None).access_key == "X"
    assert aws_keys(of_both, "other").session_token == "F"
    assert aws_keys(of_file | {"AWS_PROFILE": "other"}, None).access_key == "D"
    for name in ("half", "none"):
        with pytest.raises(ConfigInvalidError, match=f"profile {name}"):
            aws_keys(of_both, name)
    file.write_text("secret without a section")
    with pytest.raises(ConfigInvalidError, match="cannot be used") as caught:
        aws_keys(of_file, None)
    assert "secret" not in str(caught.value).replace(str(file), "")
