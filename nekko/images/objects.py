"""The objects: what they are made of, and which of them stand on which."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nekko.images.steps import Step

SECRETS = ("credentials", "password", "password_in", "secret")
"""Fields of definitions, and of the `options` in them, that are neither shown nor kept."""

Type = Literal["attach", "mount", "container"]
State = Literal["creating", "ready", "removing"]
"""`creating`: nobody may refer to it yet. `removing`: nobody may any more; if that fails, `error` says why."""


@dataclass(eq=False, slots=True)
class Object:
    """One attachment, mount or container.

    `definition` is as it was given, but that a nested object is `{"id": …}`; secrets are not in it. `children` has the
    id of each object it stands on, once for each time it names it. `is_held`: made by a request of its own, so it
    stays until it is deleted. `product` is the device or the directory it yields. `kept` are the digests of the blobs
    that it needs of the cache, `layers` the unpacked layers. `told` are further fields that readers see.
    """

    id: int
    type: Type
    definition: dict[str, Any]
    is_held: bool
    state: State = "creating"
    children: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    product: str = ""
    kept: list[str] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def kind(self) -> str:
        """The kind of an attachment or mount."""
        return str(self.definition.get("kind", ""))

    def __str__(self) -> str:
        return f"{self.type} {self.id}"


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a definition where another object is nested or referred to."""

    holder: Any
    key: Any
    type: Type

    @property
    def value(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.holder[self.key]
        return found

    def fill(self, value: Mapping[str, Any]) -> None:
        """Put something else there."""
        self.holder[self.key] = value


def slots(type_: Type, definition: Mapping[str, Any]) -> Iterator[Slot]:
    """Give the places of a definition that name other objects, in the order in which those are made."""
    if type_ == "container":
        yield Slot(definition, "mount", "mount")
        return
    kind = str(definition.get("kind", ""))
    own = definition.get(kind, {})
    if kind == "overlay":
        yield from (Slot(own["lower"], number, "mount") for number in range(len(own.get("lower", ()))))
    elif kind == "attach":
        yield Slot(own, "attach", "attach")
    elif kind in ("loopback", "bind") and own.get("base") == "mount" and own.get("mount"):
        yield Slot(own, "mount", "mount")


def take_secrets(definition: Mapping[str, Any]) -> dict[str, str]:
    """Take the secrets of an object itself, not of what is nested, out of its definition; give them by their names."""
    own = definition.get(str(definition.get("kind", "")), {})
    options = own.get("options")
    holders = [own, options] if isinstance(options, dict) else [own]
    return {name: holder.pop(name) for holder in holders for name in SECRETS if name in holder}


def separate(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Give a copy of a definition that may be changed."""
    return copy.deepcopy(dict(definition))
