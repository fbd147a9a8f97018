"""All objects of this host: made, found, counted, removed, and collected when nobody refers to them any more.

The table changes only in sync steps, so no other task sees it half changed. What takes time is done between them, on
objects that nobody else can touch: one being made is not found yet, one being removed is not found any more, and what
an object stands on is kept by the reference that it holds.
"""

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from nekko import lock
from nekko.errors import (
    ConfigInvalidError,
    DriverUnknownError,
    ImageInvalidError,
    NekkoError,
    ObjectBusyError,
    ObjectUnknownError,
)
from nekko.images import host, steps
from nekko.images.attach import attach_local, attach_loopback
from nekko.images.attach_network import attach_iscsi, attach_nbd, attach_rbd
from nekko.images.content import Supply
from nekko.images.journal import Journal
from nekko.images.layers import Layers
from nekko.images.mount import mount_attach, mount_bind, mount_nfs, mount_overlay
from nekko.images.mount_content import mount_content, mount_uri
from nekko.images.objects import Object, Type, separate, slots, take_secrets
from nekko.images.permitted import UNLIMITED, Permitted
from nekko.images.run import RESTING, Containers, make_container
from nekko.images.steps import Step
from nekko.images.work import Places, Surroundings, Work

log = logging.getLogger(__name__)

Driver = Callable[[Work], Awaitable[None]]

DRIVERS: Mapping[tuple[Type, str], Driver] = {
    ("container", ""): make_container,
    ("attach", "iscsi"): attach_iscsi,
    ("attach", "local"): attach_local,
    ("attach", "loopback"): attach_loopback,
    ("attach", "nbd"): attach_nbd,
    ("attach", "rbd"): attach_rbd,
    ("mount", "attach"): mount_attach,
    ("mount", "bind"): mount_bind,
    ("mount", "content"): mount_content,
    ("mount", "nfs"): mount_nfs,
    ("mount", "overlay"): mount_overlay,
    ("mount", "uri"): mount_uri,
}
MAX_DEPTH = 32
"""Objects nested in each other in one request."""
RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 60.0
"""Pauses between tries to remove what nobody refers to any more; each is twice as long as the one before."""


