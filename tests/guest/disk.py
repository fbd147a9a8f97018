"""What the guest is booted from: a Debian with clients of storage, nekko installed as on any node, and nothing else."""

import shutil
import subprocess
from pathlib import Path

from tests.debian import bare_tree, enable, installed_copy
from tests.guest.machine import Parts

SYSTEM = ("systemd-sysv", "dbus", "udev", "kmod", "python3", "iproute2", "linux-image-cloud-amd64", "initramfs-tools")
CLIENTS = ("curl", "openssh-server", "open-iscsi", "nfs-common", "nbd-client", "cryptsetup-bin", "e2fsprogs")
CONTAINERS = ("crun", "runc", "conmon", "busybox-static")
DISK_BYTES = 3 << 30  # sparse

NETWORK = "[Match]\nName=en*\n[Network]\nDHCP=ipv4\n"
SETTINGS = "NEKKO_MIN_FREE_SPACE=0\n"
PATIENT = "[Service]\nTimeoutStartSec=600\nWatchdogSec=600\n"
"""What is emulated, on a busy machine, is slow."""
NEEDLESS = ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_reap.service", "fstrim.timer", "getty@tty1.service")


def bare() -> Path:
    """Give the tree of the guest's Debian, without nekko."""
    return bare_tree(*SYSTEM, *CLIENTS, *CONTAINERS)


def make_parts(directory: Path) -> Parts:
    """Make the disk, with nekko as `make install` installs it, and the key that opens it."""
    key = directory / "key"
    key.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    root = installed_copy(bare(), directory / "root")
    try:
        (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
        shutil.copy(key.with_suffix(".pub"), root / "root/.ssh/authorized_keys")
        (root / "etc/hostname").write_text("guest\n")
        (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
        (root / "etc/systemd/network/guest.network").write_text(NETWORK)
        (root / "etc/default/nekko").write_text(SETTINGS)
        for unit in ("nekko.service", "nekko-images.service"):
            drop_in = root / f"etc/systemd/system/{unit}.d"
            drop_in.mkdir()
            (drop_in / "test.conf").write_text(PATIENT)
        enable(root, "nekko.socket", "nekko-images.socket", "systemd-networkd", "ssh")
        subprocess.run(["systemctl", "--quiet", f"--root={root}", "mask", *NEEDLESS], check=True)
        disk = directory / "disk"
        disk.unlink(missing_ok=True)
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-d", root, disk], check=True)
    finally:
        shutil.rmtree(root)
    [kernel], [initrd] = bare().glob("boot/vmlinuz-*"), bare().glob("boot/initrd.img-*")
    return Parts(kernel, initrd, disk, key)
