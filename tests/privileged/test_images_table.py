"""Attachments and mounts on the real kernel: made, nested, counted, removed, collected, and found again."""

import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from nekko.errors import (
    AccessDeniedError,
    ConfigInvalidError,
    DriverUnknownError,
    HostError,
    ImageInvalidError,
    ObjectBusyError,
    ObjectUnknownError,
    StoreBusyError,
)
from nekko.images import host
from nekko.images.objects import Type
from nekko.images.permitted import Permitted
from tests.node import Node
from tests.privileged.image_host import ImageHost, bind, bind_of, loopback, needs_root, on_attach, overlay

pytestmark = needs_root


# --- each kind -------------------------------------------------------------------------------------------------------


async def test_loopback_of_a_squashfs_is_a_device_that_can_be_mounted(image_host: ImageHost) -> None:
    image = image_host.squashfs(name="greeting", hello="world")
    async with image_host.open() as images:
        attached = await images.create("attach", loopback(image))
        assert Path(attached.product).is_block_device()
        mounted = await images.create("mount", on_attach({"id": attached.id}, "squashfs", "ro"))
        assert Path(mounted.product, "hello").read_text() == "world"
        told = images.describe(mounted)
        assert told["attach"]["attach"]["device_file"] == attached.product
        assert (told["refs"], told["attach"]["attach"]["refs"]) == (1, 2)
        await images.remove("mount", mounted.id)
        await images.remove("attach", attached.id)


@pytest.mark.parametrize("fs_type", ["ext4", "erofs"])
async def test_file_systems_of_images_are_mounted(image_host: ImageHost, fs_type: str) -> None:
    image = image_host.ext4(hello="x") if fs_type == "ext4" else image_host.erofs(hello="x")
    async with image_host.open() as images:
        mounted = await images.create("mount", on_attach(loopback(image, ro=True), fs_type, "ro"))
        place = Path(mounted.product)
        assert (place / "hello").read_text() == "x"
        with pytest.raises(OSError, match="Read-only"):
            (place / "hello").write_text("y")
        await images.remove("mount", mounted.id)


async def test_read_only_loopback_refuses_writing(image_host: ImageHost) -> None:
    image = image_host.ext4()
    async with image_host.open() as images:
        attached = await images.create("attach", loopback(image, ro=True))
        assert Path("/sys/block", Path(attached.product).name, "ro").read_text() == "1\n"
        await images.remove("attach", attached.id)


async def test_local_device_is_a_block_device_of_the_host(image_host: ImageHost) -> None:
    image = image_host.squashfs(hello="x")
    async with image_host.open() as images:
        device = await images.create("attach", loopback(image))
        local = {"kind": "local", "local": {"path": device.product}}
        mounted = await images.create("mount", on_attach(local, "squashfs"))
        with pytest.raises(ObjectBusyError, match="is mounted from it"):
            await images.remove("attach", device.id)
        await images.remove("mount", mounted.id)
        for path, error in (
            ("/dev/null", ImageInvalidError),
            ("/nowhere", HostError),
            ("/etc/passwd", ImageInvalidError),
        ):
            with pytest.raises(error):
                await images.create("attach", {"kind": "local", "local": {"path": path}})
        await images.remove("attach", device.id)


async def test_read_only_bind_refuses_writing_and_the_source_does_not(image_host: ImageHost) -> None:
    tree = image_host.tree(hello="x")
    async with image_host.open() as images:
        mounted = await images.create("mount", bind(tree, ro=True))
        with pytest.raises(OSError, match="Read-only"):
            Path(mounted.product, "new").write_text("")
        (tree / "more").write_text("y")
        assert Path(mounted.product, "more").read_text() == "y"
        await images.remove("mount", mounted.id)


async def test_recursive_bind_brings_what_is_mounted_below_and_leaves_it_there(image_host: ImageHost) -> None:
    (image_host.tree() / "below").mkdir()
    image = image_host.squashfs(hello="x")
    async with image_host.open() as images:
        inner = await images.create("mount", on_attach(loopback(image), "squashfs"))
        outer = await images.create("mount", bind(image_host.places.mounts, recursive=True, ro=True))
        assert Path(outer.product, str(inner.id), "hello").read_text() == "x"
        flat = await images.create("mount", bind(image_host.places.mounts))
        assert not list(Path(flat.product, str(inner.id)).iterdir())
        await images.remove("mount", flat.id)
        await images.remove("mount", outer.id)
        assert Path(inner.product, "hello").read_text() == "x"
        await images.remove("mount", inner.id)


