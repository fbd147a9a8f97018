"""Making one object: its steps, each in the journal before it is done, and undone in reverse when it cannot be made."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from nekko.errors import CommandError, HostError, ImageInvalidError
from nekko.images import host
from nekko.images.content import Brought, Supply
from nekko.images.journal import Journal
from nekko.images.layers import Layers
from nekko.images.objects import Object
from nekko.images.permitted import Permitted
from nekko.images.steps import Step

LOOP_TRIES = 16
"""Another process may take the loop device that was free a moment ago."""
_finding_loop = trio.Lock()


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of the image API. `run` is emptied when the machine starts anew."""

    root: Path
    run: Path

    @property
    def journal(self) -> Path:
        return self.root / "journal.sqlite"

    @property
    def layers(self) -> Path:
        return self.root / "layers"

    @property
    def containers(self) -> Path:
        return self.root / "containers"

    @property
    def runtime(self) -> Path:
        return self.run / "runtime"

    @property
    def mounts(self) -> Path:
        return self.run / "mounts"

    def uppers(self, *, is_ram: bool) -> Path:
        """Give where overlays are written to."""
        return (self.run if is_ram else self.root) / "uppers"

    def all_own(self) -> list[Path]:
        """Give every directory that belongs to an object, or once did."""
        tops = (self.containers, self.mounts, self.uppers(is_ram=True), self.uppers(is_ram=False))
        return [place for top in tops for place in top.iterdir()]

    def prepare(self) -> None:
        """Make them, open to root alone: an image's set-uid programs are none of the node's users' business."""
        for top in (self.root, self.run):
            top.mkdir(mode=0o700, parents=True, exist_ok=True)
            top.chmod(0o700)
        for below in (
            self.layers,
            self.containers,
            self.runtime,
            self.mounts,
            self.uppers(is_ram=True),
            self.uppers(is_ram=False),
        ):
            below.mkdir(mode=0o700, exist_ok=True)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every object is made with."""

    places: Places
    journal: Journal
    supply: Supply
    layers: Layers
    max_unpacked_bytes: int
    permitted: Permitted


class Work:
    """What a driver does its work with. Everything it does to the host is noted here first."""

    def __init__(
        self,
        made: Object,
        surroundings: Surroundings,
        find: Callable[[int], Object],
        secrets: Mapping[str, str],
    ) -> None:
        self.made = made
        self.places = surroundings.places
        self.supply = surroundings.supply
        self.layers = surroundings.layers
        self.max_unpacked_bytes = surroundings.max_unpacked_bytes
        self.permitted = surroundings.permitted
        self.secrets = secrets
        self._journal = surroundings.journal
        self._find = find

    @property
    def own(self) -> Mapping[str, Any]:
        """The part of the definition that its kind is about."""
        found: Mapping[str, Any] = self.made.definition[self.made.kind]
        return found

    async def bring(self, source: str) -> Brought:
        """Have a content in the cache, and keep it there while this object lives."""
        holder = str(self.made)
        brought = await self.supply.bring(source, holder, secret=self.secrets.get("credentials"))
        self.made.kept = self.supply.kept(holder)
        self._journal.write(self.made)
        return brought

    async def use_layers(self, image: Brought) -> list[int]:
        """Have the layers of an image, and keep them while this object lives; give their numbers, the lowest first."""
        self.made.layers = await self.layers.of(image)
        self._journal.write(self.made)
        self.layers.let_go(self.made.layers)
        return self.made.layers

    def product_of(self, reference: Mapping[str, Any]) -> str:
        """Give the device or directory of an object that this one stands on."""
        return self._find(reference["id"]).product

    def child(self, reference: Mapping[str, Any]) -> Object:
        """Give an object that this one stands on."""
        return self._find(reference["id"])

    def note(self, step: Step) -> None:
        """Journal a change of the host that is about to be made."""
        self.made.steps.append(step)
        self._journal.write(self.made)

    async def directory(self, path: Path, mode: int = 0o755) -> None:
        """Make an empty directory."""
        self.note(Step("directory", str(path)))
        path.mkdir(mode=mode)

    async def tree(self, path: Path) -> None:
        """Make a directory that goes with all that will be in it."""
        self.note(Step("tree", str(path)))
        path.mkdir(mode=0o755)

    async def mountpoint(self) -> Path:
        """Make the directory at which a mount will be."""
        place = self.places.mounts / str(self.made.id)
        await self.directory(place)
        self.made.product = str(place)
        return place

    async def mount(
        self, place: Path, *arguments: str, is_recursive: bool = False, pass_fds: tuple[int, ...] = (),
        cwd: Path | None = None,
    ) -> None:  # fmt: skip
        """Mount something at a place of this object's own; `arguments` are those of mount(8) before the place.

        Raises:
            ImageInvalidError: The kernel takes this for no such file system, or not with these options.
            HostError: Mounting failed otherwise.
        """
        self.note(Step("mount", str(place), "recursive" if is_recursive else ""))
        try:
            await host.run("mount", *arguments, str(place), pass_fds=pass_fds, cwd=cwd)
        except CommandError as error:
            if "wrong fs type" in error.told or "unknown filesystem type" in error.told:
                raise ImageInvalidError(str(error)) from error
            raise

    async def bind(self, descriptor: int, place: Path, *, is_recursive: bool = False) -> None:
        """Show what a descriptor stands for at a place of this object's own.

        Not by its path, which may lead elsewhere by now.
        """
        await self.mount(
            place, "--no-canonicalize", "--rbind" if is_recursive else "--bind", f"/proc/self/fd/{descriptor}",
            is_recursive=is_recursive, pass_fds=(descriptor,),
        )  # fmt: skip
        # Else what is unmounted here would be unmounted at the source too, where the host shares its mounts.
        await host.run("mount", "--make-rprivate", str(place))

    async def bind_file(self, descriptor: int, place: Path) -> None:
        """Show a file inside a mount of this object's own, with which it goes."""
        await host.run(
            "mount", "--no-canonicalize", "--bind", f"/proc/self/fd/{descriptor}", str(place), pass_fds=(descriptor,)
        )

    async def remount_read_only(self, place: Path) -> None:
        """Refuse writing to all that is mounted at a place and below: a bind mount has to be told a second time."""
        for each in host.mounted_below(place):
            await host.run("mount", "-o", "remount,bind,ro", each.place)

    async def loop(self, file: int, *, is_read_only: bool, has_partitions: bool) -> str:
        """Give a loop device the file of a descriptor, and give that device.

        Raises:
            HostError: There is none, or the file was exchanged meanwhile.
        """
        path, wanted = os.readlink(f"/proc/self/fd/{file}"), os.fstat(file)
        options = [*(["--read-only"] if is_read_only else []), *(["--partscan"] if has_partitions else [])]
        async with _finding_loop:
            for _ in range(LOOP_TRIES):
                device = (await host.run("losetup", "--find")).strip()
                self.note(Step("loop", device, path))
                try:
                    await host.run("losetup", *options, device, path)
                except CommandError as error:
                    if "busy" not in error.told:
                        raise
                    self.drop_last()
                else:
                    break
            else:
                raise HostError(f"no loop device stayed free in {LOOP_TRIES} tries")
        shown = json.loads(await host.run("losetup", "--list", "--json", "--output", "BACK-MAJ:MIN,BACK-INO", device))
        attached = shown["loopdevices"][0]
        found = (attached["back-maj:min"].strip(), int(attached["back-ino"]))
        if found != (f"{os.major(wanted.st_dev)}:{os.minor(wanted.st_dev)}", wanted.st_ino):
            raise HostError(f"{path} was exchanged for another file while it was attached")
        return device

    def amend_last(self, step: Step) -> None:
        """Journal more of the last step than was known before it was done."""
        self.made.steps[-1] = step
        self._journal.write(self.made)

    def drop_last(self) -> None:
        """Forget the last step: it is known not to have been done."""
        self.made.steps.pop()
        self._journal.write(self.made)
