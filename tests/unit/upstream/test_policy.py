"""The fetch policy."""

from dataclasses import replace

import pytest

from nekko.errors import UpstreamForbiddenError
from nekko.upstream.policy import Policy
from tests.node import QUICK

HOSTS = [
    (("example.com",), "example.com", 443, True), (("example.com",), "EXAMPLE.com.", 443, True),
    (("example.com",), "www.example.com", 443, False), (("*.example.com",), "www.example.com", 443, True),
    (("*.example.com",), "example.com", 443, False), (("*.example.com",), "badexample.com", 443, False),
    (("example.com:5000",), "example.com", 5000, True), (("example.com:5000",), "example.com", 443, False),
    (("*.example.com:5000",), "a.example.com", 5000, True), (("*.example.com:5000",), "a.example.com", 443, False),
    (("[::1]:80",), "::1", 80, True),
]  # fmt: skip


@pytest.mark.parametrize(("patterns", "host", "port", "matches"), HOSTS, ids=str)
def test_patterns(patterns: tuple[str, ...], host: str, port: int, matches: bool) -> None:
    denying, allowing = Policy(replace(QUICK, denied_hosts=patterns)), Policy(replace(QUICK, allowed_hosts=patterns))
    refusing, passing = (denying, allowing) if matches else (allowing, denying)
    passing.check_host(host, port)
    with pytest.raises(UpstreamForbiddenError, match="Hosts"):
        refusing.check_host(host, port)


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.0.1", "fe80::1%eth0", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
     "2002:a9fe:a9fe::1", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"],
)  # fmt: skip
def test_metadata_addresses_are_denied(address: str) -> None:
    with pytest.raises(UpstreamForbiddenError, match="deniedAddresses"):
        Policy(QUICK).check_address("name.example", address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.1.2.3", "93.184.216.34", "100.100.100.201", "::ffff:10.0.0.1"]
)
def test_other_addresses_are_not(address: str) -> None:
    Policy(QUICK).check_address("name.example", address)
