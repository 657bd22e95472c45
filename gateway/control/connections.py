"""Connections to the control port, with the deadlines that aiohttp does not have.

A connection is closed that does not bring a whole head in time, is idle for too long, or does not take its
answer; of more than `MAX_CONNECTIONS` none is taken. A body has a deadline of its own (`performing`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from socket import socket
from typing import Any

import structlog
from aiohttp import web

from gateway.settings import Server

MAX_CONNECTIONS = 500  # well below the 1,024 descriptors that a process often has
ANSWER_TIMEOUT_S = 60.0  # without a byte of the answer being taken
LISTEN_BACKLOG = 128

log = structlog.get_logger("gateway.control")


class Connection(web.RequestHandler):
    """One connection; `head_came` is called with each request, as only the application sees those."""

    __slots__ = ("_answering", "_port", "_waiting")

    def __init__(self, port: Port, server: web.Server, idle_timeout_s: float) -> None:
        """Keep who counts it; aiohttp closes it itself when it is idle."""
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=idle_timeout_s,
            access_log=None,  # type: ignore[arg-type]  # the application writes one
            auto_decompress=False,
        )
        self._port = port
        self._waiting: asyncio.TimerHandle | None = None
        self._answering: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a head."""
        super().connection_made(transport)
        if self._port.takes(self):
            head_timeout_s = self._port.settings().head_timeout_s
            self._waiting = asyncio.get_running_loop().call_later(head_timeout_s, self._give_up)
        else:
            self._give_up()

    def head_came(self) -> None:
        """Wait no longer: of the heads after the first one the time of being idle is the deadline."""
        if self._waiting is not None:
            self._waiting.cancel()

    def pause_writing(self) -> None:
        """Begin to watch whether the answer is taken."""
        super().pause_writing()
        self._watch(None)

    def resume_writing(self) -> None:
        """It was taken."""
        if self._answering is not None:
            self._answering.cancel()
        super().resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Wait for nothing any more."""
        for timer in (self._waiting, self._answering):
            if timer is not None:
                timer.cancel()
        self._port.lost(self)
        super().connection_lost(exc)

    def _watch(self, left_before: int | None) -> None:
        if self.transport is None:
            return
        left = self.transport.get_write_buffer_size()
        if left == left_before:
            self._give_up()
        else:
            loop = asyncio.get_running_loop()
            self._answering = loop.call_later(ANSWER_TIMEOUT_S, self._watch, left)

    def _give_up(self) -> None:
        transport = self.transport
        self.force_close()
        if transport is not None:
            transport.abort()  # closing would wait for the rest of an answer to be taken


class Port:
    """The control port, which stays bound while its TLS is replaced."""

    def __init__(self, server: web.Server, listening: socket, settings: Callable[[], Server]) -> None:
        """Keep what answers requests and where; nobody is let in before `open`."""
        self.settings = settings
        self._web = server
        self._socket = listening
        self._server: asyncio.AbstractServer | None = None
        self._connections: set[Connection] = set()
        self._is_full = False

    async def open(self, tls: ssl.SSLContext | None) -> None:
        """Answer from now on under `tls`; connections that stand are left as they are."""
        former = self._server
        self._server = await asyncio.get_running_loop().create_server(
            self._connection, sock=self._socket.dup(), ssl=tls, backlog=LISTEN_BACKLOG
        )
        if former is not None:
            former.close()

    def close(self) -> None:
        """Let go of the port; whoever runs the web server ends what is left of its connections."""
        if self._server is not None:
            self._server.close()
        self._socket.close()

    def takes(self, connection: Connection) -> bool:
        """Count a connection, unless there are too many."""
        if len(self._connections) >= MAX_CONNECTIONS:
            if not self._is_full:
                log.warning("connections are closed at once, as too many stand", standing=MAX_CONNECTIONS)
            self._is_full = True
            return False
        self._connections.add(connection)
        return True

    def lost(self, connection: Connection) -> None:
        """Count it no longer."""
        self._connections.discard(connection)
        if len(self._connections) < MAX_CONNECTIONS // 2:
            self._is_full = False

    def _connection(self) -> Connection:
        return Connection(self, self._web, self.settings().idle_timeout_s)


def head_came(request: web.Request) -> None:
    """Tell a request's connection that its head is whole."""
    protocol: Any = request.protocol
    if isinstance(protocol, Connection):  # not that of another server, such as one of tests
        protocol.head_came()
