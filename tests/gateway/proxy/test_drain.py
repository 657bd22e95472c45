"""How a worker takes leave of its clients: it tells each one before it closes."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.proxy.health import health_answer
from tests.origin import Origin, Received
from tests.rig import Rig, rig, until


def get(key: str) -> bytes:
    """A call with a key."""
    return b"GET /service-json/SearchItemsFrame?instanceKey=%b HTTP/1.1\r\nHost: a\r\n\r\n" % key.encode()


HEALTH = b"GET /.well-known/tallygate HTTP/1.1\r\nHost: a\r\n\r\n"


async def test_a_kept_connection_is_told_in_its_next_answer(path: Rig) -> None:
    """A drain closes nothing by itself: the next call is answered, says `close`, and then it is closed."""
    key = await path.add_key()
    async with path.client() as client:
        assert (await client.send(get(key))).header("connection") is None
        path.proxy.drain()
        told = await client.send(get(key))
        assert (told.status, told.header("connection")) == (200, "close")
        assert await client.at_end()


async def test_a_connection_that_comes_during_the_drain_is_served(path: Rig) -> None:
    """What waited in the kernel's queue gets its answer, with `close`."""
    key = await path.add_key()
    path.proxy.drain()
    told = await path.send(get(key))
    assert (told.status, told.header("connection")) == (200, "close")


async def test_an_answer_whose_head_was_sent_before_is_followed_by_one_more(
    path: Rig, upstream: Origin
) -> None:
    """Its head did not say that the connection closes, so the client may call again, and is told then."""
    key = await path.add_key()
    gate = asyncio.Event()
    head, _, body = upstream.reply.partition(b"\r\n\r\n")

    async def halting(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head + b"\r\n\r\n")
        await writer.drain()
        await gate.wait()
        writer.write(body)

    usual, upstream.act = upstream.act, halting
    async with path.client() as client:
        client.writer.write(get(key))
        await client.reader.readuntil(b"\r\n\r\n")
        path.proxy.drain()
        path.proxy.close_idle()
        gate.set()
        assert await client.reader.readexactly(len(body)) == body
        upstream.act = usual
        told = await client.send(get(key))
        assert (told.status, told.header("connection")) == (200, "close")
        assert await client.at_end()


async def test_a_request_that_has_come_keeps_its_connection_open(path: Rig) -> None:
    """Bytes that wait in the socket when idle connections are closed are read and answered."""
    key = await path.add_key()
    async with path.client() as client:
        assert (await client.send(get(key))).status == 200
        path.proxy.drain()
        client.writer.write(get(key))  # it is in the socket by now, and this loop has not looked yet
        path.proxy.close_idle()
        told = await client.read()
        assert (told.status, told.header("connection")) == (200, "close")


async def test_closing_idle_connections_leaves_half_a_request_alone(path: Rig) -> None:
    """A client in the middle of its head is not idle."""
    key = await path.add_key()
    async with path.client() as client:
        request = get(key)
        client.writer.write(request[:20])
        await until(lambda: path.proxy.connections == 1)
        await asyncio.sleep(0.05)
        path.proxy.drain()
        path.proxy.close_idle()
        told = await client.send(request[20:])
        assert (told.status, told.header("connection")) == (200, "close")


async def test_the_health_path_answers_whoever_asks(path: Rig, upstream: Origin) -> None:
    """Ready, then leaving; on a kept connection; without a key, an upstream, or an entry in the log."""
    async with path.client() as client:
        ready = await client.send(HEALTH)
        assert (ready.status, ready.json()) == (200, {"status": "ready", "reasons": []})
        assert ready.header("cache-control") == "no-store"
        head = await _head(path)
        assert (head[0], head[1]) == (200, b"")
        path.proxy.leave()
        leaving = await client.send(HEALTH)
        assert (leaving.status, leaving.json()["status"]) == (503, "leaving")
        assert leaving.header("connection") is None, "calls are still taken"
        path.proxy.drain()
        last = await client.send(HEALTH)
        assert (last.status, last.header("connection")) == (503, "close")
        assert await client.at_end()
    assert upstream.received == []
    assert path.log.getvalue() == ""


async def _head(path: Rig) -> tuple[int, bytes]:
    async with path.client() as client:
        client.writer.write(
            HEALTH.replace(b"GET", b"HEAD").replace(b"Host: a", b"Host: a\r\nConnection: close")
        )
        answer = await client.read(head_request=True)
        return answer.status, await client.reader.read()


async def test_without_redis_a_worker_is_degraded_and_still_to_be_called(path: Rig) -> None:
    """It refuses in words that clients understand, so a balancer sends calls here as before."""
    path.proxy.counters.breaker.open("for this test")
    found = await path.send(HEALTH)
    assert (found.status, found.json()) == (200, {"status": "degraded", "reasons": ["counting_away"]})
    path.proxy.counters.breaker.close()


async def test_the_health_path_can_be_turned_off(valkey_url: str, upstream: Origin) -> None:
    """Then it is a path like any other, of no route here."""
    async with rig(valkey_url, upstream) as path:
        path.proxy.health_path = None
        assert (await path.send(HEALTH)).status == 404


@pytest.mark.parametrize(
    ("leaving", "reasons", "status", "told"),
    [
        (False, [], b"200", "ready"),
        (False, ["counting_away"], b"200", "degraded"),
        (True, ["counting_away"], b"503", "leaving"),
    ],
)
def test_only_a_leaving_worker_says_no(leaving: bool, reasons: list[str], status: bytes, told: str) -> None:
    """Leaving goes before every reason."""
    head, body = health_answer(leaving=leaving, reasons=reasons)
    assert head.startswith(b"HTTP/1.1 " + status)
    assert json.loads(body) == {"status": told, "reasons": reasons}
    assert b"Content-Length: %d\r\n" % len(body) in head
