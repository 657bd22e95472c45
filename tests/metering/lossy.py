"""A proxy in front of a real Valkey that loses what it is told to lose."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Lossy:
    """Passes bytes on; breaks connections after a script ran, or before it does, as often as it is told."""

    def __init__(self, target_url: str) -> None:
        self._target = urlsplit(target_url)
        self.lose_replies = 0  # scripts that still run, but whose answer is not delivered
        self.lose_requests = 0  # scripts that do not reach the server
        self.lost = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one client's connection."""
        if self._target.scheme == "unix":
            server_reader, server_writer = await asyncio.open_unix_connection(unquote(self._target.path))
        else:
            server_reader, server_writer = await asyncio.open_connection(
                self._target.hostname, self._target.port
            )
        self._writers |= {writer, server_writer}
        back: asyncio.Task[None] | None = None
        with contextlib.suppress(OSError):
            back = asyncio.ensure_future(self._pass(server_reader, writer))
            while data := await reader.read(1 << 20):
                if b"EVALSHA" in data and self.lose_requests:
                    self.lose_requests -= 1
                    self.lost += 1
                    break
                if b"EVALSHA" in data and self.lose_replies:
                    self.lose_replies -= 1
                    self.lost += 1
                    back.cancel()
                    server_writer.write(data)
                    await server_reader.read(1)  # the script has run when its answer begins
                    break
                server_writer.write(data)
        if back is not None:
            back.cancel()
        for each in (writer, server_writer):
            each.close()
            self._writers.discard(each)

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 20):
                writer.write(data)
            writer.close()


@contextlib.asynccontextmanager
async def lossy(target_url: str, directory: Path) -> AsyncIterator[tuple[Lossy, str]]:
    """Run a proxy until the block ends; gives it and its URL."""
    proxy = Lossy(target_url)
    place = directory / "lossy.sock"
    server = await asyncio.start_unix_server(proxy.serve, str(place))
    try:
        yield proxy, f"unix://{place}"
    finally:
        server.close()
        proxy.cut()
