"""Files and listings by the Hub door: held, arriving, asked for by many at once, and with the Hub gone."""

import hashlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import trio

from nekko.config.settings import Host
from nekko.oci.digest import Digest
from tests.api.hub_door import COMMIT, FILES, LARGE, WEIGHTS, Door, open_door, refusal
from tests.api.test_content import encoded
from tests.damage import flip
from tests.fakes.far_end import Request, whole
from tests.fakes.hub import FakeHub, Kind, Repo, fake_hub


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with fake_hub() as running:
        yield running


@pytest.fixture
async def door(tmp_path: Path, hub: FakeHub) -> AsyncIterator[Door]:
    async with open_door(tmp_path, hub) as opened:
        yield opened


# --- files


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("revision", ["main", COMMIT])
async def test_head_then_get_as_clients_do(door: Door, path: str, revision: str) -> None:
    body = FILES[path]
    head = await door.file(quote(path), revision=revision, method="HEAD")
    got = await door.file(quote(path), revision=revision)
    await door.settled()
    again = await door.file(quote(path), revision=revision)
    for answer in (head, got, again):
        etag = hashlib.sha256(body).hexdigest() if path in LARGE else door.repo.oid(path, body)
        assert answer.status_code == 200
        assert answer.headers["x-repo-commit"] == COMMIT
        assert answer.headers["etag"] == answer.headers["x-linked-etag"] == f'"{etag}"'
        assert answer.headers["content-length"] == answer.headers["x-linked-size"] == str(len(body))
        assert answer.headers["accept-ranges"] == "bytes"
        assert not [name for name in answer.headers if "xet" in name or name in ("link", "location")]
    assert (head.content, got.content, again.content) == (b"", body, body)


async def test_head_fetches_nothing_and_lists_once(door: Door) -> None:
    for path in FILES:
        assert (await door.file(quote(path), method="HEAD")).status_code == 200
    assert door.asked() == [
        ("GET", "/api/models/acme/Tiny/revision/main?blobs=true"),
        ("GET", "/api/models/acme/Tiny/auth-check"),
    ]
    assert not door.hub.cdn.requests


async def test_what_was_taken_is_a_part_of_the_commits_content(door: Door) -> None:
    assert door.listed() == []
    await door.file("config.json")
    await door.file("model.safetensors", revision=COMMIT)
    await door.settled()
    assert door.listed() == [(f"hf://huggingface.co/acme/Tiny@{COMMIT}", "partial")]
    (content,) = door.served.node.store.catalog.page(after="", limit=9)
    assert {item.title: item.digest for item in content.required} == {
        path: Digest.of(FILES[path]) for path in ("config.json", "model.safetensors")
    }
    assert (await door.served.client.get(f"/{Digest.of(WEIGHTS).encoded}")).content == WEIGHTS
    (told,) = (await door.served.client.get("/content/")).json()["contents"]
    assert (told["size"], told["bytes_present"]) == (None, len(FILES["config.json"]) + len(WEIGHTS))


@pytest.mark.parametrize("is_held", [True, False], ids=["held", "not held"])
async def test_ranges_and_conditions(door: Door, is_held: bool) -> None:
    size = len(WEIGHTS)
    if is_held:
        await door.file("model.safetensors")
        await door.settled()
    for asked_for, part in {
        "bytes=0-0": WEIGHTS[:1],
        "bytes=500-1499": WEIGHTS[500:1500],
        "bytes=-9": WEIGHTS[-9:],
    }.items():
        answer = await door.file("model.safetensors", Range=asked_for)
        assert (answer.status_code, answer.content) == (206, part)
        assert answer.headers["content-range"].endswith(f"/{size}")
        assert answer.headers["x-repo-commit"] == COMMIT
    beyond = await door.file("model.safetensors", Range=f"bytes={size}-")
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{size}"
    etag = f'"{Digest.of(WEIGHTS).encoded}"'
    assert (await door.file("model.safetensors", If_None_Match=etag)).status_code == 304
    tiny = await door.file("config.json", Range="bytes=0-0")
    assert (tiny.status_code, tiny.headers["content-range"]) == (206, "bytes 0-0/2")


