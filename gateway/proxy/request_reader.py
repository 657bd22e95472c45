"""Requests as they come in: bytes fed to llhttp (httptools), heads and bodies out. Knows no socket.

A request line with raw spaces or raw UTF-8 in its target, which llhttp refuses, is read as old clients of
marketplace APIs mean it. An offer to go on in HTTP/2 is not taken up: its request is read as if it were not
there.
"""

from __future__ import annotations

import re
from collections import deque

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

from gateway.failures import Failure
from gateway.proxy.headers import Header
from gateway.proxy.incoming import Incoming, RepeatedHead

_LENIENT_LINE = re.compile(rb"([A-Z]{3,7}) (/[^\x00-\x1f\x7f]*) (HTTP/1\.[01])\Z")
_LENIENT_START = re.compile(rb"[A-Z]{3,7} /[^\x00-\x1f\x7f]*\r?\Z")
_UNPARSED = re.compile(rb"[ \x80-\xff]")
_REPEATED_MAX_BYTES = 4096  # of header lines that are remembered by a connection


class RequestReader:
    """Reads the requests of one connection; those whose head is complete stand in `requests`, in order."""

    __slots__ = (
        "_after_body",
        "_current",
        "_fed",
        "_head",
        "_headers",
        "_lenient",
        "_lines",
        "_max_head_bytes",
        "_max_headers",
        "_parser",
        "_progress",
        "_raw_target",
        "_repeated",
        "_target",
        "_too_large",
        "_without_progress",
        "in_head",
        "requests",
    )

    def __init__(self, max_head_bytes: int, max_headers: int) -> None:
        self._max_head_bytes = max_head_bytes
        self._max_headers = max_headers
        self.requests: deque[Incoming] = deque()
        self.in_head = False
        self._current: Incoming | None = None
        self._after_body = False  # where in the data a head begins that begins now cannot be told
        self._head = b""  # what has come of a head that is not complete
        self._fed = 0  # bytes that a head now completed may consist of
        self._raw_target: bytes | None = None  # as it came, when the parser was fed another spelling
        self._lenient = False  # collecting a request line that the parser does not take
        self._progress = False  # whether the last bytes brought any of a body, or ended one
        self._without_progress = 0  # bytes of chunk extensions and trailers since then
        self._lines = b""  # of the last head, where the next one may well have the same
        self._repeated: RepeatedHead | None = None
        self._start_over()

    def _start_over(self) -> None:
        self._parser = HttpRequestParser(self)
        self._target = b""
        self._headers: list[Header] = []
        self._too_large = False

    def feed(self, data: bytes) -> Failure | None:
        """Take what came in; a failure means that nothing that follows can be understood."""
        if self._lines:
            incoming = self._read_repeated(data)
            if incoming is not None:
                self._current = incoming
                self.requests.append(incoming)
                return None
            self._lines = b""
            self._repeated = None
        if self._lenient:
            return None if self._read_leniently(data) else Failure.BAD_REQUEST
        before = len(self.requests)
        in_head, current = self.in_head, self._current
        if not in_head:
            self._after_body = current is not None and not current.whole
        after_body = self._after_body
        self._fed = len(self._head) + len(data)
        self._progress = False
        parsed = False
        while not parsed:
            try:
                self._parser.feed_data(data)
                parsed = True
            except HttpParserUpgrade as upgrade:
                anew = self._without_upgrade(data[upgrade.args[0] :])
                if anew is None:
                    return None  # its request says so, and is refused
                data = anew
            except HttpParserError as error:
                if self._too_large:
                    return Failure.HEAD_TOO_LARGE
                is_first = self.in_head and len(self.requests) == before and self._raw_target is None
                # Of what came with the end of a body nothing must be read as a request that is none.
                if is_first and not self._after_body and self._read_leniently(data):
                    return None
                unknown = isinstance(error, HttpParserInvalidMethodError)
                return Failure.NOT_IMPLEMENTED if unknown else Failure.BAD_REQUEST
        if not self.in_head:
            if self._head:
                self._head = b""
            elif len(self.requests) == before + 1 and not after_body:
                self._remember(data)
            if self._progress:
                self._without_progress = 0
            else:
                # The parser keeps a trailer until it ends; trailers and extensions are of no use to anybody.
                self._without_progress += len(data)
                if self._without_progress > self._max_head_bytes:
                    return Failure.BAD_REQUEST
            return None
        if in_head and len(self.requests) == before:
            self._head += data
        elif self._after_body:
            self._head = data[-1:]  # all that surely belongs to it
        elif len(self.requests) > before:
            # The next one has begun behind it, whose end may have begun in what came before.
            end = data.rfind(b"\r\n\r\n")
            self._head = data.lstrip(b"\r\n") if end < 0 else data[end + 4 :]
        else:
            self._head = data
        return Failure.HEAD_TOO_LARGE if len(self._head) > self._max_head_bytes else None

    def _read_repeated(self, data: bytes) -> Incoming | None:
        """Return the request that `data` is when it has the header lines of the one before."""
        lines, current = self._lines, self._current
        if (
            not data.endswith(lines)
            or data.find(b"\n") + 1 != len(data) - len(lines)
            or len(data) > self._max_head_bytes
            or self.in_head  # the next byte would not begin a request
            or self._lenient
            or current is None
            or not current.whole
        ):
            return None
        repeated = self._repeated
        if repeated is None:
            repeated = self._repeated = RepeatedHead(current.headers)
        incoming = None
        if current.method == b"GET":
            incoming = repeated.read_plain(data, len(data) - len(lines))
        return repeated.read(data) if incoming is None else incoming

    def _remember(self, data: bytes) -> None:
        """Remember the header lines of a request that is nothing but a head and came in one piece."""
        begin = data.find(b"\n") + 1
        last = self.requests[-1]
        if (
            last.whole
            and last.keep_alive
            and last.version == "1.1"
            and not last.upgrade
            and data.startswith(last.method)  # nothing skipped stands before it
            and 2 < begin < len(data) <= begin + _REPEATED_MAX_BYTES
            and data.find(b"\r\n\r\n") == len(data) - 4
        ):
            self._lines = data[begin:]

    def _read_leniently(self, data: bytes) -> bool:
        """Read a head whose request line the parser has refused; returns whether it was, or may yet be,
        taken.

        The parser is fed the target with the offending bytes escaped. The upstream gets them as they came,
        but for the spaces, at which it might end the target.
        """
        head = (self._head + data).lstrip(b"\r\n")  # empty lines before a request are skipped
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
        self._raw_target = match[2].replace(b" ", b"%20")
        self._head = b""
        self._start_over()
        escaped = _UNPARSED.sub(lambda found: b"%%%02X" % found[0][0], match[2])
        return self.feed(b"%b %b %b\r\n%b" % (match[1], escaped, match[3], rest)) is None

    def _without_upgrade(self, rest: bytes) -> bytes | None:
        """Take back a request that offers HTTP/2, and return it without the offer, and what follows it.

        The parser has taken its body for another protocol. Clients of HTTP/2 make the offer with the first
        request of a connection, and it may be ignored (RFC 9110 section 7.8). Other upgrades are wanted, not
        offered: None.
        """
        asked = self.requests[-1]
        protocols = [value for name, value in asked.headers if name.lower() == b"upgrade"]
        if not protocols or any(value.lower() != b"h2c" for value in protocols):
            return None
        self.requests.pop()
        lines = [b"%b %b HTTP/%b\r\n" % (asked.method, asked.target, asked.version.encode())]
        lines += (b"%b: %b\r\n" % field for field in asked.headers if field[0].lower() != b"upgrade")
        self._head = b""
        self._start_over()
        return b"%b\r\n%b" % (b"".join(lines), rest)

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
        after_body, self._after_body = self._after_body, False
        if after_body or self._fed > self._max_head_bytes:
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
        self._progress = self._after_body = True
        self._current.add(data)

    def on_message_complete(self) -> None:
        """Note the end of the last request."""
        assert self._current is not None
        self._progress = True
        self._current.whole = True
