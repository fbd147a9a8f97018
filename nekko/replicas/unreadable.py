"""Copies that their disk does not give: set aside where one file is spoiled, left alone where the disk is.

A bad sector spoils one file. Its copy goes into quarantine, for which it need not be read, and is restored from a twin.
A disk that fails as a whole gives the same error for every file, and may be well again with its cable: what is renamed
there is undone or lost, and thousands of copies would be away that were right. So a copy is set aside only if

- the error is one of the medium, and not of rights or of this process;
- a twin is right by a reading of all its bytes now. What is remembered of it does not do: the copy that cannot be read
  today may be the only right one tomorrow;
- its storage takes another file, forces it to disk and gives it back from there;
- that happened less than `FORGIVEN` times within an hour. Linux's md counts the same way (`max_read_errors`): a disk
  with more bad sectors is about to go, and what is written to it meanwhile is no second copy of anything.
"""

import errno
import logging
import os
import threading
import time
from collections import defaultdict, deque
from dataclasses import replace
from pathlib import Path

from nekko.oci.digest import Digest
from nekko.replicas.proofs import Proofs
from nekko.replicas.storage import Storage
from nekko.replicas.tuples import Copies, Unread

log = logging.getLogger(__name__)

BAD_MEDIUM = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA, errno.EILSEQ})
"""What Linux says of a sector that cannot be read, and of one whose checksum is wrong."""
FORGIVEN = 20
WINDOW_SECONDS = 3600.0
REST_SECONDS = 60.0
"""A storage that failed its trial is not tried again before: every file on it asks."""
TRIAL_BYTES = 64 << 10


class Unreadable:
    """Decides for all storages of this process. Any thread may ask."""

    def __init__(self, proofs: Proofs) -> None:
        self._proofs = proofs
        self._freed: defaultdict[Path, deque[float]] = defaultdict(lambda: deque(maxlen=FORGIVEN))
        """When copies were set aside, by storage."""
        self._rests: dict[Path, tuple[float, str]] = {}
        """Until when a storage is not tried, and what was wrong with it."""
        self._lock = threading.Lock()

    def may_be_set_aside(self, copies: Copies) -> bool:
        """Tell whether `set_aside` is worth a try, as far as that is known without a look at the disks."""
        return copies.descriptor >= 0 and any(
            unread.errno in BAD_MEDIUM and self._reason(unread.storage) is None for unread in copies.unreadable
        )

    def set_aside(self, copies: Copies, digest: Digest) -> Copies:
        """Set unreadable copies of a file aside where that is right; give what its tuple has then. Blocks.

        Raises:
            DigestMismatchError, OSError: The copy that was taken for right is not; nothing was set aside.
        """
        if self.may_be_set_aside(copies):
            assert copies.path is not None
            self._proofs.forget(copies.path)
            os.close(self._proofs.open(copies.path, digest))
        freed, left = [], []
        for unread in copies.unreadable:
            reason = self._set_aside(unread) if unread.errno in BAD_MEDIUM else ""
            if reason is None:
                freed.append(unread.storage)
            else:
                left.append(replace(unread, fault=f"{unread.fault}; {reason}") if reason else unread)
        return replace(copies, lacking=(*copies.lacking, *freed), unreadable=tuple(left))

    def _set_aside(self, unread: Unread) -> str | None:
        """Set one copy aside; say why not, if so."""
        storage, now = unread.storage, time.monotonic()
        if (reason := storage.problem()) is not None:
            return reason
        with self._lock:  # counted at once, for several threads may be here
            if (reason := self._reason_at(storage, now)) is not None:
                return reason
            self._freed[storage.root].append(now)
            is_enough = self._reason_at(storage, now)
        try:
            _try_out(storage)
            storage.set_aside(unread.path)
        except OSError as error:
            reason = f"nor does {storage.root} work otherwise: {error.strerror}"
            log.error("%s: stays where it is: %s", unread.path, reason)
            with self._lock:
                self._rests[storage.root] = (time.monotonic() + REST_SECONDS, reason)
                self._freed[storage.root].remove(now)
            return reason
        log.error("%s: set aside: %s", unread.path, unread.fault)
        if is_enough is not None:
            log.error("%s", is_enough)
        return None

    def _reason(self, storage: Storage) -> str | None:
        """Say why nothing is set aside on a storage now, if so."""
        with self._lock:
            return self._reason_at(storage, time.monotonic())

    def _reason_at(self, storage: Storage, now: float) -> str | None:
        until, reason = self._rests.get(storage.root, (now, ""))
        if now < until:
            return reason
        freed = self._freed[storage.root]
        if len(freed) == FORGIVEN and now - freed[0] < WINDOW_SECONDS:
            return f"{FORGIVEN} copies on {storage.root} were unreadable within an hour: replace its disk"
        return None


def _try_out(storage: Storage) -> None:
    """Write a file to a storage and have it back from the disk. OSError: it does not work."""
    content = os.urandom(TRIAL_BYTES)
    path = storage.incoming / f"trial.{threading.get_ident()}.{os.getpid()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("w+b", buffering=0) as file:
            if file.write(content) < TRIAL_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if os.pread(file.fileno(), TRIAL_BYTES, 0) != content:
                raise OSError(errno.EIO, "it gives other bytes than it took")
    finally:
        path.unlink(missing_ok=True)
