"""Servers of storage on the host's loopback, from Debian's packages; the guest has only their clients."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import Server, free_port, running

GANESHA = """
NFS_CORE_PARAM {{
    Protocols = 4; NFS_Port = {port}; Bind_addr = 127.0.0.1; Enable_UDP = false; Enable_NLM = false; Enable_RQUOTA = false;
}}
NFSv4 {{ Graceless = true; RecoveryBackend = fs; RecoveryRoot = {directory}; }}
EXPORT {{
    Export_Id = 1; Path = {export}; Pseudo = /export; Access_Type = RW; Squash = no_root_squash; SecType = sys;
    Protocols = 4; Transports = TCP; FSAL {{ Name = VFS; }}
}}
"""


@contextmanager
def nfs_server(directory: Path) -> Iterator[Server]:
    """Export a directory, the server's `root`, as `/export` by NFS 4: user-space, so that no kernel is asked for."""
    export = directory / "export"
    export.mkdir(parents=True)
    port, log, config = free_port(), directory / "ganesha.log", directory / "ganesha.conf"
    config.write_text(GANESHA.format(port=port, directory=directory, export=export))
    command = ["ganesha.nfsd", "-F", "-f", str(config), "-L", "STDERR", "-p", str(directory / "ganesha.pid")]
    with running(command, port, log):
        yield Server(port, export, log, "nfs")


@dataclass(frozen=True)
class Target:
    """An iSCSI target with its disks, as LUN 1 and on. It proves itself by the second pair to whoever asks for that."""

    port: int
    name: str
    user: str
    password: str
    user_in: str = "target"
    password_in: str = "sixteen-letters-"


@contextmanager
def iscsi_target(directory: Path, *disks: Path) -> Iterator[Target]:
    """Serve disks by tgt to whoever knows the user and the password."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    control = str(port % 32768)  # a number of 15 bits
    target = Target(port, "iqn.2026-01.example.nekko:disk", "initiator", "twelve-letters")

    def administer(*words: str) -> None:
        subprocess.run(["tgtadm", "-C", control, "--lld", "iscsi", *words], check=True, capture_output=True)

    command = ["tgtd", "-f", "-C", control, "--iscsi", f"portal=127.0.0.1:{port}"]
    with running(command, port, directory / "tgtd.log"):
        try:
            administer("--mode", "target", "--op", "new", "--tid", "1", "--targetname", target.name)
            for lun, disk in enumerate(disks, 1):
                administer("--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", str(lun), "-b", str(disk))
            for user, password, *of_the_target in (
                (target.user, target.password),
                (target.user_in, target.password_in, "--outgoing"),
            ):
                administer("--mode", "account", "--op", "new", "--user", user, "--password", password)
                administer("--mode", "account", "--op", "bind", "--tid", "1", "--user", user, *of_the_target)
            administer("--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL")
            yield target
        finally:
            # No signal ends it.
            administer("--mode", "target", "--op", "delete", "--force", "--tid", "1")
            administer("--mode", "system", "--op", "delete")
            for left in Path("/var/run/tgtd").glob(f"socket.{control}*"):
                left.unlink()


@contextmanager
def nbd_server(directory: Path) -> Iterator[Server]:
    """Serve the files of a directory, the server's `root`, by nbdkit: each as the export of its name."""
    exports = directory / "exports"
    exports.mkdir(parents=True)
    port, log = free_port(), directory / "nbdkit.log"
    command = ["nbdkit", "--foreground", "--exit-with-parent", "--ipaddr", "127.0.0.1", "--port", str(port),
               "file", f"dir={exports}"]  # fmt: skip
    with running(command, port, log):
        yield Server(port, exports, log, "nbd")
