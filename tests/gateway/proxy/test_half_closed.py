"""Clients that say that they send no more, and still wait for what they asked for."""

from __future__ import annotations

import asyncio
import socket
import struct

from tests.origin import OK_JSON, Origin, Received
from tests.rig import Client, Rig, until


def get(key: str, extra: str = "") -> bytes:
    """Return a plain call."""
    target = f"/service-json/GetItemInfoList?instanceKey={key}"
    return f"GET {target} HTTP/1.1\r\nHost: a\r\n{extra}\r\n".encode()


def ends(client: Client) -> None:
    """Close the client's side."""
    client.writer.write_eof()


async def test_a_half_closed_client_gets_its_answer(path: Rig, upstream: Origin) -> None:
    """Who closes its side right behind its request is answered, charged, and closed."""
    key = await path.add_key()
    async with path.client() as client:
        client.writer.write(get(key))
        ends(client)
        assert (await client.read()).body == OK_JSON
        assert await client.at_end()
    assert (await path.counts(key))["c:GetItemInfoList|item"] == 1


async def test_all_requests_before_the_end_are_answered(path: Rig, upstream: Origin) -> None:
    """Pipelined requests, refused ones among them, are all answered before the connection closes."""
    key = await path.add_key()
    async with path.client() as client:
        client.writer.write((get(key) + get("unknown")) * 150 + get(key))
        ends(client)
        codes = [(await client.read()).json()["ErrorCode"] for _ in range(301)]
        assert await client.at_end()
    assert codes == ["Ok", "AccessDenied"] * 150 + ["Ok"]
    assert len(upstream.received) == 151


async def test_a_request_that_is_not_whole_at_the_end_is_no_call(path: Rig, upstream: Origin) -> None:
    """Half a head, half a body, and half a body behind a whole request end the connection uncounted."""
    key = await path.add_key()
    form = get(key).replace(b"GET", b"POST")[:-2] + b"Content-Type: application/x-www-form-urlencoded\r\n"
    for raw, answers in ((get(key)[:-2], 0), (form + b"Content-Length: 9\r\n\r\nabc", 0)):
        async with path.client() as client:
            client.writer.write(raw)
            ends(client)
            assert await client.at_end()
        assert len(upstream.received) == answers
    async with path.client() as client:
        client.writer.write(get(key) + form + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        ends(client)
        assert (await client.read()).body == OK_JSON
        assert await client.at_end()
    await until(lambda: path.proxy.calls_in_flight == 0)
    assert len(upstream.received) == 1
    assert (await path.counts(key))["c:GetItemInfoList|item"] == 1


async def test_a_client_that_has_gone_is_found_out_by_its_answer(path: Rig, upstream: Origin) -> None:
    """Where the close was no half one, the first bytes of the answer tell, and the upstream is let go."""
    key = await path.add_key()
    gate = asyncio.Event()

    async def endless(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"%x\r\n%b\r\n" % (len(OK_JSON), OK_JSON))
            await writer.drain()
            await asyncio.sleep(0.01)

    upstream.act = endless
    async with path.client() as client:
        client.writer.write(get(key))
        await until(lambda: len(upstream.received) == 1)
    gate.set()
    await until(lambda: path.proxy.calls_in_flight == 0 and upstream.open_connections == 0)
    assert (await path.counts(key))["c:GetItemInfoList|item"] == 1


async def test_a_reset_connection_is_no_half_closed_one(path: Rig, upstream: Origin) -> None:
    """A client that breaks the connection has left at once, and its call is charged by its outcome."""
    key = await path.add_key()
    gate = asyncio.Event()

    async def wait(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(upstream.reply)

    upstream.act = wait
    async with path.client() as client:
        client.writer.write(get(key))
        await until(lambda: len(upstream.received) == 1)
        raw = client.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
    await until(lambda: not path.proxy._fronts)
    gate.set()
    await until(lambda: path.proxy.calls_in_flight == 0)
    assert (await path.counts(key))["c:GetItemInfoList|item"] == 1


async def test_a_client_that_closes_later_has_left(path: Rig, upstream: Origin) -> None:
    """More than a moment after the request an end is an end: the connection closes before the answer."""
    key = await path.add_key()
    gate = asyncio.Event()

    async def wait(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(upstream.reply)

    upstream.act = wait
    async with path.client() as client:
        client.writer.write(get(key))
        await until(lambda: len(upstream.received) == 1)
        path.proxy.tick += 5.0
        ends(client)
        assert await client.at_end()
    gate.set()
    await until(lambda: path.proxy.calls_in_flight == 0)
