"""What an OCI runtime is told of a container. Source: runtime-spec 1.0.2; the image API's table of mounts."""

import os
import re
import shlex
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nekko.errors import ImageInvalidError
from nekko.images.confine import open_within
from nekko.images.users import user_of

NAMESPACES = {"cgroup": "cgroup", "ipc": "ipc", "mnt": "mount", "net": "network", "pid": "pid", "uts": "uts"}
"""Those that are made, by the API's names; the runtime has its own."""
DEFAULT_NAMESPACES = ("mnt", "pid", "ipc", "uts")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SYSTEMD_TMPFS = ("/run", "/tmp", "/var/lib/journal")  # noqa: S108 - places inside of the container
_CAPABILITIES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
"""By their numbers. Source: Linux, include/uapi/linux/capability.h."""


def bundle(cgroup: str, definition: Mapping[str, Any], config: Mapping[str, Any], root: str) -> dict[str, Any]:
    """Describe a container.

    Args:
        cgroup: Its place among the control groups.
        definition: As it was asked for.
        config: What its image says, where that is one.
        root: The directory of its file system.

    Raises:
        ImageInvalidError: Its command or its user is not there, or something asked for cannot be.
    """
    environment = {"PATH": PATH, **_variables(config.get("Env", ())), **_variables(definition.get("environment", ()))}
    is_systemd = definition.get("systemd", False)
    if is_systemd:
        environment["container"] = "nekko"  # systemd's container interface
    command = _command(definition, config)
    cwd = definition.get("workdir") or config.get("WorkingDir") or "/"
    if not cwd.startswith("/"):
        raise ImageInvalidError(f"workdir {cwd[:100]!r} is not absolute")
    place = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        _check_executable(place, command[0], environment["PATH"], cwd)
        user = user_of(definition.get("user") or config.get("User") or "", place)
    finally:
        os.close(place)
    asked = definition.get("namespaces") or DEFAULT_NAMESPACES
    if strange := [name for name in asked if name not in NAMESPACES]:
        raise ImageInvalidError(f"namespace {strange[0]!r} cannot be made here: there are {', '.join(NAMESPACES)}")
    names = {*asked, "mnt", *(("cgroup",) if is_systemd else ())}
    capabilities = _own_capabilities()
    described: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": {
            "user": user.described(),
            "args": command,
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": cwd,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        },
        "root": {"path": root},
        "mounts": _mounts(is_systemd=is_systemd),
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": NAMESPACES[name]} for name in sorted(names)],
        },
    }
    if hostname := definition.get("hostname"):
        if "uts" not in names:
            raise ImageInvalidError("hostname needs the namespace uts")
        described["hostname"] = hostname
    return described


def _own_capabilities() -> list[str]:
    """Give what this process may do: a system image is the node's own, and may as much, for more cannot be given."""
    status = Path("/proc/self/status").read_text()
    held = int(re.findall(r"^CapPrm:\s*([0-9a-f]+)$", status, re.MULTILINE)[0], 16)
    return [f"CAP_{name}" for number, name in enumerate(_CAPABILITIES.split()) if held >> number & 1]


def _command(definition: Mapping[str, Any], config: Mapping[str, Any]) -> Sequence[str]:
    if text := definition.get("command"):
        try:
            command = shlex.split(text)
        except ValueError as error:
            raise ImageInvalidError(f"command {text[:100]!r}: {error}") from error
    else:
        command = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
    if not command:
        raise ImageInvalidError("command is missing, and the image names none")
    return command


def _check_executable(root: int, name: str, path: str, cwd: str) -> None:
    """Look for a program in the image before anything is started; links are followed inside of it."""
    places = (
        [name if name.startswith("/") else f"{cwd}/{name}"] if "/" in name else [f"{p}/{name}" for p in path.split(":")]
    )
    for each in places:
        try:
            found = open_within(root, each, os.O_PATH)
        except OSError:
            continue
        mode = os.fstat(found).st_mode
        os.close(found)
        if stat.S_ISREG(mode) and mode & 0o111:
            return
    raise ImageInvalidError(f"command: there is no program {name[:200]!r} in the image")


def _variables(lines: Sequence[str]) -> dict[str, str]:
    for line in lines:
        if not line.partition("=")[0] or "=" not in line:
            raise ImageInvalidError(f"environment {line[:100]!r} is not NAME=value")
    return dict(line.split("=", 1) for line in lines)


def _mounts(*, is_systemd: bool) -> list[dict[str, Any]]:
    mounts = [
        _mount("/proc", "proc", "noexec", "nosuid", "nodev"),
        _mount("/dev", "tmpfs", "noexec", "nosuid", "strictatime", "mode=755"),
        _mount("/dev/pts", "devpts", "noexec", "nosuid", "newinstance", "ptmxmode=0666", "mode=0620"),
        _mount("/dev/shm", "tmpfs", "noexec", "nosuid", "nodev", "mode=1777"),  # noqa: S108
        _mount("/dev/mqueue", "mqueue", "noexec", "nosuid", "nodev"),
        _mount("/sys", "sysfs", "noexec", "nosuid", "nodev", "ro"),
    ]
    if is_systemd:
        mounts.append(_mount("/sys/fs/cgroup", "cgroup", "noexec", "nosuid", "nodev", "relatime", "rw"))
        mounts += [_mount(place, "tmpfs", "nosuid", "nodev") for place in _SYSTEMD_TMPFS]
    return mounts


def _mount(place: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": place, "type": kind, "source": kind, "options": options}
