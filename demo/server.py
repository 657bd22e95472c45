"""HTTP/1.1 as an old, lenient server speaks it: whatever stands between method and version is the target."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from http import HTTPStatus
from typing import cast

from demo.answers import Answer
from demo.request import Body, Request
from demo.site import Site
from demo.switches import NONE, Switches, read_switches

HEAD_MAX_BYTES = 1 << 20
PIECE_BYTES = 64 * 1024

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class Connection(asyncio.Protocol):
    """One client's connection: requests are answered one after the other."""

    def __init__(self, site: Site, default: Switches, tasks: set[asyncio.Task[None]]) -> None:
        self._site = site
        self._default = default
        self._tasks = tasks
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._request: Request | None = None
        self._left = 0  # of a body with a length
        self._chunks: Chunks | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop an answer that is under way."""
        if self._task is not None:
            self._task.cancel()
        self._transport = None
        self._writable.set()

    def pause_writing(self) -> None:
        """Hold large answers back."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on with large answers."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Take bytes, and answer each request that is complete."""
        self._buffer = self._buffer + data if self._buffer else data
        self._advance()

    def _advance(self) -> None:
        while self._task is None and self._transport is not None and self._buffer:
            if self._request is None and not self._read_head():
                return
            if not self._read_body():
                return
            request, self._request = self._request, None
            assert request is not None
            self._respond(request)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_MAX_BYTES:
                self._refuse()
            return False
        lines = self._buffer[:end].split(b"\r\n")
        self._buffer = self._buffer[end + 4 :]
        method, _, rest = lines[0].partition(b" ")
        target, _, version = rest.rpartition(b" ")
        if not target or not version.startswith(b"HTTP/1."):
            self._refuse()
            return False
        headers = []
        fields = {}
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            value = value.strip()
            headers.append((name, value))
            fields[name.lower()] = value
        self._request = Request(method, target, version, headers, fields, Body())
        self._chunks = Chunks() if b"chunked" in fields.get(b"transfer-encoding", b"").lower() else None
        length = fields.get(b"content-length", b"0")
        self._left = int(length) if length.isdigit() else 0
        if fields.get(b"expect", b"").lower() == b"100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _read_body(self) -> bool:
        assert self._request is not None
        if self._chunks is not None:
            for piece in self._chunks.feed(self._buffer):
                self._request.body.add(piece)
            self._buffer = self._chunks.rest
            return self._chunks.ended
        if self._left:
            piece, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
            self._request.body.add(piece)
            self._left -= len(piece)
        return not self._left

    def _respond(self, request: Request) -> None:
        switches = read_switches(request, self._default)
        answer = self._site.answer(request, switches, plain=switches == NONE)
        transport = self._transport
        assert transport is not None
        if switches in (NONE, Switches(error=switches.error, status=switches.status)):
            transport.write(
                head(answer, switches, len(answer.body)) + (b"" if request.method == b"HEAD" else answer.body)
            )
            if is_last(request):
                transport.close()
            return
        self._task = asyncio.get_running_loop().create_task(self._respond_slowly(request, answer, switches))
        self._tasks.add(self._task)
        self._task.add_done_callback(self._tasks.discard)

    async def _respond_slowly(self, request: Request, answer: Answer, switches: Switches) -> None:
        if switches.delay_ms:
            await asyncio.sleep(switches.delay_ms / 1000)
        transport = self._transport
        if transport is None:
            return
        if switches.drop:
            transport.abort()
            return
        length = max(len(answer.body), switches.size_bytes)
        transport.write(head(answer, switches, length))
        sent = 0
        for piece in () if request.method == b"HEAD" else pieces(answer, length):
            if 0 <= switches.truncate < sent + len(piece):
                transport.write(_framed(piece[: switches.truncate - sent], switches))
                await self._writable.wait()
                transport.close()
                return
            transport.write(_framed(piece, switches))
            if switches.stall_ms and sent <= length // 2 < sent + len(piece):
                await asyncio.sleep(switches.stall_ms / 1000)
            sent += len(piece)
            await self._writable.wait()
            if self._transport is None:
                return
        if switches.chunked:
            transport.write(b"0\r\n\r\n")
        if is_last(request):
            transport.close()
        self._task = None
        self._advance()

    def _refuse(self) -> None:
        if self._transport is not None:
            self._transport.write(_STATUS_LINES[400] + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
            self._transport.close()
            self._buffer = b""


class Chunks:
    """Takes a chunked body apart; `rest` is what was not used yet, `ended` comes after the trailer."""

    def __init__(self) -> None:
        self.rest = b""
        self.ended = False
        self._left = 0  # of the current chunk
        self._in_trailer = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the data of chunks as far as `data` reaches."""
        while True:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                if piece:
                    yield piece
                if self._left:
                    break
            line, end, after = data.partition(b"\r\n")
            if not end:
                break
            data = after
            if self._in_trailer:
                if not line:
                    self.ended = True
                    break
            elif line:
                self._left = int(line.partition(b";")[0], 16)
                self._in_trailer = not self._left
        self.rest = data


def head(answer: Answer, switches: Switches, length: int) -> bytes:
    """Write the head of an answer."""
    status = switches.status or answer.status
    lines = [
        _STATUS_LINES.get(status) or f"HTTP/1.1 {status} Asked For\r\n".encode(),
        b"Content-Type: " + answer.content_type + b"\r\n",
        *(name + b": " + value + b"\r\n" for name, value in answer.headers),
        b"Transfer-Encoding: chunked\r\n" if switches.chunked else b"Content-Length: %d\r\n" % length,
        b"Server: demo-marketplace\r\n\r\n",
    ]
    return b"".join(lines)


def pieces(answer: Answer, length: int) -> Iterator[bytes]:
    """Yield a body, padded to `length` with whitespace, which both formats allow at the end."""
    body = answer.body
    padding = b" " * PIECE_BYTES
    left = length
    while left > 0:
        piece = (body[:PIECE_BYTES] + padding)[: min(PIECE_BYTES, left)]
        body = body[PIECE_BYTES:]
        left -= len(piece)
        yield piece


def is_last(request: Request) -> bool:
    """Say whether the connection ends with this request."""
    connection = request.fields.get(b"connection", b"").lower()
    return connection == b"close" or (request.version == b"HTTP/1.0" and connection != b"keep-alive")


def _framed(piece: bytes, switches: Switches) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece) if switches.chunked and piece else piece
