"""The zipapp's first code: choose where its packages are extracted to, then let shiv do it.

shiv extracts to SHIV_ROOT, or to ~/.shiv. A service may have no home, or one that it cannot write, so the first of
these that works is taken: SHIV_ROOT, the user's cache directory, the system's, a private directory for temporary
files. Code is imported from there, so a directory that somebody else could write to is refused.
"""

import os
import stat
import sys
import tempfile
from pathlib import Path


def _candidates():
    cache = os.environ.get("XDG_CACHE_HOME")
    home = os.environ.get("HOME")
    if cache:
        yield Path(cache, "nekko", "shiv")
    if home and Path(home).is_dir():
        yield Path(home, ".cache", "nekko", "shiv")
    if os.geteuid() == 0:
        yield Path("/var/cache/nekko/shiv")
    yield Path(tempfile.gettempdir(), f"nekko-{os.geteuid()}")


def _is_private(path):
    """Make a directory if it is not there, and tell whether only its owner, this user, can write to it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError:
        return False
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return is_own and os.access(path, os.W_OK)


if "SHIV_ROOT" not in os.environ:
    for candidate in _candidates():
        if _is_private(candidate):
            os.environ["SHIV_ROOT"] = str(candidate)
            break
    else:
        sys.exit("nekko: no directory to extract to: set SHIV_ROOT to one that only this user can write to")

from _bootstrap import bootstrap

bootstrap()
