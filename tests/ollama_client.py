"""Ollama's own client, built from its sources (`packaging/setup peers`)."""

import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import trio

from tests.servers import free_port

PROGRAM = Path(__file__).parents[1] / "build/peers/ollama"


@asynccontextmanager
async def ollama_client(directory: Path, *, authority: Path | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """Run Ollama with its models in `directory`; gives a client of its API. It trusts the certificates of `authority`."""
    port = free_port()
    environ = os.environ | {"HOME": str(directory), "OLLAMA_MODELS": str(directory / "models")}
    if authority is not None:
        environ["SSL_CERT_FILE"] = str(authority)
    command = [str(PROGRAM), f"127.0.0.1:{port}"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.run_process, command, env=environ, stderr=subprocess.DEVNULL))
        with trio.fail_after(20):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    await trio.sleep(0.05)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
        nursery.cancel_scope.cancel()


async def pull(ollama: httpx.AsyncClient, name: str, *, is_plain: bool = True) -> list[dict[str, Any]]:
    """Pull by plain HTTP (`--insecure`), or by TLS; gives what Ollama told on the way."""
    answer = await ollama.post("/api/pull", json={"model": name, "insecure": is_plain})
    return [json.loads(line) for line in answer.text.splitlines()]
