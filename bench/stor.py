"""Rows of files on a pair of storages: stored and read, large and small, against nginx with a copy made by hand.

What nginx takes by PUT is neither hashed nor forced to disk; `cp` and `sync` make the second copy durable. nekko's
answer means that both are, and proven.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.command import timed
from bench.daemon import Daemon, nekko
from bench.measure import Case, Row, Sample, Target
from bench.site import Site

PEER = "nginx, PUT; cp; sync"
OWN = "nekko, PUT /<sha256> to a pair"
CLIENTS = 8
MANY = 64


def store_large(site: Site) -> Row:
    """The large file stored."""
    return _store(site, "A file stored twice", {site.blob.encoded: site.web.root / "blob"})


def store_small(site: Site, clients: int = CLIENTS) -> Row:
    """Many small files stored."""
    title = f"{len(site.small_files):,} files of 16 KiB stored twice, {clients} clients"
    return _store(site, title, site.small_files, clients)


def store_small_by_many(site: Site) -> Row:
    """Many small files stored by many clients, where one wait for the disk is shared by more of them."""
    return store_small(site, MANY)


def read_large(site: Site) -> Row:
    """The large file read."""
    return _read(site, "A file of a pair to 1 client", {site.blob.encoded: site.web.root / "blob"}, 1.0)


def read_small(site: Site) -> Row:
    """Many small files read."""
    title = f"{len(site.small_files):,} files of 16 KiB of a pair, {CLIENTS} clients"
    return _read(site, title, site.small_files, 0.3)


def _store(site: Site, title: str, files: Mapping[str, Path], clients: int = CLIENTS) -> Row:
    def by_nginx() -> Sample:
        first, second = site.dav.root / "stored", site.disk / "second"
        second.mkdir()
        put = _curl(site, files, f"{site.dav.url('')}/stored/", clients, is_upload=True)
        copy = f"cp {first}/* {second}/ && find {second} -type f -exec sync {{}} +"
        try:
            return timed(f"{put} && {copy}")
        finally:
            shutil.rmtree(first)
            shutil.rmtree(second)

    def by_nekko() -> Sample:
        with _paired(site) as daemon:
            sample = timed(_curl(site, files, f"{daemon.url}/", clients, is_upload=True))
            return {"s": sample["s"], "CPU s": daemon.cpu_seconds(), "MiB peak": daemon.peak_mib()}

    cases = [Case(PEER, lambda: {"s": by_nginx()["s"]}), Case(OWN, by_nekko)]
    return Row(title, cases, [Target(OWN, "s", "<=", 1.1, [PEER])])


def _read(site: Site, title: str, files: Mapping[str, Path], limit: float) -> Row:
    peer, own = "nginx, sendfile, 1 worker", "nekko, GET /<sha256> of a pair"
    total = sum(file.stat().st_size for file in files.values())

    def rate(seconds: float) -> float:
        return total / 1e6 / seconds

    def by_nginx() -> Sample:
        place = site.dav.root / "read"
        place.mkdir()
        for name, file in files.items():
            (place / name).hardlink_to(file)
        try:
            return {"MB/s": rate(timed(_curl(site, files, f"{site.dav.url('')}/read/"))["s"])}
        finally:
            shutil.rmtree(place)

    def by_nekko() -> Sample:
        with _paired(site) as daemon:
            timed(_curl(site, files, f"{daemon.url}/", is_upload=True))
            daemon.forget_peak()
            before = daemon.cpu_seconds()
            seconds = timed(_curl(site, files, f"{daemon.url}/"))["s"]
            return {"MB/s": rate(seconds), "CPU s": daemon.cpu_seconds() - before, "MiB peak": daemon.peak_mib()}

    return Row(title, [Case(peer, by_nginx), Case(own, by_nekko)], [Target(own, "MB/s", ">=", limit, [peer])])


def _curl(site: Site, files: Mapping[str, Path], root: str, clients: int = CLIENTS, *, is_upload: bool = False) -> str:
    """Make the command that sends or fetches all files, on some connections that are kept."""
    way: Callable[[Path], str] = lambda file: f'upload-file = "{file}"' if is_upload else 'output = "/dev/null"'  # noqa: E731
    asked = site.disk / "curl"
    # Of an upload the answer is read as well.
    lines = (
        f'url = "{root}{name}"\n{way(file)}\n' + 'output = "/dev/null"\n' * is_upload for name, file in files.items()
    )
    asked.write_text("".join(lines))
    return f"curl -sSf --parallel --parallel-max {clients} --config {asked}"


@contextmanager
def _paired(site: Site) -> Iterator[Daemon]:
    """Run nekko over an empty cache and an empty pair."""
    place = site.disk / "pair"
    pair = [place / "a", place / "b"]
    for root in pair:
        root.mkdir(parents=True)
    options = ["--storage-pairs", ":".join(map(str, pair)), "--require-mounts=false", "--min-free-space=0"]
    try:
        with nekko(place / "cache", *options) as daemon:
            yield daemon
    finally:
        shutil.rmtree(place)
