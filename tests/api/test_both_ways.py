"""Requests to the file store past the framework and by it: the same answers, connections, figures and lines of log.

A Cookie means nothing, and yet sends a request the longer way.
"""

import base64
import logging
import random
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from nekko.api.peer import Peer
from nekko.oci.digest import Digest
from nekko.replicas.replicas import Replicas
from nekko.server.simple import AtOnceAnswer
from nekko.server.soon import Soon
from nekko.server.upload import Upload
from nekko.statsd import open_statsd
from nekko.tasks import open_tasks
from tests.api.test_content import Served, serve_node
from tests.api.test_file_metrics import received
from tests.node import QUICK, open_node

SMALL = random.Random(1).randbytes(5_000)
LARGE = random.Random(2).randbytes(700_000)
ABSENT = "0" * 64
ACCOUNT = "Authorization: Basic " + base64.b64encode(b"writer:pass").decode()
WRONG = "Authorization: Basic " + base64.b64encode(b"writer:wrong").decode()
EXPECT = "Expect: 100-continue"


_TIME = re.compile(rb"^(date|last-modified): .*")
_MEMBER = re.compile(r"ok_old\.[^.]*")
"""By chance."""


def sha(content: bytes) -> str:
    return Digest.of(content).encoded


@dataclass(frozen=True)
class Case:
    """A request, and what is there before it. `sent` bytes of its body come, then nothing; None: all of it.

    Whether a large body that is refused has come by then, and so the connection can be kept, is chance: none is sent.
    """

    name: str
    first: str
    body: bytes = b""
    headers: tuple[str, ...] = ()
    held: tuple[bytes, ...] = ()
    is_short: bool = True
    sent: int | None = None
    is_ended: bool = True
    settings: dict[str, Any] = field(default_factory=dict)

    def head(self, *more: str) -> bytes:
        length = [f"Content-Length: {len(self.body)}"] if self.first.startswith("P") else []
        lines = [f"{self.first} HTTP/1.1", "Host: node", *more, *length, *self.headers, "", ""]
        return "\r\n".join(lines).encode()