async def test_many_clients_and_a_pull_share_one_fetch(door: Door) -> None:
    gate = trio.Event()
    listing = await door.ask("api/models/acme/Tiny")
    assert listing.status_code == 200
    etag = f'"{door.repo.oid("README.md", FILES["README.md"])}"'
    told = {"X-Repo-Commit": COMMIT}
    door.hub.far.on(
        f"/acme/Tiny/resolve/{COMMIT}/README.md",
        whole(FILES["README.md"], etag=etag, headers=told, gate=gate, stall_after=3),
    )
    door.hub.far.on(
        f"/acme/Tiny/resolve/{COMMIT}/model.safetensors", whole(WEIGHTS, etag='"x"', gate=gate, stall_after=100_000)
    )
    door.forget_requests()
    bodies: list[bytes] = []

    async def read(path: str) -> None:
        bodies.append((await door.file(path)).content)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(read, "README.md")
            nursery.start_soon(read, "model.safetensors")
        nursery.start_soon(door.served.node.pull, "hf:///acme/Tiny")
        while waiters_of(door, "README.md") < 5 or waiters_of(door, "model.safetensors") < 4:
            await trio.sleep(0.01)
        gate.set()
    assert sorted(map(len, bodies)) == [7] * 4 + [len(WEIGHTS)] * 4
    assert set(bodies) == {FILES["README.md"], WEIGHTS}
    files = [path for _, path in door.asked() if "/resolve/" in path]
    assert sorted(files) == sorted(f"/acme/Tiny/resolve/{COMMIT}/{quote(path)}" for path in FILES)


async def test_file_streams_while_it_arrives_and_its_end_waits_for_the_proof(door: Door) -> None:
    gate = trio.Event()
    door.hub.far.on(f"/acme/Tiny/resolve/{COMMIT}/model.safetensors", whole(WEIGHTS, gate=gate, stall_after=200_000))
    async with door.served.client.stream("GET", "/hf/acme/Tiny/resolve/main/model.safetensors") as answer:
        assert answer.headers["content-length"] == str(len(WEIGHTS))
        body = b""
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) >= 200_000:
                gate.set()
    assert body == WEIGHTS


async def test_head_of_a_part_is_told_while_the_file_arrives(door: Door) -> None:
    """The Rust client asks for one byte of each file, and looks at the head alone."""
    gate = trio.Event()
    door.hub.far.on(f"/acme/Tiny/resolve/{COMMIT}/model.safetensors", whole(WEIGHTS, gate=gate, stall_after=200_000))
    place, part = "/hf/acme/Tiny/resolve/main/model.safetensors", {"Range": "bytes=0-0"}
    async with door.served.client.stream("GET", place, headers=part) as answer:
        assert not gate.is_set()
        assert (answer.status_code, answer.headers["content-range"]) == (206, f"bytes 0-0/{len(WEIGHTS)}")
        assert answer.headers["x-repo-commit"] == COMMIT
        gate.set()
        assert await answer.aread() == WEIGHTS[:1]


async def test_wrong_bytes_under_a_right_etag_are_never_a_whole_answer(door: Door) -> None:
    wrong = bytes(len(WEIGHTS))
    door.hub.far.on(
        f"/acme/Tiny/resolve/{COMMIT}/model.safetensors", whole(wrong, etag=f'"{Digest.of(WEIGHTS).encoded}"')
    )
    door.hub.far.on(f"/acme/Tiny/resolve/{COMMIT}/config.json", whole(b"[]"))
    for path in ("model.safetensors", "config.json"):
        with pytest.raises(httpx.HTTPError):
            await door.file(path)
    await door.settled()
    assert door.listed() == []


async def test_other_names_of_a_file_go_with_it_but_not_while_it_is_needed(door: Door) -> None:
    """The Hub knows a small file by its git id: what that means is kept, also while the file is damaged."""
    await door.served.node.pull("hf:///acme/Tiny")
    catalog, digest = door.served.node.store.catalog, Digest.of(FILES["README.md"])
    name = f"hf://huggingface.co/acme/Tiny#{door.repo.etag('README.md')}"
    assert catalog.aliased(name) == digest
    flip(door.served.node.store.layout.blob(digest))
    assert await door.served.node.store.blobs.prove(digest) is None
    assert catalog.aliased(name) == digest
    url = encoded(f"hf://huggingface.co/acme/Tiny@{COMMIT}")
    await door.served.node.pull("hf:///acme/Tiny", refresh=True)
    for listed in (url, encoded("hf:///acme/Tiny")):
        assert (await door.served.client.delete(f"/content/{listed}")).status_code == 204
    assert door.listed() == []
    assert catalog.aliased(name) is None


