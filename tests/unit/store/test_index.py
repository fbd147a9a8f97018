"""index.json: names that go are cut out of its bytes; what comes of that is what writing it anew would give."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nekko.oci.digest import Digest
from nekko.store.content import Content, Naming
from nekko.store.store import Store, open_store
from tests.unit.store.test_store import keep_file

FOREIGN = {"mediaType": "application/x-other", "digest": str(Digest.of(b"other")), "size": 5}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "cache", min_free_bytes=0) as opened:
        yield opened


async def keep(store: Store, name: str) -> Content:
    return await keep_file(store, name.encode(), Naming(name, name, f"http://h.example/{name}"))


async def put(store: Store, names: str) -> None:
    for name in names:
        await keep(store, name)
    await store.index.flush()


async def remove(store: Store, names: str) -> None:
    for name in names:
        content = store.catalog.held(name)
        assert content is not None
        store.catalog.forget(content)
        store.index.removed(content)
    await store.index.flush(removals_only=True)


def listed(store: Store) -> list[str]:
    entries = json.loads(store.layout.index.read_bytes())["manifests"]
    return [entry.get("annotations", {}).get("io.nekko.name", "other") for entry in entries]


def add_foreign(store: Store) -> None:
    index = json.loads(store.layout.index.read_bytes())
    index["manifests"].insert(0, FOREIGN)
    store.layout.index.write_text(json.dumps(index))


@pytest.mark.parametrize("gone", ["a", "c", "e", "ab", "de", "ae", "bcd", "ace", "abcde"])
async def test_names_that_go_are_cut_out(store: Store, gone: str) -> None:
    await put(store, "abcde")
    await remove(store, gone)
    cut = store.layout.index.read_bytes()
    store.index.changed()
    await store.index.flush()
    assert store.layout.index.read_bytes() == cut
    assert "".join(listed(store)) == "".join(name for name in "abcde" if name not in gone)


@pytest.mark.parametrize("gone", ["a", "c", "abc"])
async def test_entries_of_other_tools_stay_when_names_go(store: Store, gone: str) -> None:
    await put(store, "abc")
    add_foreign(store)
    store.index.changed()
    await store.index.flush()
    await remove(store, gone)
    assert listed(store) == [*(name for name in "abc" if name not in gone), "other"]
    assert Digest.of(b"other") in store.index.foreign_digests()


async def test_entry_that_another_tool_added_meanwhile_stays(store: Store) -> None:
    await put(store, "abc")
    add_foreign(store)
    await remove(store, "b")
    assert listed(store) == ["a", "c", "other"]


async def test_names_that_came_meanwhile_may_wait(store: Store) -> None:
    await put(store, "abc")
    await keep(store, "d")
    await remove(store, "a")
    assert "a" not in listed(store)
    await store.index.flush()
    assert listed(store) == ["b", "c", "d"]


async def test_name_that_came_and_went_is_nowhere(store: Store) -> None:
    await put(store, "ab")
    await keep(store, "c")
    await remove(store, "c")
    assert listed(store) == ["a", "b"]
    await store.index.flush()
    assert listed(store) == ["a", "b"]


async def test_name_that_went_and_came_again_is_there(store: Store) -> None:
    await put(store, "ab")
    content = store.catalog.held("a")
    assert content is not None
    store.catalog.forget(content)
    store.index.removed(content)
    await keep(store, "a")
    await store.index.flush()
    assert listed(store) == ["a", "b"]


async def test_index_that_is_gone_is_written_anew(store: Store) -> None:
    await put(store, "ab")
    store.layout.index.unlink()
    await remove(store, "a")
    assert listed(store) == ["b"]
