"""Files on tuples of directories, by the door: Stor's trees byte for byte, and copies that are lost or wrong."""

import errno
import os
import random
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from nekko.oci.digest import Digest
from nekko.replicas.replicas import Replicas
from tests.api.test_content import serve_node
from tests.api.test_uploads import pieces
from tests.node import QUICK, open_node

FILE = random.Random(11).randbytes(2_500_000)
SHA = Digest.of(FILE).encoded
OTHER = random.Random(12).randbytes(100)


@dataclass
class Trees:
    client: httpx.AsyncClient
    replicas: Replicas
    roots: Sequence[Path]

    def copies(self, sha: str = SHA) -> list[Path]:
        return [path for root in self.roots if (path := place(root, sha)).exists()]

    def leftovers(self) -> list[Path]:
        """Give every file that is not a copy in its place."""
        return [path for root in self.roots for path in root.rglob("*") if path.is_file() and path.suffix != ".dat"]

    async def restored(self, count: int) -> None:
        with trio.fail_after(20):
            while self.replicas.statistics().restored < count:
                await trio.sleep(0.01)


def place(root: Path, sha: str) -> Path:
    name = sha.upper()
    return root / name[0:2] / name[2:4] / name[4:6] / f"{name}.dat"


@asynccontextmanager
async def serve_trees(directory: Path, tuples: int = 2, members: int = 2, **changes: Any) -> AsyncIterator[Trees]:
    pairs = tuple(tuple(directory / f"data{t}{m}" for m in range(members)) for t in range(tuples))
    for root in (root for pair in pairs for root in pair):
        root.mkdir(exist_ok=True)
    given: dict[str, Any] = {"storage_pairs": pairs, "require_mounts": False} | changes
    settings = replace(QUICK, **given)
    replicas = Replicas(settings)
    await replicas.prepare()
    async with open_node(directory / "cache", settings) as node, serve_node(node, replicas=replicas) as served:
        yield Trees(served.client, replicas, [root for pair in pairs for root in pair])


@pytest.fixture
async def trees(tmp_path: Path) -> AsyncIterator[Trees]:
    async with serve_trees(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("members", [2, 3])
async def test_upload_is_on_every_member_of_one_tuple_as_stor_writes_it(tmp_path: Path, members: int) -> None:
    async with serve_trees(tmp_path, members=members) as trees:
        posted = await trees.client.post(f"/{SHA}", content=FILE)
        assert posted.status_code == 201
        paths = [Path(path) for path in posted.json()]
        assert paths == trees.copies()
        assert len(paths) == members
        assert len({path.parents[4].name[:5] for path in paths}) == 1
        for path in paths:
            assert path.read_bytes() == FILE
            assert path.stat().st_mode & 0o777 == 0o644
        got = await trees.client.get(f"/{SHA}")
        assert (got.status_code, got.content) == (200, FILE)
        assert got.headers["etag"] == f'"sha256:{SHA}"'
        part = await trees.client.get(f"/{SHA}", headers={"Range": "bytes=5-9"})
        assert (part.status_code, part.content) == (206, FILE[5:10])
        again = await trees.client.post(f"/{SHA.upper()}", content=OTHER)
        assert (again.status_code, again.json()) == (200, posted.json())
        assert (await trees.client.delete(f"/{SHA}")).status_code == 204
        assert trees.copies() == []
        assert (await trees.client.get(f"/{SHA}")).status_code == 404
        assert trees.leftovers() == []


async def test_tree_that_stor_wrote_is_served(trees: Trees) -> None:
    path = place(trees.roots[3], SHA)
    path.parent.mkdir(parents=True)
    path.write_bytes(FILE)
    os.utime(path, (1_500_000_000, 1_500_000_000))
    head = await trees.client.head(f"/{SHA}")
    assert head.headers["last-modified"] == "Fri, 14 Jul 2017 02:40:00 GMT"
    assert head.headers["content-length"] == str(len(FILE))
    answer = await trees.client.get(f"/{SHA}")
    assert answer.content == FILE
    assert answer.headers.multi_items()[:6] == head.headers.multi_items()[:6]
    await trees.restored(1)
    assert trees.copies() == [place(root, SHA) for root in trees.roots[2:]]
    assert [copy.stat().st_mtime for copy in trees.copies()] == [1_500_000_000] * 2


async def test_wrong_content_leaves_nothing_anywhere(trees: Trees) -> None:
    for content in (OTHER, FILE + b"x", pieces(FILE[:-1])):
        assert (await trees.client.post(f"/{SHA}", content=content)).status_code == 412
    assert trees.copies() == []
    assert trees.leftovers() == []
    assert (await trees.client.get(f"/{SHA}")).status_code == 404


async def test_duplicate_restores_a_missing_copy_before_it_is_answered(trees: Trees) -> None:
    paths = [Path(path) for path in (await trees.client.post(f"/{SHA}", content=FILE)).json()]
    for lost in paths:
        lost.unlink()
        again = await trees.client.post(f"/{SHA}", content=OTHER)
        assert (again.status_code, again.json()) == (200, [str(path) for path in paths])
        assert lost.read_bytes() == FILE


def spoil(path: Path, how: str) -> None:
    if how == "cut":
        os.truncate(path, 1000)
    elif how == "gone":
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.seek(1_000_000)
            file.write(b"rotten")


@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
@pytest.mark.parametrize("member", [0, 1])
async def test_wrong_copy_is_set_aside_and_restored_and_its_twin_is_served(trees: Trees, how: str, member: int) -> None:
    paths = [Path(path) for path in (await trees.client.post(f"/{SHA}", content=FILE)).json()]
    spoil(paths[member], how)
    restored = 0
    with trio.fail_after(20):
        while not restored:  # which copy is read first is drawn
            assert (await trees.client.get(f"/{SHA}")).content == FILE
            await trio.testing.wait_all_tasks_blocked(0.02)
            restored = trees.replicas.statistics().restored
    assert [path.read_bytes() == FILE for path in paths] == [True, True]
    aside = list((paths[member].parents[3] / ".nekko" / "quarantine").glob("*"))
    assert len(aside) == (how != "gone")
    metrics = (await trees.client.get("/metrics")).text
    assert 'nekko_replicas_total{outcome="restored"} 1.0' in metrics
    assert 'nekko_replicas_total{outcome="stored"} 1.0' in metrics


async def test_head_reads_no_file_unless_the_copies_differ(trees: Trees) -> None:
    for root in trees.roots[:2]:
        place(root, SHA).parent.mkdir(parents=True)
        place(root, SHA).write_bytes(b"x" * 10)
    head = await trees.client.head(f"/{SHA}")
    assert (head.status_code, head.headers["content-length"]) == (200, "10")
    assert len(trees.copies()) == 2
    place(trees.roots[0], SHA).write_bytes(FILE)
    head = await trees.client.head(f"/{SHA}")
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(FILE)))
    await trees.restored(1)
    assert [path.read_bytes() for path in trees.copies()] == [FILE, FILE]
    place(trees.roots[0], SHA).unlink()
    assert (await trees.client.head(f"/{SHA}")).headers["content-length"] == str(len(FILE))
    for root in trees.roots[:2]:
        place(root, SHA).unlink(missing_ok=True)
        place(root, SHA).mkdir()
    assert (await trees.client.head(f"/{SHA}")).status_code == 500


