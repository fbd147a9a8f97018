"""Drivers of attachments whose bytes are on another host."""

import socket
from pathlib import Path

import trio

from nekko.errors import CommandError, HostError, ImageInvalidError, ObjectBusyError
from nekko.images import host, iscsi, nbd, rbd, steps
from nekko.images.steps import Step
from nekko.images.work import Work

ISCSI_PORT, ISCSI_MAX_COMMANDS, ISCSI_QUEUE_DEPTH = 3260, 128, 16
NBD_PORT = 10809
CONNECT_SECONDS = 15.0
_finding_nbd = trio.Lock()
_mapping = trio.Lock()


async def attach_iscsi(work: Work) -> None:
    """Yield a disk of an iSCSI target. Attachments of one target, by the same terms, have one session."""
    own, secrets = work.own, work.secrets
    for name, secret in (("username", "password"), ("username_in", "password_in")):
        if (name in own) != (secret in secrets):
            raise ImageInvalidError(f"iscsi: {name} and {secret} go together")
    if "username_in" in own and "username" not in own:
        raise ImageInvalidError("iscsi: a target names itself (username_in) only to whom it knows (username)")
    work.permitted.check_host(own["host"])
    host.program("iscsiadm")
    await host.load("iscsi_tcp", Path("/sys/class/iscsi_transport/tcp"), "iSCSI")
    address, port = await _answering("iscsi", own["host"], own.get("port") or ISCSI_PORT)
    commands = own.get("max_comands") or ISCSI_MAX_COMMANDS
    terms = own["initiator"], own.get("username", ""), own.get("username_in", ""), commands
    session = iscsi.Session.wanted(own["target"], address, port, *terms)
    async with steps.turn("session"):
        there = [interface for _, interface in session.at_portal()]
        if there and session.interface not in there:
            raise ObjectBusyError(
                f"iscsi: this host has a session with {session.target} at {session.portal} already, by other terms "
                f"(interface {there[0]}): end that first"
            )
        work.note(Step("session", str(session)))
        if there:
            await session.look_again()
        else:
            named = {"iface.initiatorname": own["initiator"], "node.session.cmds_max": str(commands)}
            await session.log_in(named | _chap(work))
    device = await session.device_of(own.get("lun", 0))
    _tune(device, "device/queue_depth", str(own.get("queue_depth") or ISCSI_QUEUE_DEPTH))
    if "scheduler" in own:
        _tune(device, "queue/scheduler", own["scheduler"])
    work.made.product = device


async def attach_nbd(work: Work) -> None:
    """Yield what a server offers by the NBD protocol, over TCP or a Unix socket."""
    own = work.own
    if ("host" in own) == ("path" in own):
        raise ImageInvalidError("nbd: it needs either the host of a server, or the path of its Unix socket")
    if "path" in own and ("port" in own or not own["path"].startswith("/")):
        raise ImageInvalidError("nbd: path begins with a slash, and goes without a port")
    if "path" in own:
        work.permitted.check_path(own["path"])
    else:
        work.permitted.check_host(own["host"])
    host.program("nbd-client")
    await host.load("nbd", Path("/sys/block/nbd0"), "NBD")
    if "path" in own:
        server = ["-unix", own["path"]]
    else:
        server = list(map(str, await _answering("nbd", own["host"], own.get("port") or NBD_PORT)))
    options = [
        *(["-name", own["export"]] if own.get("export") else []),
        *(["-timeout", str(own["timeout"])] if own.get("timeout") else []),
        *(["-readonly"] if own.get("ro", False) else []),
    ]
    async with _finding_nbd:
        for device in nbd.free():
            work.note(Step("nbd", device))
            try:
                await host.run("nbd-client", *server, device, *options)
            except CommandError:
                work.drop_last()  # whatever is connected there now, another process did it
                if nbd.connection(device) is None:
                    raise
            else:
                work.amend_last(Step("nbd", device, nbd.connection(device) or ""))
                work.made.product = device
                return
    raise HostError("nbd: every device is in use: load the module nbd with more (nbds_max)")


async def attach_rbd(work: Work) -> None:
    """Yield an image of Ceph, or a snapshot of one."""
    own, options = work.own, work.own.get("options", {})
    if not own["monitors"] or not options.get("name") or "secret" not in work.secrets:
        raise ImageInvalidError("rbd: it needs a monitor, and options with name and secret")
    for monitor in own["monitors"]:
        work.permitted.check_host(rbd.host_of(monitor))
    image = rbd.Image(own["pool"], options.get("namespace", ""), own["image"], own.get("snapshot", ""))
    told = rbd.line(image, own["monitors"], {**options, "secret": work.secrets["secret"]})
    await host.load("rbd", rbd.BUS, "RBD")
    async with _mapping:
        if (number := image.number) is not None:
            raise ObjectBusyError(f"rbd: {image.pool}/{image.name} is mapped already, as /dev/rbd{number}")
        work.note(Step("rbd", str(image), "force" if options.get("force", False) else ""))
        number = await image.map(told)
    work.made.told["device_id"] = number
    work.made.product = f"/dev/rbd{number}"


def _chap(work: Work) -> dict[str, str]:
    given = {**work.own, **work.secrets}
    said: dict[str, str] = {
        name: given[name] for name in ("username", "password", "username_in", "password_in") if name in given
    }
    said["authmethod"] = "CHAP" if said else "None"
    return {f"node.session.auth.{name}": value for name, value in said.items()}


def _tune(device: str, attribute: str, value: str) -> None:
    place = host.settings_of(device) / attribute
    try:
        place.write_text(value)
    except FileNotFoundError as error:
        raise HostError(f"{device} is gone again, or has no {attribute}") from error
    except OSError as error:
        known = place.read_text().strip()
        raise ImageInvalidError(
            f"{place.name} of {device} cannot be {value[:40]!r} ({error.strerror}), it is {known}"
        ) from error


async def _answering(kind: str, name: str, port: int) -> tuple[str, int]:
    """Give the address of a host at which a port answers, out of all that it has.

    Raises:
        ImageInvalidError: There is no such host.
        HostError: None of its addresses answers.
    """
    try:
        with trio.fail_after(CONNECT_SECONDS):
            stream = await trio.open_tcp_stream(name, port)
    except socket.gaierror as error:
        raise ImageInvalidError(f"{kind}: host {name!r}: {error.strerror}") from error
    except (OSError, trio.TooSlowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or "no answer"
        raise HostError(f"{kind}: nothing answers at {host.in_brackets(name)}:{port} ({why})") from error
    async with stream:
        address, found, *_ = stream.socket.getpeername()
        return str(address), int(found)
