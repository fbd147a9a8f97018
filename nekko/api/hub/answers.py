"""What the Hub's API says of a repository, written out of its listing: values in, values out.

Nothing names Xet here: siblings and entries are made anew, of the members that clients need. Source: `RepoFile`,
`RepoFolder`, `RepoSibling` and `ModelInfo` of huggingface_hub; git's format of tree objects.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from nekko.errors import UpstreamContentError
from nekko.sources.listing import Listing

Json = dict[str, Any]


def info(listing: Listing, *, has_blobs: bool) -> Json:
    """Describe a repository; with `has_blobs`, the sizes and hashes of its files as well."""
    told = {key: value for key, value in listing.told.items() if "xet" not in key.lower()}
    siblings = listing.told["siblings"]
    told["siblings"] = [_sibling(each) if has_blobs else {"rfilename": each["rfilename"]} for each in siblings]
    return told


def tree(listing: Listing, folder: str, *, is_recursive: bool) -> list[Json] | None:
    """List the files and folders in a folder, or below it; None if there is no such folder."""
    entries = _entries(listing)
    prefix = f"{folder}/" if folder else ""
    found = [entry for path, entry in entries.items() if path.startswith(prefix)]
    if folder and not found:
        return None
    return [entry for entry in found if is_recursive or "/" not in entry["path"].removeprefix(prefix)]


def paths_info(listing: Listing, paths: Iterable[str]) -> list[Json]:
    """Describe those of the paths that are there."""
    entries = _entries(listing)
    return [entries[path] for path in dict.fromkeys(paths) if path in entries]


def _sibling(told: Mapping[str, Any]) -> Json:
    given = {key: told[key] for key in ("rfilename", "size", "blobId") if told.get(key) is not None}
    if (lfs := told.get("lfs")) is not None and (size := lfs.get("size", told.get("size"))) is not None:
        given["size"] = size
        given["lfs"] = {"sha256": lfs["sha256"], "size": size, "pointerSize": _pointer_size(lfs["sha256"], size)}
    return given


def _entries(listing: Listing) -> dict[str, Json]:
    """Describe every file and folder, by path, in the order of their paths."""
    entries: dict[str, Json] = {}
    for told in listing.told["siblings"]:
        sibling = _sibling(told)
        path, lfs = sibling["rfilename"], sibling.get("lfs")
        if "size" not in sibling or "blobId" not in sibling:
            raise UpstreamContentError(f"{listing.where}: tells no size or no git id of {path}")
        entries[path] = {"type": "file", "path": path, "oid": sibling["blobId"], "size": sibling["size"]}
        if lfs is not None:
            entries[path]["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    for path, oid in _folders(entries).items():
        entries[path] = {"type": "directory", "path": path, "oid": oid, "size": 0}
    return dict(sorted(entries.items()))


def _folders(files: Mapping[str, Json]) -> dict[str, str]:
    """Give the git id of every folder. The Hub tells none; these are right where no file is executable or a link."""
    inside: dict[str, dict[bytes, bytes]] = {}
    for path, entry in files.items():
        folder, _, name = path.rpartition("/")
        inside.setdefault(folder, {})[_raw(name)] = b"100644 %b\0%b" % (_raw(name), bytes.fromhex(entry["oid"]))
        while folder:
            folder = folder.rpartition("/")[0]
            inside.setdefault(folder, {})
    found: dict[str, str] = {}
    for path in sorted(inside, key=lambda each: each.count("/"), reverse=True):
        if not path:
            continue
        body = b"".join(line for _, line in sorted(inside[path].items()))
        found[path] = hashlib.sha1(b"tree %d\0%b" % (len(body), body), usedforsecurity=False).hexdigest()
        folder, _, name = path.rpartition("/")
        # Git sorts a folder as if its name ended with a slash.
        inside[folder][_raw(f"{name}/")] = b"40000 %b\0%b" % (_raw(name), bytes.fromhex(found[path]))
    return found


def _raw(name: str) -> bytes:
    """Encode a name; what is no Unicode the Hub's JSON may hold nevertheless."""
    return name.encode(errors="surrogatepass")


def _pointer_size(sha256: str, size: int) -> int:
    """Give the size of what git keeps of a large file. Source: the Git LFS specification, "The Pointer"."""
    return len(f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n")