# --- listings


async def test_info_and_refs_are_those_of_the_hub(door: Door) -> None:
    door.repo.tags["v1"] = COMMIT
    for path in ("", "/revision/main", f"/revision/{COMMIT}?blobs=true", "/revision/v1", "/refs"):
        url = f"api/models/acme/Tiny{path}"
        mine, theirs = await door.ask(url), await door.served.client.get(f"{door.hub.url}/{url}")
        assert (mine.status_code, mine.json()) == (200, theirs.json())
        assert mine.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["main?recursive=true", "main", "v1/sub?recursive=True", "main/sub", "main/sub/deep"])
async def test_tree_is_the_hubs_with_the_ids_that_git_gives_to_folders(door: Door, tmp_path: Path, path: str) -> None:
    door.repo.tags["v1"] = COMMIT
    url = f"api/models/acme/Tiny/tree/{path}"
    mine, theirs = (await door.ask(url)).json(), (await door.served.client.get(f"{door.hub.url}/{url}")).json()
    folders = {each["path"]: each.pop("oid") for each in mine if each["type"] == "directory"}
    for each in theirs:
        if each["type"] == "directory":
            del each["oid"]
    assert sorted(mine, key=str) == sorted(theirs, key=str)
    assert mine
    assert folders == {path: oid for path, oid in git_folders(door.repo, tmp_path / "git").items() if path in folders}


async def test_paths_info_describes_what_is_there(door: Door) -> None:
    url = "/hf/api/models/acme/Tiny/paths-info/main"
    answer = await door.served.client.post(
        url, data={"paths": ["config.json", "nope", "sub", "model.safetensors"], "expand": "False"}
    )
    described = {each["path"]: each for each in answer.json()}
    assert list(described) == ["config.json", "sub", "model.safetensors"]
    assert described["config.json"] == door.repo.entry("config.json", b"{}")
    assert described["model.safetensors"] == door.repo.entry("model.safetensors", WEIGHTS)
    assert described["sub"]["type"] == "directory"
    assert (await door.served.client.post(url, content=b"x" * (1 << 21))).status_code == 413


async def test_nothing_tells_of_xet(door: Door) -> None:
    def add_xet(info: dict[str, Any]) -> None:
        info["xetEnabled"] = True
        for sibling in info["siblings"]:
            sibling["xetHash"] = "0" * 64

    door.repo.edit = add_xet
    for path in ("", "?blobs=true", "/tree/main?recursive=true"):
        assert "xet" not in (await door.ask(f"api/models/acme/Tiny{path}")).text.lower()


@pytest.mark.parametrize(("kind", "prefix"), [("dataset", "datasets/"), ("space", "spaces/"), ("model", "")])
async def test_every_kind_is_served_also_of_one_segment(door: Door, kind: Kind, prefix: str) -> None:
    for name in ("acme/data", "gpt2"):
        door.hub.add(name, FILES, lfs=LARGE, kind=kind)
        answer = await door.ask(f"{prefix}{name}/resolve/main/sub/deep/more.safetensors")
        assert answer.content == FILES["sub/deep/more.safetensors"]
        assert (await door.ask(f"api/{kind}s/{name}")).json()["id"] == name
        assert (await door.ask(f"api/{kind}s/{name}/tree/main")).status_code == 200


# --- revisions


async def test_listing_is_finished_for_the_next_who_asks_when_a_client_has_no_patience(door: Door) -> None:
    gate, path = trio.Event(), "/api/models/acme/Tiny/revision/main?blobs=true"

    async def slow(stream: trio.SocketStream, request: Request) -> None:
        await gate.wait()
        await door.hub.answer(stream, request)

    door.hub.far.on(path, slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.file, "config.json")
        while not door.hub.far.asked(path):
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(door.file, "config.json")
        gate.set()
    assert (await door.file("config.json")).content == b"{}"
    assert len(door.hub.far.asked(path)) == 1


