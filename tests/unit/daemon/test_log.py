"""The log's two forms."""

import json
import logging
import sys
from datetime import datetime

from nekko.log import JsonFormatter


def record(message: str, **more: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "nekko.x", "levelname": "INFO", "msg": message, "created": 1.5} | more)


def test_json_has_one_object_a_line_with_the_fields_of_a_request() -> None:
    line = JsonFormatter().format(record("a\nb %s", args=("ü",), fields={"status": 200, "path": "/"}))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:01.500Z", "level": "INFO", "logger": "nekko.x", "message": "a\nb ü", "status": 200,
        "path": "/",
    }  # fmt: skip
    assert datetime.fromisoformat(json.loads(line)["time"]).timestamp() == 1.5


def test_json_has_an_exception_as_one_text() -> None:
    try:
        raise ValueError("wrong")
    except ValueError:
        line = JsonFormatter().format(record("failed", exc_info=sys.exc_info()))
    assert json.loads(line)["exception"].endswith("ValueError: wrong")
