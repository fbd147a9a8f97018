"""Tags and referrers by the registry door: what is held, and what the registry has."""

import json
from pathlib import Path
from typing import Any

import pytest

from nekko.oci import mediatype
from nekko.oci.digest import Digest
from tests.api.registry_door import CONFIG, IMAGE, INDEX, Door, code_of, open_door
from tests.fakes.far_end import FarEnd, status, whole
from tests.fakes.registry import descriptor

SUBJECT = Digest.of(IMAGE)
KIND = "application/vnd.example.signature"


def tags_path(door: Door, query: str = "") -> str:
    return f"/v2/{door.registry.repository}/tags/list{query}"


def listed(tags: list[Any] | None, more: str | None = None) -> Any:
    headers = {"Link": f'<{more}>; rel="next"'} if more else {}
    return whole(json.dumps({"name": "org/app", "tags": tags}).encode(), etag=None, headers=headers)


async def tags(door: Door, query: str = "") -> Any:
    answer = await door.client.get(f"/v2/{door.name}/tags/list{query}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["name"] == door.name
    return answer.json()["tags"]


def artifact(body: bytes, *, artifact_type: str | None = KIND, subject: bytes = IMAGE) -> bytes:
    """Make a manifest that refers to another."""
    whole_manifest = {
        "schemaVersion": 2, "mediaType": mediatype.OCI_MANIFEST, "artifactType": artifact_type,
        "config": descriptor(CONFIG, "application/vnd.example.config"), "layers": [descriptor(body)],
        "subject": descriptor(subject, mediatype.OCI_MANIFEST), "annotations": {"org.example.by": "ann"},
    }  # fmt: skip
    return json.dumps({key: value for key, value in whole_manifest.items() if value is not None}).encode()


def entry(manifest: bytes, artifact_type: str = KIND) -> dict[str, Any]:
    annotations = {"org.example.by": "ann"}
    return descriptor(manifest, mediatype.OCI_MANIFEST, annotations=annotations, artifactType=artifact_type)


def index_of(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": list(entries)}).encode()


async def referrers(door: Door, subject: object = SUBJECT, query: str = "") -> Any:
    answer = await door.client.get(f"/v2/{door.name}/referrers/{subject}{query}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == mediatype.OCI_INDEX
    assert answer.headers.get("oci-filters-applied") == ("artifactType" if query else None)
    return answer.json()["manifests"]


# --- tags ------------------------------------------------------------------------------------------------------------


async def test_tags_are_those_of_the_registry_and_those_that_are_held(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        far.on(tags_path(door), listed(["v3", "V2", "not a tag", 7], more="/v2/org/app/tags/list?last=v3"))
        far.on(tags_path(door, "?last=v3"), listed(["v4"]))
        assert await tags(door) == ["V2", "v3", "v4"]
        await door.manifest()
        assert await tags(door) == ["V2", "v1", "v3", "v4"]
        await door.whole()
        await door.manifest(Digest.of(INDEX))
        door.go_down()
        assert await tags(door) == ["v1"], "the registry cannot be asked"


async def test_tags_come_in_pages(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        far.on(tags_path(door), listed(["a", "b", "c", "d", "e"]))
        found, path = [], f"/v2/{door.name}/tags/list?n=2&ns={far.host}"
        for _ in range(3):
            answer = await door.client.get(path)
            found.append(answer.json()["tags"])
            path = answer.links.get("next", {}).get("url", "")
        assert (found, path) == ([["a", "b"], ["c", "d"], ["e"]], "")
        assert await tags(door, "?n=0") == []
        assert await tags(door, "?last=bb") == ["c", "d", "e"]
        assert await tags(door, "?n=5&last=d") == ["e"]
        assert "link" not in (await door.client.get(f"/v2/{door.name}/tags/list?n=0")).headers


@pytest.mark.parametrize("n", ["-1", "x", "1.5", "²"])
async def test_number_that_is_none_is_refused(tmp_path: Path, far: FarEnd, n: str) -> None:
    async with open_door(tmp_path, far) as door:
        answer = await door.client.get(f"/v2/{door.name}/tags/list", params={"n": n})
        assert code_of(answer) == (400, "PAGINATION_NUMBER_INVALID")


async def test_repository_that_nobody_knows_is_told(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        assert code_of(await door.client.get(f"/v2/{far.host}/other/tags/list")) == (404, "NAME_UNKNOWN")


@pytest.mark.parametrize(
    "answer",
    [
        whole(b"not json", etag=None),
        whole(b"[]", etag=None),
        whole(b'{"tags": "abc"}', etag=None),
        listed(["a"], more="http://[::bad/v2"),
        listed(["a"], more="http://elsewhere.example/v2/org/app/tags/list"),
        listed(["a"], more="/v2/org/app/tags/list"),
    ],
    ids=["no JSON", "no object", "no list", "no URL", "elsewhere", "without an end"],
)
async def test_list_that_is_wrong_is_the_upstreams_fault(tmp_path: Path, far: FarEnd, answer: Any) -> None:
    async with open_door(tmp_path, far) as door:
        far.on(tags_path(door), answer)
        assert code_of(await door.client.get(f"/v2/{door.name}/tags/list")) == (502, "UNAVAILABLE")


async def test_repository_without_tags_has_an_empty_list(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        far.on(tags_path(door), listed(None))
        assert await tags(door) == []


# --- referrers -------------------------------------------------------------------------------------------------------


async def test_referrers_are_those_of_the_registry_filtered(tmp_path: Path, far: FarEnd) -> None:
    signature, bill = entry(artifact(b"s")), entry(artifact(b"b"), "application/spdx+json")
    async with open_door(tmp_path, far) as door:
        far.on(f"/v2/{door.registry.repository}/referrers/{SUBJECT}", whole(index_of(signature, bill)))
        both = sorted((signature, bill), key=lambda each: str(each["digest"]))
        assert await referrers(door) == both
        assert await referrers(door, query=f"?artifactType={KIND}") == [signature]
        assert await referrers(door, query="?artifactType=none") == []


async def test_referrers_of_a_registry_without_the_api_come_by_the_fallback_tag(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        path = f"/v2/{door.registry.repository}/manifests/sha256-{SUBJECT.encoded}"
        far.on(path, whole(index_of(entry(artifact(b"s")))))
        assert await referrers(door) == [entry(artifact(b"s"))]


@pytest.mark.parametrize("artifact_type", [KIND, None])
async def test_referrer_that_is_held_is_listed_offline(tmp_path: Path, far: FarEnd, artifact_type: str | None) -> None:
    signature = artifact(b"s", artifact_type=artifact_type)
    async with open_door(tmp_path, far) as door:
        door.registry.blob(b"s")
        door.registry.manifest(signature)
        await door.manifest(Digest.of(signature))
        await door.whole(f"@{Digest.of(signature)}")
        door.go_down()
        assert await referrers(door) == [entry(signature, artifact_type or "application/vnd.example.config")]
        await door.served.node.pulls.remove(f"{door.name}@{Digest.of(signature)}")
        assert await referrers(door) == []


async def test_nothing_refers_to_what_nobody_knows(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        assert await referrers(door, Digest.of(b"unknown")) == []
        bad = await door.client.get(f"/v2/{door.name}/referrers/v1")
        assert code_of(bad) == (400, "DIGEST_INVALID")


async def test_referrers_that_cannot_be_read_leave_those_that_are_held(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        for answer in (whole(b"{}"), status(500)):
            far.on(f"/v2/{door.registry.repository}/referrers/{SUBJECT}", answer)
            assert await referrers(door) == []
