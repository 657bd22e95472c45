"""An origin whose answers tell whose they are: each call carries its number, and no two answers are alike.

The number alone decides how an answer looks, so whoever calls can tell a whole answer from any other to the
byte: every 17th is an error that the contract does not charge, every 3rd comes in chunks, every 64th is long.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import cast

_NUMBER = re.compile(rb"[?&]id=(\d+)")
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (\d+)\r\n")
LONG_BYTES, SHORT_BYTES = 24_000, 200


def is_free(number: int) -> bool:
    """Say whether the contract does not charge this call's answer (contract OT-15)."""
    return number % 17 == 5


def is_long(number: int) -> bool:
    """Say whether this call's answer takes many packets."""
    return number % 64 == 0


def body_of(number: int) -> bytes:
    """Return the body of a call's answer."""
    code = b"Busy" if is_free(number) else b"Ok"
    filler = b"%d." % (number % 9973)
    size = LONG_BYTES if is_long(number) else SHORT_BYTES
    result = (filler * (size // len(filler) + 1))[:size]
    return b'{"ErrorCode":"%b","SubErrorCode":null,"Id":%d,"Result":"%b"}' % (code, number, result)


def answer_of(number: int) -> bytes:
    """Return a call's whole answer."""
    body = body_of(number)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    if number % 3:
        return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:half], body[half:]))
    return b"%bTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % (head, chunks)


class Echo:
    """A listening origin that counts how often each call reaches it, up to 255 times."""

    def __init__(self) -> None:
        self.reached = bytearray(1 << 16)
        self.port = 0
        self.connections: set[_Connection] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Echo]:
        """Listen on a port of its own until the block ends."""
        server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), "127.0.0.1", 0, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for connection in list(self.connections):
                connection.transport.abort()

    def count(self, number: int) -> None:
        """Note that a call has come."""
        if number >= len(self.reached):
            self.reached.extend(bytes(max(number + 1 - len(self.reached), len(self.reached))))
        self.reached[number] = min(255, self.reached[number] + 1)


class _Connection(asyncio.Protocol):
    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._data = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._echo.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        while (end := self._data.find(b"\r\n\r\n") + 4) > 3:
            head = self._data[:end]
            found = _LENGTH.search(head)
            whole = end + (int(found[1]) if found else 0)
            if len(self._data) < whole:
                return
            request, self._data = self._data[:whole], self._data[whole:]
            numbered = _NUMBER.search(request)
            assert numbered is not None, f"a request without a number: {request!r}"
            number = int(numbered[1])
            self._echo.count(number)
            self.transport.write(answer_of(number))

    def connection_lost(self, exc: Exception | None) -> None:
        self._echo.connections.discard(self)