class Images:
    """The table. Made by `open_images`."""

    def __init__(self, nursery: trio.Nursery, surroundings: Surroundings, runtime: str | None) -> None:
        self._containers = Containers(nursery, surroundings, lambda id_: self._objects.get(id_), runtime)
        self._surroundings = surroundings
        self._places = surroundings.places
        self._journal = surroundings.journal
        self._objects: dict[int, Object] = {}
        self._stuck = trio.Event()
        """Something could not be collected, and has to be tried again."""

    # --- looking ----------------------------------------------------------------------------------------------------

    def get(self, type_: Type, id_: int) -> Object:
        """Give an object that may be referred to.

        Raises:
            ObjectUnknownError: There is none with that id, or it is of another type.
        """
        found = self._objects.get(id_)
        if found is None or found.type != type_ or found.state == "creating":
            raise ObjectUnknownError(type_, id_)
        return found

    def all_of(self, type_: Type) -> list[Object]:
        """Give all objects of a type, the oldest first."""
        return [each for _, each in sorted(self._objects.items()) if each.type == type_ and each.state != "creating"]

    def parents(self, target: Object) -> list[Object]:
        """Give the objects that stand on one."""
        return [each for each in self._objects.values() if target.id in each.children]

    def references(self, target: Object) -> int:
        """Count who keeps an object: whoever made it by a request of its own, and each time another one names it."""
        return target.is_held + sum(each.children.count(target.id) for each in self._objects.values())

    def describe(self, target: Object) -> dict[str, Any]:
        """Give an object as readers see it, with what it stands on."""
        shown = separate(target.definition)
        for slot in list(slots(target.type, shown)):
            child = self._objects.get(slot.value["id"])
            if child is not None:
                slot.fill(self.describe(child))
        own = shown[target.kind] if target.kind else shown
        own |= target.told
        if target.product and target.type != "container":
            shown["device_file" if target.type == "attach" else "mountpoint"] = target.product
        if target.error is not None:
            shown["error"] = target.error
        return {"id": target.id, **shown, "refs": self.references(target)}

    # --- making -----------------------------------------------------------------------------------------------------

    async def create(self, type_: Type, definition: Mapping[str, Any]) -> Object:
        """Make an object, and what is nested in it first.

        Raises:
            DriverUnknownError: There is no such kind here.
            ImageInvalidError, ObjectUnknownError, HostError: Why it cannot be made. What was made is undone.

        Cancellation: What was made is undone.
        """
        if definition.get("id"):
            raise ImageInvalidError("id: it is given by nekko, a new object cannot have one")
        return await self._create(type_, definition, is_held=True, depth=0)

    async def _create(self, type_: Type, definition: Mapping[str, Any], *, is_held: bool, depth: int) -> Object:
        if depth >= MAX_DEPTH:
            raise ImageInvalidError(f"objects are nested more than {MAX_DEPTH} deep")
        kind = str(definition.get("kind", ""))
        driver = DRIVERS.get((type_, kind))
        if driver is None:
            known = ", ".join(name for each, name in DRIVERS if each == type_)
            raise DriverUnknownError(f"there is no driver for {type_} kind {kind[:100]!r} here: there are {known}")
        if kind and kind not in definition:
            raise ImageInvalidError(f"{type_} kind {kind!r}: its part {kind!r} of the definition is missing")
        kinds = {name for each, name in DRIVERS if each == type_ and kind}
        if foreign := sorted(kinds & definition.keys() - {kind}):
            raise ImageInvalidError(f"{type_} kind {kind!r}: its definition has a part {foreign[0]!r}, of another kind")
        made = Object(self._journal.reserve(), type_, separate(definition), is_held=is_held)
        # Before anybody sees it. The journal has nothing of it until what is nested has taken its own secrets out.
        secrets = take_secrets(made.definition)
        self._objects[made.id] = made
        try:
            for slot in list(slots(type_, made.definition)):
                slot.fill({"id": await self._refer(made, slot.type, slot.value, depth)})
            self._journal.write(made)
            await driver(Work(made, self._surroundings, self._objects.__getitem__, secrets))
            made.state = "ready"
            self._journal.write(made)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._abandon(made)
            raise
        log.info("%s (%s) made: %s", made, kind, made.product)
        return made

    async def _refer(self, made: Object, type_: Type, value: Mapping[str, Any], depth: int) -> int:
        if id_ := value.get("id"):
            found = self.get(type_, id_)
            if found.state != "ready":
                raise ObjectBusyError(f"{found} is being removed")
            made.children.append(found.id)
            return found.id
        child = await self._create(type_, value, is_held=False, depth=depth + 1)
        made.children.append(child.id)  # no await since it was ready, so nobody has collected it
        return child.id

    async def _abandon(self, made: Object) -> None:
        made.state, made.is_held = "removing", False
        try:
            await self._undo(made)
        except NekkoError as error:
            self._give_up(made, error)

    # --- containers -------------------------------------------------------------------------------------------------

    def named(self, name: str) -> Object:
        """Give the container of a name.

        Raises:
            ObjectUnknownError: There is none.
        """
        for each in self.all_of("container"):
            if each.definition.get("name") == name:
                return each
        raise ObjectUnknownError("container", name)

    async def create_container(self, definition: Mapping[str, Any]) -> Object:
        """Make a container, and start it if its state is to be `running`. One that cannot be started is `dead`.

        Raises:
            ObjectBusyError: Its name is taken.
            NekkoError: As `create`.
        """
        asked = separate(definition)
        state = asked.pop("state", "created")
        if state not in ("created", "running"):
            raise ImageInvalidError(f"state {state!r}: a new container is created or running")
        name = asked.get("name")
        if name and any(each.definition.get("name") == name for each in self._objects.values()):
            raise ObjectBusyError(f"there is a container {name} already")
        made = await self.create("container", asked)
        if state == "running":
            try:
                await self._containers.start(made)
            except NekkoError as error:
                log.warning("%s cannot be started: %s", made, error)
        return made

    async def set_state(self, target: Object, state: str) -> None:
        """Start or stop a container; what is so already stays as it is.

        Raises:
            ImageInvalidError: There is no way into that state.
            ObjectBusyError: It is just being started or stopped.
            NekkoError: It cannot be started.
        """
        now = target.told["state"]
        if state not in ("running", "exited"):
            raise ImageInvalidError(f"a container cannot be {state} here: set its state to running or exited")
        if self._containers.is_starting(target):
            raise ObjectBusyError(f"{target} is being started")
        if now == "stopping" and state == "running":
            raise ObjectBusyError(f"{target} is {now}")
        if state == "running" and now in RESTING:
            await self._containers.start(target)
        elif state == "exited" and now == "running":
            await self._containers.stop(target)

    # --- removing ---------------------------------------------------------------------------------------------------

    async def remove(self, type_: Type, id_: int, *, force: bool = False, lazy: bool = False) -> dict[str, Any]:
        """Remove an attachment or mount, then what nobody refers to any more; give it as it was.

        Args:
            force: Although others refer to it, as long as none of them is in use.
            lazy: With `force`, even so; and unmount what is busy as soon as its users are gone.

        Raises:
            ObjectUnknownError: There is none.
            ObjectBusyError: It is referred to, or in use.
            HostError: The host does not let go of it. It stays, with the error.

        Cancellation: What was begun is ended.
        """
        target = self.get(type_, id_)
        self._check_free(target, force=force, lazy=lazy)
        described = self.describe(target)
        target.state = "removing"
        with trio.CancelScope(shield=True):
            whole = len(target.steps)
            try:
                await self._undo(target, lazy=lazy)
            except NekkoError as error:
                if len(target.steps) == whole:  # nothing has happened, so it can be used as before
                    target.state = "ready"
                else:
                    self._give_up(target, error)
                raise
        return described

    def _check_free(self, target: Object, *, force: bool, lazy: bool) -> None:
        if target.state == "removing":
            raise ObjectBusyError(f"{target} is being removed")
        users = self.parents(target)
        if not users:
            return
        named = ", ".join(map(str, users))
        if not force:
            raise ObjectBusyError(f"{target} is used by {named}: remove that first, or use force=true")
        if not lazy and (live := [each for each in users if self._is_live(each)]):
            raise ObjectBusyError(f"{target} is in use by {live[0]}: force=true with lazy=true takes it away even so")

    def _is_live(self, user: Object) -> bool:
        if user.type == "container":
            return user.told.get("state", "created") not in RESTING
        return user.kind == "overlay"

    async def _undo(self, target: Object, *, lazy: bool = False) -> None:
        """Undo all steps of an object, forget it, and collect what it stood on."""
        if target.type == "container":
            await self._containers.clear(target)
        while target.steps:
            step = target.steps[-1]
            async with steps.turn(step.kind):
                if not any(step in each.steps for each in self._objects.values() if each is not target):
                    await steps.undo(step, lazy=lazy)
                target.steps.pop()
            self._journal.write(target)
        del self._objects[target.id]
        self._journal.forget(target)
        self._surroundings.supply.release(str(target))
        log.info("%s removed", target)
        if target.layers:
            await self._surroundings.layers.trim(self._used_layers)
        for child in dict.fromkeys(target.children):
            await self._collect(child)

    def _used_layers(self) -> list[int]:
        return [number for each in self._objects.values() for number in each.layers]

    async def _collect(self, id_: int) -> None:
        """Remove an object if nobody refers to it any more; what fails is tried again later."""
        target = self._objects.get(id_)
        if target is None or self.references(target) or target.state != "ready":
            return
        target.state = "removing"
        try:
            await self._undo(target)
        except NekkoError as error:
            self._give_up(target, error)

    def _give_up(self, target: Object, error: NekkoError) -> None:
        target.error = str(error)
        self._journal.write(target)
        log.warning("%s cannot be removed yet: %s", target, error)
        self._stuck.set()

    async def run(self) -> None:
        """Try again, from time to time, to remove what could not be collected."""
        pause = RETRY_SECONDS
        while True:
            await self._stuck.wait()
            await trio.sleep(pause)
            self._stuck = trio.Event()
            for target in [each for each in self._objects.values() if each.state == "removing" and each.error]:
                with trio.CancelScope(shield=True):
                    target.error = None
                    try:
                        await self._undo(target)
                    except NekkoError as error:
                        self._give_up(target, error)
            pause = min(pause * 2, MAX_RETRY_SECONDS) if self._stuck.is_set() else RETRY_SECONDS

    # --- starting ---------------------------------------------------------------------------------------------------

    async def adopt(self) -> None:
        """Take over what an earlier process made: what is still there stays, what is not whole is undone."""
        for found in self._journal.read():
            self._objects[found.id] = found
            self._surroundings.supply.keep(str(found), found.kept)
        self._surroundings.layers.recover()
        for found in self._parents_first():
            if found.id not in self._objects:
                continue  # collected with its parent
            gone = [step.subject for step in found.steps if not steps.holds(step)]
            if found.state == "ready" and not gone:
                if found.type == "container":
                    await self._containers.recover(found)
                continue
            if found.state == "ready":
                log.warning("%s is forgotten: %s is gone", found, gone[0])
            found.state, found.is_held = "removing", False
            try:
                await self._undo(found)
            except NekkoError as error:
                self._give_up(found, error)
        for orphan in list(self._objects):
            await self._collect(orphan)
        await self._sweep()

    def _parents_first(self) -> list[Object]:
        """Give all objects, each behind those that stand on it."""
        ordered: dict[int, Object] = {}

        def visit(target: Object) -> None:
            if target.id not in ordered:
                for parent in self.parents(target):
                    visit(parent)
                ordered[target.id] = target

        for target in list(self._objects.values()):
            visit(target)
        return list(ordered.values())

    async def _sweep(self) -> None:
        """Remove what no object has: a machine that lost its power may have kept directories, but not the journal."""
        for place in self._places.all_own():
            if place.name.isdecimal() and int(place.name) in self._objects:
                continue
            log.warning("%s belongs to no object, and is removed", place)
            try:
                for each in reversed(host.mounted_below(place)):
                    await steps.undo(Step("mount", each.place))
                await steps.undo(Step("tree", str(place)))
            except NekkoError as error:
                log.error("%s cannot be removed: %s", place, error)


