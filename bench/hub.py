"""The tests' Hub, with one large file that nginx serves as its CDN. `python -m bench.hub URL SHA256 SIZE` prints its own."""

import sys

import trio

from tests.fakes.far_end import redirect
from tests.fakes.hub import fake_hub

REPOSITORY, FILE = "bench/model", "model.safetensors"


async def main(url: str, encoded: str, size: str) -> None:
    """Serve until killed."""
    async with fake_hub() as hub:
        repo = hub.add(REPOSITORY, {FILE: b"in its place"})
        told = {
            "X-Repo-Commit": repo.branches["main"], "X-Linked-Etag": f'"{encoded}"', "X-Linked-Size": size, "ETag": f'"{encoded}"',
        }  # fmt: skip
        for revision in ("main", repo.branches["main"]):
            hub.far.on(f"/{REPOSITORY}/resolve/{revision}/{FILE}", redirect(url, headers=told))
        print(hub.url, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
