"""What the OCI distribution specification's conformance suites ask of a registry that is only pulled from.

Content is preloaded instead of pushed. Source: opencontainers/distribution-spec, conformance/ at v1.1.1 (the pull
workflow, and of content discovery what needs no push) and at 967efdc (read-only, and the ranges).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
import pytest

from nekko.oci import mediatype
from nekko.oci.digest import Digest
from tests.mirror import open_mirror
from tests.servers import push_image

TAGS = ["v1", "v2", "v3", "v4"]
LAYER = Random(12).randbytes(2048)
UNKNOWN = Digest.of(b"nobody has this")
CODES = {
    "BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS",
}  # fmt: skip
RANGES = {"500-1499": (500, 1500), "500-": (500, 2048), "-500": (1548, 2048), "2000-5000": (2000, 2048)}
BEYOND = ["500-0", "5000-10000"]


@dataclass(frozen=True)
class Check:
    """One request to the preloaded repository, and what its answer has to be."""

    what: str
    path: str
    statuses: Sequence[int]
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    holds: Callable[[httpx.Response], bool] = lambda _: True

    def is_met(self, client: httpx.Client) -> bool:
        answer = client.request(self.method, f"/v2/org/app/{self.path}", headers=self.headers)
        if self.method == "HEAD" and answer.content:
            return False
        return answer.status_code in self.statuses and self.holds(answer)


def checks(manifest: httpx.Response) -> Iterator[Check]:
    """Give every check for an image, of which every tag of the repository is one more name."""
    yield from of_manifests(manifest)
    yield from of_blobs(Digest.parse(manifest.json()["config"]["digest"]))
    yield from of_ranges(Digest.parse(manifest.json()["layers"][0]["digest"]))
    yield from of_lists(Digest.of(manifest.content))


def of_manifests(manifest: httpx.Response) -> Iterator[Check]:
    digest = Digest.of(manifest.content)

    def is_it(answer: httpx.Response) -> bool:
        """Tell whether headers, and the body if there is one, are the manifest's."""
        return (
            answer.headers["docker-content-digest"] == str(digest)
            and answer.headers["content-type"] == mediatype.OCI_MANIFEST
            and answer.headers["content-length"] == str(len(manifest.content))
            and answer.content in (manifest.content, b"")
        )

    def tells(answer: httpx.Response) -> bool:
        return answer.status_code == 404 or answer.json()["errors"][0]["code"] in CODES

    accept = {"Accept": mediatype.OCI_MANIFEST}
    for method in ("HEAD", "GET"):
        for reference in (digest, *TAGS):
            yield Check(f"manifest {reference}", f"manifests/{reference}", [200], method, accept, is_it)
        for reference in (".INVALID_MANIFEST_NAME", "gone", UNKNOWN):
            yield Check(f"manifest {reference}, which is not there", f"manifests/{reference}", [404], method)
    for wrong in ("sha256:totallywrong", "sha256:baddigeststring"):
        yield Check(f"manifest {wrong}", f"manifests/{wrong}", [400, 404], holds=tells)


def of_blobs(config: Digest) -> Iterator[Check]:
    def is_it(answer: httpx.Response) -> bool:
        return answer.headers["docker-content-digest"] == str(config) and (
            answer.request.method == "HEAD" or Digest.of(answer.content) == config
        )

    for method in ("HEAD", "GET"):
        yield Check("blob", f"blobs/{config}", [200], method, holds=is_it)
        yield Check("blob that is not there", f"blobs/{UNKNOWN}", [404], method)


def of_ranges(layer: Digest) -> Iterator[Check]:
    for wanted, (first, end) in RANGES.items():

        def is_part(answer: httpx.Response, first: int = first, end: int = end) -> bool:
            return (
                answer.headers["content-range"] == f"bytes {first}-{end - 1}/{len(LAYER)}"
                and answer.headers["content-length"] == str(end - first)
                and answer.content == LAYER[first:end]
            )

        yield Check(f"range {wanted}", f"blobs/{layer}", [206], headers={"Range": f"bytes={wanted}"}, holds=is_part)
    for wanted in BEYOND:
        yield Check(f"range {wanted}", f"blobs/{layer}", [416], headers={"Range": f"bytes={wanted}"})


def of_lists(subject: Digest) -> Iterator[Check]:
    def lists(*tags: str) -> Callable[[httpx.Response], bool]:
        return lambda answer: answer.json()["tags"] == list(tags)

    def is_empty_index(answer: httpx.Response) -> bool:
        return answer.headers["content-type"] == mediatype.OCI_INDEX and answer.json()["manifests"] == []

    yield Check("tags", "tags/list", [200], holds=lists(*TAGS))
    yield Check("half of the tags", "tags/list?n=2", [200], holds=lists("v1", "v2"))
    yield Check("tags after one", "tags/list?n=2&last=v2", [200], holds=lists("v3", "v4"))
    yield Check("no tags", "tags/list?n=0", [200], holds=lists())
    for digest in (subject, UNKNOWN):
        yield Check(f"referrers of {digest}", f"referrers/{digest}", [200], holds=is_empty_index)


def test_pull_part_of_the_conformance_suites_is_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_mirror(tmp_path) as mirror:
        for tag in TAGS:
            push_image(mirror.registry, tmp_path, f"org/app:{tag}", [LAYER], "--preserve-digests")
            status, told = mirror.node.ask("POST", "/content/", {"url": f"oci://{mirror.registry.host}/org/app:{tag}"})
            assert status == 201, told
        with httpx.Client(base_url=f"http://{mirror.host}") as client:
            wanted = list(checks(client.get("/v2/org/app/manifests/v1")))
            failed = [f"{check.method} {check.what}" for check in wanted if not check.is_met(client)]
            failed += [] if client.get("/v2/").status_code == 200 else ["GET /v2/"]
    with capsys.disabled():
        count = len(wanted) + 1
        print(f"\nOCI distribution conformance, pull: {count - len(failed)} of {count} checks are met")
    assert not failed
