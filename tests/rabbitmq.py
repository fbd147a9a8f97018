"""A real RabbitMQ as a process on loopback, from Debian's package, and a client that listens to it."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from pika import BlockingConnection, ConnectionParameters

from tests.servers import free_port, running

PROGRAM = next(iter(sorted(Path("/usr/lib/rabbitmq/lib").glob("*/sbin/rabbitmq-server"))), None)
"""The one below the wrapper, which would become another user and write below /var."""
START_SECONDS = 90.0
WAIT_SECONDS = 30.0


class RabbitMQ:
    """A server with its own data, node name and ports; runs from `start` to `stop`, again and again."""

    def __init__(self, directory: Path, tls: tuple[Path, Path] | None = None) -> None:
        """Keep everything in a directory; with a certificate and its key, also listen for TLS."""
        if PROGRAM is None or shutil.which("epmd") is None:
            pytest.skip("rabbitmq-server is not installed")
        self.port, self.tls_port, self._names_port = free_port(), free_port(), free_port()
        self._directory, self._running = directory, ExitStack()
        directory.mkdir()
        lines = [f"listeners.tcp.default = 127.0.0.1:{self.port}"]
        if tls is not None:
            lines += [f"listeners.ssl.default = 127.0.0.1:{self.tls_port}", f"ssl_options.certfile = {tls[0]}",
                      f"ssl_options.keyfile = {tls[1]}"]  # fmt: skip
        (directory / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (directory / "plugins").write_text("[].")
        (directory / "env").touch()

    def start(self) -> None:
        here = self._directory
        epmd = ["epmd", "-port", str(self._names_port), "-address", "127.0.0.1"]
        self._running.enter_context(running(epmd, self._names_port, here / "epmd.log"))
        environ = {
            "HOME": str(here), "PATH": os.environ["PATH"], "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._names_port), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "test@localhost", "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": f"{here}/mnesia", "RABBITMQ_LOG_BASE": f"{here}/log",
            "RABBITMQ_CONFIG_FILE": f"{here}/rabbitmq", "RABBITMQ_CONF_ENV_FILE": f"{here}/env",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/plugins",
            "RUNNING_UNDER_SYSTEMD": "true",  # no shell stays in front of the server, so that signals reach it
        }  # fmt: skip
        command = ["env", "-i", *(f"{name}={value}" for name, value in environ.items()), str(PROGRAM)]
        self._process = self._running.enter_context(running(command, self.port, here / "server.log", START_SECONDS))

    def stop(self) -> None:
        self._running.close()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the server be there, and do nothing."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def uri(self, rest: str = "") -> str:
        return f"amqp://127.0.0.1:{self.port}/{rest}"

    @contextmanager
    def connected(self) -> Iterator[BlockingConnection]:
        with BlockingConnection(ConnectionParameters("127.0.0.1", self.port)) as connection:
            yield connection

    def bind(self, queue: str, exchange: str = "stor", routing_key: str = "sha") -> None:
        """Have what comes to an exchange kept in a queue; both outlast the server's end."""
        with self.connected() as connection:
            channel = connection.channel()
            channel.exchange_declare(exchange, "topic", durable=True)
            channel.queue_declare(queue, durable=True)
            channel.queue_bind(queue, exchange, routing_key)

    def take(self, queue: str, count: int) -> list[str]:
        """Give the next messages of a queue, after a wait for them."""
        found: list[str] = []
        with self.connected() as connection:
            channel = connection.channel()
            for method, _, body in channel.consume(queue, inactivity_timeout=WAIT_SECONDS):
                assert method is not None, f"only {found}"
                channel.basic_ack(method.delivery_tag)
                found.append(body.decode())
                if len(found) == count:
                    break
        return found
