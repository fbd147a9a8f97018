"""Hashing files: in steps short enough that whoever waits can be cancelled, or slowed down, between two of them."""

import errno
import os
from pathlib import Path

from nekko.oci.digest import Digest
from nekko.store.content import Blob
from nekko.store.identity import identity_of

STEP_BYTES = 16 << 20
"""Hundredths of a second: a step ends soon, and yet its hop to a thread costs nothing beside it."""
READ_BYTES = 256 << 10
"""Small enough to be in the processor's cache when it is hashed."""

UNREADABLE = frozenset({
    errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP,
    errno.ENXIO,
})  # fmt: skip
"""Errors that are a property of the file or of its medium; all others (no descriptors left) are this process's."""


class Hashing:
    """The hash of an open file, from its beginning."""

    def __init__(self, descriptor: int, algorithm: str) -> None:
        self._descriptor = descriptor
        self._algorithm = algorithm
        self._hash = Digest(algorithm, "").hasher()
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._end = os.fstat(descriptor).st_size
        self.size = 0
        """Bytes hashed so far."""

    def step(self) -> int:
        """Hash what comes next; give how many bytes that were, 0 at the end. Blocking.

        What was not in memory before is not left there: proving a cache must not drive out what is in use.

        Raises:
            OSError: The file cannot be read.
        """
        begin, end = self.size, self.size + STEP_BYTES
        # Asked of the middle, which reading ahead for the step before has not brought in.
        was_in_memory = self._is_in_memory(begin + min(STEP_BYTES, self._end - begin) // 2)
        while self.size < end and (count := os.preadv(self._descriptor, [self._buffer], self.size)):
            self._hash.update(self._buffer[:count])
            self.size += count
        if not was_in_memory:
            os.posix_fadvise(self._descriptor, begin, self.size - begin, os.POSIX_FADV_DONTNEED)
        return self.size - begin

    def _is_in_memory(self, offset: int) -> bool:
        try:
            return bool(os.preadv(self._descriptor, [self._buffer[:1]], offset, os.RWF_NOWAIT))
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            return True  # a file system that cannot tell: leave its memory alone

    @property
    def digest(self) -> Digest:
        """The digest of the bytes hashed so far."""
        return Digest(self._algorithm, self._hash.hexdigest())


def hash_file(path: Path, algorithm: str) -> Blob:
    """Give what a file is: its digest, size and identity. Blocking.

    Raises:
        OSError: It cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        identity = identity_of(os.fstat(descriptor))
        hashing = Hashing(descriptor, algorithm)
        while hashing.step():
            pass
    finally:
        os.close(descriptor)
    return Blob(hashing.digest, hashing.size, identity)
