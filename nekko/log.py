"""The daemon's log: lines on stderr, for people or as JSON for programs."""

import json
import logging
import os
from datetime import UTC, datetime
from typing import Any, Literal

TRACE = 5
_LEVELS = (logging.INFO, logging.DEBUG, TRACE)
_LIBRARIES = ("httpcore", "httpx", "hypercorn", "quart")


def start_log(verbose: int, form: Literal["text", "json"]) -> None:
    """Log to stderr, where systemd's journal and a terminal expect it; the journal adds the time itself."""
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler()
    prefix = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    text = logging.Formatter(f"{prefix}%(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=_LEVELS[verbose], handlers=[handler])
    if verbose < len(_LEVELS) - 1:  # the libraries' own lines, only at the last level
        for library in _LIBRARIES:
            logging.getLogger(library).setLevel(logging.WARNING)


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
