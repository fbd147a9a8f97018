"""How the daemon is: `/`, `/openapi.json`, `/health`, `/metrics`, and `/admin/status` for the command line."""

import time
from dataclasses import asdict
from typing import Any

import trio
from quart import Blueprint, Response, request

from nekko import __version__
from nekko.api import openapi
from nekko.api.peer import peer_of
from nekko.api.responses import json_body, json_response, time_text
from nekko.api.traffic import Traffic
from nekko.config import grammar
from nekko.config.doors import DOORS
from nekko.errors import ConfigInvalidError, RequestInvalidError
from nekko.metrics import Counters, ScrubFigures, Snapshot, exposition
from nekko.node import Node
from nekko.transfer.running import PullStatistics
from nekko.transfer.scrub import Scrub

LIVE = json_body({"status": "live"})
FRONT = f"nekko {__version__}: the storage daemon of this node\n"
HEALTH = "/health              /health/live: the process turns; /health/ready: the cache can be used"
DESCRIPTION = "/openapi.json        this API, described for programs"


def build(node: Node, traffic: Traffic, counters: Counters) -> Blueprint:
    """Make the routes."""
    store, transfers, repairs, scrub = node.store, node.transfers, node.repairs, node.scrub
    door = Blueprint("status", __name__)
    started = time.monotonic()

    @door.get("/")
    async def front_page() -> Response:
        lines = [line for door, line in DOORS.items() if door in peer_of(request.scope).doors]
        return Response("\n".join([FRONT, *lines, HEALTH, DESCRIPTION, ""]), content_type="text/plain; charset=utf-8")

    @door.get("/openapi.json")
    async def description() -> Response:
        text = await trio.to_thread.run_sync(openapi.document, peer_of(request.scope).doors)
        return Response(text, content_type="application/json")

    @door.get("/health/live")
    async def live() -> Response:
        return Response(LIVE, content_type="application/json")

    @door.get("/health")
    @door.get("/health/ready")
    async def ready() -> Response:
        capacity = store.capacity.statistics()
        problems = []
        try:
            await trio.to_thread.run_sync(store.layout.check_writable)
        except OSError as error:
            problems.append(f"{store.layout.root} cannot be written: {error.strerror}")
        if capacity.available_bytes <= 0:
            problems.append(f"the disk of {store.layout.root} is full")
        body = {"status": "not ready" if problems else "ready", "version": __version__, "problems": problems}
        return json_response(body, 503 if problems else 200)

    @door.get("/metrics")
    async def metrics() -> Response:
        capacity, held = store.capacity.statistics(), store.statistics()
        files = None if node.replicas is None else node.replicas.statistics()
        objects = None if node.behind is None else await node.behind.statistics()
        announcements = node.announcements.statistics()
        manifests, manifest_bytes = await store.manifests()
        snapshot = Snapshot(
            transfers_running=len(transfers.statistics()), transfers_finished=transfers.finished,
            transfers_failed=transfers.failed, upstream_bytes=transfers.received_by_host,
            unique_bytes=transfers.unique_bytes, pulls_running=len(node.pulls.statistics()), blobs=held.blobs,
            cache_bytes=capacity.cache_bytes, max_cache_bytes=capacity.max_cache_bytes,
            pinned_bytes=await store.pinned_bytes(), evicted=store.evictor.contents,
            evicted_bytes=store.evictor.bytes, contents=held.contents, quarantined=held.quarantined,
            disk_available_bytes=capacity.available_bytes, disk_reserved_bytes=capacity.reserved_bytes,
            proven_again=store.blobs.proven_again, damaged=store.blobs.damaged, repaired=repairs.repaired,
            repairs_failed=repairs.failed, scrub=_figures(scrub),
            replicas_scrub=None if node.replicas_scrub is None else _figures(node.replicas_scrub),
            wanted={s.entry.locator.name: (s.state == "ready", s.eta_seconds) for s in node.sync.statistics()},
            rate_limits={host: (limit.granted, limit.remaining) for host, limit in node.mirror.rate_limits.items()},
            replicas={} if files is None else files.by_outcome, replicas_waiting=0 if files is None else files.waiting,
            objects_waiting=0 if objects is None else objects.waiting,
            objects_written=0 if objects is None else objects.written,
            objects_failed=0 if objects is None else objects.failed,
            announcements_waiting=announcements.waiting, announcements_sent=announcements.sent,
            announcements_dropped=announcements.dropped,
            blob_bytes=held.bytes, manifests=manifests, manifest_bytes=manifest_bytes,
        )  # fmt: skip
        return Response(exposition(counters, snapshot), content_type="text/plain; version=0.0.4; charset=utf-8")

    @door.get("/admin/status")
    async def status() -> Response:
        with_history = _switch("history")
        capacity = store.capacity.statistics()
        running = [asdict(each) | {"digest": str(each.digest or "")} for each in transfers.statistics()]
        return json_response({
            "version": __version__,
            "uptime_seconds": round(time.monotonic() - started, 1),
            "cache_dir": str(store.layout.root),
            "disk": {
                "total_bytes": capacity.total_bytes, "free_bytes": capacity.available_bytes,
                "reserved_bytes": capacity.reserved_bytes,
            },
            "budget": {
                "cache_bytes": capacity.cache_bytes, "max_cache_bytes": capacity.max_cache_bytes,
                "pinned_bytes": await store.pinned_bytes(), "evicted": store.evictor.contents,
                "evicted_bytes": store.evictor.bytes,
            },
            "store": asdict(store.statistics()),
            "health": {
                "proven_again": store.blobs.proven_again, "damaged": store.blobs.damaged,
                "repaired": repairs.repaired, "repairs_failed": repairs.failed,
            },
            "scrub": _scrub(scrub),
            "replicas_scrub": None if node.replicas_scrub is None else _scrub(node.replicas_scrub),
            "traffic": traffic.described(with_history=with_history),
            "transfers": running,
            "pulls": [_pull(each) for each in node.pulls.statistics()],
        })  # fmt: skip

    return door


def _switch(name: str) -> bool:
    """Read a parameter of the query that is true or false."""
    try:
        return grammar.switch(request.args.get(name, "false"))
    except ConfigInvalidError as error:
        raise RequestInvalidError(f"{name}: {error}") from error


def _pull(statistics: PullStatistics) -> dict[str, Any]:
    """Describe a pull; what is arriving for it is among the transfers."""
    described = asdict(statistics) | {"state": "downloading"}
    del described["arriving"]
    return described


def _figures(scrub: Scrub) -> ScrubFigures:
    return ScrubFigures(scrub.state.started is not None, scrub.bytes, scrub.faults, scrub.state.finished)


def _scrub(scrub: Scrub) -> dict[str, Any]:
    state = scrub.state
    times = {"due": state.due if scrub.is_on else None, "started": state.started, "finished": state.finished}
    told = {name: None if seconds is None else time_text(seconds) for name, seconds in times.items()}
    counts = {"position": state.position, "blobs": state.blobs, "faults": state.faults, "repaired": state.repaired}
    return {**told, **counts, "bytes_since_start": scrub.bytes}
