"""The network block devices of this host. Nothing here remembers anything."""

from pathlib import Path

_DEVICES = Path("/sys/block")


def free() -> list[str]:
    """Give the devices that are connected to nothing, in their order."""
    numbers = [int(each.name[3:]) for each in _DEVICES.glob("nbd*") if each.name[3:].isdecimal()]
    devices = [f"/dev/nbd{number}" for number in sorted(numbers)]
    return [each for each in devices if connection(each) is None]


def connection(device: str) -> str | None:
    """Name the connection of a device, by the process that made it; None if there is none."""
    try:
        return (_DEVICES / Path(device).name / "pid").read_text().strip()
    except OSError:  # the attribute is there only while it is connected
        return None
