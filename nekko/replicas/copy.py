"""A new copy of a file on one storage: written under another name, and given its own when all of it is there.

Everything blocks.
"""

import errno
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from nekko.oci.digest import Digest
from nekko.replicas.storage import Storage, writer
from nekko.store.identity import Identity, identity_of
from nekko.store.layout import sync_directory

log = logging.getLogger(__name__)

FLUSH_BYTES = 8 << 20
"""The disk is told to begin with so many bytes at a time."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_numbers = count()


class NewCopy:
    """One copy of a file on its way to a storage. `abandon` has to be called where that failed.

    It may be called while another thread is held up by the storage in here: then it waits for that.
    """

    def __init__(self, storage: Storage, digest: Digest) -> None:
        self.final = storage.place(digest)
        self.storage = storage
        self._temporary = f"{storage.incoming}/{digest.encoded}.{next(_numbers)}.{writer()}"
        self._file = -1
        self._written = self._flushed = 0
        self._is_published = self._is_abandoned = False
        self._lock = threading.Lock()

    def open(self) -> None:
        """Begin it. OSError: the storage cannot be written, here and in what follows."""
        with self._going_on():
            try:
                self._file = os.open(self._temporary, _NEW, 0o644)
            except FileNotFoundError:
                self.storage.incoming.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self._temporary, _NEW, 0o644)

    def write(self, batch: bytes | memoryview) -> None:
        """Write what comes next."""
        with self._going_on():
            written = 0
            while written < len(batch):
                written += os.write(self._file, batch[written:])
            self._written += len(batch)
            if self._written - self._flushed >= FLUSH_BYTES:
                # Dirty pages are not dropped, but begin to be written: `force` has little to wait for at the end.
                os.posix_fadvise(self._file, self._flushed, self._written - self._flushed, os.POSIX_FADV_DONTNEED)
                self._flushed = self._written

    def force(self) -> None:
        """Force its bytes to disk."""
        with self._going_on():
            os.fsync(self._file)

    def publish(self, modified_ns: int | None = None) -> Identity:
        """Give it its name, and force that to disk. `modified_ns`: the age that readers are told; None: it is new."""
        with self._going_on():
            if modified_ns is not None:
                os.utime(self._file, ns=(modified_ns, modified_ns))
            directory = Path(self.final).parent
            self.storage.make_directory(directory)
            self._rename()
            sync_directory(directory)
            return self.identity()

    def publish_unforced(self) -> list[str]:
        """Give it its name; see `Storage.make_unforced`."""
        made = self.storage.make_unforced(self.final.rpartition("/")[0])
        self._rename()
        return made

    def identity(self) -> Identity:
        """Close it, and give the identity that it has for good."""
        identity = identity_of(os.fstat(self._file))
        self.close()
        return identity

    def _rename(self) -> None:
        os.rename(self._temporary, self.final)
        self._is_published = True

    def abandon(self) -> None:
        """Close and remove it; what cannot be removed is told. Without its name it goes with the next start."""
        with self._lock:
            self._is_abandoned = True
            try:
                self.close()
                with suppress(FileNotFoundError):
                    os.unlink(self.final if self._is_published else self._temporary)
            except OSError as error:  # its disk is what failed
                if self._is_published:
                    self.storage.leave_unforced(self.final)
                log.warning("%s: an upload that failed cannot be removed: %s", self.final, error.strerror)

    def close(self) -> None:
        """Close its file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        with self._lock:
            if self._is_abandoned:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            yield
