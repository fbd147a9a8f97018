"""Programs of the host, run to their end or to a limit."""

import subprocess

import pytest

from nekko.errors import CommandError, CommandTimeoutError
from nekko.images import host


async def test_program_gives_its_output_or_its_complaint() -> None:
    assert await host.run("echo", "a", "b") == "a b\n"
    with pytest.raises(CommandError) as caught:
        await host.run("sh", "-c", "echo no  such >&2; exit 3")
    assert (caught.value.status, str(caught.value)) == (3, "sh: no such")
    with pytest.raises(CommandError, match="sh: ended with status 3"):
        await host.run("sh", "-c", "exit 3")


async def test_program_that_does_not_end_in_time_is_ended() -> None:
    with pytest.raises(CommandTimeoutError, match=r"sleep: it did not end within 0\.1 seconds"):
        await host.run("sleep", "1000", seconds=0.1)


def test_host_that_left_its_initial_ram_is_known_by_its_root() -> None:
    told = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "/"], capture_output=True, text=True, check=True).stdout
    assert host.is_initial_ram() == (told.split()[-1] == "rootfs")
