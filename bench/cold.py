"""Rows of what is not in the cache yet: one file, by one client and by 64."""

import hashlib
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.command import at_once, timed
from bench.daemon import nekko
from bench.measure import Case, Row, Sample, Target
from bench.site import FILE, HF, REPOSITORY, Site
from tests.servers import Server, free_port, running

CLIENTS = 64
NEKKO = "nekko, POST /content/"


def file_into_memory(site: Site) -> Row:
    """One large file, proven, into tmpfs."""
    return _file("Cold pull of a file into memory (tmpfs)", site, site.memory, "", limit=0.75)


def file_onto_disk(site: Site) -> Row:
    """One large file, proven, and forced to disk."""
    return _file("Cold pull of a file onto disk, all synced", site, site.disk, " && sync", limit=1.0)


def file_over_tls(site: Site) -> Row:
    """One large file, proven, over TLS, into tmpfs."""
    secure, place = site.secure_web, site.memory
    config = site.disk / "tls.yaml"
    config.write_text(f"hosts:\n  '{secure.host}':\n    ca: {site.authority}\n")
    out, url = place / "out", secure.url("/blob")

    def curl() -> Sample:
        return _then_removed(out, f"curl -sf --cacert {site.authority} {url} | tee {out} | openssl dgst -sha256")

    cases = [
        Case("curl \\| tee \\| openssl dgst", curl),
        Case(NEKKO, lambda: _pull(place / "cache", url, "--config-file", str(config))),
    ]
    return Row("Cold pull of a file over TLS into memory", cases, [Target(NEKKO, "s", "<=", 0.5, [cases[0].name])])


def _file(title: str, site: Site, place: Path, sync: str, *, limit: float) -> Row:
    out, url = place / "out", site.web.url("/blob")
    blob, registry, hub = site.blob, site.registry, site.hub
    synced = f"{sync} {out}" if sync else ""

    def skopeo() -> Sample:
        all_synced = f"{sync} {out}/blobs/sha256/*" if sync else ""
        return _then_removed(
            out, f"skopeo copy --src-tls-verify=false docker://{registry.host}/bench:v1 oci:{out}:v1{all_synced}"
        )

    def hf() -> Sample:
        assert hub is not None
        there = f"{sync} {out}/{FILE}" if sync else ""
        return _then_removed(
            out, f"{HF} download {REPOSITORY} {FILE} --local-dir {out}{there}",
            HF_ENDPOINT=hub, HF_HOME=str(place / "hf-home"), HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_UPDATE_CHECK="1",
        )  # fmt: skip

    peers = [
        Case("curl \\| tee \\| openssl dgst",
             lambda: _then_removed(out, f"curl -sf {url} | tee {out} | openssl dgst -sha256{synced}")),
        Case("aria2c -x8, checksum", lambda: _then_removed(
            out, f"aria2c -q -x8 -s8 --file-allocation=none --checksum=sha-256={blob.encoded} -d {place} -o out {url}{synced}")),
        Case("skopeo copy from docker-registry", skopeo),
    ]  # fmt: skip
    if hub is not None:
        peers.append(Case("hf download from a Hub that redirects to nginx, not proven", hf))
    floor = Case(
        "the floor: a thread's recv, hash, write",
        lambda: _then_removed(out, f"{sys.executable} -m bench.floor {url} {out}{synced}"),
    )
    own = Case(NEKKO, lambda: _pull(place / "cache", url))
    missing = [] if hub is not None else ["hf (`packaging/setup bench` installs it)"]
    return Row(
        title, [*peers, floor, own], [Target(own.name, "s", "<=", limit, [peer.name for peer in peers])], missing
    )


def herd(site: Site) -> Row:
    """One file of a quarter of the size, asked for by 64 clients at once."""
    cached = site.disk / "proxy-cache"
    url = site.web.url("/quarter")
    with (site.web.root / "quarter").open("rb") as file:
        encoded = hashlib.file_digest(file, "sha256").hexdigest()

    def measured(commands: list[str]) -> Sample:
        before = _sent_bytes(site.web)
        sample = timed(at_once(commands))
        ratio = (_sent_bytes(site.web) - before) / (site.size // 4)
        return {"s": sample["s"], "bytes from upstream / bytes": ratio}

    def through_nginx() -> Sample:
        with _proxy_cache(site, cached) as proxy:
            return measured([f"curl -sf -o /dev/null {proxy}/quarter"] * CLIENTS)

    def through_nekko() -> Sample:
        cache = site.disk / "cache"
        with nekko(cache) as daemon:
            one = (
                f'curl -sf -o /dev/null -d \'{{"url":"{url}"}}\' {daemon.url}/content/'
                f" --next -sf -o /dev/null {daemon.url}/{encoded}"
            )
            sample = {**measured([one] * CLIENTS), "MiB peak": daemon.peak_mib()}
        shutil.rmtree(cache)
        return sample

    peer = Case("nginx, proxy_cache with its lock", through_nginx)
    own = Case("nekko, POST /content/, then GET /<sha256>", through_nekko)
    return Row(
        f"{CLIENTS} clients at once, cold, one file of a quarter of the size", [peer, own],
        [Target(own.name, "bytes from upstream / bytes", "<=", 1.01), Target(own.name, "s", "<=", 1.3, [peer.name])],
    )  # fmt: skip


def _pull(cache: Path, url: str, *options: str) -> Sample:
    with nekko(cache, *options) as daemon:
        before, started = daemon.cpu_seconds(), time.monotonic()
        daemon.pull(url)
        seconds = time.monotonic() - started
        sample = {"s": seconds, "CPU s": daemon.cpu_seconds() - before, "MiB peak": daemon.peak_mib()}
    shutil.rmtree(cache)
    return sample


def _then_removed(out: Path, command: str, **environment: str) -> Sample:
    sample = timed(command, **environment)
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink()
    return sample


def _sent_bytes(web: Server) -> int:
    return sum(int(line.split('"')[2].split()[1]) for line in web.log.read_text().splitlines())


@contextmanager
def _proxy_cache(site: Site, directory: Path) -> Iterator[str]:
    """Run an nginx that keeps what it fetches from `site.web`; gives its URL."""
    site.clean(directory)
    directory.chmod(0o755)
    port, path = free_port(), directory / "nginx.conf"
    path.write_text(
        f"""
        user root; daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log;
        events {{ worker_connections 512; }}
        http {{
            access_log off; sendfile on; proxy_temp_path {directory}/temporary;
            client_body_temp_path {directory}/t1; fastcgi_temp_path {directory}/t3;
            uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
            proxy_cache_path {directory}/kept keys_zone=kept:10m use_temp_path=off;
            server {{
                listen 127.0.0.1:{port};
                location / {{
                    proxy_pass {site.web.url("")}; proxy_cache kept; proxy_cache_valid 200 1h; proxy_cache_lock on;
                    proxy_cache_lock_timeout 1h; proxy_cache_lock_age 1h; proxy_max_temp_file_size 8192m;
                }}
            }}
        }}
        """
    )
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    with running([program, "-c", str(path), "-e", f"{directory}/error.log"], port, directory / "nginx.log"):
        yield f"http://127.0.0.1:{port}"
