"""A running marketplace in the test's own process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from demo.access import Access
from demo.catalogue import Catalogue
from demo.marketplace import Marketplace
from demo.server import Connection
from demo.site import Site
from demo.switches import NONE


@dataclass(slots=True)
class Shop:
    """The port of a running marketplace, and ways to send it bytes."""

    port: int

    async def send(self, raw: bytes) -> bytes:
        """Send bytes that end the connection, and return everything that comes back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(raw)
        async with asyncio.timeout(15):
            answer = await reader.read()
        writer.close()
        return answer

    async def get(self, target: str, *headers: str) -> bytes:
        """Send a GET and return the answer's body."""
        lines = [f"GET {target} HTTP/1.1", "Host: demo", "Connection: close", *headers, "", ""]
        return (await self.send("\r\n".join(lines).encode())).partition(b"\r\n\r\n")[2]

    async def post(self, target: str, form: bytes) -> bytes:
        """Send a form and return the answer's body."""
        head = (
            f"POST {target} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(form)}\r\n\r\n"
        )
        return (await self.send(head.encode() + form)).partition(b"\r\n\r\n")[2]


@contextlib.asynccontextmanager
async def running(catalogue: Catalogue, access: Access) -> AsyncIterator[Shop]:
    """Run a marketplace until the block ends."""
    site = Site(Marketplace(catalogue), access)
    tasks: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(site, NONE, tasks), "127.0.0.1", 0)
    try:
        yield Shop(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
