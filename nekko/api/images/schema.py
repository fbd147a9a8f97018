"""Checking what a client sends against the Swagger description that it is served.

Only as much of JSON Schema as that description uses. What is empty or null counts as absent, for Go writes the zero
value of everything. Codes are those of go-openapi, which the published clients know.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, NoReturn

import yaml

from nekko import __version__
from nekko.errors import RequestInvalidError

TYPE, REQUIRED, TOO_SHORT, PATTERN, ENUM, ABOVE, BELOW, OUT_OF_PLACE = 601, 602, 604, 605, 606, 608, 609, 610
_TYPES: Mapping[str, type] = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class SchemaError(RequestInvalidError):
    """Something in a request is not as described. `code` is go-openapi's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@cache
def description() -> dict[str, Any]:
    """Give the description."""
    read: dict[str, Any] = yaml.safe_load(resources.files("nekko.api.images").joinpath("swagger.yaml").read_bytes())
    read["info"]["version"] = __version__
    return read


@cache
def document() -> str:
    """Give the description as JSON text."""
    return json.dumps(description(), ensure_ascii=False, indent=1) + "\n"


def checked_body(name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Give a body as the definition `name` has it, without what is empty.

    Raises:
        SchemaError: It is something else; the message names the field.
    """
    found: dict[str, Any] = _object(description()["definitions"][name], body, "body")
    return found


def checked_query(path: str, method: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Give the parameters of a request, of their types; empty ones are absent.

    Raises:
        SchemaError: One is unknown, missing or wrong.
    """
    declared = {each["name"]: each for each in description()["paths"][path][method].get("parameters", ())}
    declared = {name: each for name, each in declared.items() if each["in"] == "query"}
    given = {name: text for name, text in query.items() if text}
    if unknown := sorted(given.keys() - declared):
        known = ", ".join(declared) or "none"
        raise SchemaError(OUT_OF_PLACE, f"{unknown[0][:60]!r} is no parameter of this request: there are {known}")
    for name, each in declared.items():
        if each.get("required") and name not in given:
            raise SchemaError(REQUIRED, f"{name} in query is required")
    return {name: _parameter(declared[name], text) for name, text in given.items()}


def _parameter(schema: Mapping[str, Any], text: str) -> Any:
    where = f"{schema['name']} in query"
    if schema["type"] == "integer":
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise SchemaError(TYPE, f"{where} is not a whole number: {text[:40]!r}")
        return int(text)
    if schema["type"] == "boolean":
        if text.lower() not in _BOOLEANS:
            raise SchemaError(TYPE, f"{where} is neither true nor false: {text[:40]!r}")
        return _BOOLEANS[text.lower()]
    return _value(schema, text, where)


def _value(schema: Mapping[str, Any], value: Any, where: str) -> Any:
    if "$ref" in schema:
        schema = description()["definitions"][schema["$ref"].rpartition("/")[2]]
    kind: Any = _TYPES[schema["type"]]
    if type(value) is not kind:
        _fail(TYPE, where, f"is not of type {schema['type']}")
    if kind is dict:
        return _object(schema, value, where)
    if kind is list:
        return [_value(schema["items"], item, f"{where}[{number}]") for number, item in enumerate(value)]
    if kind is str and "\0" in value:  # the end of a text for the kernel and all programs
        _fail(PATTERN, where, "holds a NUL")
    if "enum" in schema and value not in schema["enum"]:
        _fail(ENUM, where, f"should be one of {', '.join(schema['enum'])}")
    if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        _fail(PATTERN, where, f"should match {schema['pattern']}")
    if kind is str and len(value) < schema.get("minLength", 0):
        _fail(TOO_SHORT, where, f"should have {schema['minLength']} characters at least")
    if kind is int and value < schema.get("minimum", value):
        _fail(BELOW, where, f"should be {schema['minimum']} or more")
    if kind is int and value > schema.get("maximum", value):
        _fail(ABOVE, where, f"should be {schema['maximum']} or less")
    return value


def _object(schema: Mapping[str, Any], value: Any, where: str) -> dict[str, Any]:
    if type(value) is not dict:
        _fail(TYPE, where, "is not of type object")
    properties = schema.get("properties")
    if properties is None:
        return dict(value)
    found: dict[str, Any] = {}
    for name, item in value.items():
        inner = f"{where}.{name[:60]}"
        if name not in properties:
            _fail(OUT_OF_PLACE, inner, f"is unknown: there are {', '.join(properties)}")
        if item is None or (item in ("", 0, False) and properties[name].get("readOnly")):
            continue
        if properties[name].get("readOnly"):
            _fail(OUT_OF_PLACE, inner, "is read-only")
        found[name] = _value(properties[name], item, inner)
    for name in schema.get("required", ()):
        if name not in found:
            _fail(REQUIRED, f"{where}.{name}", "is required")
    return found


def _fail(code: int, where: str, fault: str) -> NoReturn:
    raise SchemaError(code, f"{where} {fault}")
