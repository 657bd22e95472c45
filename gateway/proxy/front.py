"""A client's connection: requests in, answers out, one at a time, in order.

A request that arrives while one is being answered waits, and nothing is read from the socket until its turn
has come, so a connection holds a bounded amount of memory whatever its client does.
"""

from __future__ import annotations

import asyncio
import fcntl
import termios
from typing import TYPE_CHECKING, Final, cast

from gateway.dialects import refuse
from gateway.failures import Failure
from gateway.proxy.exchange import Exchange
from gateway.proxy.heads import refusal_head
from gateway.proxy.health import health_answer
from gateway.proxy.incoming import Incoming
from gateway.proxy.request_reader import RequestReader
from gateway.proxy.requests import Framing, Request, read_head
from gateway.proxy.sockets import reset, unread_bytes
from gateway.settings import Dialect

if TYPE_CHECKING:
    from gateway.proxy.listening import Source
    from gateway.proxy.service import Proxy

DISCARD_MAX_BYTES = 256 * 1024  # of a refused request, read so that the refusal is not lost to a reset
DISCARD_S = 2.0
HALF_CLOSE_S = 2.0  # after its request, a client may still say that it sends no more
NEVER: Final = float("inf")


class Front(asyncio.Protocol):
    """One client connection of a worker."""

    __slots__ = (
        "_backlog",
        "_behind_proxy",
        "_broken",
        "_client",
        "_closing",
        "_discarded",
        "_exchange",
        "_framing",
        "_half_closed",
        "_incoming",
        "_keep_10",
        "_proceeding",
        "_proxy",
        "_reader",
        "_reading_held",
        "_received",
        "_scheme",
        "_source",
        "_transport",
        "deadline",
        "digest_of",
        "stalled",
    )

    def __init__(self, proxy: Proxy, source: Source | None = None) -> None:
        self._proxy = proxy
        self._source = source
        server = proxy.settings.server
        self._reader = RequestReader(server.max_head_bytes, server.max_headers)
        self._transport: asyncio.Transport
        self._exchange: Exchange | None = None
        self._incoming: Incoming | None = None  # the request whose body is still coming
        self._broken: Failure | None = None  # why nothing that follows can be understood
        self._backlog = b""
        self._closing = False
        self._discarded = -1  # bytes of a refused body read so far, -1 when not discarding
        self._proceeding = False
        self._reading_held = False
        self._half_closed = False  # the client sends no more, and still reads
        self._received = 0.0  # when the head of the last request was whole
        self._keep_10 = False
        self._framing: Framing | None = None
        self._client = b""
        self._scheme = b"http"
        self._behind_proxy = False  # what the peer says of the client is believed
        self.stalled = False
        self.deadline = NEVER
        self.digest_of: tuple[str, bytes, str] | None = None  # the last key, the pepper, and its digest

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's transports do not descend from it
        self._transport = transport
        if not self._proxy.admit(self):
            self._closing = True
            transport.abort()
            return
        peer = transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else "unknown"
        source = self._source
        if source is not None:
            address = source.address
        self._client = address.encode()
        self._behind_proxy = address in self._proxy.trusted_proxies
        if transport.get_extra_info("sslcontext") is not None or (source is not None and source.tls):
            self._scheme = b"https"
        self.deadline = self._proxy.tick + self._proxy.head_timeout_s

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._proxy.dismiss(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.on_client_left()

    def eof_received(self) -> bool:
        # Who says right behind its request that it sends no more still reads; who says so later has gone. One
        # that has gone at once is found out by what is written to it.
        waiting = self._exchange is not None or self._reader.requests or self._backlog
        whole = self._incoming is None and self._discarded < 0
        in_time = self._proxy.tick <= self._received + HALF_CLOSE_S
        if waiting and whole and in_time and self._scheme == b"http":  # TLS cannot be closed by half
            self._half_closed = True
            return True
        self.deadline = self._proxy.tick + self._proxy.idle_timeout_s
        return False

    def pause_writing(self) -> None:
        self.stalled = True
        if self._exchange is not None:
            self._exchange.on_client_writable(False)

    def resume_writing(self) -> None:
        self.stalled = False
        if self._exchange is not None:
            self._exchange.on_client_writable(True)
        else:
            self._proceed()

    def data_received(self, data: bytes) -> None:
        if self._discarded >= 0:
            self._discard(data)
        elif self._closing and self._incoming is None:
            return
        elif self._exchange is not None and self._incoming is None:
            self._backlog += data
            self._hold_reading()
        else:
            self._take(data)
            if self._incoming is not None:
                self._pass_body_on(self._incoming)
            self._proceed()

    # -- requests

    def _take(self, data: bytes) -> None:
        reader = self._reader
        began_before = reader.in_head
        self._broken = reader.feed(data)
        if reader.in_head and not began_before and self._exchange is None:
            self.deadline = self._proxy.tick + self._proxy.head_timeout_s

    def _proceed(self) -> None:
        """Turn to what has come in, as long as no call is under way and the client reads its answers."""
        if self._proceeding:
            return
        self._proceeding = True
        try:
            while self._exchange is None and not self._closing and self._discarded < 0:
                if self.stalled:
                    self._hold_reading()
                    return
                if self._reader.requests:
                    self._begin(self._reader.requests.popleft())
                elif self._broken is not None:
                    self._fail_head(self._broken)
                elif self._backlog:
                    data, self._backlog = self._backlog, b""
                    self._take(data)
                elif self._half_closed:
                    self._closing = True
                    self._finish()
                else:
                    self._release_reading()
                    return
        finally:
            self._proceeding = False

    def _begin(self, incoming: Incoming) -> None:
        if self._half_closed and not incoming.whole:
            self._closing = True
            self._finish()
            return
        client, scheme = self._client, self._scheme
        if self._behind_proxy:
            client, scheme = self._proxy.forwarded(incoming.headers, client, scheme)
        request = read_head(incoming, self._framing, client, scheme)
        if not isinstance(request, Request):
            self._fail_head(request, expect_more=not incoming.whole)
            return
        self._framing = request.framing
        keep_alive = incoming.keep_alive
        self._keep_10 = keep_alive and not request.http_11
        if not keep_alive or self._proxy.draining:
            self._closing = True
        if request.path == self._proxy.health_path and not request.has_body:
            self._answer_health(head_only=request.method == "HEAD")
            return
        routed = self._proxy.route(request.path)
        if routed is None:
            self._fail_head(Failure.NO_ROUTE, path=request.path, expect_more=not incoming.whole)
            return
        self.deadline = NEVER
        self._received = self._proxy.tick
        route, pool = routed
        exchange = self._exchange = Exchange(self._proxy, self, request, route, pool)
        self._proxy.started(exchange)
        if incoming.whole:
            exchange.begin(incoming.take_body() if request.has_body else b"", True)
        else:
            self._incoming = incoming
            exchange.begin(incoming.take_body(), False)
            if self._broken is not None:
                self._pass_body_on(incoming)

    def _pass_body_on(self, incoming: Incoming) -> None:
        exchange = self._exchange
        if incoming.whole:
            self._incoming = None
        if exchange is None:
            return
        if self._broken is not None and not incoming.whole:
            # The body is malformed; where it ends cannot be known any more.
            self._closing = True
            exchange.fail(self._broken)
            return
        exchange.on_body(incoming.take_body(), incoming.whole)

    def _answer_health(self, *, head_only: bool) -> None:
        head, body = health_answer(leaving=self._proxy.leaving, reasons=self._proxy.troubles())
        self._transport.write(b"%b%b\r\n%b" % (head, self.connection_field(), b"" if head_only else body))
        if self._closing:
            self._begin_discard()
        else:
            self.deadline = self._proxy.tick + self._proxy.idle_timeout_s

    # -- refusals of requests that are no calls

    def _fail_head(self, failure: Failure, path: bytes = b"/", *, expect_more: bool = False) -> None:
        self._closing = True
        self._proxy.tally.bad_request(failure.value.name)
        request_id = self._proxy.next_request_id()
        refusal = refuse(
            Dialect.PROBLEM, failure, path=path, request_id=request_id.decode(), retry_after_s=None
        )
        own = b"X-Request-Id: %b\r\nConnection: close\r\n\r\n" % request_id
        self._transport.write(refusal_head(refusal, own) + refusal.body)
        self._begin_discard(expect_more=expect_more or failure is Failure.HEAD_TOO_LARGE)

    # -- the exchange's side

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""
        self._transport.write(data)

    def write_continue(self) -> None:
        """Ask the client for the body that it holds back."""
        self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def connection_field(self) -> bytes:
        """Return the Connection line of the answer, empty where the version's default holds."""
        if self._closing or self._proxy.draining:
            self._closing = True
            return b"Connection: close\r\n"
        return b"Connection: keep-alive\r\n" if self._keep_10 else b""

    def close_after(self) -> None:
        """Close the connection when the answer is written."""
        self._closing = True

    def hold_body(self) -> None:
        """Stop reading the request's body."""
        self._hold_reading()

    def release_body(self) -> None:
        """Go on reading the request's body."""
        self._release_reading()

    def abort(self) -> None:
        """Break the connection, so that the client sees that the answer is not whole."""
        self._exchange = None
        self._closing = True
        if self.stalled:
            reset(self._transport)
        else:
            self._transport.abort()

    def on_answered(self, exchange: Exchange) -> None:
        """Turn to the next request, or close."""
        if self._exchange is not exchange:
            return
        self._exchange = None
        if self._closing:
            self._begin_discard()
            return
        proxy = self._proxy
        self.deadline = proxy.tick + (proxy.head_timeout_s if self._reader.in_head else proxy.idle_timeout_s)
        self._proceed()

    def on_deadline(self) -> None:
        """Close a connection that is idle, slow with its head, was refused and goes on sending, or does not
        read what was sent last."""
        if self._discarded >= 0:
            self._transport.abort()
        elif self.stalled or self._transport.is_closing() or unread_bytes(self._transport):
            self._closing = True
            reset(self._transport)
        elif self._reader.in_head:
            self._fail_head(Failure.REQUEST_TIMEOUT)
        elif not self._has_more():
            self._closing = True
            self._finish()

    def close_if_idle(self) -> None:
        """Close unless a request is under way, coming in, or waits to be read.

        A client that sends one at this very moment finds the connection closed: HTTP/1.1 has no way to rule
        that out. The request was not read, so it is neither passed on nor counted, and may be sent again.
        """
        if self._exchange is None and not self._reader.in_head and not self._closing and not self._has_more():
            self._closing = True
            self._finish()

    def _has_more(self) -> bool:
        """Say whether bytes have come that were not read yet."""
        connection = self._transport.get_extra_info("socket")
        waiting = bytearray(4)
        if connection is not None and connection.fileno() >= 0:
            fcntl.ioctl(connection.fileno(), termios.FIONREAD, waiting)
        return any(waiting)

    # -- reading

    def _begin_discard(self, *, expect_more: bool = False) -> None:
        """Close, but read what the client still sends for a moment, so that it reads the answer first."""
        if self._incoming is None and not expect_more:
            self._finish()
            return
        self._discarded = 0
        self.deadline = self._proxy.tick + DISCARD_S
        self._release_reading()

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > DISCARD_MAX_BYTES:
            self._finish()

    def _finish(self) -> None:
        """Close when the client has read all that was written, or the time of an idle connection is over."""
        self.deadline = self._proxy.tick + self._proxy.idle_timeout_s
        self._transport.close()

    def _hold_reading(self) -> None:
        if not self._reading_held and not self._half_closed:
            self._reading_held = True
            self._transport.pause_reading()

    def _release_reading(self) -> None:
        if self._reading_held and not self._half_closed:
            self._reading_held = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
