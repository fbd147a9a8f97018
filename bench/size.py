"""Rows of what must stay small: memory, start-up, and what a million blobs cost."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import trio

from bench.daemon import nekko
from bench.fill import BLOBS_EACH, fill
from bench.measure import Case, Row, Sample, Target
from bench.site import Site
from nekko.sources.base64url import encode_url

PULLS = 64
MANY, FEW = 100_000, 100
"""Contents of ten blobs each."""
REPEATS, REMOVED, PRUNED = 50, 5, 3
ROOT = Path(__file__).parents[1]


def memory(site: Site) -> Row:
    """64 pulls of files that are really under way at once: of 1/16 of the size, and of a quarter."""
    web = site.slow_web
    cases = [
        Case(f"nekko, {PULLS} pulls of 1/{part} of the size", lambda part=part: _pulls(site, web.url(f"/part-{part}")))  # type: ignore[misc]  # a default binds it
        for part in (16, 4)
    ]
    return Row(
        f"Memory of {PULLS} pulls at once", cases,
        [Target(cases[1].name, "MiB peak", "<=", 150), Target(cases[1].name, "MiB peak", "<=", 1.1, [cases[0].name])],
        rounds=1,
    )  # fmt: skip


def start(site: Site) -> Row:
    """What a user waits for when the program starts, everything warm."""
    subprocess.run([ROOT / "packaging/zipapp"], check=True, stdout=subprocess.DEVNULL)
    # This interpreter by its own path: what finds it on a developer's machine may take longer than the program.
    program, cache = (os.path.realpath(sys.executable), str(ROOT / "dist/nekko.pyz")), site.disk / "start"
    os.environ["SHIV_ROOT"] = str(site.disk / "shiv")  # extracted where this run ends it
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

    def ready() -> Sample:
        with nekko(cache, program=program) as daemon:
            return {"ms": 1000 * daemon.ready_seconds}

    version = Case("nekko.pyz version", lambda: _command(*program, "version"))
    listing = Case(
        "nekko.pyz ls", lambda: _command(*program, "ls", "--address", site.cached.url.removeprefix("http://"))
    )
    serving = Case("nekko.pyz serve, until it is ready", ready)
    for case in (version, listing, serving):
        case.run()  # warm
    return Row(
        "Start-up", [version, listing, serving],
        [Target(version.name, "ms", "<=", 100), Target(listing.name, "ms", "<=", 250), Target(serving.name, "ms", "<=", 800)],
    )  # fmt: skip


def million(site: Site) -> Row:
    """1,000,000 blobs of 100,000 names against 1,000 blobs of 100 names."""
    cases = [_filled(site, names) for names in (FEW, MANY)]
    few, many = (case.name for case in cases)
    units = ("ms to ready", "ms GET", "ms DELETE", "ms prune")
    return Row("A cache with a million blobs", cases, [Target(many, unit, "<=", 1.5, [few]) for unit in units])


def _pulls(site: Site, url: str) -> Sample:
    cache = site.disk / "cache"
    with nekko(cache, "--max-transfers", str(PULLS), "--max-transfers-per-host", str(PULLS)) as daemon:
        threads = [threading.Thread(target=daemon.pull, args=(f"{url}?{number}",)) for number in range(PULLS)]
        for thread in threads:
            thread.start()
        running = 0
        while any(thread.is_alive() for thread in threads):
            with urllib.request.urlopen(f"{daemon.url}/admin/status") as answer:
                running = max(running, sum(each["position"] > 0 for each in json.load(answer)["transfers"]))
            time.sleep(0.2)
        assert running == PULLS, f"only {running} ran at once"
        sample = {"MiB peak": daemon.peak_mib(), "CPU s": daemon.cpu_seconds()}
    shutil.rmtree(cache)
    return sample


def _command(*command: str) -> Sample:
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"ms": 1000 * (time.monotonic() - started)}


def _filled(site: Site, names: int) -> Case:
    cache = site.memory / f"filled-{names}"
    contents = trio.run(fill, cache, names)

    def run() -> Sample:
        with nekko(cache) as daemon:
            shown = _each(REPEATS, lambda number: daemon.ask("GET", f"/content/{encode_url(contents[number].url)}"))
            removed = _each(REMOVED, lambda _: daemon.ask("DELETE", f"/content/{encode_url(contents.pop().url)}"))
            size = daemon.ask("GET", "/admin/status")["budget"]["cache_bytes"]

            def prune(_: int) -> None:
                """Remove the content that was used least recently, as an eviction does."""
                nonlocal size
                pruned = daemon.ask("POST", "/admin/prune", {"toSize": str(size - 1)})
                assert len(pruned["items"]) == 1
                size -= pruned["freed_bytes"]

            sample = {"ms to ready": 1000 * daemon.ready_seconds, "ms GET": shown, "ms DELETE": removed}
            return sample | {"ms prune": _each(PRUNED, prune)}

    return Case(f"nekko, {names * BLOBS_EACH:,} blobs", run)


def _each(count: int, step: Callable[[int], None]) -> float:
    """Give the median of so many steps, in ms."""
    taken = []
    for number in range(count):
        started = time.monotonic()
        step(number)
        taken.append(1000 * (time.monotonic() - started))
    return statistics.median(taken)
