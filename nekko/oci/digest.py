"""Digests: the hash of exact bytes, and the name of every blob. Source: image-spec, descriptor.md, "Digests"."""

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol, Self

from nekko.errors import DigestInvalidError

_GRAMMAR = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_ENCODED_LENGTH = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")


class Hasher(Protocol):
    """The part of a hashlib object that nekko uses; `update` releases the GIL for large buffers."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """`algorithm:encoded`. A value is always of a supported algorithm (sha256, sha512), so it can be proven."""

    algorithm: str
    encoded: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `algorithm:encoded`.

        Raises:
            DigestInvalidError: Not of the grammar, wrong length, or an algorithm that nekko cannot prove.
        """
        if len(text) > 512 or not _GRAMMAR.fullmatch(text):
            raise DigestInvalidError(f"{text[:100]!r} is not a digest: write algorithm:hex, such as sha256:…")
        algorithm, _, encoded = text.partition(":")
        length = _ENCODED_LENGTH.get(algorithm)
        if length is None:
            known = " and ".join(_ENCODED_LENGTH)
            raise DigestInvalidError(f"digest algorithm {algorithm!r} is not supported: nekko can prove {known}")
        if len(encoded) != length or not _HEX.fullmatch(encoded):
            raise DigestInvalidError(f"{text[:160]!r} is not a digest: {algorithm} has {length} lower-case hex digits")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, content: bytes | memoryview, algorithm: str = "sha256") -> Self:
        """Hash bytes held in memory."""
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    def hasher(self) -> Hasher:
        """Start a hash of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"
