"""Proofs of copies: which file was proven, so that it is hashed again only after somebody wrote to it."""

import hashlib
import os
import threading
from collections import OrderedDict
from pathlib import Path

from nekko.errors import DigestMismatchError
from nekko.oci.digest import Digest
from nekko.store.identity import Identity, identity_of

REMEMBERED = 100_000
"""Files whose proof is remembered, some 30 MB; of others it is made again."""


class Proofs:
    """The proofs of this process. Any thread may ask."""

    def __init__(self) -> None:
        self._proven: OrderedDict[str, Identity] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: Path | str, digest: Digest) -> int:
        """Open a copy whose bytes have this hash; the caller closes the file descriptor. Blocks.

        Raises:
            DigestMismatchError: They have another one.
            OSError: It is not there, or cannot be read.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            identity = identity_of(os.fstat(descriptor))
            if not self._is_proven(path, identity):
                with os.fdopen(os.dup(descriptor), "rb", buffering=0) as file:
                    actual = Digest("sha256", hashlib.file_digest(file, "sha256").hexdigest())
                if actual != digest:
                    raise DigestMismatchError(digest, actual)
                self.remember(path, identity)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def has(self, path: Path | str, found: os.stat_result) -> bool:
        """Tell whether the bytes of a file that was looked at are known to have the hash that its name says."""
        return self._is_proven(path, identity_of(found))

    def remember(self, path: Path | str, identity: Identity) -> None:
        """Take note that the bytes of a file have the hash that its name says."""
        with self._lock:
            self._proven[str(path)] = identity
            self._proven.move_to_end(str(path))
            if len(self._proven) > REMEMBERED:
                self._proven.popitem(last=False)

    def forget(self, path: Path | str) -> None:
        """Have a copy hashed before its next use, whatever is known of it."""
        with self._lock:
            self._proven.pop(str(path), None)

    def _is_proven(self, path: Path | str, identity: Identity) -> bool:
        with self._lock:
            return self._proven.get(str(path)) == identity
