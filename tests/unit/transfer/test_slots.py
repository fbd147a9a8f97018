"""How many transfers fetch at one time."""

import trio
import trio.testing

from nekko.transfer.slots import Slots


async def test_busy_host_holds_nobody_else_up_and_the_total_holds() -> None:
    slots = Slots(total=3, per_host=2, of_host={"narrow": 1})
    running: dict[str, int] = {}
    gate = trio.Event()

    async def fetch(host: str) -> None:
        async with slots.hold(host):
            running[host] = running.get(host, 0) + 1
            await gate.wait()
            running[host] -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(fetch, "busy")
        await trio.testing.wait_all_tasks_blocked()
        assert running == {"busy": 2}
        for _ in range(2):
            nursery.start_soon(fetch, "narrow")
        await trio.testing.wait_all_tasks_blocked()
        assert running == {"busy": 2, "narrow": 1}
        nursery.start_soon(fetch, "third")
        await trio.testing.wait_all_tasks_blocked()
        assert running == {"busy": 2, "narrow": 1}
        gate.set()
    assert running == {"busy": 0, "narrow": 0, "third": 0}
    assert slots._hosts == {}
