"""Runs before nekko does, each time: drop what earlier builds of this file extracted and nobody used for a month."""

import contextlib
import os
import shutil
import time
from pathlib import Path

MONTH_SECONDS = 30 * 24 * 3600

own = Path(site_packages).parent  # noqa: F821 - shiv gives it
with contextlib.suppress(OSError):  # extracted by somebody else, who keeps it
    os.utime(own)  # the mark of the last use
name, _, _ = own.name.rpartition("_")
for other in own.parent.glob(f"{name}_*"):
    if other != own and other.is_dir() and other.stat().st_mtime < time.time() - MONTH_SECONDS:
        shutil.rmtree(other, ignore_errors=True)
