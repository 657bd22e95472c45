"""An upstream for tests: it records every request to the byte and answers with the bytes it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

OK_JSON = b'{"ErrorCode":"Ok","SubErrorCode":null,"Result":{"Items":[1,2,3]}}'


@dataclass(slots=True)
class Received:
    """One request as it stood on the wire, its chunked body joined."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def target(self) -> bytes:
        """Return the request target."""
        return self.line.split(b" ", 1)[1].rsplit(b" ", 1)[0]

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header field, or None."""
        found = [value for key, value in self.headers if key.lower() == name]
        assert len(found) <= 1, f"{name!r} came {len(found)} times"
        return found[0] if found else None


def answer(body: bytes = OK_JSON, *, status: bytes = b"200 OK", headers: bytes = b"") -> bytes:
    """Return a whole answer with a length."""
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        status,
        headers,
        len(body),
        body,
    )


Act = Callable[["Received", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Origin:
    """A listening upstream; `act` answers each request, by default with `reply`."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    reply: bytes = field(default_factory=answer)
    act: Act | None = None
    connections: int = 0
    open_connections: int = 0
    aborted: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection in turn."""
        self.connections += 1
        self.open_connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request = await _read(head, reader)
                self.received.append(request)
                if self.act is None:
                    writer.write(self.reply)
                    await writer.drain()
                else:
                    await self.act(request, reader, writer)
                    if writer.is_closing():
                        return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.aborted.set()
        finally:
            self.open_connections -= 1
            writer.close()


async def _read(head: bytes, reader: asyncio.StreamReader) -> Received:
    line, *rest = head[:-4].split(b"\r\n")
    headers = []
    for row in rest:
        name, _, value = row.partition(b":")
        headers.append((name, value.strip()))
    request = Received(line, headers, b"")
    length = request.header(b"content-length")
    if length is not None:
        request.body = await reader.readexactly(int(length))
    elif request.header(b"transfer-encoding") is not None:
        pieces = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            pieces.append((await reader.readexactly(size + 2))[:-2])
        await reader.readexactly(2)
        request.body = b"".join(pieces)
    return request


@contextlib.asynccontextmanager
async def origin(tls: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
    """Run an origin until the block ends."""
    made = Origin()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, limit=1 << 20, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
