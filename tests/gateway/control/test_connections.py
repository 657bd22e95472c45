"""Connections to the control port end by deadlines, and are bounded."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from gateway.control import connections
from gateway.control.connections import Port, head_came
from gateway.listeners import listening_socket
from gateway.settings import Server, Settings

PATIENCE_S = 10.0
SOON_S, LATER_S = 0.2, 2.0
WHOLE = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LONG = 64 << 20  # more than the kernel keeps for a client that does not read


@web.middleware
async def _told(request: web.Request, handler: object) -> web.StreamResponse:
    head_came(request)
    await asyncio.sleep(2 * SOON_S if request.path == "/slow" else 0)
    return web.Response(body=b"x" * (LONG if request.path == "/long" else 1))


@pytest.fixture
async def address(settings: Settings) -> AsyncIterator[tuple[str, int]]:
    """Where a port answers that waits for next to nothing."""
    server = dataclasses.replace(settings.server, head_timeout_s=SOON_S, idle_timeout_s=LATER_S)

    def current() -> Server:
        return server

    runner = web.AppRunner(web.Application(middlewares=[_told]))
    await runner.setup()
    assert runner.server is not None
    listening = listening_socket("127.0.0.1", 0)
    port = Port(runner.server, listening, current)
    host, number = listening.getsockname()
    await port.open(None)
    yield host, number
    port.close()
    await runner.cleanup()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side closes the connection."""
    async with asyncio.timeout(PATIENCE_S):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


@pytest.mark.parametrize("head", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_a_connection_without_a_whole_head_is_closed(address: tuple[str, int], head: bytes) -> None:
    """Silent or half-way through its head, it is given `head_timeout_s`."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(head)
    async with asyncio.timeout(LATER_S):
        assert await ended(reader) == b""
    writer.close()


async def test_a_head_that_drips_is_closed_all_the_same(address: tuple[str, int]) -> None:
    """The deadline is of the whole head, whatever comes meanwhile."""
    reader, writer = await asyncio.open_connection(*address)
    ending = asyncio.create_task(ended(reader))
    async with asyncio.timeout(LATER_S):
        while not ending.done():
            writer.write(b"G")
            await asyncio.sleep(SOON_S / 10)
    writer.close()


async def test_the_second_head_has_a_deadline_too(address: tuple[str, int]) -> None:
    """A kept connection that begins another request and does not end it is closed as an idle one is."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(WHOLE + b"GET / HTTP/1.1\r\n")
    assert (await ended(reader)).count(b"HTTP/1.1 200") == 1
    writer.close()


async def test_an_answer_may_take_longer_than_a_head(address: tuple[str, int]) -> None:
    """Once its head is whole, a request is waited for."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(WHOLE.replace(b"/ ", b"/slow ", 1))
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_who_does_not_take_the_answer_is_closed(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before the deadline for as long as some of it is taken."""
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT_S", SOON_S)
    with socket.create_connection(address) as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, WHOLE.replace(b"/ ", b"/long ", 1))
        taken = 0
        for _ in range(6):  # slowly, for longer than the deadline
            await asyncio.sleep(SOON_S / 2)
            taken += len(await loop.sock_recv(client, 1 << 20))
        await asyncio.sleep(3 * SOON_S)
        async with asyncio.timeout(PATIENCE_S):
            try:
                while data := await loop.sock_recv(client, 1 << 20):
                    taken += len(data)
            except ConnectionError:
                pass
    assert 6 << 10 < taken < LONG


async def test_there_is_a_bound_of_connections(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it a connection is closed at once; those that ended make room."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
    first = [await asyncio.open_connection(*address) for _ in range(2)]
    await asyncio.sleep(0)
    reader, writer = await asyncio.open_connection(*address)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await ended(reader) == b""
    assert loop.time() - began < SOON_S
    writer.close()
    for reader, writer in first:
        await ended(reader)
        writer.close()
    reader, writer = await asyncio.open_connection(*address)
    writer.write(WHOLE)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
