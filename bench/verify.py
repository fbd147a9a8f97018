"""The row of proving what is stored: as fast as a program that does nothing else."""

import json
import shlex

from bench.command import timed
from bench.measure import Case, Row, Sample, Target
from bench.site import Site


def verify(site: Site) -> Row:
    """A large file of the cache, hashed where it lies: the speed of the scrub where nothing limits it."""
    daemon, path = site.cached, site.disk / "serving/blobs/sha256" / site.blob.encoded
    body = shlex.quote(json.dumps({"urls": [site.web.url("/blob")]}))

    def throughput(command: str) -> Sample:
        return {"MB/s": site.size / 1e6 / timed(command)["s"]}

    openssl = Case("openssl dgst -sha256", lambda: throughput(f"openssl dgst -sha256 {path}"))
    own = Case("nekko, POST /admin/verify", lambda: throughput(f"curl -sf -d {body} {daemon.url}/admin/verify"))
    return Row("Proving a stored file again", [openssl, own], [Target(own.name, "MB/s", ">=", 0.95, [openssl.name])])