@asynccontextmanager
async def open_images(
    places: Places,
    supply: Supply,
    *,
    max_unpacked_bytes: int,
    kept_layers_bytes: int,
    runtime: str | None = None,
    permitted: Permitted = UNLIMITED,
) -> AsyncIterator[Images]:
    """Open the image API's directories, take over what is there, and collect while the block runs.

    Args:
        supply: The cache that contents come from.
        max_unpacked_bytes: The most that one archive may unpack to.
        kept_layers_bytes: Of unpacked layers, before unused ones go.
        runtime: The program that runs containers; None for crun or runc, whichever is installed.
        permitted: What of this host, and which other hosts, may be attached and mounted.

    Leaving the block leaves all objects as they are.

    Raises:
        ConfigInvalidError: The directories cannot be used.
        StoreBusyError: Another process holds them.
    """
    for directory in (places.root, places.run):
        if set(str(directory)) & set(",:\\"):
            raise ConfigInvalidError(f"{directory}: overlayfs wants no comma, colon or backslash in its directories")
    try:
        places.prepare()
    except OSError as error:
        raise ConfigInvalidError(f"imagesDir {places.root}, imagesRunDir {places.run}: {error.strerror}") from error
    held = lock.hold(places.root / "lock", f"imagesDir {places.root}")
    try:
        journal = Journal(places.journal)
        try:
            layers = Layers(
                places.layers, journal, supply, max_unpacked_bytes=max_unpacked_bytes, kept_bytes=kept_layers_bytes
            )
            async with trio.open_nursery() as nursery:
                images = Images(
                    nursery, Surroundings(places, journal, supply, layers, max_unpacked_bytes, permitted), runtime
                )
                await images.adopt()
                nursery.start_soon(images.run)
                yield images
                nursery.cancel_scope.cancel()
        finally:
            journal.close()
    finally:
        os.close(held)
