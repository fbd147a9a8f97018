"""iSCSI sessions of this host, made and ended by open-iscsi's iscsiadm. Nothing here remembers anything.

Each session has a record of the initiator (an *interface*) of its own, by whose name the kernel tells it from those
that others have made. open-iscsi keeps the record of a session in a file that only root may read, until it is ended.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trio

from nekko.errors import CommandError, HostError, ImageInvalidError
from nekko.images import host

_SESSIONS, _CONNECTIONS = Path("/sys/class/iscsi_session"), Path("/sys/class/iscsi_connection")
_DATABASES = (Path("/etc/iscsi"), Path("/var/lib/iscsi"))
"""Where open-iscsi keeps its records, as it was built."""
_NOT_FOUND, _NO_DAEMON = 21, 20
"""iscsiadm's status where there is no such record, and where its daemon does not run. Source: iscsiadm(8)."""
SECONDS_TO_APPEAR, POLL_SECONDS = 20.0, 0.05
"""Devices come some time after the login, each by itself."""
LOGIN_SECONDS, LOGIN_TRIES = 10, 2
"""Of each try, of those where the target does not answer."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session, which may be there or not. `interface` is open-iscsi's record of the initiator."""

    interface: str
    target: str
    address: str
    port: int

    @classmethod
    def wanted(cls, target: str, address: str, port: int, *terms: object) -> Self:
        """Name a session; one with other terms (who logs in, and how) is another one."""
        named = "\n".join(map(str, (target, address, port, *terms)))
        return cls(f"nekko-{hashlib.sha256(named.encode()).hexdigest()[:16]}", target, address, port)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` gives."""
        interface, target, address, port = text.split(" ")
        return cls(interface, target, address, int(port))

    def __str__(self) -> str:
        return f"{self.interface} {self.target} {self.address} {self.port}"

    @property
    def portal(self) -> str:
        return f"{host.in_brackets(self.address)}:{self.port}"

    @property
    def number(self) -> int | None:
        """The kernel's number of it; None if it is not there."""
        return next((number for number, interface in self.at_portal() if interface == self.interface), None)

    def at_portal(self) -> list[tuple[int, str]]:
        """Give number and interface of every session with this target at this portal, others' too."""
        found = []
        for each in _SESSIONS.glob("session*"):
            number = int(each.name.removeprefix("session"))
            ends = [
                (_read(end / "persistent_address"), _read(end / "persistent_port"))
                for end in _CONNECTIONS.glob(f"connection{number}:*")
            ]
            if _read(each / "targetname") == self.target and (self.address, str(self.port)) in ends:
                found.append((number, _read(each / "ifacename")))
        return found

    def devices(self) -> list[tuple[int, str]]:
        """Give LUN and device of each disk that the session has."""
        below = _SESSIONS / f"session{self.number}" / "device"
        return sorted(
            (int(each.parent.parent.name.rpartition(":")[2]), f"/dev/{each.name}")
            for each in below.glob("target*/*:*:*:*/block/*")
        )

    async def log_in(self, settings: Mapping[str, str]) -> None:
        """Make the session.

        Args:
            settings: Of the record, by open-iscsi's names: who logs in, and how.

        Raises:
            HostError: Why there is none.

        Cancellation: Has to wait for the login, which open-iscsi's daemon would go on with.
        """
        await self._record("iface", "--op", "new")
        await self._record("node", "--op", "new")
        self._amend_record(settings)
        try:
            with trio.CancelScope(shield=True):
                await self._record("node", "--login")
        except CommandError as error:
            if error.status == _NO_DAEMON:
                raise HostError("iscsi: open-iscsi's daemon does not run: start the service iscsid") from error
            raise

    def _amend_record(self, settings: Mapping[str, str]) -> None:
        """Write settings into the record: what iscsiadm is told in its arguments, any user can read."""
        own = {
            "node.startup": "manual",
            "node.session.initial_login_retry_max": str(LOGIN_TRIES),
            "node.conn[0].timeo.login_timeout": str(LOGIN_SECONDS),
        }
        for database in _DATABASES:
            record = database / "nodes" / self.target / f"{self.address},{self.port}"
            if record.is_file():
                text = with_settings(record.read_text(), {**own, **settings})
                record.chmod(0o600)
                record.write_text(text)
                return
        raise HostError(f"iscsi: open-iscsi has no record of {self.target} in {' or '.join(map(str, _DATABASES))}")

    async def look_again(self) -> None:
        """Have the kernel look for disks that the target has got since the login."""
        await host.run("iscsiadm", "--mode", "session", "--sid", str(self.number), "--rescan")

    async def device_of(self, lun: int) -> str:
        """Wait for the device of a LUN.

        Raises:
            ImageInvalidError: The target has no such LUN.
        """
        with trio.move_on_after(SECONDS_TO_APPEAR):
            while True:
                device = dict(self.devices()).get(lun)
                # The kernel makes the node in /dev first, its settings in /sys/block behind that.
                if device is not None and Path(device).is_block_device() and host.settings_of(device).is_dir():
                    return device
                await trio.sleep(POLL_SECONDS)
        known = ", ".join(str(number) for number, _ in self.devices()) or "none"
        raise ImageInvalidError(f"iscsi: {self.target} has no disk at LUN {lun}: there are {known}")

    async def log_out(self) -> None:
        """End the session if it is there, and forget what open-iscsi was told of it."""
        if (number := self.number) is not None:
            await host.run("iscsiadm", "--mode", "session", "--sid", str(number), "--logout")
        for mode in ("node", "iface"):
            try:
                await self._record(mode, "--op", "delete")
            except CommandError as error:
                if error.status != _NOT_FOUND and "Could not read iface" not in error.told:
                    raise

    async def _record(self, mode: str, *arguments: str) -> None:
        place = ["--targetname", self.target, "--portal", self.portal] if mode == "node" else []
        await host.run("iscsiadm", "--mode", mode, *place, "--interface", self.interface, *arguments)


def with_settings(record: str, settings: Mapping[str, str]) -> str:
    """Give one of open-iscsi's records with some settings in place of those that it has of the same names."""
    kept = [line for line in record.splitlines() if line.partition("=")[0].strip() not in settings]
    end = next((number for number, line in enumerate(kept) if re.match("# END RECORD", line)), len(kept))
    added = [f"{name} = {value}" for name, value in settings.items()]
    return "\n".join([*kept[:end], *added, *kept[end:]]) + "\n"


def _read(attribute: Path) -> str:
    try:
        return attribute.read_text().strip()
    except OSError:  # it went while it was looked at
        return ""
