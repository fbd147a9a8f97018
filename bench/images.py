"""The row of an image that is pulled: straight from its registry, and through what keeps a copy of it."""

import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench.command import timed
from bench.daemon import nekko
from bench.measure import Case, Row, Sample, Target
from bench.site import LAYERS, OLAREG_MISSING, Site
from nekko.oci.mediatype import OCI_MANIFEST
from tests.servers import docker_registry

AT_ONCE = 3
"""So many layers are fetched at a time. Source: containerd, max_concurrent_downloads."""

Proxy = Callable[[Path], AbstractContextManager[str]]
"""Runs one over a directory for its copies; gives its URL."""


def image(site: Site) -> Row:
    """An image of ten layers: the manifest, then the rest of it, by curl, which throws it away."""
    paths, upstream, other = site.image, site.registry, site.olareg

    def pulled(url: str) -> Sample:
        manifest, *blobs = (shlex.quote(f"{url}{path}") for path in paths)
        curl = "curl -sf -o /dev/null"
        return {
            "s": timed(
                f"{curl} -H 'Accept: {OCI_MANIFEST}' {manifest} && printf '%s\\n' {' '.join(blobs)}"
                f" | xargs -P {AT_ONCE} -n 1 {curl}"
            )["s"]
        }

    @contextmanager
    def own(cache: Path) -> Iterator[str]:
        with nekko(cache, "--default-registry", upstream.host) as daemon:
            yield daemon.url

    @contextmanager
    def peer(cache: Path) -> Iterator[str]:
        with docker_registry(cache, proxy_of=upstream.url("")) as registry:
            yield registry.url("")

    def cold(proxy: Proxy) -> Sample:
        cache = site.clean(site.disk / "cold")
        with proxy(cache) as url:
            sample = pulled(url)
        shutil.rmtree(cache)
        return sample

    def warm(proxy: Proxy, cache: Path) -> Sample:
        is_filled = cache.exists()  # by the round before
        with proxy(cache) as url:
            if not is_filled:
                pulled(url)
            return pulled(url)

    cases = [
        Case("straight from docker-registry", lambda: pulled(upstream.url(""))),
        peer_cold := Case("through docker-registry as a proxy, cold", lambda: cold(peer)),
        own_cold := Case("through nekko, cold", lambda: cold(own)),
        peer_warm := Case("through docker-registry as a proxy, warm", lambda: warm(peer, site.disk / "kept-by-peer")),
        own_warm := Case("through nekko, warm", lambda: warm(own, site.disk / "kept")),
    ]
    targets = [
        Target(own_cold.name, "s", "<=", 0.8, [peer_cold.name]), Target(own_warm.name, "s", "<=", 1.0, [peer_warm.name]),
    ]  # fmt: skip
    if other is not None:
        cases.append(Case("straight from olareg", lambda: pulled(other.url(""))))
    title = f"An image of {LAYERS} layers, {AT_ONCE} at a time"
    return Row(title, cases, targets, [] if other is not None else [OLAREG_MISSING])
