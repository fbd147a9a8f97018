"""The daemon's log: lines on stderr or in a file, for people or as JSON for programs."""

import json
import logging
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, Literal

from nekko.errors import ConfigInvalidError

TRACE = 5
_LEVELS = {-2: logging.ERROR, -1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG, 2: TRACE}
log = logging.getLogger(__name__)

_LIBRARIES = {
    "httpcore": logging.WARNING, "httpx": logging.WARNING, "hypercorn": logging.WARNING, "quart": logging.WARNING,
    "pika": logging.CRITICAL,  # it logs, with traces, each error that it raises
}  # fmt: skip


def start_log(
    verbose: int, form: Literal["text", "json"], file: Path | None = None, notices: Iterable[str] = ()
) -> None:
    """Log to stderr, where systemd's journal and a terminal expect it, or to a file; the journal adds the time itself.

    Args:
        notices: Told first, whatever the level is.

    Raises:
        ConfigInvalidError: The file cannot be written.
    """
    logging.addLevelName(TRACE, "TRACE")
    # No line tells these, and looking for them takes half the time of one. Source: logging HOWTO, "Optimization".
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    try:
        handler = logging.StreamHandler() if file is None else WatchedFileHandler(file, encoding="utf-8")
    except OSError as error:
        raise ConfigInvalidError(f"logFile {file}: {error.strerror or error}") from error
    prefix = "" if file is None and "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    text = logging.Formatter(f"{prefix}%(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for notice in notices:
        log.warning("%s", notice)
    logging.getLogger().setLevel(_LEVELS[verbose])
    if verbose < max(_LEVELS):  # the libraries' own lines, only at the last level
        for library, level in _LIBRARIES.items():
            logging.getLogger(library).setLevel(level)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what a record has as `fields` are further members."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told: dict[str, Any] = {
            "time": time, "level": record.levelname, "logger": record.name, "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }  # fmt: skip
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)