async def test_revision_is_asked_for_again_when_it_is_old_or_a_client_wants_it(tmp_path: Path, hub: FakeHub) -> None:
    for changes, headers, expected in (
        ({}, {}, b"{}"),
        ({}, {"Cache_Control": "no-cache"}, b"new"),
        ({"revalidate_seconds": 3600.0}, {}, b"{}"),
        ({"revalidate_seconds": 0.0}, {}, b"new"),
        ({"hosts": {"huggingface.co": Host(revalidate_seconds=0.0)}}, {}, b"new"),
        ({"revalidate_seconds": 0.0, "air_gapped": True}, {"Cache_Control": "no-cache"}, None),
    ):
        hub.repos.clear()
        cache = tmp_path / str(len(list(tmp_path.iterdir())))
        async with open_door(cache, hub, **changes) as door:
            assert (await door.file("config.json")).status_code == (200 if expected else 504)
            commit = door.repo.commit({"config.json": b"new"})
            answer = await door.file("config.json", **headers)
            if expected is not None:
                assert answer.content == expected
                assert answer.headers["x-repo-commit"] == (commit if expected == b"new" else COMMIT)
            old = await door.file("config.json", revision=COMMIT)
            assert (old.status_code, old.content) == (200, b"{}") if expected else old.status_code == 504


async def test_pull_with_refresh_tells_the_door_what_a_branch_means(door: Door) -> None:
    await door.file("config.json")
    door.repo.commit({"config.json": b"new"})
    await door.served.node.pull("hf:///acme/Tiny", refresh=True)
    door.forget_requests()
    assert (await door.file("config.json")).content == b"new"
    assert door.asked() == []


@pytest.mark.parametrize("is_pulled", [True, False], ids=["pulled", "taken"])
@pytest.mark.parametrize("trouble", ["down", "throttled", "stopped asking"])
async def test_what_is_held_is_served_without_the_hub(
    tmp_path: Path, hub: FakeHub, is_pulled: bool, trouble: str
) -> None:
    async with open_door(tmp_path, hub) as door:
        if is_pulled:
            await door.served.node.pull("hf:///acme/Tiny")
        else:
            for path in FILES:
                await door.file(quote(path))
            await door.settled()
            await door.ask("api/models/acme/Tiny/refs")
    changes: dict[str, Any] = {"air_gapped": True} if trouble == "stopped asking" else {"revalidate_seconds": 0.0}
    async with open_door(tmp_path, hub, **changes) as door:  # a restart: nothing is in memory
        if trouble == "down":
            door.go_down()
        hub.throttled = 1000 if trouble == "throttled" else 0
        for path, body in FILES.items():
            answer = await door.file(quote(path))
            assert (answer.status_code, answer.content, answer.headers["x-repo-commit"]) == (200, body, COMMIT)
        assert len((await door.ask("api/models/acme/Tiny/tree/main?recursive=true")).json()) == len(FILES) + 3
        assert (await door.ask("api/models/acme/Tiny")).json()["sha"] == COMMIT
        if not is_pulled:
            assert (await door.ask("api/models/acme/Tiny/auth-check")).status_code == 200
            assert (await door.ask("api/models/acme/Tiny/refs")).json()["branches"]


@pytest.mark.parametrize(("trouble", "code"), [("down", 502), ("throttled", 429), ("stopped asking", 504)])
async def test_what_is_not_known_is_no_absence_without_the_hub(
    tmp_path: Path, hub: FakeHub, trouble: str, code: int
) -> None:
    async with open_door(tmp_path, hub, air_gapped=trouble == "stopped asking") as door:
        if trouble == "down":
            door.go_down()
        hub.throttled = 1000 if trouble == "throttled" else 0
        api = "api/models/acme/Tiny"
        for path in ("acme/Tiny/resolve/main/config.json", api, f"{api}/refs", f"{api}/auth-check"):
            answer = await door.ask(path)
            assert refusal(answer) == (code, None)
            assert ("retry-after" in answer.headers) == (trouble == "throttled")


