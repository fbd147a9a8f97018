"""Platforms of an index entry, and which of them a pull wants. Source: image-spec, image-index.md."""

import platform as host_platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from nekko.errors import PlatformInvalidError

_PART = re.compile(r"[a-z0-9][a-z0-9._-]*")
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "armv7l": "arm",
             "i386": "386", "i686": "386"}  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """Operating system, architecture and optional variant, in Go's names (`linux/arm64/v8`)."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `os/architecture[/variant]`.

        Raises:
            PlatformInvalidError: Any other form.
        """
        parts = text.lower().split("/")
        if len(parts) not in (2, 3) or not all(_PART.fullmatch(part) for part in parts):
            raise PlatformInvalidError(f"platform {text[:100]!r}: write os/architecture[/variant], such as linux/amd64")
        return cls(*parts)

    @classmethod
    def host(cls) -> Self:
        """Give the platform of this machine's containers."""
        machine = host_platform.machine().lower()
        return cls("linux", _MACHINES.get(machine, machine))

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """Read an index entry's `platform`; members of a wrong type count as absent, for a store must not refuse."""
        parts = (value.get(key) for key in ("os", "architecture", "variant"))
        return cls(*(part.lower() if isinstance(part, str) else "" for part in parts))

    def to_json(self) -> dict[str, str]:
        """Give the JSON object of an index entry."""
        value = {"architecture": self.architecture, "os": self.os}
        return value | {"variant": self.variant} if self.variant else value

    def matches(self, wanted: "Platform") -> bool:
        """Tell whether this entry serves `wanted`; a missing variant on either side means the usual one."""
        if (self.os, self.architecture) != (wanted.os, wanted.architecture):
            return False
        usual = {self.variant, wanted.variant} - {""}
        return len(usual) < 2 or self.variant == wanted.variant

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class PlatformSelection:
    """The platforms a pull wants: all of them, or a set. The text form is what the catalog stores."""

    platforms: frozenset[Platform] | None = None
    """None stands for all."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `all`, `host`, or a comma-separated list of platforms.

        Raises:
            PlatformInvalidError: Any other form.
        """
        words = [word.strip() for word in text.split(",")]
        if words == ["all"]:
            return cls(None)
        if "all" in words:
            raise PlatformInvalidError(f"platform {text[:100]!r}: 'all' stands alone")
        return cls(frozenset(Platform.host() if word == "host" else Platform.parse(word) for word in words))

    def wants(self, platform: Platform | None) -> bool:
        """Tell whether an index entry is wanted; an entry that names no platform always is."""
        if self.platforms is None or platform is None:
            return True
        return any(platform.matches(wanted) for wanted in self.platforms)

    def covers(self, other: "PlatformSelection") -> bool:
        """Tell whether content pulled for this selection is complete for `other`."""
        if self.platforms is None:
            return True
        return other.platforms is not None and other.platforms <= self.platforms

    def __or__(self, other: "PlatformSelection") -> "PlatformSelection":
        if self.platforms is None or other.platforms is None:
            return PlatformSelection(None)
        return PlatformSelection(self.platforms | other.platforms)

    def missing_from(self, offered: Iterable[Platform | None]) -> frozenset[Platform]:
        """Give the wanted platforms that no entry offers (empty for `all`)."""
        entries = list(offered)
        if self.platforms is None or None in entries:
            return frozenset()
        return frozenset(w for w in self.platforms if not any(e is not None and e.matches(w) for e in entries))

    def __str__(self) -> str:
        return "all" if self.platforms is None else ",".join(sorted(map(str, self.platforms)))


ALL_PLATFORMS = PlatformSelection(None)
