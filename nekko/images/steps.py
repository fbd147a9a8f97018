"""Steps: changes of the host that can be looked for and undone by their name alone.

Each kind is one pair of sync or async functions: does it still hold, and undo it. Undoing what does not hold is no
error, which is what lets a new process undo what an old one may or may not have done.
"""

import shutil
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import trio

from nekko.errors import CommandError, CommandTimeoutError, HostError, ObjectBusyError
from nekko.images import host, iscsi, nbd, rbd

RELEASE_SECONDS = 60.0
"""What a program may take to let go of something: a network file system's server may never answer again."""

Kind = Literal["directory", "tree", "mount", "loop", "session", "nbd", "rbd", "verity"]


@dataclass(frozen=True, slots=True)
class Step:
    """One change of the host. `subject` is the path or device that it is about.

    directory: an empty directory at `subject`.
    tree: a directory at `subject`, which goes with all that is in it.
    mount: something is mounted at `subject`; `detail` is "recursive" where it brought mounts below it.
    loop: the loop device `subject` has the file `detail`.
    session: the iSCSI session `subject`. Several objects may have it; the last one undoes it.
    nbd: the device `subject` is connected, by the process `detail` where that is known.
    rbd: the image `subject` of Ceph is mapped; `detail` is "force" where it goes even from under its users.
    verity: the device mapper has a device `subject` that proves what is read.
    """

    kind: Kind
    subject: str
    detail: str = ""


def holds(step: Step) -> bool:
    """Tell whether what a step did is still there."""
    if step.kind == "mount":
        return bool(host.mounted_at(step.subject))
    if step.kind == "loop":
        return host.backing_file(step.subject) == step.detail
    if step.kind == "session":
        return iscsi.Session.parse(step.subject).number is not None
    if step.kind == "nbd":
        connection = nbd.connection(step.subject)
        return connection is not None and step.detail in ("", connection)
    if step.kind == "rbd":
        return rbd.Image.parse(step.subject).number is not None
    if step.kind == "verity":
        return host.is_mapped(step.subject)
    return Path(step.subject).is_dir()


_turns: Mapping[Kind, trio.Lock] = {"session": trio.Lock()}


def turn(kind: Kind) -> AbstractAsyncContextManager[None]:
    """Give what is held while a step that objects may share is done or undone: none joins it while it is undone."""
    return _turns.get(kind) or nullcontext()


async def undo(step: Step, *, lazy: bool = False) -> None:
    """Undo a step, if it holds.

    Args:
        lazy: Unmount also what is in use; the kernel ends it when the last user is gone.

    Raises:
        ObjectBusyError: It is in use.
        HostError: It cannot be undone; the message says why.
    """
    await _UNDO[step.kind](step, lazy)


async def _undo_directory(step: Step, _: bool) -> None:
    try:
        Path(step.subject).rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise HostError(f"{step.subject} cannot be removed: {error.strerror}") from error


async def _undo_tree(step: Step, _: bool) -> None:
    if below := host.mounted_below(step.subject):  # never through a mount into what is not ours
        raise ObjectBusyError(f"{step.subject} cannot be removed: {below[0].place} is mounted")
    try:
        await trio.to_thread.run_sync(remove_tree, Path(step.subject))
    except OSError as error:
        raise HostError(f"{step.subject} cannot be removed: {error}") from error


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it, if it is there."""
    if path.exists():
        shutil.rmtree(path)


async def _undo_mount(step: Step, lazy: bool) -> None:
    options = [*(["--recursive"] if step.detail == "recursive" else []), *(["--lazy"] if lazy else [])]
    while host.mounted_at(step.subject):  # once for each that lies on the place: a remount may have been cut short
        try:
            await _release("umount", *options, step.subject)
        except CommandTimeoutError as error:
            raise HostError(
                f"{step.subject}: {error}; if its server is gone for good, force=true with lazy=true lets go of it"
            ) from error


async def _undo_loop(step: Step, _: bool) -> None:
    # The kernel would take the order to detach, and wait for the device's users without saying so.
    if holds(step):  # else another process may have the device
        _check_unmounted(step.subject)
        await _release("losetup", "--detach", step.subject)


async def _undo_session(step: Step, _: bool) -> None:
    session = iscsi.Session.parse(step.subject)
    for _lun, device in session.devices():
        _check_unmounted(device)
    await session.log_out()


async def _undo_nbd(step: Step, _: bool) -> None:
    if holds(step):
        _check_unmounted(step.subject)
        await _release("nbd-client", "-d", step.subject)


async def _undo_rbd(step: Step, _: bool) -> None:
    await rbd.Image.parse(step.subject).unmap(is_forced=step.detail == "force")


async def _undo_verity(step: Step, _: bool) -> None:
    if holds(step):
        await _release("veritysetup", "close", step.subject)


def _check_unmounted(device: str) -> None:
    if users := host.mounted_from(device):
        raise ObjectBusyError(f"{device} is in use: {users[0].place} is mounted from it")


async def _release(name: str, *arguments: str) -> None:
    try:
        await host.run(name, *arguments, seconds=RELEASE_SECONDS)
    except CommandError as error:
        if "busy" in error.told or "in use" in error.told:
            raise ObjectBusyError(f"{arguments[-1]} is in use by a process, or by another mount") from error
        raise


_UNDO: Mapping[Kind, Callable[[Step, bool], Awaitable[None]]] = {
    "directory": _undo_directory,
    "tree": _undo_tree,
    "mount": _undo_mount,
    "loop": _undo_loop,
    "session": _undo_session,
    "nbd": _undo_nbd,
    "rbd": _undo_rbd,
    "verity": _undo_verity,
}