@pytest.mark.parametrize("upper", ["ram", "disk"])
async def test_overlay_keeps_what_is_written_apart(image_host: ImageHost, upper: str) -> None:
    image = image_host.squashfs(hello="x")
    async with image_host.open() as images:
        made = await images.create("mount", overlay(on_attach(loopback(image), "squashfs"), upper=upper))
        Path(made.product, "hello").write_text("changed")
        told = images.describe(made)["overlay"]
        assert Path(told["upperdir"], "hello").read_text() == "changed"
        assert Path(told["lower"][0]["mountpoint"], "hello").read_text() == "x"
        await images.remove("mount", made.id)


@pytest.mark.parametrize("upper", ["ram", "disk"])
async def test_overlay_has_no_more_room_than_it_was_given(image_host: ImageHost, upper: str) -> None:
    async with image_host.open() as images:
        made = await images.create("mount", overlay(bind(image_host.tree()), size=8 << 20, upper=upper))
        Path(made.product, "fits").write_bytes(bytes(4 << 20))
        with pytest.raises(OSError, match="No space left"):
            Path(made.product, "large").write_bytes(bytes(8 << 20))
    async with image_host.open() as images:
        assert Path(images.get("mount", made.id).product, "fits").stat().st_size == 4 << 20
        await images.remove("mount", made.id)
    assert image_host.leftovers() == []


async def test_room_on_disk_that_is_not_written_is_not_taken(image_host: ImageHost) -> None:
    async with image_host.open() as images:
        made = await images.create("mount", overlay(bind(image_host.tree()), size=1 << 40, upper="disk"))
        [image] = image_host.places.uppers(is_ram=False).glob("*/image")
        assert image.stat().st_size == 1 << 40
        assert image.stat().st_blocks * 512 < 1 << 30
        await images.remove("mount", made.id)


async def test_first_lower_mount_is_on_top(image_host: ImageHost) -> None:
    trees = [image_host.files / name for name in ("top", "bottom")]
    for tree in trees:
        tree.mkdir()
        (tree / "which").write_text(tree.name)
        (tree / tree.name).touch()
    async with image_host.open() as images:
        made = await images.create("mount", overlay(*map(bind, trees)))
        assert Path(made.product, "which").read_text() == "top"
        assert {each.name for each in Path(made.product).iterdir()} == {"which", "top", "bottom"}
        await images.remove("mount", made.id)


# --- paths that would lead out ---------------------------------------------------------------------------------------


async def test_paths_stay_below_their_base(image_host: ImageHost) -> None:
    tree = image_host.tree(inside="x")
    (tree / "etc").mkdir()
    (tree / "etc/passwd").write_text("of the image")
    (tree / "out").symlink_to("/etc")
    (tree / "up").symlink_to("../../../../../../../etc")
    async with image_host.open() as images:
        base = await images.create("mount", bind(tree))
        for path in ("out", "up", "../../../etc", "/etc"):
            made = await images.create("mount", bind_of({"id": base.id}, path))
            assert Path(made.product, "passwd").read_text() == "of the image"
            await images.remove("mount", made.id)
        with pytest.raises(ImageInvalidError, match="No such file"):
            await images.create("mount", bind_of({"id": base.id}, "../../../usr"))
        await images.remove("mount", base.id)


async def test_file_system_that_does_not_answer_holds_up_nobody_else(image_host: ImageHost) -> None:
    """As one of a network whose server is gone: here one in user space, which nobody serves."""
    silent = image_host.files / "silent"
    silent.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0"
    subprocess.run(["mount", "-i", "-t", "fuse", "-o", options, "silent", str(silent)], pass_fds=[server], check=True)
    last = threading.Timer(20, subprocess.run, [["umount", "--force", silent]])  # else a failure would never end
    last.start()
    seen: list[str] = []
    async with image_host.open() as images, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(ImageInvalidError, match="silent"):
                await images.create("mount", bind(silent / "directory"))
            seen.append("refused")

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        made = await images.create("mount", bind("/usr"))
        await images.remove("mount", made.id)
        seen.append("made")
        os.close(server)
    last.cancel()
    subprocess.run(["umount", silent], check=True)
    assert seen == ["made", "refused"]