async def test_file_without_a_right_copy_is_absent_and_can_be_stored_again(trees: Trees) -> None:
    paths = [Path(path) for path in (await trees.client.post(f"/{SHA}", content=FILE)).json()]
    for path in paths:
        spoil(path, "flipped")
    assert (await trees.client.get(f"/{SHA}")).status_code == 404
    assert (await trees.client.post(f"/{SHA}", content=FILE)).status_code == 201
    assert (await trees.client.get(f"/{SHA}")).content == FILE


async def test_reads_go_on_without_a_member_and_its_copies_come_back_with_it(trees: Trees) -> None:
    paths = [Path(path) for path in (await trees.client.post(f"/{SHA}", content=FILE)).json()]
    root = paths[0].parents[3]
    shutil.rmtree(root)
    answer = await trees.client.get("/status")
    assert (answer.status_code, answer.text) == (503, f"{root} is missing\n")
    assert (await trees.client.get(f"/{SHA}")).content == FILE
    assert not root.exists()
    root.mkdir()
    assert (await trees.client.get("/status")).text == "OK"
    assert (await trees.client.get(f"/{SHA}")).content == FILE
    await trees.restored(1)
    assert paths[0].read_bytes() == FILE


async def test_tuple_with_a_member_gone_takes_no_file(trees: Trees) -> None:
    shutil.rmtree(trees.roots[0])
    trees.roots[0].write_bytes(b"a file")
    answer = await trees.client.get("/status")
    assert (answer.status_code, answer.text) == (503, f"{trees.roots[0]} is no directory\n")
    for number in range(10):
        content = b"%d" % number
        assert (await trees.client.post(f"/{Digest.of(content).encoded}", content=content)).status_code == 201
    assert not list(trees.roots[1].rglob("*.dat"))
    shutil.rmtree(trees.roots[2])
    answer = await trees.client.post(f"/{SHA}", content=FILE)
    assert answer.status_code == 507
    assert f"{trees.roots[0]} is no directory; {trees.roots[2]} is missing" in answer.text


