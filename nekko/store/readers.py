"""Who reads a file: an open one serves on without its name, but its space is not free before it is closed."""

import fcntl
import os
import signal
from pathlib import Path


def has_readers(path: Path) -> bool:
    """Tell whether anybody, in whatever process, has a file open or mapped; blocking.

    The kernel grants a write lease only on a file that nobody else has open. Where it grants none at all (some network
    file systems, another owner), this tells False. Source: fcntl(2), "Leases".
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Who opens the file while the lease is held waits until it is given up, a few instructions later. The signal
        # that tells of that is one that is ignored by default: SIGIO would end the process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
