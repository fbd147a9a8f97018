"""A pull in whose middle something happens to the daemon."""

from dataclasses import dataclass

import trio

from nekko.oci.digest import Digest
from tests.daemon import Daemon
from tests.fakes.far_end import FarEnd, whole
from tests.fakes.registry import FakeRegistry, image
from tests.fault.matrix import Promise, Trial

KEPT_SHARE = 0.9


@dataclass
class PartialPull:
    """An image with one layer, whose upstream stalls after `arrived` bytes, and goes on when it is asked again."""

    node: Daemon
    far: FarEnd
    layer: bytes
    arrived: int

    def __post_init__(self) -> None:
        registry = FakeRegistry(self.far)
        registry.blob(b"{}")
        registry.manifest(image([self.layer]), "v1")
        self._path = registry.blob(self.layer, whole(self.layer, stall_after=self.arrived), whole(self.layer))
        self._asked = {"url": registry.reference()}

    async def begin(self) -> None:
        """Pull until the upstream stalls."""
        await trio.to_thread.run_sync(lambda: self.node.ask("POST", "/content/", self._asked, Prefer="respond-async"))
        while (await self._shown())["bytes_present"] < self.arrived:
            await trio.sleep(0.01)

    async def _shown(self) -> dict[str, int]:
        shown: dict[str, int] = (await trio.to_thread.run_sync(self.node.content, self._asked["url"]))[1]
        return shown

    async def finish(self, trial: Trial) -> None:
        """Pull the rest, and check that it is the rest."""
        answer, _ = await trio.to_thread.run_sync(self.node.ask, "POST", "/content/", self._asked)
        trial.seen = str(answer)
        with trial.promise(Promise.RIGHT):
            assert answer == 201
            read = await trio.to_thread.run_sync(self.node.ask, "GET", f"/{Digest.of(self.layer).encoded}")
            assert read == (200, self.layer)
        with trial.promise(Promise.RESUMED):
            assert self.far.asked(self._path)[-1].offset >= KEPT_SHARE * self.arrived
