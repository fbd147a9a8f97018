"""Accepting connections, and stopping."""

import logging
from collections.abc import Sequence
from functools import partial

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework

from nekko.config.settings import Settings
from nekko.server.connection import Connection
from nekko.server.listeners import Listener

IDLE_SECONDS = 20.0
"""A connection may idle this long between requests, and take this long for the head of one (a slow loris)."""


async def serve(
    app: ASGIFramework,
    listeners: Sequence[Listener],
    *,
    settings: Settings,
    stop: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application on all listeners until `stop` is set and the stop is done.

    At the stop nothing new is accepted, idle connections are closed at once, running answers may go on for
    `graceful_stop_seconds`, and what is left then is cut.

    Reports `started` once it accepts. Cancellation: cuts everything at once.
    """
    config = Config()
    config.keep_alive_timeout = IDLE_SECONDS
    config.keep_alive_max_requests = 1_000_000
    config.include_server_header = False
    config.errorlog = logging.getLogger("nekko.server.app")
    context = WorkerContext(None)
    wrapped = ASGIWrapper(app)
    try:
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    handler = partial(_connected, wrapped, config, context, listener, settings)
                    accepting.start_soon(
                        partial(trio.serve_listeners, handler, listener.sockets, handler_nursery=connections)
                    )
                task_status.started()
                await stop.wait()
                accepting.cancel_scope.cancel()
            await context.terminated.set()
            connections.cancel_scope.deadline = trio.current_time() + settings.graceful_stop_seconds
    finally:
        for listener in listeners:
            listener.close()


async def _connected(
    app: ASGIWrapper,
    config: Config,
    context: WorkerContext,
    listener: Listener,
    settings: Settings,
    stream: trio.SocketStream,
) -> None:
    secured = trio.SSLStream(stream, listener.tls, server_side=True, https_compatible=True) if listener.tls else stream
    await Connection(
        app, config, context, secured,
        listener=listener.name, is_local=listener.is_local, send_timeout_seconds=settings.send_timeout_seconds,
    ).run()  # fmt: skip
