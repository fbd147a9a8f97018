"""The grammar of an AMQP URI as Stor has it: `amqp://user:password@host:port/vhost?exchange=…&routing_key=…`."""

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from nekko.errors import ConfigInvalidError

_PORTS = {"amqp": 5672, "amqps": 5671}
_OPTIONS = ("exchange", "routing_key", "heartbeat")
_HOST = re.compile(r"[A-Za-z0-9._:-]+")
_HEARTBEAT = re.compile("[0-9]{1,5}", re.ASCII)
MAX_NAME_BYTES = 255
"""Of the protocol, for virtual hosts, exchanges and routing keys."""
MAX_HEARTBEAT_SECONDS = 65535


@dataclass(frozen=True, slots=True)
class Broker:
    """A RabbitMQ server, and where in it messages go. `str` and `repr` leave the password out."""

    scheme: str
    host: str
    port: int
    virtual_host: str = "/"
    username: str = "guest"
    password: str = field(default="guest", repr=False)
    exchange: str = "stor"
    routing_key: str = "sha"
    heartbeat_seconds: int = 60
    """0: none."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/{quote(self.virtual_host, safe='')}"


def is_amqp(text: str) -> bool:
    """Tell whether a URI is one that Stor announces to; any other it passes over."""
    return text.lower().startswith("amqp")


def parse_broker(text: str) -> Broker:
    """Read an AMQP URI; what it does not say is as with Stor. No path, or `/`, is the virtual host `/`.

    Raises:
        ConfigInvalidError: Any other form. Nothing of the text is shown but the names of options: it has a password.
    """
    try:
        text.encode()  # bytes that are no UTF-8 could not be sent
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:  # its words show what stands where the port should be
        raise ConfigInvalidError(f"{_FORM}: its host, port, options or characters cannot be read") from error
    if parts.scheme not in _PORTS:
        raise ConfigInvalidError(f"{_FORM}: it begins with neither amqp:// nor amqps://")
    if not _HOST.fullmatch(host) or port == 0 or parts.fragment:
        raise ConfigInvalidError(f"{_FORM}: it has no host, port 0, or a character that has to be written as %XX")
    if "/" in parts.path[1:]:
        raise ConfigInvalidError(f"{_FORM}: a virtual host with a slash is written with %2F")
    given = dict(options)
    if len(given) < len(options) or (unknown := sorted(set(given) - set(_OPTIONS))):
        wrong = f"{unknown[0][:50]!r} is none" if len(given) == len(options) else "one is there twice"
        raise ConfigInvalidError(f"{_FORM}: its options are {', '.join(_OPTIONS)}; {wrong}")
    return Broker(
        parts.scheme,
        host,
        port or _PORTS[parts.scheme],
        _name("its virtual host", unquote(parts.path[1:]) or "/"),
        unquote(parts.username or "guest"),
        "guest" if parts.password is None else unquote(parts.password),
        _name("exchange", given.get("exchange", "stor")),
        _name("routing_key", given.get("routing_key", "sha"), least=0),
        _heartbeat(given.get("heartbeat", "60")),
    )


_FORM = "not an AMQP URI such as amqp://user:password@host:5672/vhost"


def _name(what: str, value: str, *, least: int = 1) -> str:
    if not least <= len(value.encode()) <= MAX_NAME_BYTES:
        raise ConfigInvalidError(f"{_FORM}: {what} has to have {least} to {MAX_NAME_BYTES} bytes")
    return value


def _heartbeat(value: str) -> int:
    if not _HEARTBEAT.fullmatch(value) or int(value) > MAX_HEARTBEAT_SECONDS:
        raise ConfigInvalidError(f"{_FORM}: heartbeat has to be seconds from 0 to {MAX_HEARTBEAT_SECONDS}")
    return int(value)