async def test_only_permitted_directories_are_used(image_host: ImageHost, node: Node) -> None:
    image, tree = image_host.squashfs(hello="x"), image_host.tree()
    (tree / "out").symlink_to("/usr")
    (tree / "device").symlink_to("/dev/loop0")
    async with image_host.open_over(node, permitted=Permitted((image_host.files,))) as images:
        made = await images.create("mount", overlay(on_attach(loopback(image), "squashfs"), bind(tree)))
        inner = await images.create("mount", bind_of({"id": made.id}))  # what is made from them may be used
        elsewhere: list[tuple[Type, dict[str, Any]]] = [
            ("mount", bind("/usr")),
            ("mount", bind(tree / "out")),
            ("mount", bind(image_host.directory)),
            ("attach", loopback(Path("/etc/passwd"))),
            ("attach", {"kind": "local", "local": {"path": str(tree / "device")}}),
        ]
        for type_, definition in elsewhere:
            with pytest.raises(AccessDeniedError, match="imagesAllowedPaths"):
                await images.create(type_, definition)
        await images.remove("mount", inner.id)
        await images.remove("mount", made.id)


# --- references ------------------------------------------------------------------------------------------------------


def chain(image: Path) -> dict[str, Any]:
    """Describe six objects on each other: overlay, bind, attach, loopback, attach, loopback."""
    inner = on_attach(loopback(image), "squashfs")
    file = {"kind": "loopback", "loopback": {"path": "inner.sqfs", "base": "mount", "mount": inner}}
    return overlay(bind_of(on_attach(file, "squashfs")))


def nested_image(image_host: ImageHost) -> Path:
    inner = image_host.squashfs(name="inner.sqfs", deep="down")
    outer = image_host.files / "outer"
    outer.mkdir()
    inner.rename(outer / "inner.sqfs")

    subprocess.run(["mksquashfs", outer, image_host.files / "outer.sqfs", "-quiet", "-no-progress"], check=True)
    return image_host.files / "outer.sqfs"


async def test_chain_of_six_goes_with_its_top(image_host: ImageHost) -> None:
    image = nested_image(image_host)
    async with image_host.open() as images:
        made = await images.create("mount", chain(image))
        assert Path(made.product, "deep").read_text() == "down"
        assert (len(images.all_of("mount")), len(images.all_of("attach"))) == (4, 2)
        for each in images.all_of("mount"):
            if each is not made:
                with pytest.raises(ObjectBusyError, match="is used by"):
                    await images.remove("mount", each.id)
        await images.remove("mount", made.id)
        assert images.all_of("mount") == images.all_of("attach") == []


async def test_shared_object_goes_with_the_last_that_names_it(image_host: ImageHost) -> None:
    async with image_host.open() as images:
        first = await images.create("mount", overlay(bind(image_host.tree(hello="x"))))
        below = next(each for each in images.all_of("mount") if each is not first)
        second = await images.create("mount", overlay({"id": below.id}))
        assert images.references(below) == 2
        await images.remove("mount", first.id)
        assert images.references(below) == 1
        await images.remove("mount", second.id)
        assert images.all_of("mount") == []


async def test_object_made_by_hand_survives_its_users(image_host: ImageHost) -> None:
    async with image_host.open() as images:
        below = await images.create("mount", bind(image_host.tree()))
        above = await images.create("mount", overlay({"id": below.id}))
        await images.remove("mount", above.id)
        assert [images.references(each) for each in images.all_of("mount")] == [1]
        await images.remove("mount", below.id)


