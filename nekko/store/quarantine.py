"""Quarantine: what failed its proof is kept for a look, with the reason, but must not fill the disk."""

import json
import shutil
import time
from pathlib import Path

from nekko.store.layout import Layout, replace_file

MAX_QUARANTINED = 16
"""The newest few are kept."""
MAX_QUARANTINED_BYTES = 256 << 20
"""Of what can be fetched again, larger bytes are not kept."""


def set_aside(layout: Layout, file: Path, *, name: str) -> Path:
    """Move a file into quarantine, in one step that is short enough for the event loop; give its place there.

    Raises:
        OSError: It cannot be moved; nothing has changed.
    """
    place = layout.quarantine / f"{time.time_ns()}-{name}"
    place.mkdir()
    try:
        file.rename(place / "data")
    except OSError:
        place.rmdir()
        raise
    return place


def keep(layout: Layout, place: Path, reason: str, *, max_bytes: int | None = MAX_QUARANTINED_BYTES) -> None:
    """Record why something was set aside, and drop what is too large or too old to be kept. Blocking."""
    data = place / "data"
    size = data.lstat().st_size
    replace_file(place / "reason.json", json.dumps({"reason": reason, "size": size}).encode())
    if max_bytes is not None and size > max_bytes:
        data.unlink()
    for old in sorted(path for path in layout.quarantine.iterdir() if path.is_dir())[:-MAX_QUARANTINED]:
        shutil.rmtree(old)
