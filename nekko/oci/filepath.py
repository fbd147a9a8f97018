"""Paths of files as strangers list them: which are safe to join to a folder of ours."""

import re

_MAX_BYTES = 4095  # Linux: PATH_MAX, less the NUL
_MAX_COMPONENT_BYTES = 255  # Linux: NAME_MAX
_REFUSED = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")
_DRIVE = re.compile(r"[A-Za-z]:")


def fault_of(path: str) -> str | None:
    """Tell why a path cannot be used as a relative one with `/` between its folders; None if it can."""
    if _REFUSED.search(path):
        return "holds a control character, a backslash or a lone surrogate"
    if path.startswith("/") or _DRIVE.match(path):
        return "is absolute"
    components = path.split("/")
    if not {"", ".", ".."}.isdisjoint(components):
        return "has an empty part, or one that is . or .."
    if len(path.encode()) > _MAX_BYTES or any(len(part.encode()) > _MAX_COMPONENT_BYTES for part in components):
        return (
            f"is longer than the {_MAX_BYTES} bytes, or a part of it than the {_MAX_COMPONENT_BYTES}, of a Linux path"
        )
    return None
