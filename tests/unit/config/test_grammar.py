import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.config import grammar
from nekko.errors import ConfigInvalidError

READERS = [
    grammar.text, grammar.number, grammar.count, grammar.log_level, grammar.seconds, grammar.size, grammar.switch,
    grammar.path, grammar.address, grammar.octal_mode, grammar.platforms, grammar.network, grammar.host,
    grammar.one_of("https", "http"), grammar.endpoint, grammar.listen,
    grammar.host_pattern, grammar.host_or_network, grammar.proxy, grammar.bandwidth,
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", 1 << 20),
        ("12B", 12),
        ("500MB", 500_000_000),
        ("500 kb", 500_000),
        ("10GiB", 10 << 30),
        ("10G", 10 << 30),
        ("1.5G", 3 << 29),
        ("2t", 2 << 40),
        ("1PB", 10**15),
        ("0.0001k", 0),
        ("9223372036854775807", (1 << 63) - 1),
    ],
)
def test_size_is_read_exactly(text: str, size: int) -> None:
    assert grammar.size(text) == size


@given(st.integers(0, grammar.MAX_SIZE_BYTES))
def test_size_text_reads_back_as_the_same_size(size: int) -> None:
    assert grammar.size(grammar.size_text(size)) == size


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *((grammar.size, text) for text in ("-1", "1e3", "GiB", "1 XB", "1.", ".5G", "1_000", "nan", "9P9", "8192P")),
        *((grammar.bandwidth, text) for text in ("1", "65535", "fast", "-1")),
        *((grammar.proxy, text) for text in ("", "socks5://p", "http://p/x")),
        *((grammar.number, text) for text in ("-1", "1.0", "eight", "", "1_0", "٣", " 1", "2147483648")),
        *((grammar.count, text) for text in ("0", "00")),
        *((grammar.log_level, text) for text in ("debug", "-3")),
        *((grammar.seconds, text) for text in ("nan", "inf", "-1", "1e3", "10s", "", "31536001", "1." + "9" * 400)),
        *((grammar.switch, text) for text in ("1", "maybe", "")),
        *((grammar.octal_mode, text) for text in ("660x", "888", "0o660", "66", "10660", "432 ")),
        *((grammar.platforms, text) for text in ("linux", "all,host", "linux/", "")),
        *((grammar.network, text) for text in ("10.0.0.1/8", "10.0.0.0/33", "example.com", "")),
        *((grammar.host, text) for text in ("", "https://h", "h/p", "GHCR.io", "h:p", "*.h", "a b", "h:123456")),
        *((grammar.host_pattern, text) for text in ("*", "*.", "a.*", "h/*")),
        *((grammar.host_or_network, text) for text in ("*", "a:80", "10.0.0.1/8", "10.0.0.1:80", "h/8")),
        *((grammar.path, text) for text in ("", "a\0b", "~nobody-has-this-name/x")),
    ],
)
def test_text_outside_the_grammar_is_refused(read: Callable[[str], object], text: str) -> None:
    with pytest.raises(ConfigInvalidError) as refusal:
        read(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (grammar.log_level, "9", 2),
        (grammar.log_level, "-2", -2),
        (grammar.bandwidth, "0", 0),
        (grammar.bandwidth, "64KiB", 64 << 10),
        (grammar.seconds, "0", 0.0),
        (grammar.seconds, "0.25", 0.25),
        (grammar.switch, "Yes", True),
        (grammar.switch, "off", False),
        (grammar.octal_mode, "0660", "0660"),
        (grammar.network, "::1", "::1"),
        *((grammar.host_or_network, text, text) for text in ("*.a", "host1", "10.0.0.0/8", "10.0.0.1", "fd00::/8")),
        (grammar.host, "[::1]:5000", "[::1]:5000"),
        (grammar.host_pattern, "*.example.com:443", "*.example.com:443"),
        (grammar.platforms, "linux/amd64,host", "linux/amd64,host"),
    ],
)
def test_text_inside_the_grammar_is_read(read: Callable[[str], object], text: str, value: object) -> None:
    assert read(text) == value


def test_path_is_expanded_and_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert grammar.path("~/a") == grammar.path("a") == grammar.path("./b/../a") == tmp_path / "a"


def test_host_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigInvalidError) as refusal:
        grammar.host("user:s3cret@h")
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@given(text=st.text())
def test_any_text_is_read_or_refused(read: Callable[[str], object], text: str) -> None:
    with contextlib.suppress(ConfigInvalidError):
        read(text)
