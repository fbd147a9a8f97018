"""Which files of this host, and which other hosts, may be attached and mounted, where its operator limits that."""

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from nekko.errors import AccessDeniedError


@dataclass(frozen=True, slots=True)
class Permitted:
    """The limits; an empty one is none.

    `paths` are directories. `hosts` are names, `*.suffix`, addresses and networks, compared with what a caller names.
    """

    paths: tuple[Path, ...] = ()
    hosts: tuple[str, ...] = ()

    def check_path(self, path: str) -> None:
        """Refuse a path, links followed, that lies in none of the directories.

        Raises:
            AccessDeniedError: It does.
        """
        real = Path(os.path.realpath(path))
        if self.paths and not any(real.is_relative_to(os.path.realpath(each)) for each in self.paths):
            raise AccessDeniedError(f"{path[:200]} is in none of this node's imagesAllowedPaths")

    def check_host(self, host: str) -> None:
        """Refuse a host.

        Raises:
            AccessDeniedError: It is not among those permitted.
        """
        if self.hosts and not any(_matches(host.lower().rstrip("."), each.lower()) for each in self.hosts):
            raise AccessDeniedError(f"{host[:200]} is not among this node's imagesAllowedHosts")


UNLIMITED = Permitted()


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    try:
        return ipaddress.ip_address(host.partition("%")[0]) in ipaddress.ip_network(pattern)
    except ValueError:
        return host == pattern
