"""Passwords that are kept as scrypt hashes: right and wrong ones, and forms that are refused."""

import base64

import pytest

from nekko.config import grammar
from nekko.config.password import HashedPassword
from nekko.config.sources import read
from nekko.errors import ConfigInvalidError

SALT, HASH = "c2FsdHNhbHQ", "A" * 43


def test_hash_is_that_of_the_published_example() -> None:
    """Source: RFC 7914, section 12."""
    expected = bytes.fromhex(
        "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
        "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"
    )
    kept = HashedPassword.parse(f"$scrypt$ln=10,r=8,p=16$TmFDbA${base64.b64encode(expected).decode().rstrip('=')}")
    assert kept.is_of(b"password")
    assert not kept.is_of(b"Password")


def test_new_hash_is_read_again_and_no_two_are_alike() -> None:
    first, second = (str(HashedPassword.of("grün:,")) for _ in range(2))
    assert first != second
    for text in (first, second):
        assert str(HashedPassword.parse(text)) == text
        assert HashedPassword.parse(text).is_of("grün:,".encode())
        assert not HashedPassword.parse(text).is_of(b"")


@pytest.mark.parametrize(
    "text",
    [
        "$scrypt$",
        f"$scrypt$ln=14,r=8$${SALT}${HASH}",
        f"$scrypt$ln=14,r=8,p=1${SALT}$",
        f"$scrypt$ln=14,r=8,p=1${SALT}$AAAA",  # three bytes
        f"$scrypt$ln=14,r=8,p=1$A${HASH}",  # no base64
        f"$scrypt$ln=0,r=8,p=1${SALT}${HASH}",
        f"$scrypt$ln=14,r=0,p=1${SALT}${HASH}",
        f"$scrypt$ln=14,r=8,p=0${SALT}${HASH}",
        f"$scrypt$ln=16,r=1,p=1${SALT}${HASH}",
        f"$scrypt$ln=18,r=8,p=1${SALT}${HASH}",
        f"$scrypt$ln=14,r=8,p=9${SALT}${HASH}",
        f"$scrypt$ln=99,r=999,p=999${SALT}${HASH}",
    ],
)
def test_form_that_cannot_be_checked_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigInvalidError) as refusal:
        grammar.account(f"writer:{text}")
    assert SALT not in str(refusal.value)


@pytest.mark.parametrize("numbers", ["ln=15,r=1,p=1", "ln=17,r=8,p=1", "ln=1,r=1,p=1"])
def test_whatever_is_taken_can_be_checked(numbers: str) -> None:
    assert not HashedPassword.parse(f"$scrypt${numbers}${SALT}${HASH}").is_of(b"password")


def test_accounts_in_the_environment_are_parted_before_users_only() -> None:
    hashed = f"a:$scrypt$ln=14,r=8,p=1${SALT}${HASH}"
    found = read({}, {"NEKKO_BASIC_AUTH": f"{hashed},b:pw,{hashed}"}).settings.basic_auth
    assert found == (hashed, "b:pw", hashed)


def test_readers_cannot_be_asked_for_an_account_where_there_is_none() -> None:
    with pytest.raises(ConfigInvalidError, match="basicAuth is missing"):
        read({}, {"NEKKO_READ_AUTH": "true"})
