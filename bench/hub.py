"""The tests' Hub, with large files that nginx serves as its CDN. `python -m bench.hub JSON` prints its endpoint."""

import json
import sys
from collections.abc import Mapping

import trio

from tests.fakes.hub import Elsewhere, fake_hub

Repositories = Mapping[str, Mapping[str, tuple[str, str, int]]]
"""By its name, what is in a repository: by its path, the URL, SHA-256 and size of a file."""


async def main(repositories: Repositories) -> None:
    """Serve until killed."""
    async with fake_hub() as hub:
        for name, files in repositories.items():
            repo = hub.add(name, {"config.json": b"{}\n", **dict.fromkeys(files, b"")}, lfs=set(files))
            repo.elsewhere = {path: Elsewhere(*told) for path, told in files.items()}
        print(hub.url, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
