"""The running daemon as commands see it: small JSON requests over a Unix socket, TCP or TLS, one connection each."""

import json
import select
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from nekko.cli.exits import BY_STATUS, CommandError, Exit
from nekko.config.address import Address, TcpAddress, UnixAddress

DEFAULT_ADDRESSES: tuple[Address, ...] = (UnixAddress(Path("/run/nekko/nekko.sock")), TcpAddress("localhost", 8050))
IMAGES_ADDRESS: Address = UnixAddress(Path("/run/nekko-images/nekko.sock"))
"""Of the image API as a process of its own."""
TIMEOUT_SECONDS = 60.0
"""For an answer that the daemon has at hand. A pull has no limit: it takes as long as it takes."""

UPLOAD_BYTES = 1 << 20
"""Of a file, read and sent at a time."""
MAX_REFUSAL_BYTES = 64 << 10
PAGE = 1000
"""Contents in one answer: the most that the daemon gives."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a daemon on another machine wants to see, and by what it is known. Without `tls`, plain HTTP is spoken."""

    token: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon said."""

    status: int
    body: Any
    """Parsed JSON; None for an empty body."""

    @property
    def is_error(self) -> bool:
        return self.status >= 400

    @property
    def problem(self) -> str:
        """The error in words."""
        told = self.body if isinstance(self.body, dict) else {}
        parts = [str(told[key]) for key in ("title", "detail", "message") if told.get(key)]
        return ": ".join(parts) or f"the daemon answered with status {self.status}"

    @property
    def exit(self) -> Exit:
        """How a command that got this ends."""
        return BY_STATUS.get(self.status, Exit.FAILED) if self.is_error else Exit.DONE

    def checked(self) -> "Answer":
        """Give itself.

        Raises:
            CommandError: It is an error.
        """
        if self.is_error:
            raise CommandError(self.problem, self.exit)
        return self


class Pending:
    """A request whose answer is not here yet."""

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection

    def wait(self, seconds: float | None = None) -> Answer | None:
        """Give the answer, or None if it has not begun to arrive after `seconds`.

        Raises:
            CommandError: The connection broke, or the answer is not nekko's.
        """
        poll = select.poll()
        poll.register(self._connection.sock, select.POLLIN)
        if seconds is not None and not poll.poll(seconds * 1000):
            return None
        try:
            response = self._connection.getresponse()
            raw = response.read()
            return Answer(response.status, json.loads(raw) if raw else None) if _is_ours(response) else _not_ours()
        except (OSError, HTTPException) as error:
            raise _broken(error) from error
        except ValueError:
            return _not_ours()
        finally:
            self._connection.close()

    @contextmanager
    def response(self) -> Iterator[HTTPResponse]:
        """Give the answer as it is, whatever its status; its connection ends with the block.

        Raises:
            CommandError: The answer is not nekko's.
        """
        try:
            with self._connection.getresponse() as response:
                if not _is_ours(response):
                    _not_ours()
                yield response
        finally:
            self._connection.close()

    def events(self) -> Iterator[tuple[str, Any]]:
        """Give the events of the answer, each by its name with its data, as they arrive.

        Raises:
            CommandError: The connection broke, or the answer is an error, or is not nekko's.
        """
        try:
            with self._connection.getresponse() as response:
                if not _is_ours(response):
                    _not_ours()
                if response.status >= 400:
                    Answer(response.status, json.loads(response.read())).checked()
                yield from _events_of(response)
        except (OSError, HTTPException) as error:
            raise _broken(error) from error
        except ValueError:
            _not_ours()
        finally:
            self._connection.close()


class Daemon:
    """The first of several addresses that takes a connection."""

    def __init__(self, addresses: Iterable[Address], access: Access | None = None, *, is_named: bool = False) -> None:
        self._addresses = tuple(addresses)
        self.is_named = is_named
        """Whether this very daemon is meant, rather than whichever is there."""
        self._access = access or Access()

    def start(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = TIMEOUT_SECONDS,
    ) -> Pending:
        """Send a request. The timeout limits each silence of the connection; None stands for no limit.

        Raises:
            CommandError: No daemon answers at any address.
        """
        connection = self._connect()
        connection.sock.settimeout(timeout_seconds)
        encoded = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if encoded else {}
        if self._access.token is not None:
            sent["Authorization"] = f"Bearer {self._access.token}"
        try:
            connection.request(method, path, encoded, sent | dict(headers or {}))
        except OSError as error:
            connection.close()
            raise _broken(error) from error
        return Pending(connection)

    def ask(self, method: str, path: str) -> Answer:
        """Send a request without a body and wait for its answer.

        Raises:
            CommandError: As `start` and `Pending.wait`.
        """
        answer = self.start(method, path).wait()
        assert answer is not None, "waiting without a limit gives an answer"
        return answer

    @contextmanager
    def open(self, path: str, headers: Mapping[str, str] | None = None) -> Iterator[HTTPResponse]:
        """Open the body of something that the daemon serves.

        Raises:
            CommandError: It does not serve that; or the connection broke, also inside of the block.
        """
        pending = self.start("GET", path, headers=headers)
        try:
            with pending.response() as response:
                if response.status >= 400:
                    text = response.read(MAX_REFUSAL_BYTES).decode("utf-8", "replace").strip()
                    raise CommandError(text, BY_STATUS.get(response.status, Exit.FAILED))
                yield response
        except (OSError, HTTPException) as error:
            raise _broken(error) from error

    def has(self, path: str) -> bool:
        """Tell whether the daemon serves something."""
        return not self.ask("HEAD", path).is_error

    def upload(self, path: str, file: BinaryIO, size: int) -> Answer:
        """Post a file, from its beginning, and wait for the answer for as long as that takes.

        Raises:
            CommandError: As `start` and `Pending.wait`.
        """
        connection = self._connect()
        connection.sock.settimeout(None)
        connection.blocksize = UPLOAD_BYTES
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        if self._access.token is not None:
            headers["Authorization"] = f"Bearer {self._access.token}"
        with suppress(ConnectionError):  # it may answer before it has everything; then that tells why
            connection.request("POST", path, file, headers)
        answer = Pending(connection).wait()
        assert answer is not None, "waiting without a limit gives an answer"
        return answer

    def contents(self, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[dict[str, Any]]:
        """Give every content that the daemon has, by name, page by page.

        Raises:
            CommandError: As `start` and `Pending.wait`, or the daemon refused.
        """
        return self.pages("/content/", "contents", timeout_seconds=timeout_seconds)

    def pages(self, path: str, what: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[dict[str, Any]]:
        """Give every item of a list of the API, which each page has as `what`.

        Raises:
            CommandError: As `start` and `Pending.wait`, or the daemon refused.
        """
        after = ""
        while True:
            asked = self.start("GET", f"{path}?limit={PAGE}{after}", timeout_seconds=timeout_seconds).wait()
            assert asked is not None, "waiting without a limit gives an answer"
            page = asked.checked().body
            yield from page[what]
            if not page.get("next"):
                return
            after = f"&after={quote(page['next'], safe='')}"

    def progress(self, path: str) -> Iterator[Mapping[str, Any]]:
        """Give what the events of a pull tell, until they end.

        However they end, it is no error here: the pull's own request tells how the pull ended.
        """
        connection = self._connect()
        try:
            connection.request("GET", path, headers={"Accept": "text/event-stream"})
            # Closed here, not when it is forgotten: a finalizer would swallow the interrupt that comes meanwhile.
            with connection.getresponse() as response:
                if response.status == 200 and _is_ours(response):
                    yield from (told for event, told in _events_of(response) if event == "progress")
        except (OSError, HTTPException, ValueError):
            return
        finally:
            connection.close()

    def is_there(self) -> bool:
        """Tell whether any address takes a connection."""
        try:
            self._connect().close()
        except CommandError:
            return False
        return True

    def holds(self, cache_dir: Path) -> bool:
        """Tell whether it answers, and is known to work on a cache: no other process may."""
        try:
            answer = self.ask("GET", "/admin/status")
        except CommandError:
            return False
        return not answer.is_error and bool(answer.body["cache_dir"] == str(cache_dir))

    def _connect(self) -> HTTPConnection:
        tried = []
        for address in self._addresses:
            try:
                # The name in the Host header of a Unix socket has no meaning; HTTP only wants one.
                host = address.host if isinstance(address, TcpAddress) else ""
                connection = HTTPConnection(host or "localhost")
                connection.sock = _open(address, self._access.tls)
            except ssl.SSLError as error:  # the right address, but not the right daemon: do not try another one
                reason = getattr(error, "verify_message", "") or error.reason or str(error)
                raise CommandError(f"{address}: TLS: {reason}", Exit.FAILED) from error
            except OSError as error:
                tried.append(f"{address} ({error.strerror or error})")
            else:
                self._addresses = (address,)
                return connection
        raise CommandError(
            f"no daemon answers; tried {', '.join(tried)}. Start it: systemctl start nekko.socket, or nekko serve",
            Exit.NO_DAEMON,
        )


def _open(address: Address, tls: ssl.SSLContext | None) -> socket.socket:
    if isinstance(address, TcpAddress):
        host = address.host or "localhost"
        opened = socket.create_connection((host, address.port), TIMEOUT_SECONDS)
        try:
            return opened if tls is None else tls.wrap_socket(opened, server_hostname=host)
        except OSError:
            opened.close()
            raise
    opened = socket.socket(socket.AF_UNIX)
    try:
        opened.settimeout(TIMEOUT_SECONDS)
        opened.connect(str(address.path))
    except OSError:
        opened.close()
        raise
    return opened


def _events_of(response: HTTPResponse) -> Iterator[tuple[str, Any]]:
    event = ""
    for line in response:
        key, _, value = line.decode("utf-8", "replace").rstrip("\n").partition(": ")
        if key == "event":
            event = value
        elif key == "data":
            yield event, json.loads(value)


def _is_ours(response: HTTPResponse) -> bool:
    return response.headers.get("Server", "").startswith("nekko")


def _not_ours() -> Answer:
    raise CommandError("the answer is not nekko's: is another program listening there?", Exit.FAILED)


def _broken(error: Exception) -> CommandError:
    return CommandError(f"the daemon broke off the connection: {error}", Exit.FAILED)
