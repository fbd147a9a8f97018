"""Who may change: local listeners, tokens of the settings and of a file, client certificates, web pages."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nekko.api.access import Access
from nekko.api.peer import STATE_KEY, Peer
from nekko.config.settings import Settings
from nekko.errors import AccessDeniedError, ConfigInvalidError

REMOTE = Peer("http://*:8050", "192.0.2.1:5", is_local=False)


def scope(peer: Peer = REMOTE, *, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    return {
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        "state": {STATE_KEY: peer},
    }


def test_local_listener_and_client_certificate_need_no_token() -> None:
    access = Access(Settings(tokens=("secret",)))
    access.may_change(scope(replace(REMOTE, is_local=True)))
    access.may_change(scope(replace(REMOTE, subject="node")))


def test_web_page_may_change_nothing_anywhere() -> None:
    with pytest.raises(AccessDeniedError, match="web pages"):
        Access(Settings()).may_change(scope(replace(REMOTE, is_local=True), headers={"origin": "http://example.com"}))


@pytest.mark.parametrize("value", ["Bearer one", "bearer two", "BEARER three"])
def test_each_token_may_change(value: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# of the cluster\n\n  three  \n")
    file.chmod(0o640)
    Access(Settings(tokens=("one", "two"), tokens_file=file)).may_change(scope(headers={"authorization": value}))


@pytest.mark.parametrize(
    ("tokens", "headers", "words"),
    [
        ((), {}, "configure `tokens`"),
        ((), {"authorization": "Bearer s3cret"}, "configure `tokens`"),
        (("one",), {}, "a Bearer token is needed"),
        (("one",), {"authorization": "Basic b25l"}, "a Bearer token is needed"),
        (("one",), {"authorization": "Bearer s3cret"}, "not one of those"),
        (("one",), {"authorization": "Bearer "}, "not one of those"),
        (("one",), {"authorization": "Bearer onee"}, "not one of those"),
    ],
)
def test_other_callers_are_told_what_they_lack(tokens: tuple[str, ...], headers: dict[str, str], words: str) -> None:
    with pytest.raises(AccessDeniedError, match=words) as refused:
        Access(Settings(tokens=tokens)).may_change(scope(headers=headers))
    assert "s3cret" not in str(refused.value)


def test_tokens_of_a_file_are_taken_anew(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.touch(0o600)
    access = Access(Settings(tokens_file=file))
    assert not access.has_tokens
    file.write_text("new\n")
    access.load()
    access.may_change(scope(headers={"authorization": "Bearer new"}))
    file.chmod(0o644)
    with pytest.raises(ConfigInvalidError, match="chmod o-r"):
        access.load()
    access.may_change(scope(headers={"authorization": "Bearer new"}))


@pytest.mark.parametrize(("content", "words"), [(b"two words\n", "without blanks"), (b"\xff\n", "ASCII")])
def test_wrong_file_of_tokens_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(ConfigInvalidError, match=words) as refused:
        Access(Settings(tokens_file=file))
    assert "two words" not in str(refused.value)
    with pytest.raises(ConfigInvalidError, match="No such file"):
        Access(Settings(tokens_file=tmp_path / "nope"))
