"""The kinds of views: plain files, the cache of Hugging Face's clients, and the models directory of Ollama.

Sources: huggingface_hub's file_download.py and _tree_cache.py; ollama/ollama's manifest/paths.go.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from nekko.errors import ViewInvalidError
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.manifest import Manifest
from nekko.oci.modelpack import MODEL_CONFIG
from nekko.sources.base import Locator
from nekko.sources.hub import HubLocator
from nekko.sources.ollama import OllamaLocator
from nekko.views.tree import Entry, Tree

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Shown:
    """A content that a view shows: where it came from, its root manifest, and the bytes of that manifest's config.

    `config` is only wanted where it is a model's (`needs_config`), else it may be empty.
    """

    locator: Locator
    root: Digest
    manifest: Manifest
    config: bytes = b""


def needs_config(manifest: Manifest) -> bool:
    """Tell whether the config of a manifest says something that a view may want."""
    return manifest.config is not None and manifest.config.media_type == MODEL_CONFIG


def tree_of(kind: str, contents: Sequence[Shown]) -> Tree:
    """Give the names that a kind of engine wants.

    Args:
        kind: One of `KINDS`.

    Raises:
        ViewInvalidError: A content cannot be shown so; the message says which one and why.
    """
    add = _KINDS[kind]
    tree = Tree()
    _check_case(content.locator for content in contents)
    if add is _files and len(contents) > 1:
        raise ViewInvalidError("a view of files shows one content: make a view for each")
    for content in contents:
        try:
            add(tree, content)
        except ViewInvalidError as error:
            raise ViewInvalidError(f"{content.locator.where}: {error}") from error
    return tree


def _files(tree: Tree, content: Shown) -> None:
    """Every file under the name that its source gave it."""
    for title, layer in _titled(content.manifest):
        tree.add(Entry(title, layer.digest))


def _hf_cache(tree: Tree, content: Shown) -> None:
    """A snapshot, with its files as those of a cache on a system without symbolic links: not by way of `blobs/`.

    A blob's name there would be its git id, which is not kept; no reader asks for it. The listing below `trees/` makes
    clients look for a snapshot by its commit without asking the Hub.
    """
    locator = content.locator
    if not isinstance(locator, HubLocator) or locator.file is not None:
        raise ViewInvalidError("only a whole repository of a Hub (hf://…/owner/name) can stand in a Hub client's cache")
    commit = _commit(content.config)
    folder = f"{locator.kind}s--{locator.repository.replace('/', '--')}"
    files = {}
    for title, layer in _titled(content.manifest):
        encoded = layer.digest.encoded
        # As of a large file, whose SHA-256 counts: the id that is asked for besides is not known here.
        files[title] = {"size": layer.size, "blob_id": encoded, "lfs_sha256": encoded, "lfs_size": layer.size}
        tree.add(Entry(f"{folder}/snapshots/{commit}/{title}", layer.digest))
    listing = json.dumps({"format_version": 1, "files": files})
    tree.add(Entry(f"{folder}/trees/{commit}.json", text=listing))
    if locator.revision != commit:
        tree.add(Entry(f"{folder}/refs/{locator.revision}", text=commit))


def _ollama(tree: Tree, content: Shown) -> None:
    """A manifest by its name, and every blob by its digest with a hyphen."""
    locator = content.locator
    if not isinstance(locator, OllamaLocator):
        raise ViewInvalidError("only a model of an Ollama registry (ollama://…) can stand in Ollama's models directory")
    name = f"{locator.host}/{locator.namespace}/{locator.model}/{locator.tag}"
    tree.add(Entry(f"manifests/{name}", content.root))
    for child in content.manifest.children:
        tree.add(Entry(f"blobs/{child.digest.algorithm}-{child.digest.encoded}", child.digest))


def _titled(manifest: Manifest) -> list[tuple[str, Descriptor]]:
    if manifest.is_index:
        raise ViewInvalidError("it is an index of several manifests, and has no files of its own")
    titled = [(layer.title, layer) for layer in manifest.layers if layer.title is not None]
    if not titled:
        raise ViewInvalidError("its layers have no file names")
    return titled


def _commit(config: bytes) -> str:
    try:
        commit = json.loads(config)["descriptor"]["revision"]
    except (ValueError, KeyError, TypeError, RecursionError):
        commit = None
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise ViewInvalidError("the config of the model does not tell its commit")
    return commit


def _check_case(locators: Iterable[Locator]) -> None:
    """Refuse names of models that differ by case alone, also in one part: Ollama spells each as it met it elsewhere."""
    spelled: dict[tuple[str, str], str] = {}
    for locator in locators:
        if not isinstance(locator, OllamaLocator):
            continue
        for part in ("host", "namespace", "model", "tag"):
            text = getattr(locator, part)
            known = spelled.setdefault((part, text.casefold()), text)
            if known != text:
                raise ViewInvalidError(
                    f"{locator.where}: Ollama takes {known!r} and {text!r} for one name: make a view for each"
                )


_KINDS: Mapping[str, Callable[[Tree, Shown], None]] = {"files": _files, "hf-cache": _hf_cache, "ollama": _ollama}
KINDS = tuple(_KINDS)