@dataclass
class Seen:
    """What a client, an operator and a statsd server see of a request."""

    answer: list[bytes]
    is_kept: bool
    stored: list[str]
    is_short: bool = field(compare=False)
    log: list[tuple[str, str, int]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    statsd: Counter[str] = field(default_factory=Counter)


@dataclass
class Watch:
    """Passes requests on, and keeps whether they were answered."""

    soon: Soon
    answered: list[bool] = field(default_factory=list)

    async def fetch(self, method: str, target: str, peer: Peer) -> AtOnceAnswer | None:
        return self._noted(await self.soon.fetch(method, target, peer))

    async def store(self, upload: Upload, peer: Peer) -> AtOnceAnswer | None:
        return self._noted(await self.soon.store(upload, peer))

    def _noted(self, answer: AtOnceAnswer | None) -> AtOnceAnswer | None:
        self.answered.append(answer is not None)
        return answer


async def read_answer(stream: trio.SocketStream, *, has_body: bool) -> tuple[bytes, bytes]:
    """Give the head and the body of the next answer."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        part = await stream.receive_some(65536)
        assert part, f"the connection ended in a head: {raw!r}"
        raw += part
    head, _, body = raw.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while has_body and len(body) < length:
        body += await stream.receive_some(65536)
    assert len(body) == length * has_body
    return head, body


async def exchange(port: int, case: Case, *more: str) -> tuple[list[bytes], bool]:
    """Send a request; give the lines of its answers, each body last, and whether the connection takes another one."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    head, body = case.head(*more), case.body[: case.sent]

    async def send(data: bytes) -> None:
        with suppress(trio.BrokenResourceError):  # refused before the end of it
            await stream.send_all(data)
            if not case.is_ended:
                await stream.send_eof()

    async with stream:
        answers: list[tuple[bytes, bytes]] = []
        async with open_tasks() as sending:
            sending.start_soon(send, head if EXPECT in case.headers else head + body)
            answers.append(await read_answer(stream, has_body=not case.first.startswith("HEAD")))
            if answers[0][0].startswith(b"HTTP/1.1 100"):
                sending.start_soon(send, body)
                answers.append(await read_answer(stream, has_body=True))
            sending.cancel_scope.cancel()
        is_kept = False
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.send_all(b"GET /health/live HTTP/1.1\r\nHost: node\r\n\r\n")
            is_kept = bool(await stream.receive_some(1))
    lines = [line for head, body in answers for line in (*head.split(b"\r\n"), body)]
    return [_TIME.sub(rb"\1", line) for line in lines], is_kept


@dataclass
class Both:
    """A node of which every request is seen from all sides."""

    served: Served
    watch: Watch
    roots: tuple[Path, ...]
    statsd_server: socket.socket
    caplog: pytest.LogCaptureFixture

    async def see(self, case: Case, *more: str) -> Seen:
        client = self.served.client
        for content in case.held:
            assert (await client.post(f"/{sha(content)}", content=content)).is_success
            assert (await client.get(f"/{sha(content)}")).content == content
        before = await self._figures()
        received(self.statsd_server)
        self.watch.answered.clear()
        self.caplog.clear()
        assert client.base_url.port is not None
        with trio.fail_after(20):
            seen = Seen(*await exchange(client.base_url.port, case, *more), self._stored(), any(self.watch.answered))
        with trio.fail_after(20):
            while not self.told():  # what is told last, after the answer has gone out
                await trio.sleep(0.001)
        seen.log = self.told()
        seen.statsd = Counter(_MEMBER.sub("", line.partition(":")[0]) for line in received(self.statsd_server))
        seen.figures = {
            name: grown for name, count in (await self._figures()).items() if (grown := count - before.get(name, 0.0))
        }
        for path in (path for root in self.roots for path in root.rglob("*.dat")):
            assert (await client.delete(f"/{path.stem}")).status_code == 204
        return seen

    def told(self) -> list[tuple[str, str, int]]:
        """Give what the log tells of requests for files."""
        records = [record for record in self.caplog.records if record.name == "nekko.api.request_log"]
        fields: list[dict[str, Any]] = [vars(record)["fields"] for record in records]
        told = [(each["method"], each["path"], each["status"]) for each in fields]
        return [each for each in told if each[1] not in ("/metrics", "/health/live")]

    async def _figures(self) -> dict[str, float]:
        lines = (await self.served.client.get("/metrics")).text.splitlines()
        pairs = (line.rpartition(" ")[::2] for line in lines if not line.startswith("#"))
        kinds = (
            "nekko_request_seconds_count",
            "nekko_sent_bytes",
            "nekko_hits",
            "nekko_misses",
            "nekko_replicas_total",
        )
        return {name: float(count) for name, count in pairs if name.startswith(kinds) and not name.count('"admin"')}

    def _stored(self) -> list[str]:
        return sorted(path.name for root in self.roots for path in root.rglob("*") if path.is_file())


@asynccontextmanager
async def both(
    directory: Path, statsd_server: socket.socket, caplog: pytest.LogCaptureFixture, **changes: Any
) -> AsyncIterator[Both]:
    roots = (directory / "a1", directory / "a2")
    for root in roots:
        root.mkdir()
    given: dict[str, Any] = {
        "storage_pairs": (roots,), "require_mounts": False, "file_sources": ("layout", "pairs"), "send_timeout_seconds": 0.5,
        "statsd_server": f"127.0.0.1:{statsd_server.getsockname()[1]}",
    }  # fmt: skip
    settings = replace(QUICK, **given | changes)
    watches: list[Watch] = []

    def watch(soon: Soon) -> Soon:
        watches.append(Watch(soon))
        return watches[0]

    caplog.set_level(logging.INFO, "nekko.api.request_log")
    async with open_statsd(settings) as statsd, open_node(directory / "cache", settings) as node:
        async with serve_node(node, replicas=Replicas(settings), statsd=statsd, watch=watch) as served:
            if settings.basic_auth:
                served.client.auth = ("writer", "pass")
            yield Both(served, watches[0], roots, statsd_server, caplog)


def upload(name: str, content: bytes, *, method: str = "PUT", **others: Any) -> Case:
    return Case(name, f"{method} /{sha(content)}", others.pop("body", content), **others)


ACCOUNTS: dict[str, Any] = {"basic_auth": ("writer:pass",)}
CASES = [
    Case("get", f"GET /{sha(SMALL)}", held=(SMALL,)),
    Case("get by upper case and suffix", f"GET /{sha(SMALL).upper()}.dat", held=(SMALL,)),
    Case("head", f"HEAD /{sha(SMALL)}", held=(SMALL,)),
    Case("get of an empty file", f"GET /{sha(b'')}", held=(b"",)),
    Case("get of a large file", f"GET /{sha(LARGE)}", held=(LARGE,), is_short=False),
    Case("get of what is absent", f"GET /{ABSENT}", is_short=False),
    *(
        case
        for size, content, sent in (("small", SMALL, None), ("large", LARGE, 0))
        for case in (
            upload(f"{size}", content),
            upload(f"{size} by post", content, method="POST"),
            upload(f"{size} that waits", content, headers=(EXPECT,)),
            upload(f"{size} of an account", content, headers=(ACCOUNT,), settings=ACCOUNTS),
            upload(f"{size} of an account that waits", content, headers=(ACCOUNT, EXPECT), settings=ACCOUNTS),
            upload(f"{size} without an account", content, settings=ACCOUNTS, sent=sent),
            upload(f"{size} with a wrong password", content, headers=(WRONG,), settings=ACCOUNTS, sent=sent),
            upload(f"{size} over the limit", content, settings={"max_upload_bytes": 4_999}, is_short=False, sent=sent),
            upload(
                f"{size} as a form", content, headers=("Content-Type: multipart/form-data",), is_short=False, sent=sent
            ),
            upload(f"{size} of a web page", content, headers=("Origin: http://node",), is_short=False, sent=sent),
            upload(
                f"{size} without room", content, settings={"min_free_space_bytes": 1 << 60}, is_short=False, sent=sent
            ),
            upload(f"{size} that is cut", content, sent=2_000, is_ended=False, is_short=size == "large"),
            upload(f"{size} that stalls", content, sent=2_000, is_short=size == "large"),
        )
    ),
    upload("empty", b""),
    upload("empty that waits", b"", headers=(EXPECT,)),
    upload("small that is held", SMALL, held=(SMALL,), is_short=False),
    upload("small that is held and waits", SMALL, held=(SMALL,), headers=(EXPECT,), is_short=False),
    upload("small and wrong", SMALL, body=b"x" * 5_000, is_short=False),
    upload("large that is held", LARGE, held=(LARGE,), sent=0),
    upload("large that is held and waits", LARGE, held=(LARGE,), headers=(EXPECT,)),
    upload("large and wrong", LARGE, body=b"x" * 700_000),
    Case("large under a name that is none", "PUT /nope", LARGE, is_short=False),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_both_ways_are_the_same_to_everybody(
    case: Case, tmp_path: Path, statsd_server: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    async with both(tmp_path, statsd_server, caplog, **case.settings) as node:
        short = await node.see(case)
        long = await node.see(case, "Cookie: x")
    assert (short.is_short, long.is_short) == (case.is_short, False)
    assert short == long
    assert len(short.log) == 1


@pytest.mark.parametrize("more", [(), ("Cookie: x",)], ids=["short", "long"])
async def test_upload_that_the_stop_cuts_is_told_and_leaves_nothing(
    more: tuple[str, ...], tmp_path: Path, statsd_server: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    case = upload("cut", LARGE)
    async with both(tmp_path, statsd_server, caplog, send_timeout_seconds=600.0) as node:
        port = node.served.client.base_url.port
        assert port is not None
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(case.head(*more) + LARGE[:-1])
        with trio.fail_after(20):
            while not any(path.is_file() for root in node.roots for path in root.rglob("*")):
                await trio.sleep(0.01)
    await stream.aclose()
    assert node.told() == [("PUT", f"/{sha(LARGE)}", 0)]
    assert [line.partition("|")[0] for line in received(statsd_server)] == ["request.post.count:1"]
    assert not any(path.is_file() for root in node.roots for path in root.rglob("*"))
