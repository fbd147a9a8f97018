"""Hashing beside the writer: in order, whole, and without a second thread where none is free."""

import hashlib
import random
import threading

import pytest

from nekko.store import proving
from nekko.store.proving import MIN_BYTES, Proving

CHUNKS = [random.Random(n).randbytes(size) for n, size in enumerate([MIN_BYTES, 10, 3 * MIN_BYTES, MIN_BYTES, 1, 0])]


class Slow:
    """A proof that takes its time, and tells in which thread it ran."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.seen = b""
        self.threads: set[int] = set()

    def update(self, data: memoryview) -> None:
        self.threads.add(threading.get_ident())
        assert self.may_go_on.wait(10)
        self.seen += data


def test_every_hash_sees_every_byte_in_order() -> None:
    hashes = [hashlib.sha256(), hashlib.sha1(usedforsecurity=False)]
    at_once = Proving(hashes)
    for chunk in CHUNKS * 20:
        at_once.update(memoryview(chunk))
    at_once.settle()
    whole = b"".join(CHUNKS * 20)
    assert [each.hexdigest() for each in hashes] == [
        hashlib.sha256(whole).hexdigest(), hashlib.sha1(whole, usedforsecurity=False).hexdigest()
    ]  # fmt: skip


@pytest.mark.skipif(proving.HELPERS < 1, reason="takes a second processor")
def test_writer_goes_on_while_a_chunk_is_hashed() -> None:
    slow = Slow()
    beside = Proving([slow])
    beside.update(memoryview(CHUNKS[0]))
    assert slow.seen == b"", "it returned before the chunk was hashed"
    slow.may_go_on.set()
    beside.settle()
    assert slow.seen == CHUNKS[0]
    assert threading.get_ident() not in slow.threads


def test_writer_hashes_itself_where_no_thread_is_free() -> None:
    slow = [Slow() for _ in range(proving.HELPERS)]
    busy = [Proving([each]) for each in slow]
    for each in busy:
        each.update(memoryview(CHUNKS[0]))
    own = Slow()
    own.may_go_on.set()
    Proving([own]).update(memoryview(CHUNKS[0]))
    assert (own.seen, own.threads) == (CHUNKS[0], {threading.get_ident()})
    for held, each in zip(slow, busy, strict=True):
        held.may_go_on.set()
        each.settle()


def test_proof_that_fails_is_told_at_the_next_step() -> None:
    class Broken:
        def update(self, data: memoryview) -> None:
            raise ValueError(len(data))

    broken = Proving([Broken()])
    with pytest.raises(ValueError, match=str(MIN_BYTES)):
        broken.update(memoryview(CHUNKS[0]))
        broken.settle()
