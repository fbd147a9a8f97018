"""The boot that this machine is in: with an earlier one its processes ended, and what they had not forced to disk."""

from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Give what tells this boot from every other. Source: Linux, random(4)."""
    return _BOOT_ID.read_text().strip()
