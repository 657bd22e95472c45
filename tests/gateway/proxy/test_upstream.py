"""Upstreams that answer strangely, and the pool of connections to them."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from gateway.settings import Settings
from tests.origin import OK_JSON, Origin, Received
from tests.rig import Rig, example_settings, rig, until

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(OK_JSON), OK_JSON)


def get(key: str) -> bytes:
    """Return a plain call."""
    return f"GET /service-json/GetItemInfoList?instanceKey={key} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def says(upstream: Origin, raw: bytes, *, close: bool = False) -> None:
    """Let the origin answer every request with these bytes."""

    async def act(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        if close:
            writer.close()

    upstream.act = act


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + GOOD,
        b"HTTP/1.1 200 OK\r\n" + b"X: %b\r\n" % (b"y" * 1000) * 200 + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 400_000,
    ],
)
async def test_an_answer_that_cannot_be_trusted_is_a_waived_failure(
    path: Rig, upstream: Origin, raw: bytes
) -> None:
    """The client gets NotAvailable in its dialect and nothing of the answer; the call is not charged."""
    says(upstream, raw)
    key = await path.add_key()
    got = await path.send(get(key))
    assert got.json()["ErrorCode"] == "NotAvailable"
    counts = await path.counts(key)
    assert sum(n for name, n in counts.items() if name.startswith("v:upstream_")) == 1
    assert path.proxy.calls_in_flight == 0


async def test_interim_answers_are_passed_over(path: Rig, upstream: Origin) -> None:
    """The real answer after a 103 is the answer."""
    says(upstream, b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + GOOD)
    key = await path.add_key()
    got = await path.send(get(key))
    assert (got.status, got.body, got.header("link")) == (200, OK_JSON, None)


async def test_a_second_answer_in_one_breath_ends_the_connection(path: Rig, upstream: Origin) -> None:
    """Bytes after an answer never become the next call's answer."""
    says(upstream, GOOD + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
    key = await path.add_key()
    async with path.client() as client:
        assert [(await client.send(get(key))).body for _ in range(3)] == [OK_JSON] * 3
    assert upstream.connections == 3


async def test_an_unsolicited_answer_ends_an_idle_connection(path: Rig, upstream: Origin) -> None:
    """An answer sent between two calls is not taken for the second one's."""
    key = await path.add_key()
    sent = asyncio.Event()

    async def act(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GOOD)
        await writer.drain()
        if not sent.is_set():
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
            await writer.drain()
            sent.set()

    upstream.act = act
    async with path.client() as client:
        assert (await client.send(get(key))).body == OK_JSON
        await sent.wait()
        await until(lambda: upstream.open_connections == 0)
        assert (await client.send(get(key))).body == OK_JSON


async def test_an_answer_that_ends_with_its_connection_is_whole(path: Rig, upstream: Origin) -> None:
    """Without length and chunks the end of the connection is the end of the answer, chunked for the
    client."""
    says(upstream, b"HTTP/1.1 200 OK\r\n\r\n" + OK_JSON, close=True)
    key = await path.add_key()
    async with path.client() as client:
        for _ in range(2):
            got = await client.send(get(key))
            assert (got.body, got.header("transfer-encoding")) == (OK_JSON, "chunked")


async def test_a_reason_phrase_is_not_copied(path: Rig, upstream: Origin) -> None:
    """The status passes, the upstream's phrase does not."""
    says(upstream, b"HTTP/1.1 404 <script>\r\nContent-Length: 0\r\n\r\n")
    key = await path.add_key()
    async with path.client() as client:
        client.writer.write(get(key))
        assert await client.reader.readline() == b"HTTP/1.1 404 Not Found\r\n"


async def test_calls_over_the_pool_wait_for_a_connection(
    redis: object, valkey_url: str, upstream: Origin
) -> None:
    """With one connection allowed, simultaneous calls use it in turn, and all are answered."""
    settings = example_settings(upstream.port)
    narrow = {u: dataclasses.replace(u, max_connections=1) for u in settings.upstreams}
    settings = dataclasses.replace(
        settings,
        upstreams=tuple(narrow.values()),
        routes=tuple(dataclasses.replace(r, upstream=narrow[r.upstream]) for r in settings.routes),
    )
    async with rig(valkey_url, upstream, settings) as path:
        key = await path.add_key()
        answers = await asyncio.gather(*(path.send(get(key)) for _ in range(20)))
        assert [got.body for got in answers] == [OK_JSON] * 20
        assert upstream.connections == 1


async def test_calls_that_wait_for_a_connection_get_one_after_their_upstream_has_changed(
    redis: object, valkey_url: str, upstream: Origin
) -> None:
    """Calls under way end under the settings they came under, those among them that wait."""
    settings = example_settings(upstream.port)

    def narrowed(connections: int) -> Settings:
        narrow = {u: dataclasses.replace(u, max_connections=connections) for u in settings.upstreams}
        return dataclasses.replace(
            settings,
            upstreams=tuple(narrow.values()),
            routes=tuple(dataclasses.replace(r, upstream=narrow[r.upstream]) for r in settings.routes),
        )

    changed = asyncio.Event()

    async def act(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await changed.wait()
        writer.write(GOOD)

    upstream.act = act
    async with rig(valkey_url, upstream, narrowed(1)) as path:
        key = await path.add_key()
        calls = [asyncio.create_task(path.send(get(key))) for _ in range(3)]
        await until(lambda: sum(pool.waiting for pool in path.proxy._pools.values()) == 2)
        path.proxy.replace_settings(narrowed(2))
        changed.set()
        assert [got.body for got in await asyncio.gather(*calls)] == [OK_JSON] * 3
        await until(lambda: upstream.open_connections == 0)


async def test_calls_that_wait_for_a_pool_fail_when_its_upstream_is_away(
    redis: object, valkey_url: str
) -> None:
    """A failed connection makes room for the next attempt, so nobody waits for a deadline."""
    settings = example_settings(1)
    narrow = {u: dataclasses.replace(u, max_connections=1) for u in settings.upstreams}
    settings = dataclasses.replace(
        settings,
        upstreams=tuple(narrow.values()),
        routes=tuple(dataclasses.replace(r, upstream=narrow[r.upstream]) for r in settings.routes),
    )
    async with rig(valkey_url, 1, settings) as path:
        key = await path.add_key()
        async with asyncio.timeout(2):
            answers = await asyncio.gather(*(path.send(get(key)) for _ in range(20)))
        assert {got.json()["ErrorCode"] for got in answers} == {"NotAvailable"}
        assert (await path.counts(key))["v:upstream_unreachable"] == 20


async def test_cancelled_calls_never_cross(path: Rig, upstream: Origin) -> None:
    """Clients that leave at any moment neither get nor leave behind another one's answer, and the books
    empty."""
    key = await path.add_key()

    async def echo(request: Received, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b'{"ErrorCode":"Ok","Echo":"%b"}' % request.target.rsplit(b"=", 1)[1]
        await asyncio.sleep(0.002)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    upstream.act = echo

    async def call(number: int) -> None:
        request = (
            f"GET /service-json/GetItemInfoList?instanceKey={key}&itemId={number} HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        async with path.client() as client:
            client.writer.write(request.encode())
            if number % 3:
                await asyncio.sleep(number % 7 / 1000)
                return
            assert (await client.read()).json()["Echo"] == str(number)

    for start in range(0, 600, 100):
        await asyncio.gather(*(call(number) for number in range(start, start + 100)))
    await until(lambda: path.proxy.calls_in_flight == 0)
    counts = await path.counts(key)
    assert 200 <= counts["c:GetItemInfoList|item"] <= 600
    assert len(upstream.received) <= counts["c:GetItemInfoList|item"] - counts.get("v:not_forwarded", 0)
