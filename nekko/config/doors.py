"""Doors: the parts of the API, as a process or one of its listeners serves them. Health is told at every one."""

from collections.abc import Mapping
from dataclasses import dataclass

from nekko.config.address import Address, parse_address
from nekko.errors import ConfigInvalidError

DOORS: Mapping[str, str] = {
    "content": "/content/            pull a URL, list; /content/<base64 of the URL> shows and removes",
    "ollama": "/v2/                 Ollama's models, cached: ollama pull --insecure this.host:port/library/llama3",
    "registry": "/v2/                 pull images through: containerd, podman, skopeo, docker",
    "hub": "/hf/                 the Hugging Face Hub, cached: HF_ENDPOINT=http://this.host:port/hf",
    "files": "/<sha256>, /status   a file by its hash, fetched or stored",
    "admin": "/ui, /admin/         a page for people; pins, pruning, verifying, views, sync; /metrics",
    "images": "/imageapi/v1/        attach, mount and run system images (root)",
}
"""Every door, with its line of the front page."""
OF_ROOT = frozenset({"images"})
"""Doors that are the host's root: served only where they are asked for, and on TCP only where a listener names them."""
USUAL = tuple(door for door in DOORS if door not in OF_ROOT)
"""What a process serves that is not told."""


METRICS = "metrics"
"""What only a listener has, for who may see nothing else of the door `admin`: `/metrics`."""


@dataclass(frozen=True, slots=True)
class Listen:
    """An address and the doors that it has."""

    address: Address
    doors: frozenset[str]

    @property
    def is_plain(self) -> bool:
        """Whether it speaks plain HTTP, whatever else speaks TLS.

        Who asks for health or metrics alone has no certificate, and learns no secret: a kubelet's probe, for instance.
        """
        return self.doors <= {METRICS}


def parse_door(text: str) -> str:
    """Give the name of a door, checked.

    Raises:
        ConfigInvalidError: There is none of that name.
    """
    if text not in DOORS:
        raise ConfigInvalidError(f"{text[:200]!r} is not a door: there are {', '.join(DOORS)}")
    return text


def parse_listen(text: str) -> Listen:
    """Read `address=door,door`; `address=health` has no door, and tells only how the daemon is, `address=metrics` what
    it counts besides.

    Raises:
        ConfigInvalidError: Any other form; the message says what is wrong.
    """
    address, mark, doors = text.rpartition("=")
    if not mark:
        raise ConfigInvalidError(f"{text[:200]!r} names no doors: write address=door,door")
    if doors.strip() == "health":
        return Listen(parse_address(address), frozenset())
    if doors.strip() == METRICS:
        return Listen(parse_address(address), frozenset({METRICS}))
    return Listen(parse_address(address), frozenset(parse_door(door.strip()) for door in doors.split(",")))
