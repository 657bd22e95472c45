"""All connections of one worker to one upstream: who gets which, and when one is let go."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque

from gateway.failures import Failure
from gateway.proxy.heads import RequestHead
from gateway.proxy.known_answers import KnownAnswers
from gateway.proxy.upstream import AnswerSink, UpstreamConnection
from gateway.settings import Upstream


class UpstreamPool:
    """All connections of one worker to one upstream."""

    def __init__(self, upstream: Upstream, loop: asyncio.AbstractEventLoop) -> None:
        self.upstream = upstream
        self._loop = loop
        self.head = RequestHead(upstream)
        self.known_answers = KnownAnswers()
        self.connect_timeout_s = upstream.connect_timeout_s
        self.answer_timeout_s = upstream.answer_timeout_s
        self._idle_s = upstream.idle_s
        self._ssl = _tls_context(upstream)
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiting: deque[AnswerSink] = deque()
        self._closing = False

    @property
    def open_connections(self) -> int:
        """Return how many connections stand, idle ones included."""
        return len(self._open)

    @property
    def idle_connections(self) -> int:
        """Return how many connections wait for a call."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Return how many exchanges wait for a connection."""
        return len(self._waiting)

    def acquire(self, exchange: AnswerSink) -> None:
        """Give the exchange a connection: an idle one at once, else a new one or the next that gets free."""
        now = self._loop.time()
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.closed or connection.transport.is_closing():
                continue
            if now - connection.idle_since > self._idle_s:
                connection.abort()
                continue
            connection.serve(exchange)
            exchange.on_connected(connection)
            return
        if self._has_room():
            self._connect_for(exchange)
        else:
            self._waiting.append(exchange)

    def withdraw(self, exchange: AnswerSink) -> None:
        """Forget an exchange that no longer wants a connection."""
        with contextlib.suppress(ValueError):
            self._waiting.remove(exchange)

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection whose answer has ended."""
        connection.unhold()
        if self._waiting:
            exchange = self._waiting.popleft()
            connection.serve(exchange)
            exchange.on_connected(connection)
        elif self._closing:
            connection.abort()
        else:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """Drop a connection that is lost, and open another if somebody waits."""
        self._open.discard(connection)
        self._serve_waiting()

    def sweep(self) -> None:
        """Close connections that have been idle too long."""
        oldest = self._loop.time() - self._idle_s
        kept = []
        for connection in self._idle:
            if connection.idle_since < oldest or connection.closed:
                connection.abort()
            else:
                kept.append(connection)
        self._idle = kept

    def retire(self) -> None:
        """Close idle connections now and the others when no call wants them any more, those that wait among
        them: the upstream left the settings."""
        self._closing = True
        for connection in self._idle:
            connection.abort()
        self._idle = []

    def close(self) -> None:
        """Close every connection."""
        self._closing = True
        self._waiting.clear()
        for task in self._connecting:
            task.cancel()
        for connection in list(self._open):
            connection.abort()

    def _connect_for(self, exchange: AnswerSink) -> None:
        task = self._loop.create_task(self._connect(exchange))
        self._connecting.add(task)
        task.add_done_callback(self._on_attempted)

    def _on_attempted(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Open a connection for whoever waits longest, where there is room for one more."""
        if self._waiting and self._has_room():
            self._connect_for(self._waiting.popleft())

    def _has_room(self) -> bool:
        return len(self._open) + len(self._connecting) < self.upstream.max_connections

    async def _connect(self, exchange: AnswerSink) -> None:
        upstream = self.upstream
        try:
            async with asyncio.timeout(upstream.connect_timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: UpstreamConnection(self),
                    upstream.host,
                    upstream.port,
                    ssl=self._ssl,
                    server_hostname=upstream.host if self._ssl else None,
                )
        except TimeoutError:
            exchange.on_connect_failed(Failure.UPSTREAM_TIMEOUT)
        except OSError:
            exchange.on_connect_failed(Failure.UPSTREAM_UNREACHABLE)
        else:
            if connection.closed:  # lost while it was handed over
                exchange.on_connect_failed(Failure.UPSTREAM_UNREACHABLE)
                return
            self._open.add(connection)
            connection.serve(exchange)
            exchange.on_connected(connection)


def _tls_context(upstream: Upstream) -> ssl.SSLContext | None:
    if not upstream.tls:
        return None
    context = ssl.create_default_context(cafile=str(upstream.ca_file) if upstream.ca_file else None)
    context.set_alpn_protocols(["http/1.1"])
    return context
