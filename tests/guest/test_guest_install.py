"""nekko on a bare-metal node: installed by `make install`, started by its units, on Debian's own kernel."""

import os
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from nekko.oci.digest import Digest
from tests.daemon import Client
from tests.guest.machine import Guest, GuestError, Parts, at_host, needs_guest, switched_on
from tests.servers import Server

pytestmark = needs_guest


def state(guest: Guest) -> str:
    return guest.run("systemctl show -P ActiveState nekko.service")


def test_every_unit_of_the_node_started(guest: Guest) -> None:
    assert guest.run("systemctl --failed --plain --no-legend") == ""
    assert guest.run("systemctl is-active nekko.socket nekko-images.socket") == "active\nactive"
    assert guest.run("nekko version").startswith("nekko ")


def test_first_client_starts_the_daemon(guest: Guest, node: Client) -> None:
    guest.run("systemctl stop nekko.service")
    assert state(guest) == "inactive"
    status, health = node.ask("GET", "/health")
    assert (status, state(guest)) == (200, "active"), health
    assert guest.run("systemctl show -P User nekko.service") == "nekko"


def test_content_is_pulled_from_a_server_proven_and_opened_by_path(guest: Guest, node: Client, web: Server) -> None:
    body = os.urandom(5 << 20)
    (web.root / "model.bin").write_bytes(body)
    url = at_host(web, "/model.bin")
    status, made = node.ask("POST", "/content/", {"url": url})
    assert (status, made["digest"]) == (201, str(Digest.of(body))), made
    [file] = node.content(url)[1]["files"]
    read = guest.run(f"setpriv --reuid=65534 --regid=65534 --clear-groups sha256sum {file['path']}")
    assert read.split()[0] == sha256(body).hexdigest()
    guest.run("systemctl restart nekko.service")
    assert node.content(url)[1]["state"] == "complete"
    assert "complete" in guest.run(f"nekko show {url}")
    assert node.ask("POST", "/content/", {"url": at_host(web, "/absent")})[0] == 404


def test_killed_daemon_is_started_again_with_what_it_had(guest: Guest, node: Client, web: Server) -> None:
    (web.root / "kept").write_bytes(os.urandom(100_000))
    url = at_host(web, "/kept")
    assert node.ask("POST", "/content/", {"url": url})[0] == 201
    before = guest.run("systemctl show -P MainPID nekko.service")
    guest.run("systemctl kill --signal=KILL nekko.service")
    status, found = node.content(url)
    assert (status, found["state"]) == (200, "complete")
    assert guest.run("systemctl show -P MainPID nekko.service") != before


def test_kernel_that_is_none_is_told(tmp_path: Path, parts: Parts) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"no kernel")
    broken = Parts(kernel, parts.initrd, parts.disk, parts.key)
    with switched_on(broken, tmp_path) as machine:
        with pytest.raises(GuestError, match=r"stopped before it was up \(qemu: 1\):\n(.|\n)*kernel"):
            with machine.connected({}):
                pass


def test_panic_at_boot_is_told_with_the_console_and_leaves_no_process(tmp_path: Path, parts: Parts) -> None:
    empty = tmp_path / "disk"
    empty.write_bytes(b"")
    os.truncate(empty, 1 << 20)
    broken = Parts(parts.kernel, None, empty, parts.key)
    with switched_on(broken, tmp_path) as machine:
        with pytest.raises(GuestError, match=r"(?s)stopped before it was up.*Kernel panic"):
            with machine.connected({}):
                pass
    assert subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True).returncode == 1
