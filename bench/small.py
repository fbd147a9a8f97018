"""Rows of small answers: how many a second, and how long one takes while pulls run."""

import shutil
import subprocess
import sys
import threading
from urllib.request import Request, urlopen

from bench.daemon import nekko
from bench.measure import Case, Row, Sample, Target
from bench.site import OLAREG_MISSING, SMALL, Site
from nekko.oci.digest import Digest
from nekko.oci.mediatype import OCI_MANIFEST
from nekko.sources.base64url import encode_url

SECONDS = 2.0
LOAD_SECONDS = 3.0
PULLS = 4
NGINX, REGISTRY = "nginx, file of 404 bytes", "docker-registry, manifest by tag"


def requests(site: Site) -> Row:
    """Answers a second, 16 connections that are kept."""
    daemon = site.cached
    daemon.pull(site.web.url("/small"))
    peers = {NGINX: site.web.url("/small"), REGISTRY: f"http://{site.registry.host}/v2/bench/manifests/v1"}
    immutable = {
        "nekko, GET /<sha256> of 404 bytes": f"{daemon.url}/{Digest.of(SMALL).encoded}",
        "nekko, GET /v2/": f"{daemon.url}/v2/",
        "nekko, GET /health/live": f"{daemon.url}/health/live",
    }
    decides = {"nekko, GET /content/<b64>": f"{daemon.url}/content/{encode_url(site.web.url('/small'))}"}
    urls = peers | immutable | decides
    cases = [Case(name, lambda url=url: {"req/s": _requests_per_second(url)}) for name, url in urls.items()]  # type: ignore[misc]  # a default binds it
    targets = [
        Target(name, "req/s", ">=", limit, [peer])
        for name in immutable
        for peer, limit in ((NGINX, 0.3), (REGISTRY, 15))
    ]
    targets += [Target(name, "req/s", ">=", 2.0, [REGISTRY]) for name in decides]
    return Row("Small answers, keep-alive, 16 connections", cases, targets)


def manifests(site: Site) -> Row:
    """Manifests a second by digest and by tag, 16 connections that are kept."""
    daemon, registry, other = site.cached, site.registry, site.olareg
    daemon.pull(f"oci://{registry.host}/bench:v1")
    request = Request(registry.url("/v2/bench/manifests/v1"), headers={"Accept": OCI_MANIFEST})
    with urlopen(request) as answer:
        digest = answer.headers["Docker-Content-Digest"]
    roots = {"docker-registry": registry.url("/v2"), "nekko": f"{daemon.url}/v2/{registry.host}"}
    if other is not None:
        roots["olareg"] = other.url("/v2")
    urls = {
        f"{name}, by {way}": f"{root}/bench/manifests/{reference}"
        for way, reference in (("digest", digest), ("tag", "v1"))
        for name, root in roots.items()
    }
    cases = [Case(name, lambda url=url: {"req/s": _requests_per_second(url)}) for name, url in urls.items()]  # type: ignore[misc]  # a default binds it
    targets = [
        Target("nekko, by digest", "req/s", ">=", 15, ["docker-registry, by digest"]),
        Target("nekko, by tag", "req/s", ">=", 2.0, ["docker-registry, by tag"]),
    ]
    return Row("Manifests, keep-alive, 16 connections", cases, targets, [] if other is not None else [OLAREG_MISSING])


def latency(site: Site) -> Row:
    """One small request at a time, idle and while pulls run at full speed."""
    idle = Case("nekko, idle", lambda: _latency(site, pulls=0))
    busy = Case(f"nekko, {PULLS} pulls at full speed", lambda: _latency(site, pulls=PULLS))
    return Row(
        "Latency of GET /health/live", [idle, busy],
        [Target(busy.name, "ms p50", "<=", 1.5, [idle.name]), Target(busy.name, "ms p99", "<=", 50)],
    )  # fmt: skip


def _requests_per_second(url: str) -> float:
    command = ["wrk", "-t1", "-c16", f"-d{SECONDS:g}", "-H", f"Accept: {OCI_MANIFEST}", url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Non-2xx" not in done.stdout, done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Requests/sec"))
    return float(line.split()[1])


def _latency(site: Site, *, pulls: int) -> Sample:
    cache = site.memory / "cache"
    over = threading.Event()

    def keep_pulling(number: int) -> None:
        count = 0
        while not over.is_set():
            # Each URL is another content, so each is fetched anew.
            daemon.pull(site.web.url(f"/blob?{number}-{count}"))
            count += 1

    with nekko(cache) as daemon:
        threads = [threading.Thread(target=keep_pulling, args=(number,)) for number in range(pulls)]
        for thread in threads:
            thread.start()
        command = [
            sys.executable,
            "-m",
            "bench.ask",
            daemon.url.removeprefix("http://"),
            "/health/live",
            f"{LOAD_SECONDS:g}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        over.set()
        for thread in threads:
            thread.join()
    shutil.rmtree(cache)
    median, high = done.stdout.split()
    return {"ms p50": float(median), "ms p99": float(high)}
