"""Run every comparison and print Markdown tables. `python -m bench --help` tells the options."""

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.cases import Case, cold_file, cold_image, make_blob, nekko, requests_per_second, serving
from nekko.oci.digest import Digest
from nekko.sources.base64url import encode_url
from tests.servers import docker_registry, nginx

SMALL = b"s" * 404


def compare(title: str, cases: Sequence[Case], rounds: int, total_bytes: int) -> None:
    """Run cases in turn, `rounds` times, and print medians as MB/s and as ratio to the first."""
    seconds: dict[str, list[float]] = {case.name: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            seconds[case.name].append(case.run())
    table(title, "MB/s", {name: total_bytes / 1e6 / statistics.median(taken) for name, taken in seconds.items()})


def table(title: str, unit: str, figures: dict[str, float]) -> None:
    """Print one table; the first row is the yardstick."""
    first = next(iter(figures.values()))
    print(f"\n### {title}\n\n| | {unit} | ratio |\n| --- | --- | --- |")
    for name, figure in figures.items():
        print(f"| {name} | {figure:,.0f} | {figure / first:.2f} |", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the large blob (default 1024)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each comparison, interleaved (default 3)")
    parser.add_argument("--directory", type=Path, help="where to work: a disk with room for some copies")
    options = parser.parse_args()
    size, rounds = options.mib << 20, options.rounds
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, {options.mib} MiB, median of {rounds} rounds")  # noqa: DTZ011 - a heading
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.directory)))
        place.chmod(0o755)
        web = stack.enter_context(nginx(place / "nginx"))
        registry = stack.enter_context(docker_registry(place / "registry"))
        make_blob(web.root / "blob", size)
        (web.root / "small").write_bytes(SMALL)
        _push(place, registry.host, web.root / "blob")

        compare("Cold pull of a file from nginx", cold_file(place, web), rounds, size)
        compare("Cold pull of an image from docker-registry", cold_image(place, registry), rounds, size)

        address = stack.enter_context(nekko(place / "serving"))
        for path in ("/blob", "/small"):
            body = json.dumps({"url": web.url(path)}).encode()
            urllib.request.urlopen(urllib.request.Request(f"{address}/content/", body), timeout=600).close()
        blob = Digest.parse((web.root / "blob.digest").read_text())
        urls = {
            "nginx, 1 worker": web.url("/blob"),
            "docker-registry": f"http://{registry.host}/v2/bench/blobs/{blob}",
            "nekko GET /<sha256>": f"{address}/{blob.encoded}",
        }
        for clients in (1, 8):
            compare(f"A cached blob to {clients} curl", serving(urls, clients), rounds, size * clients)

        small = {
            "docker-registry, manifest by tag": f"http://{registry.host}/v2/bench/manifests/v1",
            "nginx, file of 404 bytes": web.url("/small"),
            "nekko GET /<sha256> of 404 bytes": f"{address}/{Digest.of(SMALL).encoded}",
            "nekko GET /content/<b64>": f"{address}/content/{encode_url(web.url('/small'))}",
            "nekko GET /health/live": f"{address}/health/live",
        }
        figures = {name: [requests_per_second(url, 3) for _ in range(rounds)] for name, url in small.items()}
        table(
            "Small answers, 16 connections",
            "req/s",
            {name: statistics.median(found) for name, found in figures.items()},
        )


def _push(place: Path, host: str, blob: Path) -> None:
    """Push an image of one layer, uncompressed, so that its blob is the file that nginx serves."""
    layout = place / "push"
    digest = Digest.parse(blob.with_name(f"{blob.name}.digest").read_text())
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    (blobs / digest.encoded).symlink_to(blob)
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(digest)]}}
    ).encode()
    layer = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": str(digest),
        "size": blob.stat().st_size,
    }
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": str(Digest.of(config)), "size": len(config)},
        "layers": [layer],
    }).encode()  # fmt: skip
    for body in (config, manifest):
        (blobs / Digest.of(body).encoded).write_bytes(body)
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": str(Digest.of(manifest)),
        "size": len(manifest),
    }
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    subprocess.run(
        ["skopeo", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false", f"oci:{layout}", f"docker://{host}/bench:v1"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    shutil.rmtree(layout)


if __name__ == "__main__":
    main()
