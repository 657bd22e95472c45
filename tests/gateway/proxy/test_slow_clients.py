"""Clients that send or read too slowly: each has a deadline, and holds a bounded amount of memory."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.origin import OK_JSON, Origin, answer
from tests.rig import Client, Rig, example_settings, rig, until

FORM = (
    "POST /service-json/GetItemFullInfo HTTP/1.1\r\nHost: a\r\n"
    "Content-Type: application/x-www-form-urlencoded\r\n"
)
TCP_CLOSED = 7
PUT = "PUT /rest/items/1 HTTP/1.1\r\nHost: a\r\nX-Api-Key: {}\r\nContent-Type: image/png\r\n"


@asynccontextmanager
async def impatient(valkey_url: str, upstream: Origin, **server: Any) -> AsyncIterator[Rig]:
    """Run a data path whose server settings are changed so."""
    settings = example_settings(upstream.port)
    settings = dataclasses.replace(settings, server=dataclasses.replace(settings.server, **server))
    async with rig(valkey_url, upstream, settings) as path:
        yield path


def get(key: str, count: int = 1) -> bytes:
    """Return plain calls."""
    target = f"/service-json/GetItemInfoList?instanceKey={key}"
    return f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * count


async def drip(client: Client, data: bytes) -> None:
    """Send bytes one by one, twenty a second, for ever."""
    while True:
        for byte in data:
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0.05)


@asynccontextmanager
async def dripping(client: Client, data: bytes) -> AsyncIterator[None]:
    """Drip while the block runs."""
    task = asyncio.create_task(drip(client, data))
    try:
        yield
    finally:
        task.cancel()


async def test_a_body_that_drips_is_refused(redis: object, valkey_url: str, upstream: Origin) -> None:
    """Bytes that come steadily, but too few of them, do not keep a call waiting: neither while it is being
    identified nor while its body passes through."""
    async with impatient(valkey_url, upstream, body_timeout_s=0.5, min_body_rate=1000) as path:
        key = await path.add_key()
        for head, status in ((FORM, 200), (PUT.format(key), 408)):
            async with path.client() as client:
                client.writer.write(f"{head}Content-Length: 100000\r\n\r\n".encode())
                async with dripping(client, b"a"):
                    got = await client.read()
                assert (got.status, got.header("connection")) == (status, "close")
        await until(lambda: path.proxy.calls_in_flight == 0 and upstream.open_connections == 0)


async def test_a_body_that_comes_fast_enough_is_taken(
    redis: object, valkey_url: str, upstream: Origin
) -> None:
    """However long it takes in all, a body at the lowest rate or above is awaited."""
    async with impatient(valkey_url, upstream, body_timeout_s=2.0, min_body_rate=10) as path:
        key = await path.add_key()
        async with path.client() as client:
            client.writer.write(f"{PUT.format(key)}Content-Length: 50\r\n\r\n".encode())
            async with dripping(client, b"a" * 50):
                assert (await client.read()).body == OK_JSON
        assert upstream.received[0].body == b"a" * 50


async def test_endless_extensions_and_trailers_are_refused(path: Rig, upstream: Origin) -> None:
    """What a body is wrapped in is bounded as its head is, and a call that sends more is not made."""
    key = await path.add_key()
    head = f"{FORM}X-Rapidapi-Key: {key}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    for wrapping in (b"3;" + b"x" * 99, b"3\r\nabc\r\n0\r\nTrailer: " + b"x" * 99, b"3\r\nabc\r\n0\r\n"):
        more = b"X: y\r\n" * 200 if wrapping.endswith(b"\n") else b"x" * 1200
        async with path.client() as client:
            client.writer.write(head + wrapping)
            for _ in range(200):
                client.writer.write(more)
                await asyncio.sleep(0)
            got = await client.read()
            assert got.json()["ErrorCode"] == "ValidationError"
            assert await client.at_end()
    assert upstream.received == []


async def test_blank_lines_do_not_keep_a_connection(redis: object, valkey_url: str, upstream: Origin) -> None:
    """Line ends before a request are no request, however many there come."""
    async with (
        impatient(valkey_url, upstream, head_timeout_s=0.4) as path,
        path.client() as client,
        dripping(client, b"\r\n"),
    ):
        assert await client.at_end()


async def test_who_does_not_read_gets_no_further_answers(path: Rig, upstream: Origin) -> None:
    """A client that sends without reading is read no further once its answers pile up."""
    key = await path.add_key()
    upstream.reply = answer(OK_JSON.ljust(50_000))
    raw = narrow_socket(path)
    raw.setblocking(False)
    pending = get(key, 5000)
    with raw:
        sent = 0
        for _ in range(40):
            try:
                while sent < len(pending):
                    sent += raw.send(pending[sent : sent + 65536])
            except BlockingIOError:
                pass
            await asyncio.sleep(0.02)
        (front,) = path.proxy._fronts
        assert front.stalled
        # The sockets' buffers hold some answers, the worker hardly more than its limit.
        assert front._transport.get_write_buffer_size() < 300_000
        assert len(upstream.received) < 500
    await until(lambda: not path.proxy._fronts)


async def test_who_does_not_read_the_last_answer_is_closed(
    redis: object, valkey_url: str, upstream: Origin
) -> None:
    """Neither a kept connection nor one that is to close stays open for a client that never reads."""
    upstream.reply = answer(OK_JSON.ljust(400_000))
    async with impatient(valkey_url, upstream, idle_timeout_s=0.4) as path:
        key = await path.add_key()
        for request in (get(key), get(key).replace(b"1.1", b"1.0")):
            upstream.received.clear()
            with narrow_socket(path) as raw:
                raw.sendall(request)
                await until(lambda: bool(upstream.received))
                await until(lambda: not path.proxy._fronts)
        await until(lambda: path.proxy.calls_in_flight == 0)


async def test_what_the_system_holds_for_a_client_goes_with_it(
    redis: object, valkey_url: str, upstream: Origin
) -> None:
    """An answer that lies whole with the system, for a client that does not read it, is not kept there beyond
    the deadline: the connection is reset."""
    upstream.reply = answer(OK_JSON.ljust(60_000))
    async with impatient(valkey_url, upstream, idle_timeout_s=0.4) as path:
        key = await path.add_key()
        with narrow_socket(path) as raw:
            raw.sendall(get(key))
            await until(lambda: bool(upstream.received))
            await until(lambda: not path.proxy._fronts)
            await until(lambda: raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSED)


def narrow_socket(path: Rig) -> socket.socket:
    """Connect with as small a buffer for answers as the system allows."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    raw.connect(("127.0.0.1", path.port))
    return raw


