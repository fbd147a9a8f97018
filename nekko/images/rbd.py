"""Images of Ceph that this host's kernel has mapped, through the files by which the kernel is told to.

No program stands between, so that a secret is in no argument. Source: Linux, Documentation/ABI/testing/sysfs-bus-rbd,
drivers/block/rbd.c, net/ceph/ceph_common.c.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import trio

from nekko.errors import HostError, ImageInvalidError, ObjectBusyError
from nekko.images import host

BUS = Path("/sys/bus/rbd")
_NONE = "-"
"""The kernel's word for no snapshot."""
_threads = trio.CapacityLimiter(4)
"""Mapping lasts until a monitor answers, a minute where none does."""

VALUES: Mapping[str, str] = {
    name: name
    for name in (
        "name", "secret", "fsid", "ip", "mount_timeout", "osdkeepalive", "osd_idle_ttl", "osd_request_timeout",
        "crush_location", "read_from_replica", "ms_mode", "queue_depth", "alloc_size", "lock_timeout",
        "compression_hint",
    )
} | {"namespace": "_pool_ns"}  # fmt: skip
"""Options with a value, and the kernel's names of them."""
FLAGS: Mapping[str, str] = {
    name: name
    for name in (
        "share", "noshare", "crc", "nocrc", "cephx_sign_messages", "nocephx_sign_messages", "tcp_nodelay",
        "notcp_nodelay", "abort_on_full", "rxbounce", "rw", "ro", "lock_on_read", "exclusive", "notrim",
    )
} | {
    "ceph_requires_signatures": "cephx_require_signatures", "noceph_requires_signatures": "nocephx_require_signatures",
}  # fmt: skip
"""The same of those that are there or not."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image, which may be mapped or not."""

    pool: str
    namespace: str
    name: str
    snapshot: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` gives."""
        return cls(*("" if word == _NONE else word for word in text.split(" ")))

    def __str__(self) -> str:
        return " ".join(word or _NONE for word in (self.pool, self.namespace, self.name, self.snapshot))

    @property
    def number(self) -> int | None:
        """The number of its device; None if it is not mapped."""
        for each in BUS.glob("devices/*"):
            found = [_read(each / attribute) for attribute in ("pool", "pool_ns", "name", "current_snap")]
            if found == [self.pool, self.namespace, self.name, self.snapshot or _NONE]:
                return int(each.name)
        return None

    async def map(self, told: str) -> int:
        """Have the kernel map it; give the number of its device.

        Args:
            told: What `line` gives.

        Raises:
            HostError: It cannot be mapped.

        Cancellation: Has to wait for the kernel.
        """
        try:
            await trio.to_thread.run_sync(_write, "add", told, limiter=_threads)
        except OSError as error:
            raise HostError(
                f"rbd: {self.pool}/{self.name} cannot be mapped ({error.strerror}): the kernel's log says more"
            ) from error
        if (number := self.number) is None:
            raise HostError(f"rbd: the kernel has mapped {self.pool}/{self.name}, and shows it under another name")
        return number

    async def unmap(self, *, is_forced: bool) -> None:
        """Have the kernel unmap it, if it is mapped.

        Raises:
            ObjectBusyError: Its device is in use.
            HostError: It cannot be unmapped.
        """
        if (number := self.number) is None:
            return
        if users := host.mounted_from(f"/dev/rbd{number}"):
            raise ObjectBusyError(f"/dev/rbd{number} is in use: {users[0].place} is mounted from it")
        try:
            order = f"{number} force" if is_forced else str(number)
            await trio.to_thread.run_sync(_write, "remove", order, limiter=_threads)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise ObjectBusyError(f"/dev/rbd{number} is in use by a process") from error
            raise HostError(f"rbd: /dev/rbd{number} cannot be unmapped: {error.strerror}") from error


def line(image: Image, monitors: Sequence[str], options: Mapping[str, Any]) -> str:
    """Give what the kernel is told to map an image.

    Raises:
        ImageInvalidError: An option contradicts another one.
    """
    said = [f"{kernels}={options[name]}" for name, kernels in VALUES.items() if name in options]
    said += [kernels for name, kernels in FLAGS.items() if options.get(name, False)]
    for one, other in [("rw", "ro"), *((flag, f"no{flag}") for flag in FLAGS if f"no{flag}" in FLAGS)]:
        if options.get(one, False) and options.get(other, False):
            raise ImageInvalidError(f"rbd: options {one} and {other} contradict each other")
    at = ",".join(host.in_brackets(each) if host_of(each) == each else each for each in monitors)
    words = [at, ",".join(said), image.pool, image.name, *([image.snapshot] if image.snapshot else [])]
    return " ".join(words)


def host_of(monitor: str) -> str:
    """Give the address of a monitor without its port."""
    if monitor.startswith("["):
        return monitor[1:].partition("]")[0]
    return monitor if monitor.count(":") > 1 else monitor.partition(":")[0]


def _write(order: str, text: str) -> None:
    single = BUS / f"{order}_single_major"  # devices of one kind, as they are made since Linux 3.14
    descriptor = os.open(single if single.exists() else BUS / order, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, os.fsencode(text))
    finally:
        os.close(descriptor)


def _read(attribute: Path) -> str:
    try:
        return attribute.read_text().strip()
    except OSError:  # it went while it was looked at
        return ""
