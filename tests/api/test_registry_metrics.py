"""The registry door in `/metrics`, by the names that ociregistry has."""

from pathlib import Path

from nekko.oci.digest import Digest
from tests.api.registry_door import CONFIG, IMAGE, INDEX, LAYERS, Door, open_door
from tests.fakes.far_end import FarEnd

COUNTERS = ("manifest_pulls_total", "blob_pulls_total", "v2_api_endpoint_hits_total", "api_errors_total")


async def figures(door: Door) -> dict[str, float]:
    """Give every figure of ociregistry's by name and labels."""
    text = (await door.client.get("/metrics")).text
    lines = (line for line in text.splitlines() if line.startswith("ociregistry_"))
    return {name.removeprefix("ociregistry_"): float(value) for name, value in (line.split() for line in lines)}


async def test_pulls_are_counted_by_registry_and_place(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        none = await figures(door)
        assert {name: none[name] for name in COUNTERS} == dict.fromkeys(COUNTERS, 0.0)
        assert (none["cached_manifest_count"], none["cached_blob_count"]) == (0, 0)

        assert (await door.manifest()).content == INDEX  # from its registry
        await door.whole()
        assert (await door.manifest(method="HEAD")).status_code == 200
        assert (await door.manifest(Digest.of(IMAGE))).content == IMAGE
        assert (await door.blob(LAYERS[0])).content == LAYERS[0]
        assert (await door.blob(LAYERS[1], method="HEAD")).status_code == 200
        assert (await door.manifest("absent")).status_code == 404
        assert (await door.client.get("/v2/")).status_code == 200
        assert (await door.client.get("/health/live")).status_code == 200

        told = await figures(door)
        assert told[f'cached_pulls_by_ns_total{{ns="{far.host}"}}'] == 2
        assert told[f'upstream_pulls_by_ns{{ns="{far.host}"}}'] == 1
        assert {name: told[name] for name in COUNTERS} == dict(zip(COUNTERS, (3, 2, 7, 1), strict=True))
        assert (told["cached_manifest_count"], told["manifest_bytes_on_disk_total"]) == (2, len(INDEX) + len(IMAGE))
        blobs = (CONFIG, *LAYERS)
        assert (told["cached_blob_count"], told["blob_bytes_on_disk_total"]) == (len(blobs), sum(map(len, blobs)))
