"""systemd's notices, received on real sockets, and its sockets, inherited by real processes."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import pytest
import trio

from nekko.config.doors import USUAL
from nekko.errors import ConfigInvalidError
from nekko.server.systemd import Notifier, inherited_sockets

ROOT = Path(__file__).parents[3]


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(address)

    def notices(self) -> list[str]:
        """Give what has come since the last call."""
        received = []
        while True:
            try:
                received.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return received

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def notify_socket(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a place for the manager's socket, as `NOTIFY_SOCKET` writes it."""
    return f"{tmp_path}/notify" if request.param == "path" else f"@nekko-test-{tmp_path}"


@pytest.fixture
def manager(notify_socket: str) -> Iterator[Manager]:
    """Give a manager that listens."""
    manager = Manager(notify_socket.replace("@", "\0"))
    yield manager
    manager.close()


def test_notices_reach_the_manager(manager: Manager, notify_socket: str) -> None:
    environ = {"NOTIFY_SOCKET": notify_socket, "OTHER": "1"}
    notifier = Notifier(environ)
    notifier.ready()
    notifier.status("serving\nREADY=0")
    notifier.stopping()
    assert manager.notices() == ["READY=1", "STATUS=serving READY=0", "STOPPING=1"]
    assert environ == {"OTHER": "1"}


@pytest.mark.parametrize("pid", [{}, {"WATCHDOG_PID": str(os.getpid())}], ids=["any", "ours"])
async def test_watchdog_is_told_at_half_its_interval(
    manager: Manager, notify_socket: str, autojump_clock: trio.testing.MockClock, pid: dict[str, str]
) -> None:
    environ = {"NOTIFY_SOCKET": notify_socket, "WATCHDOG_USEC": "20000000", **pid}
    notifier = Notifier(environ)
    with trio.move_on_after(95):
        await notifier.watchdog()
    assert manager.notices() == ["WATCHDOG=1"] * 10
    assert environ == {}


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}], ids=str
)
async def test_watchdog_of_nobody_returns_at_once(environ: dict[str, str]) -> None:
    with trio.fail_after(30):
        await Notifier(environ).watchdog()


