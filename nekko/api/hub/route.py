"""Paths of the Hub's API, without I/O. Source: `hf_hub_url` and `HfApi` of huggingface_hub."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Self
from urllib.parse import unquote_to_bytes

from nekko.errors import RequestInvalidError
from nekko.sources.hub import DEFAULT_REVISION, Kind

ROOT = "hf"
_KINDS: Mapping[str, Kind] = {"models": "model", "datasets": "dataset", "spaces": "space"}
_FILE_MARK = "resolve"


class Endpoint(Enum):
    """What a path is for."""

    FRONT = "front"
    FILE = "resolve"
    INFO = "revision"
    TREE = "tree"
    PATHS = "paths-info"
    REFS = "refs"
    ACCESS = "auth-check"
    OTHER = "other"
    """Of no use to somebody who downloads, or known to nobody."""


_MARKS = {each.value: each for each in (Endpoint.INFO, Endpoint.TREE, Endpoint.PATHS, Endpoint.REFS, Endpoint.ACCESS)}


@dataclass(frozen=True, slots=True)
class Route:
    """A path, taken apart and not yet checked. `path` is a file's or folder's, empty for the whole repository."""

    endpoint: Endpoint
    kind: Kind = "model"
    repository: str = ""
    revision: str = DEFAULT_REVISION
    path: str = ""

    @classmethod
    def parse(cls, raw_path: bytes) -> Self:
        """Take a path apart, as it came, with or without `/hf`.

        Raises:
            RequestInvalidError: It is not UTF-8 behind its percent signs.
        """
        try:
            parts = [unquote_to_bytes(part).decode() for part in raw_path.split(b"/")[1:]]
        except UnicodeDecodeError:
            raise RequestInvalidError("a path that is not UTF-8 behind its percent signs") from None
        if parts[:1] == [ROOT]:
            parts = parts[1:]
        match parts:
            case [] | [""]:
                return cls(Endpoint.FRONT)
            case ["api", plural, *rest] if plural in _KINDS:
                return cls._of_api(_KINDS[plural], rest)
            case [("datasets" | "spaces") as plural, *rest]:
                return cls._of_file(_KINDS[plural], rest)
        return cls._of_file("model", parts)

    @classmethod
    def _of_file(cls, kind: Kind, parts: Sequence[str]) -> Self:
        for at in (2, 1):  # a repository may be called `resolve`
            if len(parts) > at + 2 and parts[at] == _FILE_MARK:
                return cls(Endpoint.FILE, kind, "/".join(parts[:at]), parts[at + 1], "/".join(parts[at + 2 :]))
        return cls(Endpoint.OTHER)

    @classmethod
    def _of_api(cls, kind: Kind, parts: Sequence[str]) -> Self:
        for at in (2, 1):
            endpoint = _MARKS.get(parts[at]) if len(parts) > at else None
            repository, rest = "/".join(parts[:at]), parts[at + 1 :]
            if endpoint in (Endpoint.REFS, Endpoint.ACCESS) and not rest:
                return cls(endpoint, kind, repository)
            if endpoint is Endpoint.TREE and rest:
                return cls(endpoint, kind, repository, rest[0], "/".join(rest[1:]).removesuffix("/"))
            if endpoint in (Endpoint.INFO, Endpoint.PATHS) and rest:
                return cls(endpoint, kind, repository, "/".join(rest))
        return cls(Endpoint.INFO, kind, "/".join(parts)) if 1 <= len(parts) <= 2 else cls(Endpoint.OTHER)
