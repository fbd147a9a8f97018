"""The list of what a node should hold, as a file has it (YAML, of which JSON is a part) or a request (JSON).

    contents:
      - hf:///Qwen/Qwen2.5-0.5B
      - url: oci://docker.io/library/alpine:3
        platform: linux/amd64       # as in the request of a pull
        pin: false                  # default: true
        refresh: 12h                # compared with its upstream so often; default: never
        window: 01:00-05:00         # asked for then only, local time; default: any time

A wrong list is refused whole. The message names the line, or the place in the request.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from nekko.config import grammar
from nekko.config.window import Window
from nekko.errors import ConfigInvalidError

MAX_LIST_BYTES = 1 << 20
MAX_CONTENTS = 1000
LIST = "contents"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One content that should be here. `where` is its place in the list, for messages."""

    url: str
    platform: str | None = None
    is_pinned: bool = True
    refresh_seconds: float | None = None
    window: Window | None = None
    where: str = ""

    def to_plain(self) -> dict[str, str | bool]:
        """Give what `read_list` reads as the same."""
        told: dict[str, str | bool] = {"url": self.url, "pin": self.is_pinned}
        if self.platform is not None:
            told["platform"] = self.platform
        if self.refresh_seconds is not None:
            told["refresh"] = grammar.duration_text(self.refresh_seconds)
        if self.window is not None:
            told["window"] = str(self.window)
        return told


def read_file(path: Path) -> tuple[Wanted, ...]:
    """Read the list in a file.

    Raises:
        ConfigInvalidError: It cannot be read, or is wrong. The message begins with the path, and the line.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_LIST_BYTES + 1)
        if len(raw) > MAX_LIST_BYTES:
            raise ConfigInvalidError(f"{path}: larger than {MAX_LIST_BYTES} bytes, this is no list of contents")
        root = yaml.compose(raw.decode("utf-8-sig"), yaml.BaseLoader)
    except OSError as error:
        raise ConfigInvalidError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigInvalidError(f"{path}: not UTF-8") from None
    except RecursionError:
        raise ConfigInvalidError(f"{path}: nested too deep") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigInvalidError(f"{place}: not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError:
        raise ConfigInvalidError(f"{path}: not YAML: it holds control characters") from None
    return _checked(list(_items_of_node(root, path)), str(path))


def read_list(value: Any) -> tuple[Wanted, ...]:
    """Read the list in a request.

    Raises:
        ConfigInvalidError: It is wrong. The message names the place.
    """
    if not isinstance(value, list):
        raise ConfigInvalidError(f"{LIST} is not a list")
    return _checked([_Item(f"{LIST}[{number}]", item) for number, item in enumerate(value)], LIST)


@dataclass(frozen=True, slots=True)
class _Item:
    """What a list has in one place, and the places of its keys where those are known."""

    where: str
    value: Any
    places: Mapping[str, str] = field(default_factory=dict)


def _items_of_node(root: Any, path: Path) -> Iterator[_Item]:
    def fail(node: Any, problem: str) -> NoReturn:
        raise ConfigInvalidError(f"{path}:{node.start_mark.line + 1}: {problem}")

    if root is None:
        return
    if not isinstance(root, yaml.MappingNode) or [key.value for key, _ in root.value] != [LIST]:
        fail(root, f"not a list of contents: write '{LIST}:' and a list below it, and nothing else")
    listed = root.value[0][1]
    if isinstance(listed, yaml.ScalarNode) and listed.value == "":
        return
    if not isinstance(listed, yaml.SequenceNode):
        fail(listed, f"what stands below '{LIST}:' is not a list")
    for item in listed.value:
        where = f"{path}:{item.start_mark.line + 1}"
        if not isinstance(item, yaml.MappingNode):
            yield _Item(where, item.value)
            continue
        fields: dict[str, Any] = {}
        places: dict[str, str] = {}
        for key, value in item.value:
            if key.value in fields:
                fail(key, f"{key.value} is given twice")
            if not isinstance(value, yaml.ScalarNode):
                fail(value, f"{key.value} is not text")
            fields[key.value] = value.value
            places[key.value] = f"{path}:{key.start_mark.line + 1}"
        yield _Item(where, fields, places)


def _checked(items: Sequence[_Item], where: str) -> tuple[Wanted, ...]:
    if len(items) > MAX_CONTENTS:
        raise ConfigInvalidError(f"{where}: {len(items)} contents, and at most {MAX_CONTENTS} are kept")
    return tuple(map(_wanted, items))


def _wanted(item: _Item) -> Wanted:
    where, fields = item.where, {"url": item.value} if isinstance(item.value, str) else item.value
    if not isinstance(fields, Mapping):
        raise ConfigInvalidError(f"{where}: neither a URL nor a table with a url")
    unknown = [key for key in fields if key not in _FIELDS]
    if unknown:
        place = item.places.get(unknown[0], where)
        raise ConfigInvalidError(f"{place}: unknown key {str(unknown[0])[:60]!r}: there are {', '.join(_FIELDS)}")
    found: dict[str, Any] = {"where": where}
    for key, value in fields.items():
        name, read = _FIELDS[key]
        try:
            found[name] = read(_text(value))
        except ConfigInvalidError as error:
            raise ConfigInvalidError(f"{item.places.get(key, where)}: {key}: {error}") from error
    if "url" not in found:
        raise ConfigInvalidError(f"{where}: url is missing")
    return Wanted(**found)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        raise ConfigInvalidError("is neither text nor true or false")
    return value


def _interval(value: str) -> float:
    if not (found := grammar.duration(value)):
        raise ConfigInvalidError("a refresh without a pause: leave it out for never")
    return found


_FIELDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "url": ("url", grammar.text),
    "platform": ("platform", grammar.platforms),
    "pin": ("is_pinned", grammar.switch),
    "refresh": ("refresh_seconds", _interval),
    "window": ("window", Window.parse),
}