async def test_watchdog_falls_silent_when_the_event_loop_is_held_up(manager: Manager, notify_socket: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": notify_socket, "WATCHDOG_USEC": "1000"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.watchdog)
        await trio.sleep(0.05)
        manager.notices()
        for _ in range(1_000_000):  # the loop does not turn
            pass
        assert manager.notices() == []
        nursery.cancel_scope.cancel()


def test_without_a_manager_nothing_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({})
    notifier.ready()
    assert caplog.records == []


def test_manager_that_has_gone_is_logged_and_harms_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier({"NOTIFY_SOCKET": f"{tmp_path}/gone"}).ready()
    assert caplog.messages == ["systemd could not be told READY=1: [Errno 2] No such file or directory"]


def test_manager_that_does_not_read_holds_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = Manager(f"{tmp_path}/notify")
    notifier = Notifier({"NOTIFY_SOCKET": f"{tmp_path}/notify"})
    while not caplog.messages:
        notifier.ready()
    assert "Resource temporarily unavailable" in caplog.messages[0]
    assert set(manager.notices()) == {"READY=1"}
    manager.close()


@pytest.mark.parametrize(
    ("environ", "message"),
    [({"NOTIFY_SOCKET": "vsock:2:1234"}, "NOTIFY_SOCKET=vsock:2:1234"), ({"WATCHDOG_USEC": "x"}, "WATCHDOG_USEC=x")],
    ids=["socket", "watchdog"],
)
def test_variable_that_cannot_be_understood_is_refused(environ: MutableMapping[str, str], message: str) -> None:
    with pytest.raises(ConfigInvalidError, match=message):
        Notifier(environ)


@pytest.mark.parametrize(
    "environ", [{}, {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, {"LISTEN_FDS": "2", "LISTEN_PID": "1"}], ids=str
)
def test_sockets_of_another_process_are_not_taken(environ: dict[str, str]) -> None:
    assert inherited_sockets(environ) == []
    assert environ == {}


# Moves the given descriptors to 3 and up and becomes the program, as systemd would have started it.
ACTIVATE = """if True:
    import os, sys
    program, names, *descriptors = sys.argv[1:]
    for number, descriptor in enumerate(descriptors):
        os.dup2(int(descriptor), 100 + number)
    for number in range(len(descriptors)):
        os.dup2(100 + number, 3 + number)
    os.closerange(3 + len(descriptors), 200)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(descriptors)), LISTEN_FDNAMES=names)
    os.execv(sys.executable, [sys.executable, "-W", "ignore", "-c", program])
"""

ALL = ",".join(sorted(USUAL))
REPORT = """if True:
    import os, socket, struct, sys
    from nekko.config.settings import Settings
    from nekko.errors import NekkoError
    from nekko.server.listeners import open_listeners
    settings = Settings(address=("127.0.0.1:0",))
    try:
        listeners = open_listeners(settings, os.environ, has_default_address=IS_DEFAULT, tls=None)
    except NekkoError as error:
        sys.exit(str(error))
    for listener in listeners:
        (sock,) = (each.socket for each in listener.sockets)
        backlog = struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32), 28)[0] if (
            sock.family != socket.AF_UNIX) else "-"
        print(listener.name, listener.is_local, listener.file, os.get_inheritable(sock.fileno()), backlog, end=" ")
        print(*sorted(listener.doors), sep=",")
    print(sorted(name for name in os.environ if name.startswith("LISTEN")))
"""


def activate(
    *sockets: socket.socket, has_default_address: bool = True, names: str = "x:y"
) -> "subprocess.CompletedProcess[str]":
    program = REPORT.replace("IS_DEFAULT", str(has_default_address))
    numbers = [each.fileno() for each in sockets]
    return subprocess.run(
        [sys.executable, "-c", ACTIVATE, program, names, *map(str, numbers)],
        pass_fds=numbers, cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip


def test_inherited_sockets_replace_the_default_address_and_are_left_as_they_are(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=77) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"{tmp_path}/nekko.sock")
        unix.listen()
        port = tcp.getsockname()[1]
        ended = activate(tcp, unix)
        assert ended.stdout.splitlines() == [
            f"http://127.0.0.1:{port} True None False 77 {ALL}",
            f"unix:{tmp_path}/nekko.sock True None False - {ALL}",
            "[]",
        ]


@pytest.mark.parametrize(
    ("names", "doors"),
    [
        ("admin:files,content", ["admin", "content,files"]),
        ("nekko.socket:nekko.socket", [ALL, ALL]),
        ("a,admin", [ALL] * 2),
    ],
)
def test_inherited_socket_has_the_doors_that_its_name_lists_else_all(names: str, doors: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        told = activate(one, other, names=names).stdout.splitlines()
    assert [line.split()[-1] for line in told[:2]] == doors


def test_inherited_sockets_join_a_configured_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        inherited, own, _ = activate(tcp, has_default_address=False).stdout.splitlines()
    assert inherited.startswith(f"http://127.0.0.1:{tcp_port(inherited)} True None ")
    assert own.startswith("http://127.0.0.1:")
    assert tcp_port(own) != tcp_port(inherited)


def tcp_port(line: str) -> str:
    return line.split()[0].rpartition(":")[2]


def test_inherited_abstract_and_dual_stack_sockets_are_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix, socket.socket(socket.AF_INET6) as dual:
        unix.bind(f"\0nekko-test-{tmp_path}")
        unix.listen()
        try:
            dual.bind(("::ffff:127.0.0.1", 0))
        except OSError:
            pytest.skip("this host has no IPv6")
        dual.listen()
        first, second, _ = activate(unix, dual).stdout.splitlines()
    assert first.startswith(f"unix:@nekko-test-{tmp_path} True ")
    assert second.startswith("http://[::ffff:127.0.0.1]:")
    assert second.split()[1] == "True"


def datagram() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.mark.parametrize("make", [datagram, socket.socket], ids=["datagram", "not-listening"])
def test_inherited_socket_that_cannot_be_listened_on_is_refused(make: type[socket.socket]) -> None:
    with make() as sock:
        ended = activate(sock)
    assert ended.returncode == 1
    assert ended.stderr == "an inherited socket does not listen: a socket unit needs ListenStream= and Accept=no\n"


def test_inherited_descriptor_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        ended = activate(file)  # type: ignore[arg-type]
    assert ended.returncode == 1
    assert ended.stderr.startswith("LISTEN_FDS=1: the sockets cannot be taken over: ")
