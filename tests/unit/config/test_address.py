from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.config.address import MAX_SOCKET_PATH_BYTES, Address, TcpAddress, UnixAddress, parse_address
from nekko.errors import ConfigInvalidError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:8050", TcpAddress("localhost", 8050)),
        (":8050", TcpAddress("", 8050)),
        ("127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
        ("[::1]:65535", TcpAddress("::1", 65535)),
        ("[0:0::1]:1", TcpAddress("::1", 1)),
        ("node_1.example.com:80", TcpAddress("node_1.example.com", 80)),
        ("unix:/run/n.sock", UnixAddress(Path("/run/n.sock"))),
        ("unix:///run/n.sock", UnixAddress(Path("/run/n.sock"))),
        ("/run/n.sock", UnixAddress(Path("/run/n.sock"))),
        ("/run/a:80", UnixAddress(Path("/run/a:80"))),
    ],
)
def test_address_of_each_form_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "host:port"),
        ("localhost", "host:port"),
        ("8050", "host:port"),
        ("::1:80", "host:port"),
        ("host:", "host:port"),
        ("host:-1", "host:port"),
        ("host:٣", "host:port"),
        ("http://host:80", "host:port"),
        ("host:65536", "at most 65535"),
        ("[::g]:80", "IPv6"),
        ("[127.0.0.1]:80", "IPv6"),
        ("ho st:80", "host name"),
        ("-a:80", "host name"),
        ("unix:run/n.sock", "absolute"),
        ("unix://host/n.sock", "absolute"),
        ("unix:", "absolute"),
        ("/", "to a file"),
        ("/run/", "to a file"),
        ("/run/\0", "NUL"),
        ("/" + "a" * MAX_SOCKET_PATH_BYTES, "at most 107 bytes"),
    ],
)
def test_address_of_another_form_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigInvalidError, match=reason):
        parse_address(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except ConfigInvalidError:
        return
    assert parse_address(str(address)) == address
