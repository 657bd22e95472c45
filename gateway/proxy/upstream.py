"""One connection to an upstream: one exchange at a time, kept for the next where it can be.

Answers are read by llhttp (httptools) and handed on in the pieces in which they came. A request is written
once: when a connection breaks under it, the call fails, for the upstream may have acted on it already.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.failures import Failure
from gateway.proxy.answers import AnswerHead, read_answer_head

if TYPE_CHECKING:
    from gateway.proxy.headers import Header
    from gateway.proxy.upstream_pool import UpstreamPool

ANSWER_HEAD_MAX_BYTES = 128 * 1024  # status line and headers; nginx gives up at 8 KiB, Node at 16 KiB
INTERIM_ANSWERS_MAX = 8  # 1xx answers before the real one
_VERSIONS = ("1.1", "1.0")


class AnswerSink(Protocol):
    """The exchange that a connection serves."""

    head_request: bool

    def on_connected(self, connection: UpstreamConnection) -> None:
        """Take the connection that was asked for."""

    def on_connect_failed(self, failure: Failure) -> None:
        """Learn that no connection can be had."""

    def on_answer_head(self, head: AnswerHead) -> None:
        """Take the head of the answer."""

    def on_answer_data(self, data: bytes) -> None:
        """Take a piece of the answer's body."""

    def on_answer_end(self) -> None:
        """Learn that the answer is whole; the connection may serve another exchange from now on."""

    def on_answer_broken(self, failure: Failure) -> None:
        """Learn that the answer broke off, or never began."""

    def on_answer_flush(self) -> None:
        """Write what the pieces taken since the last flush come to."""

    def on_upstream_writable(self, writable: bool) -> None:
        """Learn that the upstream takes, or for now does not take, more of the request's body."""


