"""Accepting connections, and stopping."""

import logging
from collections.abc import Sequence
from functools import partial

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework

from nekko.config.settings import Settings
from nekko.server.connection import Connection, Service
from nekko.server.http1 import ServerConfig
from nekko.server.listeners import Listener, close_all
from nekko.server.simple import AtOnce
from nekko.server.soon import Soon

log = logging.getLogger(__name__)

IDLE_SECONDS = 20.0
FILE_THREADS = 8
"""Threads that may read files for sending at one time."""
UPLOAD_THREADS = 16
"""Large uploads that have a thread of their own each, as long as they last; others go through the event loop."""


async def serve(
    app: ASGIFramework,
    listeners: Sequence[Listener],
    *,
    settings: Settings,
    stop: trio.Event,
    at_once: AtOnce | None = None,
    soon: Soon | None = None,
    idle_seconds: float = IDLE_SECONDS,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application on all listeners until `stop` is set and the stop is done.

    At the stop nothing new is accepted, connections without a running request are closed at once, running answers may
    go on for `graceful_stop_seconds`, and what is left then is cut.

    Args:
        app: Is sent HTTP requests only, no lifespan events.
        at_once: Is asked first with each simple request; what it has is sent, and `app` does not see the request.
        soon: Is asked next, with simple uploads as well; needs `at_once`.
        idle_seconds: A connection may be without a request for so long, and take so long to send the head of one.

    Reports `started` once it accepts.
    Cancellation: Cuts everything at once.
    Ownership: The listeners are closed at the end.
    """
    config = ServerConfig()
    config.keep_alive_timeout = idle_seconds
    context = WorkerContext(None)
    service = Service(
        ASGIWrapper(app),
        config,
        context,
        settings.send_timeout_seconds,
        trio.CapacityLimiter(FILE_THREADS),
        at_once,
        soon,
        trio.CapacityLimiter(UPLOAD_THREADS),
    )
    try:
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    handler = partial(_serve_connection, service, listener)
                    accepting.start_soon(
                        partial(trio.serve_listeners, handler, listener.sockets, handler_nursery=connections)
                    )
                task_status.started()
                await stop.wait()
                for listener in listeners:
                    listener.remove_file()
                accepting.cancel_scope.cancel()
            connections.cancel_scope.deadline = trio.current_time() + settings.graceful_stop_seconds
            await context.terminated.set()
            for connection in service.connections:
                connection.close_if_idle()
    finally:
        close_all(listeners)


async def _serve_connection(service: Service, listener: Listener, stream: trio.SocketStream) -> None:
    """Serve one connection. Whatever goes wrong in it ends neither the others nor the server."""
    name = f"a peer by {listener.name}"
    try:
        try:
            connection = Connection(service, listener, stream)
        except OSError as error:
            log.debug("%s: left before it was served: %s", name, error)
            return
        name = connection.name
        await connection.run()
    except* Exception as group:
        log.error("%s: the connection failed", name, exc_info=group)
