"""A file's identity: what tells, by one fstat, that nobody wrote to a file since its bytes were proven.

Every write through the file system, by whatever call, moves the change time (ctime), and no call can set it back, as
`utime` can the modification time; a replaced file has another inode as well. Changes of mode, owner or number of links
move it too. They cost one needless hash, after which the new identity is recorded; nekko's own work causes none, for a
blob is made read-only and renamed before its identity is taken.

Bytes that rot below the file system leave no trace here: finding those is the scrub's business.
"""

import os
from typing import NewType

Identity = NewType("Identity", str)
"""Compared for equality only, so it is kept as text: an inode's number may be too large for SQLite."""


def identity_of(found: os.stat_result) -> Identity:
    """Give the identity of a file that was looked at."""
    return Identity(f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}")
