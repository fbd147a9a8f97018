"""Attachments over the network: what is refused before the kernel is asked, and what is said where the host lacks a part.

A kernel with the drivers is not needed here: tests/guest has one.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nekko.errors import HostError
from nekko.images.iscsi import Session
from tests.daemon import Daemon, daemon
from tests.privileged.image_host import ImageHost, needs_root
from tests.privileged.test_images_api import BASE, arguments, post
from tests.servers import free_port

pytestmark = needs_root
DISK = "iqn.2026-01.example:disk"


def iscsi(**more: Any) -> dict[str, Any]:
    own = {"initiator": "iqn.2026-01.example:node", "target": DISK, "host": "127.0.0.1"}
    return {"kind": "iscsi", "iscsi": own | more}


def nbd(**own: Any) -> dict[str, Any]:
    return {"kind": "nbd", "nbd": own}


def rbd(**more: Any) -> dict[str, Any]:
    own = {"monitors": ["127.0.0.1"], "pool": "p", "image": "i", "options": {"name": "admin", "secret": "AQ=="}}
    return {"kind": "rbd", "rbd": own | more}


@pytest.fixture
def served(image_host: ImageHost) -> Iterator[Daemon]:
    with daemon(image_host.directory, *arguments(image_host)) as running:
        yield running


WRONG: list[tuple[dict[str, Any], int, str]] = [
    (iscsi(initiator="node"), 605, "initiator should match"),
    (iscsi(target="iqn.x y"), 605, "target should match"),
    (iscsi(host="--help"), 605, "host should match"),
    (iscsi(port=65536), 608, "65535 or less"),
    (iscsi(lun=-1), 609, "lun should be 0 or more"),
    (iscsi(password="x\ny"), 605, "password should match"),
    (iscsi(passwort="x"), 610, "passwort is unknown"),
    (iscsi(username="x"), 400, "username and password go together"),
    (iscsi(username_in="x", password_in="y"), 400, "only to whom it knows"),
    (nbd(), 400, "either the host of a server, or the path"),
    (nbd(host="127.0.0.1", path="/x"), 400, "either the host of a server, or the path"),
    (nbd(path="x"), 400, "begins with a slash"),
    (nbd(path="/x", port=1), 400, "without a port"),
    (nbd(host="-d"), 605, "host should match"),
    (rbd(monitors=[]), 400, "needs a monitor"),
    (rbd(monitors=["mon.example"]), 605, "monitors[0] should match"),
    (rbd(options={"name": "admin"}), 400, "name and secret"),
    (rbd(options={"name": "admin", "secret": "A,ro"}), 605, "secret should match"),
    (rbd(options={"name": "admin", "secret": "A", "ro": True, "rw": True}), 400, "contradict"),
    (rbd(pool="a b"), 605, "pool should match"),
    (rbd(snapshot="-"), 605, "snapshot should match"),
    (rbd(iscsi={}), 610, "iscsi is unknown"),
    ({**rbd(), "iscsi": iscsi(username="x", password="y")["iscsi"]}, 400, "a part 'iscsi', of another kind"),
]


def test_what_cannot_be_is_refused_with_its_code(served: Daemon, image_host: ImageHost) -> None:
    for definition, code, message in WRONG:
        _, told = post(served, "/attach", definition)
        assert told["code"] == code, (definition, told)
        assert message in told["message"], told
    assert served.ask("GET", f"{BASE}/attach") == (200, [])
    assert image_host.leftovers() == []


@pytest.mark.parametrize(
    ("type_", "definition"),
    [
        ("attach", iscsi(host="10.0.0.1")),
        ("attach", nbd(host="10.0.0.1")),
        ("attach", nbd(path="/run/nbd.sock")),
        ("attach", rbd(monitors=["127.0.0.1", "10.0.0.1:6789"])),
        ("mount", {"kind": "nfs", "nfs": {"host": "10.0.0.1", "path": "/export"}}),
    ],
    ids=["iscsi", "nbd", "nbd over a socket", "rbd", "nfs"],
)
def test_what_is_not_permitted_is_refused(image_host: ImageHost, type_: str, definition: dict[str, Any]) -> None:
    limits = ["--images-allowed-hosts", "127.0.0.0/8", "--images-allowed-paths", str(image_host.files)]
    with daemon(image_host.directory, *arguments(image_host), *limits) as running:
        status, told = post(running, f"/{type_}", definition)
        assert (status, "this node's imagesAllowed" in told["message"]) == (403, True), told
        assert running.ask("GET", f"{BASE}/{type_}") == (200, [])


@pytest.mark.parametrize(
    ("definition", "module", "shown", "what"),
    [
        (iscsi(), "iscsi_tcp", "/sys/class/iscsi_transport", "iSCSI"),
        (nbd(host="127.0.0.1"), "nbd", "/sys/block/nbd0", "NBD"),
        (rbd(), "rbd", "/sys/bus/rbd", "RBD"),
    ],
    ids=["iscsi", "nbd", "rbd"],
)
async def test_kernel_without_a_driver_is_told_so(
    image_host: ImageHost, definition: dict[str, Any], module: str, shown: str, what: str
) -> None:
    if Path(shown).exists():
        pytest.skip(f"this kernel has {what}")
    async with image_host.open() as images:
        with pytest.raises(HostError, match=f"this kernel has no {what}: its module {module}"):
            await images.create("attach", definition)
        assert images.all_of("attach") == []


def test_secret_is_neither_answered_nor_kept(served: Daemon, image_host: ImageHost) -> None:
    secret = "VERYSECRETAQ=="
    for definition in (rbd(options={"name": "a", "secret": secret}), iscsi(username="u", password=secret)):
        _, told = post(served, "/attach", definition)
        assert secret not in str(told)
    served.stop()
    kept = [each for each in image_host.places.root.rglob("*") if each.is_file()]
    assert kept
    assert not [each for each in [*kept, served.log] if secret.encode() in each.read_bytes()]


# --- open-iscsi's own records, which need no kernel ------------------------------------------------------------------


@pytest.fixture
def own_records(image_host: ImageHost) -> list[str]:
    """Give what runs a command with records of its own."""
    own = image_host.files / "iscsi"
    own.mkdir()
    replace = f'cp -a /etc/iscsi/. {own} && mount --bind {own} /etc/iscsi; exec "$0" "$@"'
    return ["unshare", "-m", "sh", "-c", replace]


LOGIN = """
import pathlib, sys, trio
from nekko.errors import HostError
from nekko.images.iscsi import Session

