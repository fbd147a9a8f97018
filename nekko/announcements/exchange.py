"""The far end: an exchange of a RabbitMQ server, by a connection of its own. The only code that knows pika."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pika import BlockingConnection, ConnectionParameters, PlainCredentials, SSLOptions
from pika.adapters.utils.connection_workflow import (
    AMQPConnectorException,
    AMQPConnectorPhaseErrorBase,
    AMQPConnectorStackTimeout,
)
from pika.exceptions import AMQPError, ChannelClosed, ConnectionClosed, StreamLostError

from nekko.config.amqp import Broker
from nekko.errors import AnnouncementError

_FAULTS = (AMQPError, AMQPConnectorException, OSError)


class Exchange:
    """An exchange that messages can be sent to. Its methods block, and are for one thread at a time.

    After an error it is closed, and of no more use.
    """

    def __init__(self, broker: Broker, timeout_seconds: float) -> None:
        """Connect, and declare the exchange.

        Raises:
            AnnouncementError: The server is not there, did not answer in time, or refuses.
        """
        self._broker = broker
        self._connection: BlockingConnection | None = None
        with self._watched():
            self._connection = BlockingConnection(_parameters(broker, timeout_seconds))
            self._channel = self._connection.channel()
            self._declare()

    def send(self, messages: list[str]) -> None:
        """Send messages; the list is empty once the server has them all.

        Raises:
            AnnouncementError: It may have some of them. The list is as it was.
        """
        with self._watched():
            for message in messages:
                self._channel.basic_publish(self._broker.exchange, self._broker.routing_key, message.encode())
            # A channel is served in order: the answer to this says that the messages before it have arrived. A
            # confirmation of each, as the library waits for them, would be a round trip of each.
            self._declare()
        messages.clear()

    def keep(self) -> None:
        """Answer what the server asks, such as whether this is alive.

        Raises:
            AnnouncementError: The connection is gone.
        """
        with self._watched():
            assert self._connection is not None
            self._connection.process_data_events()

    def close(self) -> None:
        """Close the connection, if it is open; a server that is gone is not told."""
        if self._connection is not None and self._connection.is_open:
            with suppress(*_FAULTS):
                self._connection.close()

    def _declare(self) -> None:
        self._channel.exchange_declare(self._broker.exchange, "topic", durable=True)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except _FAULTS as error:
            self.close()
            raise AnnouncementError(f"{self._broker}: {_words(error)}") from error


def _parameters(broker: Broker, timeout_seconds: float) -> ConnectionParameters:
    tls = SSLOptions(ssl.create_default_context(), broker.host) if broker.scheme == "amqps" else None
    return ConnectionParameters(
        broker.host,
        broker.port,
        broker.virtual_host,
        PlainCredentials(broker.username, broker.password),
        heartbeat=broker.heartbeat_seconds,
        ssl_options=tls,
        socket_timeout=timeout_seconds,
        stack_timeout=timeout_seconds,
        blocked_connection_timeout=timeout_seconds,
        client_properties={"connection_name": f"nekko on {socket.gethostname()}"},
    )


def _words(error: BaseException) -> str:
    """Say what happened: the library wraps causes in each other, and has for some no words but those for programs."""
    if isinstance(error, AMQPConnectorStackTimeout):
        return "no answer"
    if isinstance(error, StreamLostError):
        return "the connection was lost"
    if isinstance(error, ConnectionClosed | ChannelClosed):
        return str(error.reply_text)
    if isinstance(error, AMQPConnectorPhaseErrorBase):
        return _words(error.exception)
    if error.args and isinstance(error.args[0], AMQPConnectorException):
        return _words(error.args[0])
    return str(error) or type(error).__name__
