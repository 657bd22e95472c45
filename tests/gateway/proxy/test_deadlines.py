"""Deadlines go on being kept, whatever becomes of the connections that they are for."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import cast

import pytest
import uvloop

from gateway.proxy.service import CLOSED_AT_ONCE
from gateway.proxy.sockets import reset, unread_bytes
from tests.origin import origin
from tests.rig import example_settings, rig, until


def test_a_client_that_leaves_just_before_it_is_closed_costs_no_deadline(valkey_url: str) -> None:
    """Of connections that are closed a few at a time some have gone when their turn comes; later ones are
    closed in their time all the same.

    Under the event loop of workers: it gives no socket for a connection that has gone.
    """

    async def scenario() -> None:
        async with origin() as upstream:
            settings = example_settings(upstream.port)
            server = dataclasses.replace(settings.server, head_timeout_s=0.5)
            async with rig(valkey_url, upstream, dataclasses.replace(settings, server=server)) as path:
                clients = [
                    await asyncio.open_connection("127.0.0.1", path.port) for _ in range(3 * CLOSED_AT_ONCE)
                ]
                await until(lambda: path.proxy.connections == len(clients))
                async with asyncio.timeout(5):
                    while not path.proxy._overdue:
                        await asyncio.sleep(0)
                for front in path.proxy._overdue:
                    front._transport.abort()
                for _, writer in clients:
                    writer.close()
                await until(lambda: path.proxy.connections == 0)
                async with path.client() as late, asyncio.timeout(5):
                    assert await late.at_end()

    uvloop.run(scenario())


def test_a_connection_that_has_gone_can_be_asked_for_and_reset() -> None:
    """The end of a TLS connection is told to its owner after its socket has been closed."""

    async def scenario() -> None:
        gone = asyncio.Event()
        made: list[asyncio.Transport] = []

        class Server(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.append(cast(asyncio.Transport, transport))

            def connection_lost(self, exc: Exception | None) -> None:
                gone.set()

        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        try:
            for asked_before in (False, True):
                gone.clear()
                _, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
                await until(lambda: made)
                transport = made.pop()
                if asked_before:
                    assert unread_bytes(transport) == 0
                writer.close()
                await gone.wait()
                await asyncio.sleep(0)
                assert unread_bytes(transport) == 0
                reset(transport)
        finally:
            server.close()

    uvloop.run(scenario())


async def test_what_goes_wrong_at_a_look_at_deadlines_is_not_the_end_of_them(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in one of the things that are seen to at intervals stops neither them nor deadlines."""
    faults: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))
    async with origin() as upstream:
        settings = example_settings(upstream.port)
        server = dataclasses.replace(settings.server, head_timeout_s=0.5)
        async with rig(valkey_url, upstream, dataclasses.replace(settings, server=server)) as path:

            def refuse() -> None:
                monkeypatch.undo()
                raise OSError("no space left on device")

            monkeypatch.setattr(path.proxy._access_log, "flush", refuse)
            await until(lambda: faults)
            async with path.client() as late, asyncio.timeout(5):
                assert await late.at_end()