class UpstreamConnection(asyncio.Protocol):
    """One connection of a pool."""

    __slots__ = (
        "_body_ended",
        "_data",
        "_head",
        "_head_bytes",
        "_head_done",
        "_headers",
        "_held",
        "_interim",
        "_parser",
        "_pool",
        "_reusable",
        "_until_close",
        "_without_progress",
        "closed",
        "exchange",
        "idle_since",
        "transport",
    )

    def __init__(self, pool: UpstreamPool) -> None:
        self._pool = pool
        self._parser = HttpResponseParser(self)
        self.transport: asyncio.Transport
        self.exchange: AnswerSink | None = None
        self.idle_since = 0.0
        self.closed = False
        self._held = False
        self._reset()

    def _reset(self) -> None:
        self._headers: list[Header] = []
        self._data: list[bytes] = []
        self._head: AnswerHead | None = None
        self._head_bytes = 0
        self._head_done = False
        self._body_ended = False
        self._until_close = False
        self._interim = 0
        self._reusable = True
        self._without_progress = 0  # bytes of chunk extensions and trailers since the last of the body

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's transports do not descend from it
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            # An answer that nobody asked for: whatever follows could be taken for the next call's answer.
            self.abort()
            return
        begins = False
        if not self._head_done:
            # Only here is the parser between two messages, and it knows nothing of HEAD.
            begins = not self._head_bytes and not exchange.head_request
            if begins:
                head = self._pool.known_answers.read(data)
                if head is not None:
                    self._head_done = self._body_ended = True
                    exchange.on_answer_head(head)
                    exchange.on_answer_data(data[len(data) - head.body_bytes :])
                    self._finish(exchange)
                    return
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            if not self._body_ended:
                self._fail(Failure.UPSTREAM_BROKEN)
                return
            self._reusable = False  # the answer is whole; what follows it is none
        if not self._head_done:
            if self._head_bytes > ANSWER_HEAD_MAX_BYTES:
                self._fail(Failure.UPSTREAM_BROKEN)
            return
        if self._data:
            pieces, self._data = self._data, []
            self._without_progress = 0
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if begins and self._body_ended and self._reusable and not self._interim:
                assert self._head is not None
                self._pool.known_answers.learn(self._head, body, data)
            exchange.on_answer_data(body)
        elif not self._body_ended:
            # The parser keeps a trailer until it ends, and no deadline is moved by it.
            self._without_progress += len(data)
            if self._without_progress > ANSWER_HEAD_MAX_BYTES:
                self._fail(Failure.UPSTREAM_BROKEN)
                return
        if self._body_ended:
            self._finish(exchange)
        elif self.exchange is exchange:
            exchange.on_answer_flush()

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.on_upstream_writable(False)

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.on_upstream_writable(True)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        exchange, self.exchange = self.exchange, None
        self._pool.forget(self)
        if exchange is None:
            return
        if self._until_close and not self._body_ended and exc is None:
            exchange.on_answer_end()  # the answer's end is the connection's end
            exchange.on_answer_flush()
        elif not self._body_ended:
            exchange.on_answer_broken(
                Failure.UPSTREAM_BROKEN if self._head_done else Failure.UPSTREAM_UNREACHABLE
            )

    # -- httptools

    def on_message_begin(self) -> None:
        """Note what begins after the answer's end: nobody asked for it, so the connection is not used
        again."""
        if self._body_ended:
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field, or a trailer, which is dropped."""
        if not self._head_done:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Hand the head on, unless it is an interim one."""
        parser = self._parser
        status = parser.get_status_code()
        version = parser.get_http_version()
        if status < 100 or version not in _VERSIONS:
            raise ValueError("no answer of HTTP/1")
        if self._head_done:
            return
        head = read_answer_head(status, self._headers, version == "1.1")
        if status < 200:
            return
        # What was read may be mostly body; the exact sum is only needed where it may be too much.
        if self._head_bytes > ANSWER_HEAD_MAX_BYTES and _size(self._headers) > ANSWER_HEAD_MAX_BYTES:
            raise ValueError("endless head")
        exchange = self.exchange
        assert exchange is not None
        self._head = head
        self._head_done = True
        announced = head.chunked or head.length is not None
        bodiless = exchange.head_request or status in (204, 304)
        self._until_close = not announced
        # Without a length the answer ends with the connection. Where fields announce a body that must not
        # follow, some servers send it nevertheless.
        self._reusable = announced != bodiless and parser.should_keep_alive()
        exchange.on_answer_head(head)
        if exchange.head_request:
            # llhttp cannot know that no body follows; a new parser is ready for the next answer.
            self._body_ended = True
            self._parser = HttpResponseParser(self)

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body until the chunk of input is parsed."""
        if self._body_ended:
            return
        self._data.append(data)

    def on_message_complete(self) -> None:
        """Note the answer's end; after an interim one the real answer is still to come."""
        if self._head_done:
            self._body_ended = True
            return
        self._interim += 1
        self._headers = []
        if self._interim > INTERIM_ANSWERS_MAX or self._parser.get_status_code() == 101:
            raise ValueError("interim answers")

    # -- the exchange's side

    def serve(self, exchange: AnswerSink) -> None:
        """Begin an exchange on this connection."""
        self._reset()
        self.exchange = exchange

    def write(self, data: bytes) -> None:
        """Send bytes of the request."""
        if not self.closed:
            self.transport.write(data)

    def abort(self) -> None:
        """Close at once; the exchange, if there is one, is not told."""
        self.exchange = None
        if not self.closed:
            self.transport.abort()

    def hold(self) -> None:
        """Stop reading the answer: the client does not keep up."""
        if not self._held and not self.closed:
            self._held = True
            self.transport.pause_reading()

    def unhold(self) -> None:
        """Go on reading the answer."""
        if self._held and not self.closed:
            self._held = False
            self.transport.resume_reading()

    def _finish(self, exchange: AnswerSink) -> None:
        exchange.on_answer_end()
        if self.exchange is exchange:  # it was not given up while it ended
            self.exchange = None
            if self._reusable and not self.closed:
                self._pool.release(self)
            else:
                self.abort()

    def _fail(self, failure: Failure) -> None:
        exchange, self.exchange = self.exchange, None
        self.transport.abort()
        if exchange is not None:
            exchange.on_answer_broken(failure)


def _size(headers: list[Header]) -> int:
    return sum(len(name) + len(value) for name, value in headers)