async def test_only_tuples_whose_paths_all_match_take_files(tmp_path: Path) -> None:
    async with serve_trees(tmp_path, writable_pairs_regex="data1[01]") as trees:
        for number in range(10):
            content = b"%d" % number
            posted = await trees.client.post(f"/{Digest.of(content).encoded}", content=content)
            assert all("/data1" in path for path in posted.json())
    async with serve_trees(tmp_path, writable_pairs_regex="data.1") as trees:
        assert (await trees.client.post(f"/{SHA}", content=FILE)).status_code == 507
        assert (await trees.client.get(f"/{Digest.of(b'3').encoded}")).content == b"3"


async def test_uploads_of_one_hash_at_once_are_stored_once(trees: Trees) -> None:
    statuses = []

    async def post() -> None:
        statuses.append((await trees.client.post(f"/{SHA}", content=FILE)).status_code)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(post)
    assert sorted(statuses) == [200] * 7 + [201]
    assert len(trees.copies()) == 2


async def test_member_that_cannot_be_written_fails_the_upload_and_undoes_it(tmp_path: Path) -> None:
    async with serve_trees(tmp_path, tuples=1) as trees:
        place(trees.roots[1], SHA).parents[2].write_bytes(b"where a directory should be")
        answer = await trees.client.post(f"/{SHA}", content=FILE)
        assert answer.status_code == 500
        assert os.strerror(errno.EEXIST) in answer.text or os.strerror(errno.ENOTDIR) in answer.text
        assert trees.copies() == []
        assert len(trees.leftovers()) == 1


async def test_files_are_looked_for_in_the_order_that_is_configured(tmp_path: Path) -> None:
    """A blob of the cache has its own age, by which the place tells."""
    for order, is_cached in ((("layout", "pairs"), True), (("pairs", "layout"), False), (("pairs",), False)):
        async with serve_trees(tmp_path, file_sources=order) as trees:
            await trees.client.post(f"/{SHA}", content=FILE)
            for path in trees.copies():
                os.utime(path, (1_500_000_000, 1_500_000_000))
            async with open_node(tmp_path / f"other-{'-'.join(order)}", replace(QUICK, file_sources=order)) as node:
                await node.store.publish_bytes(FILE, Digest.of(FILE))
                await node.store.publish_bytes(OTHER, Digest.of(OTHER))
                async with serve_node(node, replicas=trees.replicas) as served:
                    told = (await served.client.get(f"/{SHA}")).headers["last-modified"]
                    assert ("2017" not in told) == is_cached
                    found = await served.client.get(f"/{Digest.of(OTHER).encoded}")
                    assert found.status_code == (200 if "layout" in order else 404)


async def test_many_small_files_at_once_are_answered_each_as_it_deserves(tmp_path: Path) -> None:
    """They are written together, and what is wrong with one is nothing to the others."""
    rng = random.Random(21)
    files = [rng.randbytes(rng.randrange(70_000)) for _ in range(60)]
    shas = [Digest.of(content).encoded for content in files]
    held, wrong = set(range(0, 60, 10)), set(range(1, 60, 10))
    answers: dict[int, httpx.Response] = {}
    async with serve_trees(tmp_path) as trees:
        for number in held:
            assert (await trees.client.post(f"/{shas[number]}", content=files[number])).status_code == 201

        async def put(number: int) -> None:
            content = b"wrong" if number in wrong else files[number]
            answers[number] = await trees.client.put(f"/{shas[number]}", content=content)

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(put, number)
                nursery.start_soon(put, number)  # one of the two waits for the other
        for number, sha in enumerate(shas):
            if number in wrong:
                assert answers[number].status_code == 412
                assert trees.copies(sha) == []
                continue
            assert answers[number].status_code in ((200,) if number in held else (200, 201))
            assert [Path(path) for path in answers[number].json()] == trees.copies(sha)
            assert [path.read_bytes() == files[number] for path in trees.copies(sha)] == [True, True]
            fetched = await trees.client.get(f"/{sha}")
            assert (fetched.status_code, fetched.content) == (200, files[number])
            assert fetched.headers["etag"] == f'"sha256:{sha}"'
        assert trees.leftovers() == []
        assert trees.replicas.statistics().stored == 54


async def test_small_file_is_served_right_whatever_becomes_of_its_copies(trees: Trees) -> None:
    sha = Digest.of(OTHER).encoded
    assert (await trees.client.put(f"/{sha}", content=OTHER)).status_code == 201
    for spoil in (lambda path: path.write_bytes(b"x" * len(OTHER)), Path.unlink, lambda path: path.write_bytes(b"")):
        for number in (0, 1):
            before = trees.replicas.statistics().restored
            spoil(trees.copies(sha)[number])
            with trio.fail_after(20):
                while trees.replicas.statistics().restored == before:  # whichever member is looked at first
                    fetched = await trees.client.get(f"/{sha}")
                    assert (fetched.status_code, fetched.content) == (200, OTHER)
            assert [path.read_bytes() for path in trees.copies(sha)] == [OTHER, OTHER]
