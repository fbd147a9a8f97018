"""Opening sockets, and leaving nothing of them behind."""

import grp
import os
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from nekko.config.settings import Settings
from nekko.errors import ConfigInvalidError, HostError
from nekko.server.listeners import BACKLOG, Listener, close_all, open_listeners
from nekko.server.tls import server_tls
from tests.unit.server.serving import has_ipv6

Open = Callable[..., list[Listener]]
ROOT = Path(__file__).parents[3]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Open listeners on addresses; they are closed at the end of the test."""
    listeners: list[Listener] = []

    def opened(*addresses: str, **settings: Any) -> list[Listener]:
        made = open_listeners(Settings(address=addresses, **settings), {}, has_default_address=False, tls=None)
        listeners.extend(made)
        return made

    yield opened
    close_all(listeners)


def places(listener: Listener) -> list[tuple[str, int]]:
    return [each.socket.getsockname()[:2] for each in listener.sockets]


async def test_tcp_address_is_listened_on_and_named(opened: Open) -> None:
    (listener,) = opened("127.0.0.1:0")
    ((host, port),) = places(listener)
    assert (listener.name, listener.is_local) == (f"http://127.0.0.1:{port}", True)
    socket.create_connection((host, port)).close()


async def test_localhost_is_every_loopback_address_at_one_port(opened: Open) -> None:
    (listener,) = opened("localhost:0")
    ports = {port for _, port in places(listener)}
    assert len(ports) == 1
    assert [host for host, _ in places(listener)] == ["127.0.0.1", *(["::1"] if has_ipv6() else [])]
    assert (listener.name, listener.is_local) == (f"http://localhost:{ports.pop()}", True)


async def test_no_host_is_every_interface_and_not_local(opened: Open) -> None:
    (listener,) = opened(":0")
    port = places(listener)[0][1]
    assert places(listener)[0] == ("0.0.0.0", port)
    assert {port for _, port in places(listener)} == {port}
    assert (listener.name, listener.is_local) == (f"http://*:{port}", False)
    socket.create_connection(("127.0.0.1", port)).close()
    if has_ipv6():
        socket.create_connection(("::1", port)).close()


@pytest.mark.parametrize(
    ("address", "is_local"),
    [("127.0.0.2:0", True), ("[::1]:0", True), ("0.0.0.0:0", False), ("[::]:0", False)],
)
async def test_only_loopback_is_local(opened: Open, address: str, is_local: bool) -> None:
    if address.startswith("[") and not has_ipv6():
        pytest.skip("this host has no IPv6")
    (listener,) = opened(address)
    assert listener.is_local is is_local


def test_host_without_ipv6_listens_on_what_it_has() -> None:
    # A network of its own, in which the kernel has IPv6 switched off.
    program = """if True:
        from nekko.config.settings import Settings
        from nekko.server.listeners import open_listeners
        for address in ("localhost:0", ":0"):
            (listener,) = open_listeners(Settings(address=(address,)), {}, has_default_address=False, tls=None)
            print([each.socket.getsockname()[0] for each in listener.sockets])
    """
    setting = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
    prepare = f"{{ [ ! -e {setting} ] || echo 1 >{setting}; }} && ip link set lo up"
    if subprocess.run(["unshare", "-rn", "sh", "-c", prepare], check=False, capture_output=True).returncode:
        pytest.skip("this host does not permit a network namespace without IPv6")
    command = f'{prepare} && exec "$0" -W ignore -c "$1"'
    out = subprocess.run(
        ["unshare", "-rn", "sh", "-c", command, sys.executable, program], cwd=ROOT, check=True, stdout=subprocess.PIPE
    ).stdout.decode()
    assert out.splitlines()[0] == "['127.0.0.1']"
    assert "0.0.0.0" in out.splitlines()[1]


async def test_own_backlog_is_generous(opened: Open) -> None:
    (listener,) = opened("127.0.0.1:0")
    limit = int(Path("/proc/sys/net/core/somaxconn").read_text())
    info = listener.sockets[0].socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    assert struct.unpack_from("I", info, 28)[0] == min(BACKLOG, limit)  # tcpi_sacked: of a listener its backlog


async def test_tcp_address_in_use_is_refused_by_name(opened: Open) -> None:
    (first,) = opened("127.0.0.1:0")
    address = first.name.removeprefix("http://")
    with pytest.raises(HostError, match=f"^cannot listen on {address}: Address already in use$"):
        opened(address)


async def test_host_that_cannot_be_resolved_is_refused_by_name(opened: Open) -> None:
    with pytest.raises(HostError, match=r"^cannot listen on nowhere\.invalid:80: "):
        opened("nowhere.invalid:80")


async def test_address_of_another_host_is_refused_by_name(opened: Open) -> None:
    with pytest.raises(HostError, match=r"^cannot listen on 192\.0\.2\.1:80: Cannot assign requested address$"):
        opened("192.0.2.1:80")


async def test_malformed_address_is_refused(opened: Open) -> None:
    with pytest.raises(ConfigInvalidError, match="'8050' is not an address"):
        opened("8050")


async def test_what_was_opened_is_closed_again_if_a_later_address_fails(opened: Open, socket_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        free = socket.create_server(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        with pytest.raises(HostError):
            opened(f"127.0.0.1:{port}", f"unix:{socket_path}", f"127.0.0.1:{used.getsockname()[1]}")
    assert not socket_path.exists()
    socket.create_server(("127.0.0.1", port)).close()


def mode_of(path: Path) -> int:
    found = path.stat()
    assert stat.S_ISSOCK(found.st_mode)
    return stat.S_IMODE(found.st_mode)


@pytest.mark.parametrize("mask", [0, 0o077])
@pytest.mark.parametrize("mode", ["0660", "0600", "0666"])
async def test_unix_socket_has_its_mode_whatever_the_umask(
    opened: Open, socket_path: Path, mode: str, mask: int
) -> None:
    before = os.umask(mask)
    try:
        (listener,) = opened(f"unix:{socket_path}", socket_mode=mode)
    finally:
        assert os.umask(before) == mask
    assert mode_of(socket_path) == int(mode, 8)
    assert (listener.name, listener.is_local) == (f"unix:{socket_path}", True)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(socket_path))


def test_unix_socket_is_never_more_open_than_it_will_be(socket_path: Path) -> None:
    program = """if True:
        import os, sys
        from nekko.config.settings import Settings
        from nekko.server.listeners import open_listeners

        path, group = sys.argv[1:]

        def tell(event, arguments):  # is called before the change is made
            if event in ("os.chmod", "os.chown") and str(arguments[0]) == path:
                print(event, oct(os.stat(path).st_mode & 0o777))

        os.umask(0)
        sys.addaudithook(tell)
        settings = Settings(address=(path,), socket_mode="0600", socket_group=group)
        open_listeners(settings, {}, has_default_address=False, tls=None)
    """
    command = [sys.executable, "-W", "ignore", "-c", program, str(socket_path), own_group().gr_name]
    out = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout.decode()
    assert out.splitlines() == ["os.chown 0o0", "os.chmod 0o0"]
    assert mode_of(socket_path) == 0o600


def own_group() -> grp.struct_group:
    """Give a group that this process may give a file to, and that new files do not have anyway where it is root."""
    return grp.getgrnam("daemon") if os.geteuid() == 0 else grp.getgrgid(os.getgroups()[-1])


async def test_unix_socket_has_its_group(opened: Open, socket_path: Path) -> None:
    group = own_group()
    opened(f"unix:{socket_path}", socket_group=group.gr_name)
    assert socket_path.stat().st_gid == group.gr_gid
    assert mode_of(socket_path) == 0o660


async def test_unknown_group_is_refused_and_makes_nothing(opened: Open, socket_path: Path) -> None:
    with pytest.raises(ConfigInvalidError, match="socketGroup: there is no group 'no-such-group'"):
        opened(f"unix:{socket_path}", socket_group="no-such-group")
    assert not socket_path.exists()


async def test_stale_socket_is_replaced(opened: Open, socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_path))
        dead.listen()
    opened(f"unix:{socket_path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(socket_path))


def occupy_live(path: Path) -> socket.socket:
    live = socket.socket(socket.AF_UNIX)
    live.bind(str(path))
    live.listen()
    return live


def occupy_full(path: Path) -> list[socket.socket]:
    live = socket.socket(socket.AF_UNIX)
    live.bind(str(path))
    live.listen(0)
    waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(4)]
    for client in waiting:
        client.connect_ex(str(path))
    return [live, *waiting]


def occupy_by_file(path: Path) -> None:
    path.write_text("precious")


def occupy_by_link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


OCCUPIED: dict[str, tuple[Callable[[Path], object], str]] = {
    "live": (occupy_live, "another process is listening there"),
    "live-with-a-full-backlog": (occupy_full, "another process is listening there"),
    "file": (occupy_by_file, "a file that is not a socket is there"),
    "link": (occupy_by_link, "a file that is not a socket is there"),
    "directory": (Path.mkdir, "a file that is not a socket is there"),
}


@pytest.mark.parametrize(("occupy", "reason"), OCCUPIED.values(), ids=OCCUPIED)
async def test_path_that_is_in_use_is_refused_and_left_alone(
    opened: Open, socket_path: Path, occupy: Callable[[Path], object], reason: str
) -> None:
    held = occupy(socket_path)
    before = socket_path.lstat()
    with pytest.raises(HostError, match=f"^cannot listen on unix:{socket_path}: {reason}"):
        opened(f"unix:{socket_path}")
    assert socket_path.lstat() == before
    for each in held if isinstance(held, list) else [held]:
        if isinstance(each, socket.socket):
            each.close()


async def test_missing_directory_is_told_by_name(opened: Open, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=f"there is no directory {tmp_path}/none$"):
        opened(f"unix:{tmp_path}/none/nekko.sock")


async def test_close_removes_the_socket_file(opened: Open, socket_path: Path) -> None:
    (listener,) = opened(f"unix:{socket_path}")
    listener.close()
    assert not socket_path.exists()
    listener.close()


async def test_close_leaves_a_socket_alone_that_somebody_put_in_its_place(opened: Open, socket_path: Path) -> None:
    (listener,) = opened(f"unix:{socket_path}")
    socket_path.unlink()
    with occupy_live(socket_path):
        listener.close()
        assert socket_path.exists()


async def test_close_of_a_socket_whose_file_is_gone_is_quiet(opened: Open, socket_path: Path) -> None:
    (listener,) = opened(f"unix:{socket_path}")
    socket_path.unlink()
    listener.close()


async def test_two_addresses_are_both_listened_on(opened: Open, socket_path: Path) -> None:
    tcp, unix = opened("127.0.0.1:0", str(socket_path))
    assert tcp.name.startswith("http://127.0.0.1:")
    assert unix.name == f"unix:{socket_path}"


@pytest.mark.parametrize("address", ["127.0.0.1:0", "unix"])
async def test_sockets_are_not_passed_to_children(opened: Open, socket_path: Path, address: str) -> None:
    (listener,) = opened(f"unix:{socket_path}" if address == "unix" else address)
    assert not any(os.get_inheritable(each.socket.fileno()) for each in listener.sockets)


async def test_listener_of_health_or_metrics_alone_is_plain(tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    settings = Settings(
        address=("127.0.0.1:0",), tls_cert=certificate, tls_key=key,
        listen=tuple(f"127.0.0.1:0={doors}" for doors in ("health", "metrics", "admin")),
    )  # fmt: skip
    listeners = open_listeners(settings, {}, has_default_address=False, tls=server_tls(settings))
    try:
        assert [(listener.tls is None, listener.doors) for listener in listeners[1:]] == [
            (True, frozenset()), (True, frozenset({"metrics"})), (False, frozenset({"admin"}))
        ]  # fmt: skip
        assert listeners[0].tls is not None
    finally:
        close_all(listeners)
