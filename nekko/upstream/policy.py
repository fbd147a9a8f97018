"""Which hosts and addresses this node fetches from: checked for every hop, before a byte is sent."""

import ipaddress
import socket
from collections.abc import Sequence

from nekko.config.settings import Settings
from nekko.errors import UpstreamForbiddenError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Policy:
    """The fetch policy of one process."""

    def __init__(self, settings: Settings) -> None:
        self._allowed = settings.allowed_hosts
        self._denied = settings.denied_hosts
        self._networks = [ipaddress.ip_network(text) for text in settings.denied_addresses]

    def check_host(self, host: str, port: int) -> None:
        """Refuse a host by its name.

        Raises:
            UpstreamForbiddenError: It is denied, or not among those allowed.
        """
        if _matches(host, port, self._denied):
            raise UpstreamForbiddenError(f"{host}:{port}: denied by this node's deniedHosts")
        if self._allowed and not _matches(host, port, self._allowed):
            raise UpstreamForbiddenError(f"{host}:{port}: not among this node's allowedHosts")

    def check_address(self, host: str, address: str) -> None:
        """Refuse an address that a name led to.

        Raises:
            UpstreamForbiddenError: It lies in a denied network, as itself or wrapped in an IPv6 address.
        """
        for form in _forms(ipaddress.ip_address(address.partition("%")[0])):
            for network in self._networks:
                if form.version == network.version and form in network:
                    raise UpstreamForbiddenError(
                        f"{host}: its address {address} is denied by this node's deniedAddresses ({network})"
                    )

    def check_literal(self, host: str) -> None:
        """Refuse a host that is itself the text of a denied address: all that can be checked where a proxy resolves.

        Raises:
            UpstreamForbiddenError: It is.
        """
        try:
            address = host.strip("[]")
            ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            try:
                address = socket.inet_ntoa(socket.inet_aton(host))  # 2852039166 and 0xa9.0xfe.43518 are addresses too
            except OSError:
                return
        self.check_address(host, address)


def _matches(host: str, port: int, patterns: Sequence[str]) -> bool:
    host = host.lower().strip("[]").rstrip(".")
    for pattern in patterns:
        name = pattern.lower()
        if name in (host, f"{host}:{port}", f"[{host}]:{port}"):
            return True
        suffix, mark, number = name.removeprefix("*").partition(":")
        if name.startswith("*.") and host.endswith(suffix) and (not mark or number == str(port)):
            return True
    return False


def _forms(address: _Address) -> list[_Address]:
    """Give an address and the IPv4 addresses it stands for (mapped, 6to4, NAT64)."""
    forms: list[_Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        forms += [inner for inner in (address.ipv4_mapped, address.sixtofour) if inner is not None]
        if address in _NAT64:
            forms.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return forms
