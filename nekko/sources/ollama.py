"""`ollama://` locators: `ollama://[host]/[namespace/]model[:tag]`, with Ollama's own defaults.

Source: types/model/name.go of ollama/ollama. `ollama://model` is taken for `ollama:///model`.
"""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

from nekko.errors import LocatorInvalidError
from nekko.sources.base import Locator
from nekko.sources.url import Parts, told_host

OLLAMA = "registry.ollama.ai"
_ALIASES = frozenset({"ollama.com", "www.ollama.com", "ollama.ai"})
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_HOST = re.compile(r"localhost|.*\..*|.*:[0-9]+|\[.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaLocator(Locator):
    """A model in Ollama's registry, or in one that speaks its dialect (`hf.co`). Case is kept as it was given."""

    takes_basic: ClassVar[bool] = False

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def name(self) -> str:
        return f"ollama://{self.host}/{self.namespace}/{self.model}:{self.tag}"


def parse_ollama(parts: Parts) -> OllamaLocator:
    """Read the locator of an Ollama model.

    Raises:
        LocatorInvalidError: It names no model, or a part of it cannot be one.
    """
    if "?" in parts.tail or "#" in parts.tail:
        raise LocatorInvalidError("ollama:// takes neither a query nor a fragment")
    host, path = OLLAMA, parts.tail
    if path and _HOST.fullmatch(parts.authority):
        host = told_host(parts.authority)
    elif parts.authority:
        path = f"/{parts.authority}{path}"
    namespace, _, last = path.removeprefix("/").rpartition("/")
    model, mark, tag = last.partition(":")
    namespace, tag = namespace or "library", tag if mark else "latest"
    _check(namespace, model, tag)
    return OllamaLocator(
        host=OLLAMA if host in _ALIASES else host, namespace=namespace, model=model, tag=tag,
        given=parts.given, credentials=parts.credentials,
    )  # fmt: skip


def make_ollama(namespace: str, model: str, tag: str) -> OllamaLocator:
    """Make the locator of a model in Ollama's registry from what names it there.

    Raises:
        LocatorInvalidError: A part of it cannot be one.
    """
    _check(namespace, model, tag)
    locator = OllamaLocator(host=OLLAMA, namespace=namespace, model=model, tag=tag, given="")
    return replace(locator, given=locator.name)


def _check(namespace: str, model: str, tag: str) -> None:
    if not _NAMESPACE.fullmatch(namespace) or not _MODEL.fullmatch(model) or not _MODEL.fullmatch(tag):
        raise LocatorInvalidError(
            "ollama:// wants a model, such as ollama:///llama3, ollama:///owner/model:tag or "
            "ollama://host/owner/model:tag; each of letters, digits, _ and -, in model and tag also a dot"
        )
