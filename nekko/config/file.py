"""The configuration file: YAML whose every scalar is text, to be read by the grammar of its setting.

YAML's own guesses are a trap for settings (`0660` becomes 432, `no` becomes false, a password of digits a number), so
none are made. Refused besides what is no YAML: a key given twice, tags, documents after the first. Messages give line
and column but quote nothing except keys: a value may be a secret.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from nekko.errors import ConfigInvalidError

MAX_FILE_BYTES = 1 << 20
"""A file of settings has a few KiB; this keeps a wrong path (an image, /dev/zero) from being read to its end."""

_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}


def read_file(path: Path) -> dict[str, Any]:
    """Read a file's settings: text, None (no value), lists and mappings of these. An empty file has none.

    Raises:
        ConfigInvalidError: Unreadable, not YAML, or not a mapping. The message starts with the path.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigInvalidError(f"file {path}: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigInvalidError(f"file {path}: larger than {MAX_FILE_BYTES} bytes, this is no file of settings")
    try:
        values = yaml.load(raw.decode("utf-8-sig"), _TextLoader)  # noqa: S506 - makes text, lists and mappings only
    except UnicodeDecodeError:
        raise ConfigInvalidError(f"file {path}: not UTF-8") from None
    except RecursionError:
        raise ConfigInvalidError(f"file {path}: nested too deep") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigInvalidError(f"file {path}: {_place(error)}{_reason(error)}") from None
    except yaml.YAMLError:
        raise ConfigInvalidError(f"file {path}: not YAML: it holds control characters") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigInvalidError(f"file {path}: not a mapping of settings such as 'cacheDir: /var/lib/nekko/cache'")
    return values


class _DuplicateKey(yaml.MarkedYAMLError):
    """A key stands twice in one mapping: YAML forbids it, PyYAML takes the last."""


class _TextLoader(yaml.BaseLoader):
    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag not in _PLAIN_TAGS:
            raise yaml.MarkedYAMLError(problem="tags have no meaning here", problem_mark=node.start_mark)
        return super().construct_object(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        is_absent = node.style is None and node.value in ("", "~", "null")
        return None if is_absent else super().construct_scalar(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key.start_mark)
            if key.value in keys:
                raise _DuplicateKey(problem=f"{key.value[:200]} is given twice", problem_mark=key.start_mark)
            keys.add(key.value)
        return {str(key.value): self.construct_object(value, deep) for key, value in node.value}


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""


def _reason(error: yaml.MarkedYAMLError) -> str:
    problem = ", ".join(filter(None, (error.context, error.problem)))
    if isinstance(error, _DuplicateKey):
        return problem
    # The parser quotes what it met, which may be part of a secret: `password: *s3cret` is an undefined alias.
    return "not usable YAML: " + re.sub(r"""(['"]).*\1""", "…", problem, flags=re.DOTALL)
