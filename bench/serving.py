"""Rows of what is in the cache: a large file, by sendfile, to one client and to many."""

from collections.abc import Callable

from bench.command import at_once, timed
from bench.daemon import Daemon
from bench.measure import Case, Row, Sample, Target
from bench.site import Site

REGISTRY_CLIENTS = 8
"""More of them take minutes of docker-registry, and are compared with nginx only."""


def to(clients: int, limit: float) -> Callable[[Site], Row]:
    """Make the row for so many clients."""

    def row(site: Site) -> Row:
        daemon = site.cached
        urls = {"nginx, sendfile, 1 worker": site.web.url("/blob")}
        if clients <= REGISTRY_CLIENTS:
            urls["docker-registry"] = f"http://{site.registry.host}/v2/bench/blobs/{site.blob}"
        nginx = next(iter(urls))
        peers = [Case(name, lambda url=url: _throughput(site, url, clients)) for name, url in urls.items()]  # type: ignore[misc]  # a default binds it
        own = Case("nekko, GET /<sha256>", lambda: _by_nekko(site, daemon, clients))
        title = f"A cached file to {clients} {'client' if clients == 1 else 'clients'}"
        return Row(title, [*peers, own], [Target(own.name, "MB/s", ">=", limit, [nginx])])

    return row


def _throughput(site: Site, url: str, clients: int) -> Sample:
    seconds = timed(at_once([f"curl -sf -o /dev/null {url}"] * clients))["s"]
    return {"MB/s": site.size * clients / 1e6 / seconds}


def _by_nekko(site: Site, daemon: Daemon, clients: int) -> Sample:
    daemon.forget_peak()
    before = daemon.cpu_seconds()
    sample = _throughput(site, f"{daemon.url}/{site.blob.encoded}", clients)
    return {**sample, "CPU s": daemon.cpu_seconds() - before, "MiB peak": daemon.peak_mib()}