async def test_forced_removal_stops_at_what_is_live(image_host: ImageHost) -> None:
    image = image_host.squashfs(hello="x")
    async with image_host.open() as images:
        device = await images.create("attach", loopback(image))
        lower = await images.create("mount", on_attach({"id": device.id}, "squashfs"))
        top = await images.create("mount", overlay({"id": lower.id}))
        with pytest.raises(ObjectBusyError, match="lazy=true"):
            await images.remove("mount", lower.id, force=True)
        with pytest.raises(ObjectBusyError, match="is mounted from it"):
            await images.remove("attach", device.id, force=True)
        await images.remove("mount", lower.id, force=True, lazy=True)
        assert Path(top.product, "hello").read_text() == "x"
        assert images.describe(top)["overlay"]["lower"] == [{"id": lower.id}]
        await images.remove("mount", top.id)
        await images.remove("attach", device.id)


async def test_mount_with_an_open_file_is_busy_and_stays_usable(image_host: ImageHost) -> None:
    image = image_host.squashfs(hello="x")
    async with image_host.open() as images:
        made = await images.create("mount", on_attach(loopback(image), "squashfs"))
        with Path(made.product, "hello").open() as file:
            with pytest.raises(ObjectBusyError, match="in use by a process"):
                await images.remove("mount", made.id)
            assert file.read() == "x"
        assert images.get("mount", made.id).state == "ready"
        await images.remove("mount", made.id)


# --- what cannot be made ---------------------------------------------------------------------------------------------


async def test_failure_half_way_leaves_nothing(image_host: ImageHost) -> None:
    image, tree = image_host.squashfs(hello="x"), image_host.tree()
    garbage = image_host.files / "garbage"
    garbage.write_bytes(bytes(1 << 20))
    wrong: list[tuple[dict[str, Any], type[Exception]]] = [
        (overlay(bind(tree), on_attach(loopback(garbage), "squashfs")), ImageInvalidError),
        (overlay(on_attach(loopback(image), "ext4")), ImageInvalidError),
        (overlay(on_attach(loopback(image), "unheard_of")), ImageInvalidError),
        (overlay(on_attach(loopback(image), "noext4")), ImageInvalidError),
        (overlay(on_attach(loopback(image), "ext4,squashfs")), ImageInvalidError),
        (overlay(bind(tree), {"id": 99}), ObjectUnknownError),
        (overlay(), ImageInvalidError),
        (overlay(bind(tree), {"kind": ""}), DriverUnknownError),
        (overlay(bind(tree), upper="disk", size=(8 << 20) - 1), ImageInvalidError),
        (bind_of(bind(tree), "/not/there"), ImageInvalidError),
        (bind(tree, base="mount"), ImageInvalidError),
        (bind(tree, mount=bind(tree)), ImageInvalidError),
        (on_attach(loopback(image.parent), "squashfs"), ImageInvalidError),
        (on_attach(loopback(image), "squashfs", "loop"), ImageInvalidError),
        (on_attach(loopback(image), "squashfs", "ro,exec"), ImageInvalidError),
        (on_attach(loopback(image), "squashfs", partition=1), ImageInvalidError),
        (on_attach({"kind": "tape", "tape": {}}, "ext4"), DriverUnknownError),
        ({"kind": "bind"}, ImageInvalidError),
        ({**bind(tree), "id": 5}, ImageInvalidError),
    ]
    async with image_host.open() as images:
        for definition, error in wrong:
            with pytest.raises(error):
                await images.create("mount", definition)
            assert image_host.leftovers() == [], definition
            assert images.all_of("mount") == images.all_of("attach") == []


async def test_id_of_another_type_is_unknown(image_host: ImageHost) -> None:
    async with image_host.open() as images:
        made = await images.create("mount", bind(image_host.tree()))
        with pytest.raises(ObjectUnknownError):
            images.get("attach", made.id)
        with pytest.raises(ObjectUnknownError):
            await images.remove("attach", made.id)
        assert images.references(made) == 1
        await images.remove("mount", made.id)


# --- over restarts ---------------------------------------------------------------------------------------------------


async def test_new_process_takes_over_what_is_there(image_host: ImageHost) -> None:
    image = nested_image(image_host)
    async with image_host.open() as images:
        made = await images.create("mount", chain(image))
        described = images.describe(made)
        with pytest.raises(StoreBusyError):
            async with image_host.open():
                pass
    async with image_host.open() as images:
        assert images.describe(images.get("mount", made.id)) == described
        assert Path(made.product, "deep").read_text() == "down"
        other = await images.create("mount", bind(image_host.tree()))
        assert other.id > max(each.id for each in images.all_of("attach"))
        await images.remove("mount", other.id)
        await images.remove("mount", made.id)


