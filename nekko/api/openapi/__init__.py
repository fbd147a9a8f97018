"""The description of the API at `/openapi.json`: OpenAPI 3.1, for the doors that a listener has.

One YAML file for each door, by its name in `config.doors`, and `common.yaml` with what every listener answers; a new
door is a new file here. What several doors refer to (problems, the access rule) is in `common.yaml`.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

import yaml

from nekko import __version__
from nekko.config.doors import DOORS


@cache
def document(doors: frozenset[str]) -> str:
    """Give the document as JSON text. The first time for a set of doors takes tenths of a second: not in the loop."""
    whole = _part("common")
    whole["info"]["version"] = __version__
    for door in (door for door in DOORS if door in doors):
        part = _part(door)
        whole["paths"] |= part["paths"]
        whole["components"]["schemas"] |= part.get("schemas", {})
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def _part(name: str) -> dict[str, Any]:
    part: dict[str, Any] = yaml.safe_load(resources.files(__name__).joinpath(f"{name}.yaml").read_bytes())
    return part