async def test_unfinished_bodies_are_bounded_together(
    redis: object, valkey_url: str, upstream: Origin
) -> None:
    """When bodies that have not come whole fill their bound, the call that overfills it is refused; when they
    have gone, there is room again."""
    async with impatient(valkey_url, upstream, max_buffered_bytes=300_000) as path:
        key = await path.add_key()
        head = f"{FORM}X-Rapidapi-Key: {key}\r\nContent-Length: 200000\r\n\r\n".encode()
        async with path.client() as first, path.client() as second:
            first.writer.write(head)
            second.writer.write(head)
            await asyncio.sleep(0.05)
            first.writer.write(b"x" * 199_999)
            await until(lambda: path.proxy.buffered_bytes > 190_000)
            second.writer.write(b"x" * 199_999)
            assert (await second.read()).json()["ErrorCode"] == "NotAvailable"
            assert (await first.send(b"x")).body == OK_JSON
        await until(lambda: path.proxy.buffered_bytes == 0)
        async with path.client() as client:
            client.writer.write(head)
            await asyncio.sleep(0.05)
            assert (await client.send(b"x" * 200_000)).body == OK_JSON
        assert path.proxy.buffered_bytes == 0


async def test_an_upstream_that_takes_no_more_is_not_the_clients_fault(
    redis: object, valkey_url: str
) -> None:
    """While the upstream holds a body up, the deadline is the upstream's, and its passing is told so."""

    over = asyncio.Event()

    async def swallow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0, limit=1024)
    port = server.sockets[0].getsockname()[1]
    settings = example_settings(port)
    quick = {u: dataclasses.replace(u, answer_timeout_s=2.0) for u in settings.upstreams}
    settings = dataclasses.replace(
        settings,
        upstreams=tuple(quick.values()),
        routes=tuple(dataclasses.replace(r, upstream=quick[r.upstream]) for r in settings.routes),
        server=dataclasses.replace(settings.server, body_timeout_s=60.0),
    )
    async with rig(valkey_url, port, settings) as path, path.client() as client:
        key = await path.add_key()
        client.writer.write(f"{PUT.format(key)}Content-Length: 100000000\r\n\r\n".encode())
        client.writer.write(b"x" * 20_000_000)
        assert (await client.read()).status == 504
    over.set()
    server.close()


async def test_an_empty_post_has_a_length(path: Rig, upstream: Origin) -> None:
    """Servers that insist on a length get one for POST, PUT and PATCH without a body, and none for GET."""
    key = await path.add_key()
    for method, length in (("POST", b"0"), ("PUT", b"0"), ("PATCH", b"0"), ("GET", None), ("DELETE", None)):
        head = f"{method} /rest/items/1 HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\nContent-Length: 0\r\n\r\n"
        await path.send(head.encode())
        assert upstream.received.pop().header(b"content-length") == length


async def test_calls_go_on_beside_slow_sockets(redis: object, valkey_url: str, upstream: Origin) -> None:
    """Beside a hundred sockets that are silent, drip or do not read, others are served; all of the slow ones
    are closed by a deadline, and leave nothing behind."""
    upstream.reply = answer(OK_JSON.ljust(400_000))
    bounds = {"head_timeout_s": 1.5, "body_timeout_s": 1.5, "idle_timeout_s": 1.5}
    async with impatient(valkey_url, upstream, **bounds) as path:
        key = await path.add_key()
        starts = (
            b"",
            b"GET /service-json/T HTTP/1.1\r\n",
            f"{FORM}Content-Length: 9000\r\n\r\n".encode(),
            get(key),
        )
        sockets = []
        for number in range(100):
            raw = narrow_socket(path)
            raw.sendall(starts[number % len(starts)])
            sockets.append(raw)
            await asyncio.sleep(0)
        for _ in range(20):
            assert (await path.send(get(key))).body.startswith(OK_JSON)
        await until(lambda: not path.proxy._fronts)
        await until(lambda: path.proxy.calls_in_flight == 0)
        assert path.proxy.buffered_bytes == 0
        for raw in sockets:
            raw.close()
