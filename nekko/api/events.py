"""The progress of one pull as server-sent events. Source: the HTML standard, section 9.2.

A reader takes snapshots at its own pace: there is no queue, a slow reader slows nobody, and many cost little. The
stream begins with what is known now, has a `progress` event whenever that has changed, and ends with one event that
says how it ended: `complete`, `failed`, or `partial` where nothing is running.
"""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import trio
from quart import Response

from nekko.api.responses import problem_of
from nekko.errors import TransferAbandonedError
from nekko.store.content import Content
from nekko.transfer.running import Pull, PullStatistics

MEDIA_TYPE = "text/event-stream"
INTERVAL_SECONDS = 0.2
KEEP_ALIVE_SECONDS = 15.0
"""Without an event for so long, a comment keeps proxies from closing the connection."""
RATE_SECONDS = 5.0
"""The speed that is told is the mean of about so long."""

Describe = Callable[[Content], Awaitable[dict[str, Any]]]


def are_wanted(accept: str) -> bool:
    """Tell whether an Accept header asks for events."""
    return any(part.partition(";")[0].strip().lower() == MEDIA_TYPE for part in accept.split(","))


def response(pull: Pull | None, content: Content, describe: Describe) -> Response:
    """Answer with the events of a running pull, or with the one event of a content that nobody pulls."""
    stream = _of_content(content, describe) if pull is None else _of_pull(pull, describe)
    return Response(stream, content_type=f"{MEDIA_TYPE}; charset=utf-8", headers={"Cache-Control": "no-store"})


async def _of_content(content: Content, describe: Describe) -> AsyncIterator[bytes]:
    body = await describe(content)
    if body["state"] == "failed":
        yield event_of("failed", body["error"])
    else:
        yield event_of("complete" if body["state"] == "complete" else "partial", body)


async def _of_pull(pull: Pull, describe: Describe) -> AsyncIterator[bytes]:
    speed = _Speed()
    told, told_at = None, 0.0
    while not pull.done.is_set():
        statistics = pull.statistics()
        speed.take(statistics.bytes_present)
        progress = _progress(pull, statistics)
        if progress != told:
            told, told_at = progress, time.monotonic()
            yield event_of("progress", progress | speed.told(statistics))
        elif time.monotonic() - told_at > KEEP_ALIVE_SECONDS:
            told_at = time.monotonic()
            yield b": still here\n\n"
        with trio.move_on_after(INTERVAL_SECONDS):
            await pull.done.wait()
    if pull.result is not None:
        yield event_of("complete", await describe(pull.result.content))
    else:
        error = pull.error or TransferAbandonedError(f"{pull.wish.locator.where}: the pull was cancelled")
        yield event_of("failed", problem_of(error))


def event_of(name: str, body: dict[str, Any]) -> bytes:
    """Write one event."""
    return f"event: {name}\ndata: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


def _progress(pull: Pull, statistics: PullStatistics) -> dict[str, Any]:
    return {
        "url": statistics.url,
        "name": pull.wish.locator.name,
        "state": "downloading",
        "bytes_present": statistics.bytes_present,
        "size": statistics.size,
        "blobs_done": statistics.blobs_done,
        "blobs": statistics.blobs,
        "arriving": [
            {
                "name": each.name, "digest": str(each.digest or ""), "position": each.position, "size": each.size,
                "attempt": each.attempt,
            }
            for each in statistics.arriving
        ],
    }  # fmt: skip


class _Speed:
    """The mean speed of the last seconds."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._bytes = 0
        self._mean: float | None = None

    def take(self, bytes_present: int) -> None:
        """Take note of how far the pull is now."""
        now = time.monotonic()
        if self._at is not None and now > self._at:
            seconds, count = now - self._at, max(0, bytes_present - self._bytes)
            share = min(1.0, seconds / RATE_SECONDS)
            before = count / seconds if self._mean is None else self._mean
            self._mean = before + share * (count / seconds - before)
        self._at, self._bytes = now, bytes_present

    def told(self, statistics: PullStatistics) -> dict[str, Any]:
        """Give the speed, and the time that is left at it, None while that is unknown."""
        speed = self._mean or 0.0
        left = None
        if statistics.size is not None and speed > 0:
            left = round(max(0, statistics.size - statistics.bytes_present) / speed, 1)
        return {"bytes_per_second": round(speed), "eta_seconds": left}
