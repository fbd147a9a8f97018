"""Containers: a process tree on a mount, run by an OCI runtime under conmon.

conmon outlives this daemon, and writes the exit code to a file; so a new daemon finds each container as it is.

    <imagesDir>/containers/<id>/     config.json, runtime: its name, log, conmon.pid, exit/<id>: the exit code
    <imagesRunDir>/runtime/          the runtime's own state
"""

import json
import logging
import os
import select
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from nekko.errors import CommandError, HostError, ImageInvalidError, NekkoError, ObjectBusyError
from nekko.images import host
from nekko.images.bundle import bundle
from nekko.images.objects import Object
from nekko.images.work import Surroundings, Work

log = logging.getLogger(__name__)

STOP_SECONDS, SYSTEMD_STOP_SECONDS = 10.0, 90.0
"""What a container may take to end, before it is killed: as other engines, and as systemd's own units."""
MAX_LOG_BYTES = 256 << 20
RESTING = ("created", "exited", "dead")
"""States in which nothing runs."""


async def make_container(work: Work) -> None:
    """Prepare a container, without starting it."""
    made, place = work.made, work.places.containers / str(work.made.id)
    await work.tree(place)
    (place / "exit").mkdir()
    made.told |= {"state": "created", "logfile": str(place / "log")}


class Containers:
    """Starts, stops and watches."""

    def __init__(
        self,
        nursery: trio.Nursery,
        surroundings: Surroundings,
        find: Callable[[int], Object | None],
        runtime: str | None,
    ) -> None:
        """Watch from tasks of `nursery`; `runtime` is crun or runc, None for the first of them that is installed."""
        self._nursery = nursery
        self._places = surroundings.places
        self._journal = surroundings.journal
        self._find = find
        self._runtime = runtime
        self._starting: set[int] = set()
        self._ended: dict[int, trio.Event] = {}
        """Of each container that runs: set when it has ended."""

    async def start(self, target: Object) -> None:
        """Start a container that is at rest. If it cannot be, its state is `dead`, and its error says why.

        Raises:
            NekkoError: Why it cannot be started.
        """
        self._starting.add(target.id)
        try:
            with trio.CancelScope(shield=True):
                await self._start(target)
        except NekkoError as error:
            target.error = str(error)
            self._note(target, "dead")
            raise
        finally:
            self._starting.remove(target.id)
        target.error = None
        self._note(target, "running")
        self._run_watch(target)
        log.info("%s runs", target)

    async def _start(self, target: Object) -> None:
        place, name = self._place(target), str(target.id)
        root = self._find(target.children[0])
        if root is None:  # forced away, or the machine was stopped
            raise HostError(f"{target}: mount {target.children[0]}, its root, is gone: remove it and make another")
        config = await trio.to_thread.run_sync(
            bundle,
            f"/nekko{place}",
            target.definition,
            self._config_below(target),
            root.product,
        )
        (place / "config.json").write_text(json.dumps(config))
        (place / "exit" / name).unlink(missing_ok=True)
        runtime = self._program()
        await self._forget_run(target)
        (place / "runtime").write_text(Path(runtime).name)
        told, told_in = os.pipe()
        command = [
            host.program("conmon"), "--api-version", "1", "--cid", name, "--cuuid", name, "--name", name,
            "--runtime", runtime, "--bundle", str(place), "--container-pidfile", str(place / "pid"),
            "--conmon-pidfile", str(place / "conmon.pid"), "--exit-dir", str(place / "exit"), "--full-attach",
            "--log-path", f"k8s-file:{place / 'log'}", "--log-size-max", str(MAX_LOG_BYTES),
            "--runtime-arg", "--root", "--runtime-arg", str(self._places.runtime),
            *(["--no-pivot"] if host.is_initial_ram() else []),
        ]  # fmt: skip
        environment = {"PATH": host.PATH, "_OCI_SYNCPIPE": str(told_in)}
        try:
            with (place / "conmon.log").open("wb") as output:
                try:
                    await trio.run_process(command, pass_fds=[told_in], env=environment, stderr=output, check=False)
                finally:
                    os.close(told_in)
            answer = await trio.to_thread.run_sync(_read_all, told)
        finally:
            os.close(told)
        if _pid_of(answer) <= 0:
            raise HostError(f"{target}: {Path(runtime).name} cannot make it: {_reason_of(answer, place)}")
        await host.run(Path(runtime).name, "--root", str(self._places.runtime), "start", name)

    async def stop(self, target: Object) -> None:
        """Ask a running container to end, and kill it if it does not. Returns at once."""
        is_systemd = target.definition.get("systemd", False)
        asked = "RTMIN+3" if is_systemd else str(self._config_below(target).get("StopSignal", "TERM"))
        self._note(target, "stopping")
        self._nursery.start_soon(
            self._end, target, _number(asked), SYSTEMD_STOP_SECONDS if is_systemd else STOP_SECONDS
        )

    async def _end(self, target: Object, number: int, seconds: float) -> None:
        ended = self._ended[target.id]
        try:
            await self._kill(target, number)
            with trio.move_on_after(seconds):
                await ended.wait()
            if target.told["state"] == "stopping":
                log.warning("%s did not end within %g seconds, and is killed", target, seconds)
                await self._kill(target, signal.SIGKILL)
        except NekkoError as error:
            target.error = str(error)
            log.error("%s cannot be stopped: %s", target, error)

    async def _kill(self, target: Object, number: int) -> None:
        try:
            await host.run(
                self._runtime_of(target), "--root", str(self._places.runtime), "kill", str(target.id), str(number)
            )
        except CommandError:
            if self._exit_file(target).exists():
                return  # it ended just now
            raise

    async def recover(self, target: Object) -> None:
        """Find out what has become of a container while no daemon was there, and watch it if it runs."""
        descriptor = self._conmon(target)
        if descriptor is not None:
            os.close(descriptor)
            if target.told["state"] in RESTING:  # the daemon died while it started it
                await self._start_made(target)
        if target.told["state"] not in RESTING:
            self._run_watch(target)

    async def _start_made(self, target: Object) -> None:
        """Start what the runtime has made, unless it runs already."""
        runtime, name = self._runtime_of(target), str(target.id)
        try:
            told = json.loads(await host.run(runtime, "--root", str(self._places.runtime), "state", name))
            if told["status"] == "created":
                await host.run(runtime, "--root", str(self._places.runtime), "start", name)
        except NekkoError as error:
            target.error = str(error)
            self._note(target, "dead")
        else:
            self._note(target, "running")

    def is_starting(self, target: Object) -> bool:
        """Tell whether a container is just being started."""
        return target.id in self._starting

    def _run_watch(self, target: Object) -> None:
        self._ended[target.id] = trio.Event()
        self._nursery.start_soon(self._watch, target)

    async def _watch(self, target: Object) -> None:
        """Wait until a container's conmon has ended, and note how the container did."""
        try:
            await self._wait_and_note(target)
        finally:
            self._ended.pop(target.id).set()

    async def _wait_and_note(self, target: Object) -> None:
        descriptor = self._conmon(target)
        if descriptor is not None:
            try:
                await trio.lowlevel.wait_readable(descriptor)
            finally:
                os.close(descriptor)
        try:
            code = int(self._exit_file(target).read_text())
        except (OSError, ValueError):
            target.error = "it ended without telling how: its conmon was killed, or the machine was stopped"
            self._note(target, "dead")
            return
        was_asked = target.told["state"] == "stopping"
        target.told["exit_code"] = code
        self._note(target, "exited" if code == 0 or was_asked else "dead")
        log.info("%s has ended with %d", target, code)

    def _conmon(self, target: Object) -> int | None:
        """Give a descriptor of the container's conmon, which becomes readable when it ends; None if it is gone."""
        try:
            pid = int((self._place(target) / "conmon.pid").read_text())
            descriptor = os.pidfd_open(pid)
        except (OSError, ValueError):
            return None
        # The number may be another process's by now: the command line names the bundle, which is no one else's.
        try:
            is_ours = os.fsencode(self._place(target)) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            is_ours = False
        if not is_ours or select.select([descriptor], [], [], 0)[0]:
            os.close(descriptor)
            return None
        return descriptor

    async def _forget_run(self, target: Object) -> None:
        """Have the runtime forget an earlier run."""
        await host.run(
            self._runtime_of(target), "--root", str(self._places.runtime), "delete", "--force", str(target.id)
        )

    async def clear(self, target: Object) -> None:
        """Prepare a container for its removal.

        Raises:
            ObjectBusyError: It runs.
        """
        state = target.told.get("state", "created")  # none yet where its making has failed
        if state not in RESTING or self.is_starting(target):
            raise ObjectBusyError(f"{target} is {state}: set its state to exited first")
        if (self._place(target) / "config.json").exists():
            await self._forget_run(target)

    def _config_below(self, target: Object) -> Mapping[str, Any]:
        """Give what the nearest image below a container says of how it is run."""
        for id_ in target.children:
            child = self._find(id_)
            if child is not None and (found := child.told.get("config") or self._config_below(child)):
                return dict(found)
        return {}

    def _program(self) -> str:
        if self._runtime is not None:
            return host.program(self._runtime)
        names = ("runc", "crun") if host.has_mixed_cgroups() else ("crun", "runc")  # crun wants all of one version
        return host.program(next(filter(host.is_installed, names), names[0]))

    def _runtime_of(self, target: Object) -> str:
        """Give the runtime that made a container: no other one knows it."""
        try:
            return (self._place(target) / "runtime").read_text()
        except FileNotFoundError:
            return Path(self._program()).name

    def _place(self, target: Object) -> Path:
        return self._places.containers / str(target.id)

    def _exit_file(self, target: Object) -> Path:
        return self._place(target) / "exit" / str(target.id)

    def _note(self, target: Object, state: str) -> None:
        target.told["state"] = state
        self._journal.write(target)


