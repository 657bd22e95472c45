"""A client's connection: requests in, answers out, one at a time, in order.

Requests are read by aiohttp's C parser; what it accepts and an origin might read in another way is refused
here. A request that arrives while one is being answered waits unread in the socket, so a connection holds a
bounded amount of memory whatever its client does.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from aiohttp.http import HttpRequestParser, HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from gateway.dialects import refuse
from gateway.failures import Failure
from gateway.proxy.exchange import Exchange
from gateway.proxy.headers import Header, connection_options, is_host, request_fields
from gateway.proxy.heads import refusal_head
from gateway.settings import Dialect

if TYPE_CHECKING:
    from gateway.proxy.service import Proxy

PARSER_BUFFER_BYTES = 256 * 1024  # never reached: what the parser read is taken out at once
DISCARD_MAX_BYTES = 256 * 1024  # of a refused request's body, read so that the refusal is not lost to a reset
DISCARD_S = 2.0
NEVER: Final = float("inf")

# A request line as old clients of marketplace APIs write it: raw spaces and raw UTF-8 in its target.
_LENIENT_LINE = re.compile(rb"([A-Z]{3,7}) (/[^\x00-\x1f\x7f]*) (HTTP/1\.[01])\Z")
_LENIENT_START = re.compile(rb"[A-Z]{3,7} /[^\x00-\x1f\x7f]*\r?\Z")
_UNPARSED = re.compile(rb"[ \x80-\xff]")
_CONNECTION_DEFAULTS = frozenset((b"keep-alive", b"close"))


@dataclass(slots=True)
class Request:
    """The head of a request, as far as the path needs it; `target` and `headers` are the bytes as they
    came."""

    method: str
    target: bytes
    path: bytes
    headers: tuple[Header, ...]
    http_11: bool
    has_body: bool
    length: int | None
    expects_continue: bool
    client: bytes
    scheme: bytes


@dataclass(frozen=True, slots=True)
class _Framing:
    """What the header fields say of the message; a client that repeats them is not read twice."""

    headers: tuple[Header, ...]
    http_11: bool
    length: int | None
    expects_continue: bool
    options: frozenset[bytes]


class _ParserPeer:
    """Stands where the parser expects aiohttp's own protocol: flow control is done by the front itself."""

    connected = True

    def pause_reading(self) -> None:
        """Ignore: bodies are taken out of the parser as soon as they are read."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Ignore, for the same reason."""


