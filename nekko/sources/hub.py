"""`hf://` and `huggingface://` locators: a file of a repository on a Hugging Face Hub, or the whole repository.

    hf://[host]/[datasets/|spaces/]owner/name[@revision][/path/of/a/file][?revision=…]

Without a host it is huggingface.co; `hf://owner/name/…` is taken for `hf:///owner/name/…`. A name without an owner
(`gpt2`) is told by a revision behind it (`hf:///gpt2@main/config.json`), by standing alone, or by the file name that
follows it as the last part.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal
from urllib.parse import parse_qsl, quote, unquote

from nekko.errors import LocatorInvalidError
from nekko.oci import filepath
from nekko.sources.base import Locator
from nekko.sources.url import Parts, is_told, told_host

HUB = "huggingface.co"
DEFAULT_REVISION = "main"
Kind = Literal["model", "dataset", "space"]

_ALIASES = frozenset({"hf.co", "www.huggingface.co"})
_KINDS: Mapping[str, Kind] = {"datasets": "dataset", "spaces": "space"}
_NAME = re.compile(r"(?!.*(?:--|\.\.))\w(?:[\w.-]{0,94}\w)?(?<!\.git)", re.ASCII)
_REVISION = re.compile(r"(?!.*(?:\.\.|//|@\{))[^\x00-\x20\x7f~^:?*\[\\/-][^\x00-\x20\x7f~^:?*\[\\]{0,250}(?<!/)")
"""As git-check-ref-format has it."""
_PULL_REQUEST = re.compile(r"refs/(?:pr|convert)/\w+", re.ASCII)
_FILE_NAME = re.compile(
    r"(?i).*\.(?:json|txt|md|gguf|safetensors|bin|pt|pth|onnx|h5|msgpack|model|py|ya?ml|jinja)|LICENSE|\.gitattributes"
)
"""What is a file where it might as well be the name of a repository."""
_SHOWN = 100
"""Characters of a wrong name that a message shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubLocator(Locator):
    """A file of a repository (`file` is its path, safe as a relative one), or all of it (`file` is None).

    `host` is the naming one, with its port where that is not 443. `repository` is as in the Hub's URLs, without the
    prefix of its kind; its case counts. `revision` is a branch, a tag, a commit or `refs/pr/N`.
    """

    takes_basic: ClassVar[bool] = False

    host: str
    kind: Kind
    repository: str
    revision: str
    file: str | None

    @property
    def name(self) -> str:
        file = "" if self.file is None else f"/{quote(self.file)}"
        return f"hf://{self.host}/{self.path}@{quote(self.revision, safe='')}{file}"

    @property
    def path(self) -> str:
        """The repository's path in the Hub's file URLs."""
        return self.repository if self.kind == "model" else f"{self.kind}s/{self.repository}"

    @property
    def home(self) -> str:
        """The name of the repository, whatever the revision."""
        return f"hf://{self.host}/{self.path}"

    def at(self, revision: str) -> "HubLocator":
        """Give the locator of the whole repository at a revision."""
        whole = replace(self, revision=revision, file=None)
        return replace(whole, given=whole.name)


def make_hub(kind: Kind, repository: str, revision: str = DEFAULT_REVISION, file: str | None = None) -> HubLocator:
    """Make the locator of a repository of huggingface.co, or of a file there, from what names it.

    Raises:
        LocatorInvalidError: It has too many parts, or one of these cannot be one.
    """
    if repository.count("/") > 1:
        raise LocatorInvalidError(f"{repository[:_SHOWN]!r}: a repository is owner/name, or a name alone")
    _check_repository(repository)
    _check_revision(revision)
    if file is not None and (fault := filepath.fault_of(file)):
        raise LocatorInvalidError(f"a file whose path {fault}")
    locator = HubLocator(host=HUB, kind=kind, repository=repository, revision=revision, file=file, given="")
    return replace(locator, given=locator.name)


def parse_hub(parts: Parts) -> HubLocator:
    """Read the locator of a Hub's file or repository.

    Raises:
        LocatorInvalidError: It names no repository, or its name, revision or file cannot be one.
    """
    host, segments, query = _split(parts)
    kind = _KINDS.get(segments[0], "model")
    if kind != "model":
        segments = segments[1:] or [""]
    repository, asked, segments = _repository(segments, kind)
    revision = _revision(asked, query)
    file = "/".join(map(_decoded, segments))
    if file and (fault := filepath.fault_of(file)):
        raise LocatorInvalidError(f"hf:// with a file whose path {fault}")
    return HubLocator(
        host=host, kind=kind, repository=repository, revision=revision, file=file or None,
        given=parts.given, credentials=parts.credentials,
    )  # fmt: skip


def kind_and_name(path: str) -> tuple[Kind, str]:
    """Part a repository's path in the Hub's file URLs into its kind and its name."""
    first, _, rest = path.partition("/")
    return (_KINDS[first], rest) if first in _KINDS and rest else ("model", path)


def _split(parts: Parts) -> tuple[str, list[str], str]:
    """Give the host, the parts of the path (the last one empty where a slash ends it), and the query."""
    tail, mark, _ = parts.tail.partition("#")
    if mark:
        raise LocatorInvalidError("hf:// with a fragment: write a # that belongs to a name as %23")
    path, _, query = tail.partition("?")
    host, authority = HUB, parts.authority
    if is_told(authority):
        host = told_host(authority)
    elif authority:
        path = f"/{authority}{path}"
    return HUB if host in _ALIASES else host, path.removeprefix("/").split("/"), query


def _repository(segments: list[str], kind: Kind) -> tuple[str, str, list[str]]:
    """Give the repository, the revision behind it, and the parts that are left: of the file's path."""
    _, mark, _ = segments[0].partition("@")
    is_alone = not any(segments[1:])
    is_file_next = kind == "model" and len(segments) == 2 and _FILE_NAME.fullmatch(segments[1]) is not None
    length = 1 if mark or is_alone or is_file_next else 2
    repository, mark, asked = "/".join(segments[:length]).partition("@")
    _check_repository(repository)
    if mark and not asked:
        raise LocatorInvalidError(f"hf:// with nothing behind the @ of {repository}")
    rest = segments[length:]
    if asked == "refs" and _PULL_REQUEST.fullmatch("/".join([asked, *rest[:2]])):  # as huggingface_hub takes it
        asked, rest = "/".join([asked, *rest[:2]]), rest[2:]
    if not any(rest):  # a slash at the end
        rest = rest[1:]
    return repository, asked, rest


def _revision(asked: str, query: str) -> str:
    found = {_decoded(asked)} if asked else set()
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key != "revision":
            raise LocatorInvalidError(f"hf:// with {key[:40]!r} in its query: only revision=… is known there")
        found.add(value)
    if len(found) > 1:
        raise LocatorInvalidError("hf:// with two different revisions")
    revision = found.pop() if found else DEFAULT_REVISION
    _check_revision(revision)
    return revision


def _check_repository(repository: str) -> None:
    for part in repository.split("/"):
        if not _NAME.fullmatch(part):
            raise LocatorInvalidError(
                "hf:// wants a repository, such as hf:///owner/name/file: letters, digits, single - and . inside, "
                "and _, at most 96 of them"
            )


def _check_revision(revision: str) -> None:
    if not _REVISION.fullmatch(revision):
        raise LocatorInvalidError("hf:// with a revision that is no name of a branch, tag or commit in git")


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise LocatorInvalidError("hf:// with a name that is not UTF-8 behind its percent signs") from None
