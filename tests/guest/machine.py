"""A machine of its own under qemu: a Debian kernel whose drivers the host's may lack, reached by ssh.

It is emulated in software, so that it runs where virtual machines cannot be nested. The guest reaches what listens on
the host's loopback at `HOST`; the host reaches the guest's Unix sockets through ssh.
"""

import os
import platform
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.servers import Server, free_port

needs_guest = [
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="making the guest's file system needs root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the guest is an x86-64"),
]
HOST = "10.0.2.2"
"""The host's loopback, as the guest sees it."""
COMMAND_LINE = """
root=/dev/vda rw console=ttyS0 panic=-1 systemd.show_status=0 systemd.journald.forward_to_console=1
modprobe.blacklist=kvm_amd,powernow_k8
"""
"""A panic ends qemu; the console has the whole journal; drivers of the emulated processor would only take time."""
BOOT_SECONDS = 400.0
STOP_SECONDS = 240.0
RUN_SECONDS = 400.0
CONSOLE_SHOWN = 6000
"""Characters of the console's end that a failure shows."""


def at_host(server: Server, path: str) -> str:
    """Give the URL of a server's path, as the guest reaches it."""
    return f"{server.scheme}://{HOST}:{server.port}{path}"


class GuestError(Exception):
    """The guest did not boot, or a command in it failed."""


@dataclass(frozen=True)
class Parts:
    """What a machine is booted from."""

    kernel: Path
    initrd: Path | None
    disk: Path
    key: Path
    """The private key that root of the guest lets in."""


@dataclass
class Machine:
    """A machine that was switched on. `directory` holds its console's log and its sockets."""

    parts: Parts
    directory: Path
    append: str = ""
    """More of the kernel's command line."""
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.console.unlink(missing_ok=True)
        initrd = [] if self.parts.initrd is None else ["-initrd", str(self.parts.initrd)]
        with self._log("qemu").open("wb") as log:
            # It must not outlive this process, however that ends.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2",
                 "-m", "1536", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                 "-serial", f"file:{self.console}", "-kernel", str(self.parts.kernel), *initrd,
                 "-append", " ".join([*COMMAND_LINE.split(), self.append]),
                 "-drive", f"file={self.parts.disk},if=virtio,format=raw",
                 "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-:22",
                 "-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def console(self) -> Path:
        return self.directory / "console.log"

    def told(self) -> str:
        """Give the end of what qemu, ssh and the console said."""
        logs = [path for path in (self._log("qemu"), self._log("ssh"), self.console) if path.exists()]
        return "\n".join(path.read_text("utf-8", "replace")[-CONSOLE_SHOWN:] for path in logs)

    def _log(self, program: str) -> Path:
        return self.directory / f"{program}.log"

    @contextmanager
    def connected(self, sockets: Mapping[str, str]) -> Iterator["Guest"]:
        """Wait for the guest's ssh, and keep a connection to it. `sockets` are the guest's, by the names they get here.

        Raises:
            GuestError: It stopped, or ssh did not answer in time; the message has the console's end.
        """
        control = self.directory / "control"
        ssh = ["ssh", "-F", "none", "-i", str(self.parts.key), "-p", str(self.port), "-S", str(control),
               "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes",
               "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=30", "-o", "StreamLocalBindUnlink=yes",
               "-o", "ExitOnForwardFailure=yes", "root@127.0.0.1"]  # fmt: skip
        forwards = [word for name, path in sockets.items() for word in ("-L", f"{self.directory / name}:{path}")]
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            with self._log("ssh").open("wb") as log:
                master = subprocess.Popen([*ssh, "-M", "-N", *forwards], stdin=subprocess.DEVNULL, stderr=log)
            try:
                while master.poll() is None:
                    self._check(deadline)
                    if control.exists() and subprocess.run([*ssh, "-O", "check"], capture_output=True).returncode == 0:
                        yield Guest(self, ssh)
                        return
                    time.sleep(0.2)
            finally:
                master.terminate()
                master.wait()
            self._check(deadline)
            time.sleep(0.2)

    def _check(self, deadline: float) -> None:
        if (code := self.process.poll()) is not None:
            raise GuestError(f"the guest stopped before it was up (qemu: {code}):\n{self.told()}")
        if time.monotonic() > deadline:
            raise GuestError(f"the guest is not up after {BOOT_SECONDS:.0f} s:\n{self.told()}")

    def cut_power(self) -> None:
        """Switch it off at once, as losing power does; what the guest had not flushed is lost."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True)
class Guest:
    """A running guest that answers."""

    machine: Machine
    ssh: list[str]

    def run(self, command: str, *, given: bytes | None = None, seconds: float = RUN_SECONDS) -> str:
        """Run a shell command as root to its end; give its output.

        Raises:
            GuestError: It failed; the message has what it said.
        """
        code, told = self.attempt(command, given=given, seconds=seconds)
        if code:
            raise GuestError(f"{command}: exit status {code}: {told}")
        return told

    def attempt(self, command: str, *, given: bytes | None = None, seconds: float = RUN_SECONDS) -> tuple[int, str]:
        """Run a shell command as root; give its exit status and output, errors included."""
        done = subprocess.run(
            [*self.ssh, f"sh -c {shlex.quote(f'exec 2>&1; {command}')}"],
            input=given or b"", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds,
        )  # fmt: skip
        return done.returncode, done.stdout.decode("utf-8", "replace").rstrip("\n")

    def write(self, path: str, content: bytes) -> None:
        """Write a file."""
        self.run(f"cat > {shlex.quote(path)}", given=content)

    def kill(self, unit: str) -> None:
        """End a unit's main process by SIGKILL, and wait until systemd has seen it."""
        self.run(
            f"systemctl kill --kill-who=main --signal=KILL {unit}; while systemctl -q is-active {unit}; do sleep 0.1; done"
        )

    def power_off(self) -> int:
        """Shut it down; give qemu's exit status."""
        self.attempt("systemctl poweroff")  # the connection may end before the answer
        return self.machine.process.wait(STOP_SECONDS)


@contextmanager
def switched_on(parts: Parts, directory: Path, append: str = "") -> Iterator[Machine]:
    """Switch a machine on; it is off when the block ends, however it ends."""
    machine = Machine(parts, directory, append)
    try:
        yield machine
    finally:
        if machine.process.poll() is None:
            machine.cut_power()