class Front(asyncio.Protocol):
    """One client connection of a worker."""

    __slots__ = (
        "_backlog",
        "_client",
        "_closing",
        "_discarded",
        "_exchange",
        "_feeding",
        "_fields",
        "_fields_of",
        "_head",
        "_keep_10",
        "_lenient",
        "_parsed_one",
        "_parser",
        "_payload",
        "_previous",
        "_proxy",
        "_raw_target",
        "_reading_held",
        "_scheme",
        "_transport",
        "deadline",
        "stalled",
    )

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._parser = self._new_parser()
        self._transport: asyncio.Transport
        self._exchange: Exchange | None = None
        self._payload: StreamReader | None = None
        self._backlog = b""
        self._head = b""
        self._raw_target: bytes | None = None  # as it came, when the parser was fed another spelling
        self._lenient = False  # collecting a request line that the parser does not take
        self._closing = False
        self._discarded = -1  # bytes of a refused body read so far, -1 when not discarding
        self._feeding = False
        self._reading_held = False
        self._parsed_one = False
        self._keep_10 = False
        self._previous: _Framing | None = None
        self._fields_of: tuple[Sequence[Header], bool] | None = None
        self._fields = b""
        self._client = b""
        self._scheme = b"http"
        self.stalled = False
        self.deadline = NEVER

    def _new_parser(self) -> HttpRequestParser:
        server = self._proxy.settings.server
        return HttpRequestParser(
            _PEER,  # type: ignore[arg-type] # it needs these two methods of a protocol and no more
            self._proxy.loop,
            PARSER_BUFFER_BYTES,
            max_line_size=server.max_head_bytes,
            max_field_size=server.max_head_bytes,
            max_headers=server.max_headers,
            auto_decompress=False,
            max_msg_queue_size=1,
        )

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's transports do not descend from it
        self._transport = transport
        if not self._proxy.admit(self):
            self._closing = True
            transport.abort()
            return
        peer = transport.get_extra_info("peername")
        self._client = peer[0].encode() if isinstance(peer, tuple) else b"unknown"
        if transport.get_extra_info("sslcontext") is not None:
            self._scheme = b"https"
        self.deadline = self._proxy.tick + self._proxy.settings.server.head_timeout_s

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._proxy.dismiss(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.on_client_left()

    def eof_received(self) -> bool:
        # A client that has closed its side cannot be told from one that has gone; both have left.
        return False

    def pause_writing(self) -> None:
        self.stalled = True
        if self._exchange is not None:
            self._exchange.on_client_writable(False)

    def resume_writing(self) -> None:
        self.stalled = False
        if self._exchange is not None:
            self._exchange.on_client_writable(True)

    def data_received(self, data: bytes) -> None:
        if self._discarded >= 0:
            self._discard(data)
        elif self._closing:
            return
        elif self._exchange is not None and self._payload is None:
            self._backlog += data
            self._hold_reading()
        else:
            self._feed(data)

    # -- requests

    def _feed(self, data: bytes) -> None:
        self._feeding = True
        try:
            while True:
                if self._payload is None and not self._head and data:
                    self.deadline = self._proxy.tick + self._proxy.settings.server.head_timeout_s
                self._parse(data)
                if self._closing or self._exchange is not None or self._discarded >= 0:
                    return
                # The exchange ended while it began; what follows it may be here already.
                data, self._backlog = self._backlog, b""
                if not data and not self._parsed_one:
                    return
        finally:
            self._feeding = False

    def _parse(self, data: bytes) -> None:
        self._parsed_one = False
        if self._lenient:
            if not self._read_leniently(data):
                self._fail_head(Failure.BAD_REQUEST)
            return
        in_head = self._payload is None and self._raw_target is None
        try:
            messages, _, _ = self._parser.feed_data(data)
        except HttpProcessingError as error:
            if in_head and self._read_leniently(data):
                return
            self._refuse_unparsed(error)
            return
        if messages:
            message, payload = messages[0]
            head_bytes = len(self._head) + len(data)
            limit = self._proxy.settings.server.max_head_bytes
            if head_bytes > limit and (self._head + data).find(b"\r\n\r\n") > limit:
                self._fail_head(Failure.HEAD_TOO_LARGE)
                return
            self._head = b""
            self._parsed_one = True
            self._begin(message, payload)
        elif self._payload is not None:
            self._on_payload()
        elif data:
            self._head += data
            if len(self._head) > self._proxy.settings.server.max_head_bytes:
                self._fail_head(Failure.HEAD_TOO_LARGE)

    def _begin(self, message: RawRequestMessage, payload: StreamReader) -> None:
        request = self._read_head(message, payload)
        if isinstance(request, Failure):
            self._fail_head(request)
            return
        self._keep_10 = not request.http_11 and not message.should_close
        if message.should_close or self._proxy.draining:
            self._closing = True
        routed = self._proxy.route(request.path)
        if routed is None:
            self._fail_head(Failure.NO_ROUTE, path=request.path)
            return
        self.deadline = NEVER
        body, whole = b"", True
        if request.has_body:
            body = payload.read_nowait()
            whole = payload.is_eof()
            if not whole:
                self._payload = payload
        exchange = self._exchange = Exchange(self._proxy, self, request, *routed)
        self._proxy.started(exchange)
        exchange.begin(body, whole)

    def _read_head(self, message: RawRequestMessage, payload: StreamReader) -> Request | Failure:
        """Check what the parser lets through, and pick out what the path needs."""
        version = message.version
        if version != HttpVersion11 and version != HttpVersion10:
            return Failure.NOT_IMPLEMENTED
        method = message.method
        if method in ("CONNECT", "TRACE") or message.upgrade:
            return Failure.NOT_IMPLEMENTED
        raw_target, self._raw_target = self._raw_target, None
        target = raw_target or message.path.encode("utf-8", "surrogateescape")
        if not target.startswith(b"/") or b"#" in target:
            return Failure.BAD_REQUEST
        http_11 = version == HttpVersion11
        framing = self._previous
        if framing is None or framing.headers != message.raw_headers or framing.http_11 is not http_11:
            read = _read_framing(message.raw_headers, http_11)
            if isinstance(read, Failure):
                return read
            framing = self._previous = read
        query = target.find(b"?")
        return Request(
            method=method,
            target=target,
            path=target if query < 0 else target[:query],
            headers=framing.headers,
            http_11=http_11,
            has_body=payload is not EMPTY_PAYLOAD,
            length=framing.length,
            expects_continue=framing.expects_continue,
            client=self._client,
            scheme=self._scheme,
        )

    def _on_payload(self) -> None:
        payload = self._payload
        assert payload is not None
        data = payload.read_nowait()
        whole = payload.is_eof()
        if whole:
            self._payload = None
        if self._exchange is not None:
            self._exchange.on_body(data, whole)

    def _read_leniently(self, data: bytes) -> bool:
        """Read a request line with raw spaces or raw UTF-8 in its target: no HTTP, but old clients write it.

        The parser is fed the target with these bytes escaped; the upstream gets them as they came. Returns
        whether the request was taken, or may yet be when its line has ended.
        """
        head = self._head + data
        line, end, rest = head.partition(b"\r\n")
        if len(line) > self._proxy.settings.server.max_head_bytes:
            return False
        if not end:
            self._head = head
            self._lenient = _LENIENT_START.match(line) is not None
            return self._lenient
        self._lenient = False
        match = _LENIENT_LINE.match(line)
        if match is None or not _UNPARSED.search(match[2]) or b" HTTP/" in match[2]:
            return False
        self._raw_target = match[2]
        self._head = b""
        self._parser = self._new_parser()
        escaped = _UNPARSED.sub(lambda found: b"%%%02X" % found[0][0], match[2])
        self._parse(b"%b %b %b\r\n%b" % (match[1], escaped, match[3], rest))
        return True

    # -- refusals of requests that are no calls

    def _refuse_unparsed(self, error: HttpProcessingError) -> None:
        failure = Failure.BAD_REQUEST
        if isinstance(error, LineTooLong) or "Too many headers" in str(error):
            failure = Failure.HEAD_TOO_LARGE
        elif isinstance(error, BadHttpMethod):
            failure = Failure.NOT_IMPLEMENTED
        exchange = self._exchange
        if exchange is None:
            self._fail_head(failure)
            return
        # The body of a call under way is malformed; where it ends cannot be known any more.
        self._closing = True
        exchange.fail(failure)
        self._transport.close()

    def _fail_head(self, failure: Failure, path: bytes = b"/") -> None:
        self._closing = True
        self._proxy.tally.bad_request(failure.value.name)
        request_id = self._proxy.next_request_id()
        refusal = refuse(
            Dialect.PROBLEM, failure, path=path, request_id=request_id.decode(), retry_after_s=None
        )
        own = b"X-Request-Id: %b\r\nConnection: close\r\n\r\n" % request_id
        self._transport.write(refusal_head(refusal, own) + refusal.body)
        self._begin_discard()

    # -- the exchange's side

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""
        self._transport.write(data)

    def fields_to_send(self, headers: Sequence[Header], *, readable: bool) -> bytes:
        """Return the lines of the request that go on to the upstream."""
        previous = self._previous
        assert previous is not None
        if headers is not previous.headers:  # the key was taken out of them
            return request_fields(headers, previous.options, readable=readable)
        wanted = (previous.headers, readable)
        if self._fields_of != wanted:
            self._fields_of = wanted
            self._fields = request_fields(headers, previous.options, readable=readable)
        return self._fields

    def write_continue(self) -> None:
        """Ask the client for the body that it holds back."""
        self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def connection_field(self) -> bytes:
        """Return the Connection line of the answer, empty where the version's default holds."""
        if self._closing:
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
        self._transport.abort()

    def on_answered(self, exchange: Exchange) -> None:
        """Turn to the next request, or close."""
        if self._exchange is not exchange:
            return
        self._exchange = None
        if self._closing:
            self._begin_discard()
            return
        self._release_reading()
        self.deadline = self._proxy.tick + self._proxy.settings.server.idle_timeout_s
        if self._feeding:
            return
        self._parser.message_consumed()
        data, self._backlog = self._backlog, b""
        self._feed(data)

    def on_deadline(self) -> None:
        """Close a connection that is idle, slow with its head, or was refused and goes on sending."""
        if self._discarded >= 0 or self.stalled:
            self._transport.abort()
        elif self._head:
            self._fail_head(Failure.REQUEST_TIMEOUT)
        else:
            self._closing = True
            self._transport.close()

    def drain(self) -> None:
        """Close after the answer under way, or at once when there is none."""
        if self._exchange is None and not self._head:
            self._transport.close()
        self._closing = True

    # -- reading

    def _begin_discard(self) -> None:
        """Close, but read what the client is still sending for a moment, so that it reads the answer
        first."""
        if self._payload is None and not self._head:
            self._transport.close()
            return
        self._discarded = 0
        self.deadline = self._proxy.tick + DISCARD_S
        self._release_reading()

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > DISCARD_MAX_BYTES:
            self._transport.close()

    def _hold_reading(self) -> None:
        if not self._reading_held:
            self._reading_held = True
            self._transport.pause_reading()

    def _release_reading(self) -> None:
        if self._reading_held:
            self._reading_held = False
            if not self._transport.is_closing():
                self._transport.resume_reading()


def _read_framing(headers: tuple[Header, ...], http_11: bool) -> _Framing | Failure:
    """Check the fields that frame a message, and refuse what an origin might read in another way."""
    length: int | None = None
    expects = chunked = False
    options: frozenset[bytes] = frozenset()
    hosts = 0
    for name, value in headers:
        size = len(name)
        if size == 4:
            if name.lower() == b"host":
                hosts += 1
                if not is_host(value):
                    return Failure.BAD_REQUEST
        elif size == 6:
            if name.lower() == b"expect":
                if value.lower() != b"100-continue":
                    return Failure.BAD_REQUEST
                expects = True
        elif size == 10:
            if name.lower() == b"connection" and value.lower() not in _CONNECTION_DEFAULTS:
                options = connection_options(headers)
        elif size == 14:
            if name.lower() == b"content-length":
                length = int(value)
        elif size == 17 and name.lower() == b"transfer-encoding":
            if not http_11 or value.lower() != b"chunked":
                return Failure.BAD_REQUEST
            chunked = True
    if (hosts != 1 if http_11 else hosts > 1) or (chunked and length is not None):
        return Failure.BAD_REQUEST
    return _Framing(headers, http_11, length, expects and http_11, options)


_PEER = _ParserPeer()
