"""A worker's share of the proxy port: connections are taken, and each gets a front.

With the PROXY protocol, what a trusted balancer says of a connection is read off the socket before anything
else is, TLS included; other peers are taken as they come, and a header of theirs is no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass

import structlog

from gateway.proxy.front import Front
from gateway.proxy.proxy_protocol import V2_FIXED_BYTES, V2_MAX_BYTES, Header, ProxyProtocolError, read
from gateway.proxy.service import Proxy

BACKLOG = 1024
ACCEPTED_AT_ONCE = 64  # connections, before other work of the loop has its turn

log = structlog.get_logger("gateway.proxy")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a connection comes from when it is not its peer that tells."""

    address: str
    tls: bool


class Listener:
    """Takes connections from a bound socket, until it is closed; `open` again takes over new settings."""

    def __init__(self, listening: socket.socket, proxy: Proxy) -> None:
        self._socket = listening
        self._proxy = proxy
        self._server: asyncio.Server | _ProxyProtocolServer | None = None

    async def open(self, tls: ssl.SSLContext | None) -> None:
        """Take connections from now on under `tls`; those that stand are left as they are.

        No connection is lost between: the kernel's queue belongs to the socket, which both servers share.
        """
        former = self._server
        shared = self._socket.dup()
        if self._proxy.settings.server.proxy_protocol:
            self._server = _ProxyProtocolServer(shared, self._proxy, tls)
        else:
            self._server = await self._proxy.loop.create_server(
                lambda: Front(self._proxy), sock=shared, ssl=tls, backlog=BACKLOG
            )
        if former is not None:
            former.close()

    def close(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()
        self._socket.close()


class _ProxyProtocolServer:
    """Reads the header of each connection from a trusted peer, and hands the rest to a front."""

    def __init__(self, listening: socket.socket, proxy: Proxy, tls: ssl.SSLContext | None) -> None:
        self._socket = listening
        self._proxy = proxy
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        listening.setblocking(False)
        listening.listen(BACKLOG)
        proxy.loop.add_reader(listening, self._accept)

    def close(self) -> None:
        self._proxy.loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # such as too many open files: the next turn tries again
                log.error("a connection cannot be taken", error=error.strerror)
                return
            connection.setblocking(False)
            if len(self._tasks) >= self._proxy.settings.server.max_connections:
                self._proxy.tally.connections_refused += 1
                connection.close()
                continue
            task = self._proxy.loop.create_task(self._take(connection, peer[0]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _take(self, connection: socket.socket, peer: str) -> None:
        proxy = self._proxy
        source: Source | None = None
        try:
            if peer in proxy.trusted_proxies:
                async with asyncio.timeout(proxy.settings.server.head_timeout_s):
                    header = await self._header(connection)
                source = Source(header.address or peer, header.tls)
            await proxy.loop.connect_accepted_socket(lambda: Front(proxy, source), connection, ssl=self._tls)
        except (ProxyProtocolError, TimeoutError) as error:
            proxy.tally.bad_request("proxy_protocol")
            log.warning("a trusted proxy sent no PROXY header", peer=peer, error=str(error) or "not in time")
            connection.close()
        except OSError:  # it is gone, or its TLS came to nothing
            with contextlib.suppress(OSError):
                connection.close()

    async def _header(self, connection: socket.socket) -> Header:
        """Read exactly the header, and leave what follows it in the socket."""
        taken = b""
        while True:
            await self._readable(connection)
            seen = connection.recv(V2_FIXED_BYTES + V2_MAX_BYTES, socket.MSG_PEEK)
            if not seen:
                raise ProxyProtocolError("the connection ended before its header did")
            header = read(taken + seen)
            if header is not None:
                connection.recv(header.length - len(taken))
                return header
            # All of it belongs to the header; left where it is, it would be readable over and over.
            taken += connection.recv(len(seen))

    async def _readable(self, connection: socket.socket) -> None:
        loop = self._proxy.loop
        ready = loop.create_future()

        def tell() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(connection, tell)
        try:
            await ready
        finally:
            loop.remove_reader(connection)
