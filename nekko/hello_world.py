"""`helloWorld`: a daemon that serves the image that is built in, and nothing else."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from nekko.config.settings import Settings
from nekko.node import Node
from nekko.oci import hello
from nekko.oci.platform import ALL_PLATFORMS


@contextmanager
def cache_of(settings: Settings) -> Iterator[Settings]:
    """Give the settings with the cache that is served: for helloWorld a temporary one, which nothing else fills."""
    if not settings.hello_world:
        yield settings
        return
    with TemporaryDirectory(prefix="nekko-hello-") as directory:
        yield replace(
            settings, cache_dir=Path(directory), air_gapped=True, preload_images=(), sync_file=None, storage_pairs=(),
            s3_endpoint=None, s3_write_behind=False,
        )  # fmt: skip


async def load(node: Node) -> None:
    """Have the image in the cache.

    Raises:
        NekkoError: It cannot be stored.
    """

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield hello.archive()

    (loaded,) = await node.imports.load(chunks(), ALL_PLATFORMS)
    if loaded.problem is not None:
        raise loaded.problem
