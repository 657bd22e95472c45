"""Requests as they come in: bytes fed to llhttp (httptools), heads and bodies out. Knows no socket.

What llhttp accepts and an origin might read in another way is refused in `read_head`. A request line with raw
spaces or raw UTF-8 in its target, which llhttp refuses, is read as old clients of marketplace APIs mean it.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

from gateway.failures import Failure
from gateway.proxy.headers import Header, connection_options, is_host

_HASH = ord("#")
_SLASH = b"/"
# CONNECT and TRACE make no sense through a gateway, and llhttp also knows the methods of RTSP and ICE.
_METHODS = {name.encode(): name for name in ("GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")}
_LENIENT_LINE = re.compile(rb"([A-Z]{3,7}) (/[^\x00-\x1f\x7f]*) (HTTP/1\.[01])\Z")
_LENIENT_START = re.compile(rb"[A-Z]{3,7} /[^\x00-\x1f\x7f]*\r?\Z")
_UNPARSED = re.compile(rb"[ \x80-\xff]")
_CONNECTION_DEFAULTS = frozenset((b"keep-alive", b"close"))
_NO_OPTIONS: frozenset[bytes] = frozenset()


@dataclass(slots=True)
class Request:
    """A checked head, as far as the path needs it; `target` and `headers` are the bytes as they came."""

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
class Framing:
    """What the header fields say of the message; a client that repeats them is not read twice."""

    headers: tuple[Header, ...]
    http_11: bool
    length: int | None
    chunked: bool
    expects_continue: bool
    options: frozenset[bytes]


class Incoming:
    """One request as the parser reads it; its body grows until it is `whole`."""

    __slots__ = ("_pieces", "headers", "keep_alive", "method", "target", "upgrade", "version", "whole")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: tuple[Header, ...],
        version: str,
        keep_alive: bool,
        upgrade: bool,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.version = version
        self.keep_alive = keep_alive
        self.upgrade = upgrade
        self.whole = False
        self._pieces: list[bytes] = []

    def add(self, data: bytes) -> None:
        """Keep a piece of the body until it is taken."""
        self._pieces.append(data)

    def take_body(self) -> bytes:
        """Return what has come of the body since the last time."""
        if not self._pieces:
            return b""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


class RequestReader:
    """Reads the requests of one connection; those whose head is complete stand in `requests`, in order."""

    __slots__ = (
        "_current",
        "_fed",
        "_head",
        "_headers",
        "_lenient",
        "_max_head_bytes",
        "_max_headers",
        "_parser",
        "_raw_target",
        "_target",
        "_too_large",
        "in_head",
        "requests",
    )

    def __init__(self, max_head_bytes: int, max_headers: int) -> None:
        self._max_head_bytes = max_head_bytes
        self._max_headers = max_headers
        self.requests: deque[Incoming] = deque()
        self.in_head = False
        self._current: Incoming | None = None
        self._head = b""  # what has come of a head that is not complete
        self._fed = 0  # bytes that a head now completed may consist of
        self._raw_target: bytes | None = None  # as it came, when the parser was fed another spelling
        self._lenient = False  # collecting a request line that the parser does not take
        self._start_over()

    def _start_over(self) -> None:
        self._parser = HttpRequestParser(self)
        self._target = b""
        self._headers: list[Header] = []
        self._too_large = False

    def feed(self, data: bytes) -> Failure | None:
        """Take what came in; a failure means that nothing that follows can be understood."""
        if self._lenient:
            return None if self._read_leniently(data) else Failure.BAD_REQUEST
        before = len(self.requests)
        self._fed = len(self._head) + len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            return None  # its request says so, and is refused
        except HttpParserError as error:
            if self._too_large:
                return Failure.HEAD_TOO_LARGE
            is_first = self.in_head and len(self.requests) == before and self._raw_target is None
            if is_first and self._read_leniently(data):
                return None
            unknown = isinstance(error, HttpParserInvalidMethodError)
            return Failure.NOT_IMPLEMENTED if unknown else Failure.BAD_REQUEST
        if not self.in_head:
            if self._head:
                self._head = b""
            return None
        if len(self.requests) > before:
            self._head = data[data.rfind(b"\r\n\r\n") + 4 :]  # the next one has begun behind it
        else:
            self._head += data
        return Failure.HEAD_TOO_LARGE if len(self._head) > self._max_head_bytes else None

    def _read_leniently(self, data: bytes) -> bool:
        """Read a head whose request line the parser has refused; returns whether it was, or may yet be,
        taken.

        The parser is fed the target with the offending bytes escaped; the upstream gets them as they came.
        """
        head = self._head + data
        line, end, rest = head.partition(b"\r\n")
        if len(line) > self._max_head_bytes:
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
        self._start_over()
        escaped = _UNPARSED.sub(lambda found: b"%%%02X" % found[0][0], match[2])
        return self.feed(b"%b %b %b\r\n%b" % (match[1], escaped, match[3], rest)) is None

    # -- httptools

    def on_message_begin(self) -> None:
        """Note that a head has begun."""
        self.in_head = True
        self._target = b""
        self._headers = []

    def on_url(self, target: bytes) -> None:
        """Take the target, or a piece of it."""
        self._target = self._target + target if self._target else target

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field; those behind a chunked body are dropped."""
        if not self.in_head:
            return
        if len(self._headers) >= self._max_headers:
            self._too_large = True
            raise ValueError("too many headers")
        self._headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Put the request into the queue."""
        self.in_head = False
        parser = self._parser
        headers = tuple(self._headers)
        if self._fed > self._max_head_bytes:
            # What was fed may be mostly body; the sum is only needed where it may be too much.
            size = len(self._target) + sum(len(name) + len(value) + 4 for name, value in headers)
            if size > self._max_head_bytes:
                self._too_large = True
                raise ValueError("head too large")
        self._current = Incoming(
            parser.get_method(),
            self._raw_target or self._target,
            headers,
            parser.get_http_version(),
            parser.should_keep_alive(),
            parser.should_upgrade(),
        )
        self._raw_target = None
        self.requests.append(self._current)

    def on_body(self, data: bytes) -> None:
        """Add to the body of the last request."""
        assert self._current is not None
        self._current.add(data)

    def on_message_complete(self) -> None:
        """Note the end of the last request."""
        assert self._current is not None
        self._current.whole = True


def read_head(
    incoming: Incoming, known: Framing | None, client: bytes, scheme: bytes
) -> tuple[Request, Framing] | Failure:
    """Check what llhttp lets through, and pick out what the path needs.

    `known` is the framing of the request before on the same connection, whose fields are often the same.
    """
    version = incoming.version
    method = _METHODS.get(incoming.method)
    if (version != "1.1" and version != "1.0") or method is None or incoming.upgrade:
        return Failure.NOT_IMPLEMENTED
    target = incoming.target
    if target[:1] != _SLASH or _HASH in target:
        return Failure.BAD_REQUEST
    http_11 = version == "1.1"
    framing = known
    if framing is None or framing.headers != incoming.headers or framing.http_11 is not http_11:
        read = _read_framing(incoming.headers, http_11)
        if isinstance(read, Failure):
            return read
        framing = read
    query = target.find(b"?")
    return (
        Request(
            method,
            target,
            target if query < 0 else target[:query],
            framing.headers,
            http_11,
            framing.chunked or bool(framing.length),
            framing.length,
            framing.expects_continue,
            client,
            scheme,
        ),
        framing,
    )


def _read_framing(headers: tuple[Header, ...], http_11: bool) -> Framing | Failure:
    """Check the fields that frame a message, and refuse what an origin might read in another way."""
    length: int | None = None
    expects = chunked = False
    options = _NO_OPTIONS
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
            if not http_11 or chunked or value.lower() != b"chunked":
                return Failure.BAD_REQUEST
            chunked = True
    if (hosts != 1 if http_11 else hosts > 1) or (chunked and length is not None):
        return Failure.BAD_REQUEST
    return Framing(headers, http_11, length, chunked, expects and http_11, options)
