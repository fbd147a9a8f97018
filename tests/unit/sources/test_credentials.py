"""Credentials: both kinds, in every spelling callers use, and never in a text."""

import base64

import pytest

from nekko.errors import InvalidError
from nekko.sources.credentials import Credentials

PAIR = base64.b64encode(b"user:pass").decode()


@pytest.mark.parametrize(
    ("secret", "kind", "header"),
    [
        ("token", "Bearer", "Bearer token"),
        ("token", "bearer", "Bearer token"),
        (PAIR, "Basic", f"Basic {PAIR}"),
        (PAIR, "BASIC", f"Basic {PAIR}"),
        ("user:pass", "basic", f"Basic {PAIR}"),
    ],
)
def test_credentials_become_a_header(secret: str, kind: str, header: str) -> None:
    assert Credentials.parse(secret, kind).header == header


def test_credentials_are_bearer_unless_told() -> None:
    assert Credentials.parse("token").kind == "Bearer"


def test_basic_credentials_give_their_pair_back() -> None:
    assert Credentials.basic("üser", "p:w").user_password() == ("üser", "p:w")


def test_bearer_credentials_have_no_pair() -> None:
    with pytest.raises(InvalidError, match="no user name"):
        Credentials.parse("token").user_password()


@pytest.mark.parametrize(
    ("secret", "kind"),
    [
        ("", "Bearer"),
        ("secret\r\nX: y", "Bearer"),
        ("secret secret", "Bearer"),
        ("secreté", "Bearer"),
        ("secret", "Basic"),
        (base64.b64encode(b"secret").decode(), "Basic"),
        ("secret", "Digest"),
    ],
)
def test_unusable_credentials_are_refused_and_not_shown(secret: str, kind: str) -> None:
    with pytest.raises(InvalidError, match="credentials") as caught:
        Credentials.parse(secret, kind)
    assert not secret or secret not in str(caught.value)


def test_repr_hides_the_secret() -> None:
    assert repr(Credentials.parse("hush")) == "Credentials(kind='Bearer')"