# --- refusals


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("acme/nope/resolve/main/config.json", (401, "RepoNotFound")),
        ("acme/Tiny/resolve/nope/config.json", (404, "RevisionNotFound")),
        ("acme/Tiny/resolve/main/nope", (404, "EntryNotFound")),
        ("api/models/acme/nope", (401, "RepoNotFound")),
        ("api/models/acme/Tiny/revision/nope", (404, "RevisionNotFound")),
        ("api/models/acme/Tiny/tree/main/nope", (404, "EntryNotFound")),
        ("acme/Tiny/resolve/main/..%2F..%2Fetc%2Fpasswd", (400, None)),
        ("acme/Tiny/resolve/main/%FF", (400, None)),
        ("acme--x/Tiny/resolve/main/config.json", (400, None)),
        ("a/b/c/resolve/main/config.json", (404, None)),
    ],
)
async def test_refusals_have_the_hubs_codes(door: Door, path: str, expected: tuple[int, str | None]) -> None:
    for method in ("GET", "HEAD"):
        answer = await door.ask(path, method=method)
        assert answer.status_code == expected[0]
        assert answer.headers.get("x-error-code") == expected[1]
        assert ("x-repo-commit" in answer.headers) == (expected[1] == "EntryNotFound")


async def test_commit_that_is_not_the_one_asked_for_is_refused(door: Door) -> None:
    door.repo.edit = lambda info: info.update(sha="f" * 40)
    assert refusal(await door.file("config.json", revision=COMMIT)) == (502, None)


@pytest.mark.parametrize("size", [-1, 0, 5, len(WEIGHTS) + 1, 1 << 63, 1 << 70, 1.5, None])
async def test_listing_that_lies_about_a_size_is_the_hubs_fault(door: Door, size: object) -> None:
    def lie(info: dict[str, Any]) -> None:
        for told in info["siblings"]:
            if told["rfilename"] == "model.safetensors":
                told["size"] = told["lfs"]["size"] = size

    door.repo.edit = lie
    assert refusal(await door.file("model.safetensors")) == (502, None)
    await door.settled()
    assert door.listed() == []
    door.repo.edit = lambda info: None
    assert (await door.file("model.safetensors", Cache_Control="no-cache")).content == WEIGHTS


async def test_only_downloading_is_served_and_not_to_web_pages(door: Door) -> None:
    posted = await door.ask("api/models/acme/Tiny", method="POST")
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")
    assert (await door.ask("api/models/acme/Tiny/paths-info/main")).headers["allow"] == "POST"
    assert (await door.ask("api/telemetry/x", method="HEAD")).status_code == 404
    assert refusal(await door.file("config.json", Origin="http://evil.example"))[0] == 403
    assert door.asked() == []


@pytest.mark.parametrize("given", ["Basic eDp5", "Bearer", "Bearer two words", "hf_naked"])
async def test_token_that_cannot_be_one_is_refused_in_the_hubs_words(door: Door, given: str) -> None:
    answer = await door.file("config.json", Authorization=given)
    assert refusal(answer) == (401, None)
    assert answer.headers["x-error-message"] == "Invalid credentials in Authorization header"
    assert door.asked() == []


async def test_listener_of_the_door_alone_has_it_at_its_root(tmp_path: Path, hub: FakeHub) -> None:
    async with open_door(tmp_path, hub, ("127.0.0.1:0=hub",)) as door:
        for prefix in ("", "/hf"):
            client = door.served.client
            assert (await client.get(f"{prefix}/acme/Tiny/resolve/main/config.json")).content == b"{}"
            assert (await client.get(f"{prefix}/api/models/acme/Tiny")).json()["sha"] == COMMIT
        assert (await door.served.client.get("/health/live")).status_code == 200


def waiters_of(door: Door, file: str) -> int:
    return sum(each.waiters for each in door.served.node.transfers.statistics() if each.what.endswith(f"/{file}"))


def git_folders(repo: Repo, directory: Path) -> dict[str, str]:
    """Give the ids of folders as git itself has them."""

    def git(*words: str, text: str = "") -> str:
        return subprocess.run(
            ["git", "-C", directory, *words], input=text, capture_output=True, text=True, check=True
        ).stdout

    directory.mkdir()
    git("init", "-q")
    for path, body in repo.files(COMMIT).items():
        git("update-index", "--add", "--cacheinfo", f"100644,{repo.oid(path, body)},{path}")
    git("write-tree", "--missing-ok")
    listed = git("ls-tree", "-r", "-t", "-z", git("write-tree", "--missing-ok").strip())
    lines = [line.split("\t") for line in listed.split("\0") if line]
    return {path: about.split()[2] for about, path in lines if about.split()[1] == "tree"}