async def test_what_was_undone_behind_our_back_is_forgotten(image_host: ImageHost) -> None:

    image = image_host.squashfs(hello="x")
    async with image_host.open() as images:
        made = await images.create("mount", overlay(on_attach(loopback(image), "squashfs")))
        kept = await images.create("mount", bind(image_host.tree()))
    subprocess.run(["umount", made.product], check=True)
    async with image_host.open() as images:
        assert images.all_of("mount") == [images.get("mount", kept.id)]
        assert images.all_of("attach") == []
        await images.remove("mount", kept.id)


async def test_directory_of_no_object_is_removed_at_the_start(image_host: ImageHost) -> None:

    async with image_host.open():
        pass
    stray = image_host.places.mounts / "77"
    stray.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", stray], check=True)
    (image_host.places.uppers(is_ram=False) / "old/upper").mkdir(parents=True)
    async with image_host.open():
        assert image_host.leftovers() == []


async def test_directory_that_overlayfs_would_misread_is_refused(image_host: ImageHost, node: Node) -> None:
    with pytest.raises(ConfigInvalidError, match="no comma, colon"):
        async with ImageHost(image_host.directory / "a:b").open_over(node):
            pass


# --- many at once ----------------------------------------------------------------------------------------------------


async def test_clients_that_race_for_devices_and_lower_mounts_do_not_disturb_each_other(image_host: ImageHost) -> None:
    image = image_host.squashfs(hello="x")
    async with image_host.open() as images:
        lower = await images.create("mount", on_attach(loopback(image), "squashfs"))

        async def come_and_go() -> None:
            for _ in range(3):
                made = await images.create("mount", overlay({"id": lower.id}, on_attach(loopback(image), "squashfs")))
                assert Path(made.product, "hello").read_text() == "x"
                await images.remove("mount", made.id)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(come_and_go)
        assert images.all_of("mount") == [lower]
        assert images.references(lower) == 1
        await images.remove("mount", lower.id)


async def test_client_that_leaves_at_any_moment_leaves_nothing(image_host: ImageHost) -> None:
    image = image_host.squashfs(hello="x")
    async with image_host.open() as images:
        for step in range(60):
            with trio.CancelScope() as scope:

                async def leave(scope: trio.CancelScope = scope, step: int = step) -> None:
                    for _ in range(step):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(leave)
                    made = await images.create("mount", overlay(on_attach(loopback(image), "squashfs")))
            if not scope.cancelled_caught:
                await images.remove("mount", made.id)
            assert image_host.leftovers() == []
            assert images.all_of("mount") == images.all_of("attach") == []


@pytest.fixture
def disk(image_host: ImageHost) -> Path:
    """The image of a disk whose only partition has a file system."""
    if (sfdisk := shutil.which("sfdisk", path=host.PATH)) is None:
        pytest.skip("sfdisk is not installed")
    inner, disk = image_host.ext4(hello="x"), image_host.files / "disk"
    with disk.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run([sfdisk, "-q", disk], input=b"2048,32768\n", check=True)
    with disk.open("r+b") as file:
        file.seek(2048 * 512)
        file.write(inner.read_bytes())
    device = subprocess.check_output(["losetup", "-fP", "--show", disk], text=True).strip()
    is_read = Path(f"{device}p1").exists()
    subprocess.run(["losetup", "-d", device], check=True)
    if not is_read:
        pytest.skip("this kernel reads no partition tables")
    return disk


async def test_partition_of_a_disk_image_is_mounted(image_host: ImageHost, disk: Path) -> None:
    async with image_host.open() as images:
        attached = await images.create("attach", loopback(disk, readPartitions=True))
        assert attached.told["partitions"] == [f"{attached.product}p1"]
        made = await images.create("mount", on_attach({"id": attached.id}, "ext4", partition=1))
        assert Path(made.product, "hello").read_text() == "x"
        await images.remove("mount", made.id)
        await images.remove("attach", attached.id)
