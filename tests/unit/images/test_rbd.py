"""What the kernel is told to map an image of Ceph."""

from typing import Any

import pytest

from nekko.api.images.schema import description
from nekko.errors import ImageInvalidError
from nekko.images.rbd import FLAGS, VALUES, Image, line

IMAGE = Image("pool", "", "image", "")
KEY = {"name": "admin", "secret": "AQ=="}


@pytest.mark.parametrize(
    ("image", "monitors", "options", "told"),
    [
        (IMAGE, ["10.0.0.1"], {}, "10.0.0.1 name=admin,secret=AQ== pool image"),
        (IMAGE, ["10.0.0.1:3300", "fe80::1", "[fe80::2]:6789"], {},
         "10.0.0.1:3300,[fe80::1],[fe80::2]:6789 name=admin,secret=AQ== pool image"),
        (Image("p", "n", "i", "s"), ["1.1.1.1"], {"namespace": "n", "ro": True, "ms_mode": "secure", "force": True},
         "1.1.1.1 name=admin,secret=AQ==,ms_mode=secure,_pool_ns=n,ro p i s"),
        (IMAGE, ["1.1.1.1"], {"queue_depth": 64, "noceph_requires_signatures": True, "rw": False},
         "1.1.1.1 name=admin,secret=AQ==,queue_depth=64,nocephx_require_signatures pool image"),
    ],
    ids=["least", "addresses", "snapshot in a namespace", "names of the kernel"],
)  # fmt: skip
def test_kernel_is_told_what_was_asked_for(
    image: Image, monitors: list[str], options: dict[str, Any], told: str
) -> None:
    assert line(image, monitors, {**KEY, **options}) == told


@pytest.mark.parametrize(("one", "other"), [("rw", "ro"), ("crc", "nocrc"), ("tcp_nodelay", "notcp_nodelay")])
def test_options_that_contradict_each_other_are_refused(one: str, other: str) -> None:
    with pytest.raises(ImageInvalidError, match=f"{one} and {other} contradict"):
        line(IMAGE, ["1.1.1.1"], {**KEY, one: True, other: True})


def test_image_is_read_as_it_was_written() -> None:
    for image in (IMAGE, Image("p", "n", "i", "s"), Image("p", "", "i", "s")):
        assert Image.parse(str(image)) == image


def test_every_option_that_is_described_is_told() -> None:
    described = description()["definitions"]["rbd_options"]["properties"].keys()
    assert described == {*VALUES, *FLAGS, "force"}
