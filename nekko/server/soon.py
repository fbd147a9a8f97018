"""What a server may ask of an application before the framework, where that takes a moment."""

from typing import Protocol

from nekko.api.peer import Peer
from nekko.server.simple import AtOnceAnswer
from nekko.server.upload import Upload


class Soon(Protocol):
    """Gives answers that take a moment, but no framework; None where the framework is to give them.

    It raises nothing but what receiving from the peer raises.
    """

    async def fetch(self, method: str, target: str, peer: Peer) -> AtOnceAnswer | None:
        """Answer a simple request that was not answered at once."""

    async def store(self, upload: Upload, peer: Peer) -> AtOnceAnswer | None:
        """Answer a simple upload; once it has begun, by all means."""