session = Session.parse(sys.argv[1])

async def main():
    try:
        await session.log_in({"iface.initiatorname": "iqn.2026-01.example:node", "node.session.cmds_max": "64",
                              "node.session.auth.authmethod": "CHAP", "node.session.auth.password": "a secret of it"})
    except HostError as error:
        print(error)
    for each in pathlib.Path("/etc/iscsi").glob("[in][fo]*/**/*"):
        if each.is_file():
            print(oct(each.stat().st_mode), each.read_text())
    await session.log_out()
    await session.log_out()
trio.run(main)
"""


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_records_say_what_was_asked_for_and_go(own_records: list[str], image_host: ImageHost, address: str) -> None:
    session = Session.wanted(DISK, address, free_port(), "x")
    done = subprocess.run(
        [*own_records, ".venv/bin/python", "-c", LOGIN, str(session)], capture_output=True, text=True, check=True
    )
    assert "iscsi: open-iscsi's daemon does not run: start the service iscsid" in done.stdout
    for line in (
        "node.session.auth.password = a secret of it", "node.session.auth.authmethod = CHAP", "node.startup = manual", "node.session.cmds_max = 64",
        "iface.initiatorname = iqn.2026-01.example:node", f"node.conn[0].address = {address}",
        f"node.conn[0].port = {session.port}", f"iface.iscsi_ifacename = {session.interface}",
    ):  # fmt: skip
        assert line in done.stdout.splitlines(), done.stdout
    left = [each for each in (image_host.files / "iscsi").rglob("*") if each.is_file()]
    assert {each.name for each in left} == {"iscsid.conf", "initiatorname.iscsi"}