def _read_all(descriptor: int) -> bytes:
    """Read what conmon tells: one line, once the runtime has made the container or has failed."""
    read = b""
    while not read.endswith(b"\n") and (got := os.read(descriptor, 4096)):
        read += got
    return read


def _pid_of(answer: bytes) -> int:
    try:
        told = json.loads(answer)
        return int(told.get("data", told.get("pid", -1)))
    except (ValueError, TypeError, AttributeError):
        return -1


def _reason_of(answer: bytes, place: Path) -> str:
    try:
        message = json.loads(answer).get("message")
    except (ValueError, AttributeError):
        message = None
    return " ".join(str(message or (place / "conmon.log").read_text("utf-8", "replace") or "no reason given").split())[
        : host.SHOWN
    ]


def _number(name: str) -> int:
    """Give the number of a signal, of a name as images write it.

    Raises:
        ImageInvalidError: There is none.
    """
    plain = name.upper().removeprefix("SIG")
    if plain.startswith("RTMIN+") and plain[6:].isdecimal():
        return signal.SIGRTMIN + int(plain[6:])
    if plain.isdecimal():
        return int(plain)
    try:
        return signal.Signals[f"SIG{plain}"]
    except KeyError:
        raise ImageInvalidError(f"the image wants to be stopped by {name[:40]!r}, which is no signal") from None
