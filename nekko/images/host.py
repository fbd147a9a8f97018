"""The host as this room sees it: its programs, its mount table, its loop devices. Nothing here remembers anything."""

import logging
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from nekko.errors import CommandError, CommandTimeoutError, HostError, ProgramMissingError

log = logging.getLogger(__name__)

PACKAGES: Mapping[str, str] = {
    "mount": "mount", "umount": "mount", "losetup": "mount", "mkfs.ext4": "e2fsprogs", "zstd": "zstd",
    "sync": "coreutils", "mount.nfs": "nfs-common", "iscsiadm": "open-iscsi", "nbd-client": "nbd-client",
    "veritysetup": "cryptsetup-bin", "modprobe": "kmod", "crun": "crun", "runc": "runc",
    "conmon": "conmon",
}  # fmt: skip
"""Every program that is run, and Debian's package of it."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""A daemon's own PATH may lack the directories of root's programs."""
_MOUNTINFO = Path("/proc/self/mountinfo")
_SECOND_CGROUPS = Path("/sys/fs/cgroup/unified/cgroup.controllers")
"""Where systemd mounts version 2 beside version 1."""
_ESCAPED = re.compile(r"\\([0-7]{3})")
SHOWN = 1000
"""Characters of a program's complaint that are passed on."""


def program(name: str) -> str:
    """Give the path of one of the host's programs.

    Raises:
        ProgramMissingError: It is not installed.
    """
    found = shutil.which(name, path=PATH)
    if found is None:
        raise ProgramMissingError(name, PACKAGES[name])
    return found


def is_installed(name: str) -> bool:
    """Tell whether the host has a program."""
    return shutil.which(name, path=PATH) is not None


async def run(
    name: str, *arguments: str, pass_fds: Sequence[int] = (), cwd: Path | None = None, seconds: float = math.inf
) -> str:
    """Run one of the host's programs to its end; give its standard output. After `seconds` it is told to end.

    Raises:
        ProgramMissingError: It is not installed.
        CommandError: It failed.
        CommandTimeoutError: It did not end in time. What it did is not known.

    Cancellation: It is told to end, and waited for. What it did is not known then.
    """
    log.debug("running %s %s", name, " ".join(arguments))
    with trio.move_on_after(seconds) as limit:
        done = await trio.run_process(
            [program(name), *arguments], capture_stdout=True, capture_stderr=True, check=False,
            pass_fds=pass_fds, cwd=cwd, env={"PATH": PATH, "LC_ALL": "C"},
        )  # fmt: skip
    if limit.cancelled_caught:
        raise CommandTimeoutError(name, seconds)
    if done.returncode:
        told = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise CommandError(name, done.returncode, told[:SHOWN])
    return done.stdout.decode("utf-8", "replace")


async def load(module: str, shown: Path, what: str) -> None:
    """Have a module of the kernel loaded, if what shows that it is there does not exist.

    Raises:
        HostError: This kernel has no such module.
    """
    if shown.exists():
        return
    try:
        await run("modprobe", module)
    except CommandError as error:
        raise HostError(f"this kernel has no {what}: its module {module} cannot be loaded ({error.told})") from error


def in_brackets(address: str) -> str:
    """Give a host as it is written before a colon."""
    return f"[{address}]" if ":" in address else address


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of the mount table."""

    place: str
    fs_type: str
    source: str
    options: frozenset[str]


def mount_table() -> list[Mounted]:
    """Read the mount table of this process. Source: proc_pid_mountinfo(5)."""
    table = []
    for line in _MOUNTINFO.read_text("utf-8", "surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields, (fs_type, source, *_) = before.split(" "), after.split(" ")
        table.append(Mounted(_plain(fields[4]), fs_type, _plain(source), frozenset(fields[5].split(","))))
    return table


def mounted_at(place: str | Path) -> list[Mounted]:
    """Give what is mounted at a place, the visible one last."""
    return [each for each in mount_table() if each.place == str(place)]


def mounted_below(place: str | Path) -> list[Mounted]:
    """Give what is mounted at a place and below it."""
    return [each for each in mount_table() if each.place == str(place) or each.place.startswith(f"{place}/")]


def mounted_from(device: str) -> list[Mounted]:
    """Give what is mounted from a device, or from one of its partitions."""
    between = "p" if device[-1].isdecimal() else ""  # sda has a partition sda1, loop1 has loop1p1
    of_device = re.compile(rf"{re.escape(device)}({between}\d+)?")
    return [each for each in mount_table() if of_device.fullmatch(each.source)]


def backing_file(device: str) -> str | None:
    """Give the file behind a loop device; None if it has none."""
    try:
        text = (settings_of(device) / "loop/backing_file").read_text("utf-8", "surrogateescape")
    except OSError:  # the attribute is there only while there is a file
        return None
    return text.rstrip("\n").removesuffix(" (deleted)")


def is_initial_ram() -> bool:
    """Tell whether the host runs from what it booted into, which no pivot_root can replace (see its manual page)."""
    return mounted_at("/")[-1].fs_type == "rootfs"


def settings_of(device: str) -> Path:
    """Give the directory in which the kernel shows a device, and lets it be tuned."""
    return Path("/sys/block") / Path(device).name


def is_mapped(name: str) -> bool:
    """Tell whether the device mapper has a device of a name."""
    names = (each.read_text().rstrip("\n") for each in Path("/sys/block").glob("dm-*/dm/name"))
    return name in names


def has_mixed_cgroups() -> bool:
    """Tell whether control groups of version 2 have controllers beside those of version 1."""
    try:
        return bool(_SECOND_CGROUPS.read_text().strip())
    except OSError:
        return False


def partitions(device: str) -> list[str]:
    """Give the devices of a device's partitions, in their order."""
    name = Path(device).name
    found = [
        (int(each.read_text()), f"/dev/{each.parent.name}") for each in settings_of(device).glob(f"{name}p*/partition")
    ]
    return [partition for _, partition in sorted(found)]


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
