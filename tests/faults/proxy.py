"""A TCP proxy between two parties of which one is to see the other fail.

Bytes pass as they come. A fault is armed by the number of times it is to strike; each strikes one request
(one read from the client), the next that comes on any connection:

    request_lost   the request does not arrive, and the connection breaks
    reply_lost     the request arrives, its reply does not, and the connection breaks
    reply_cut      the reply breaks off in its middle
    half_open      nothing passes any more, in either direction, though the connection stands, for
                   `half_open_s` or for good
    delay          the reply comes `delay_s` later

Besides, all connections can be cut, new ones refused, and a Redis be played that answers with an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import AsyncIterator
from typing import Any, cast

import hiredis

FAULTS = ("request_lost", "reply_lost", "reply_cut", "half_open", "delay")
HIGH_WATER_BYTES = 1 << 20


class FaultProxy:
    """One listening port in front of one server, whose faults are struck by a seeded chance."""

    def __init__(self, target: str | tuple[str, int], seed: int = 0) -> None:
        """Take the path of a Unix socket, or host and port."""
        self.target = target
        self.chance = random.Random(seed)
        self.delay_s = 0.05
        self.half_open_s: float | None = None
        self.refusing = False  # new connections are closed at once
        self.silent = False  # nothing passes; the connections that stand now stay silent for good
        self.error: bytes | None = None  # what a played Redis answers to every command
        self.struck: Counter[str] = Counter()
        self.port = 0
        self._armed: deque[str] = deque()
        self._links: set[_Link] = set()

    def arm(self, fault: str, times: int = 1) -> None:
        """Strike the next requests; raises ValueError for a fault that there is not."""
        if fault not in FAULTS:
            raise ValueError(f"{fault} is none of {', '.join(FAULTS)}")
        self._armed.extend([fault] * times)

    @property
    def armed(self) -> int:
        """Return how many faults still wait for a request."""
        return len(self._armed)

    @property
    def connections(self) -> int:
        """Return how many connections stand."""
        return len(self._links)

    def disarm(self) -> None:
        """Forget what has not struck, and pass everything on again."""
        self._armed.clear()
        self.refusing = self.silent = False
        self.error = None

    def cut(self, *, one: bool = False) -> None:
        """Break all connections, or one of them."""
        links = sorted(self._links, key=id)
        for link in [self.chance.choice(links)] if one and links else links:
            link.cut()
        self.struck["cut"] += 1

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[FaultProxy]:
        """Listen on a port of its own until the block ends."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Link(self), "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for link in list(self._links):
                link.cut()

    def strike(self) -> str | None:
        """Return the fault for a request that has come, if it is to have one."""
        if not self._armed:
            return None
        fault = self._armed.popleft()
        self.struck[fault] += 1
        return fault

    def add(self, link: _Link) -> None:
        """Keep a connection."""
        self._links.add(link)

    def drop(self, link: _Link) -> None:
        """Forget a connection."""
        self._links.discard(link)


class _Link(asyncio.Protocol):
    """A client's side of a connection; the server's side hangs on it."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._transport: asyncio.Transport
        self._server: _ServerSide | None = None
        self._early: list[bytes] = []
        self._connecting: asyncio.Task[None] | None = None
        self._dead = False  # half-open: stays silent until the client gives up
        self._fault: str | None = None
        self._late: list[bytes] | None = None  # a delayed reply
        self._commands: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(HIGH_WATER_BYTES)
        if self._proxy.refusing:
            self._transport.abort()
            return
        self._proxy.add(self)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        target = self._proxy.target
        try:
            if isinstance(target, str):
                _, server = await loop.create_unix_connection(lambda: _ServerSide(self), target)
            else:
                _, server = await loop.create_connection(lambda: _ServerSide(self), *target)
        except OSError:
            self._transport.abort()
            return
        self._server = server
        if self._transport.is_closing():
            server.transport.abort()
            return
        early, self._early = self._early, []
        for data in early:
            server.transport.write(data)

    def data_received(self, data: bytes) -> None:
        proxy = self._proxy
        if proxy.silent:
            self._dead = True
        if self._dead:
            return
        if proxy.error is not None:
            self._answer_errors(data, proxy.error)
            return
        fault = proxy.strike()
        if fault is not None:
            self._fault = fault
            if fault == "request_lost":
                self.cut()
                return
            if fault == "half_open":
                self._dead = True
                if proxy.half_open_s is not None:
                    asyncio.get_running_loop().call_later(proxy.half_open_s, self.cut)
                if proxy.chance.random() < 0.5:
                    return  # the request does not arrive; else it is the reply alone that does not
        self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        if self._server is None:
            self._early.append(data)
        else:
            self._server.transport.write(data)

    def _answer_errors(self, data: bytes, error: bytes) -> None:
        if self._commands is None:
            self._commands = hiredis.Reader(notEnoughData=self)
        self._commands.feed(data)
        while self._commands.gets(False) is not self:
            self._transport.write(b"-" + error + b"\r\n")

    def on_reply(self, data: bytes) -> None:
        """Take bytes of the server."""
        if self._dead or self._proxy.silent:
            self._dead = True
            return
        if self._late is not None:
            self._late.append(data)
            return
        fault, self._fault = self._fault, None
        if fault == "reply_lost":
            self.cut()
        elif fault == "reply_cut":
            self._transport.write(data[: len(data) // 2])
            # Closed in order, so that what was written arrives.
            self._transport.close()
            self._abort_server()
        elif fault == "delay":
            self._late = [data]
            asyncio.get_running_loop().call_later(self._proxy.delay_s, self._deliver_late)
        else:
            self._transport.write(data)

    def _deliver_late(self) -> None:
        late, self._late = self._late, None
        if late and not self._transport.is_closing():
            self._transport.write(b"".join(late))

    def cut(self) -> None:
        """Break both sides at once."""
        self._transport.abort()
        self._abort_server()

    def _abort_server(self) -> None:
        if self._server is not None:
            self._server.transport.abort()

    def on_server_left(self) -> None:
        """Close the client's side, unless it is to notice nothing."""
        if not self._dead:
            self._transport.close()

    def pause_writing(self) -> None:
        if self._server is not None:
            self._server.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._server is not None and not self._server.transport.is_closing():
            self._server.transport.resume_reading()

    def hold(self, holding: bool) -> None:
        """Stop reading from the client while the server does not keep up."""
        if not self._transport.is_closing():
            if holding:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy.drop(self)
        if self._server is not None:
            if exc is None and not self._dead:
                self._server.transport.close()
            else:
                self._server.transport.abort()


class _ServerSide(asyncio.Protocol):
    def __init__(self, link: _Link) -> None:
        self._link = link
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        self._link.on_reply(data)

    def pause_writing(self) -> None:
        self._link.hold(True)

    def resume_writing(self) -> None:
        self._link.hold(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.on_server_left()
