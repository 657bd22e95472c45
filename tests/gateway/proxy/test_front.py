"""A client's connection: what is taken as a request, in which order, and for how long."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import resource
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import Settings
from tests.origin import OK_JSON, Origin, Received
from tests.rig import Rig, example_settings, rig, until

MIB = 1024 * 1024

FORM_POST = (
    b"POST /service/GetItemFullInfo HTTP/1.1\r\nHost: a\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n"
)


def get(key: str, extra: str = "", target: str = "/service-json/GetItemInfoList") -> bytes:
    """Return a plain call."""
    return f"GET {target}?instanceKey={key} HTTP/1.1\r\nHost: a\r\n{extra}\r\n".encode()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /service-json/T HTTP/2.0\r\nHost: a\r\n\r\n", (400, 501)),
        (b"GET /service-json/T\r\nHost: a\r\n\r\n", (400, 501)),
        (b"TRACE /service-json/T HTTP/1.1\r\nHost: a\r\n\r\n", (501,)),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", (501,)),
        (b"GET http://b/service-json/T HTTP/1.1\r\nHost: a\r\n\r\n", (400,)),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", (400,)),
        (b"GET /service-json/T HTTP/1.1\r\n\r\n", (400,)),
        (b"GET /service-json/T HTTP/1.1\r\nHost: \r\n\r\n", (400,)),
        (b"GET /service-json/T HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", (400,)),
        (b"GET /service-json/T HTTP/1.1\r\nHost: a b\r\n\r\n", (400,)),
        (b"GET /service-json/T HTTP/1.1\r\nHost: a@b/c\r\n\r\n", (400,)),
        (b"GET /service-json/Test#x HTTP/1.1\r\nHost: a\r\n\r\n", (400,)),
        (
            b"GET /service-json/T HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            (501,),
        ),
        (b"GET /service-json/T HTTP/1.1\r\nHost: a\r\nExpect: teapots\r\n\r\n", (417,)),
        (b"GET /service-json/T HTTP/1.1\r\nHost: a\r\n folded: 1\r\n\r\n", (400,)),
        (b"GET /service-json/T HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n", (400,)),
        (b"SETUP /service-json/T RTSP/1.0\r\nHost: a\r\n\r\n", (501,)),
        (b"SOURCE /service-json/T ICE/1.0\r\nHost: a\r\n\r\n", (501,)),
        (b"GET /service-json/T HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", (400,)),
        (b"GET /service-json/T HTTP/1.1\r\nHost : a\r\n\r\n", (400,)),
        (b"POST /service-json/T HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na", (400,)),
        (b"GET /service-json/T HTTP/1.1\nHost: a\n\n", (400,)),
        (
            b"POST /service-json/T HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            (400,),
        ),
        (
            b"POST /service-json/T HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            (400,),
        ),
        (
            b"POST /service-json/T HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            (400,),
        ),
        (
            b"POST /service-json/T HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            (400,),
        ),
        (b"POST /service-json/T HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", (400,)),
        (b"GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n", (404,)),
        (b"GET /service-json/" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", (431,)),
        (b"GET /service-json/T HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 300 + b"\r\n", (431,)),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400, 501)),
    ],
)
async def test_what_is_no_sound_request_is_refused_and_closed(
    path: Rig, upstream: Origin, raw: bytes, status: tuple[int, ...]
) -> None:
    """The refusal is HTTP/1.1, echoes nothing of the request, and closes the connection; nothing is
    forwarded."""
    async with path.client() as client:
        got = await client.send(raw)
        assert got.status in status
        assert got.header("connection") == "close"
        assert got.header("content-type") == "application/problem+json"
        assert await client.at_end()
    assert b"service-json" not in got.body
    assert upstream.received == []


@pytest.mark.parametrize(
    "target",
    [
        "/service-json/../service-json/Test",
        "/service-json/%2e%2e/Test",
        "/service-json/a%2fTest",
        "/service-json/Te%00st",
    ],
)
async def test_a_path_that_an_upstream_may_read_otherwise_is_refused(
    path: Rig, upstream: Origin, target: str
) -> None:
    """Dot segments, encoded slashes and encoded zeros never reach the upstream."""
    key = await path.add_key()
    got = await path.send(get(key, target=target))
    assert not got.body.startswith(b'{"ErrorCode":"Ok"')
    assert upstream.received == []


async def test_pipelined_requests_are_answered_in_order(path: Rig, upstream: Origin) -> None:
    """Requests that come in one piece are taken one after the other, refused ones among them."""
    key = await path.add_key()
    async with path.client() as client:
        client.writer.write(get(key) + get("unknown-key") + get(key) + get("unknown-key") + get(key))
        codes = [(await client.read()).json()["ErrorCode"] for _ in range(5)]
    assert codes == ["Ok", "AccessDenied", "Ok", "AccessDenied", "Ok"]
    assert len(upstream.received) == 3


async def test_a_connection_is_kept_and_an_upstream_connection_is_used_again(
    path: Rig, upstream: Origin
) -> None:
    """Fifty calls on one connection need one upstream connection."""
    key = await path.add_key()
    async with path.client() as client:
        for _ in range(50):
            assert (await client.send(get(key))).body == OK_JSON
    assert upstream.connections == 1


async def test_what_follows_good_requests_in_one_piece_is_refused_in_its_turn(
    path: Rig, upstream: Origin
) -> None:
    """Nonsense behind two calls does not take their answers away."""
    key = await path.add_key()
    async with path.client() as client:
        client.writer.write(get(key) * 2 + b"nonsense\r\n\r\n")
        assert [(await client.read()).status for _ in range(3)] == [200, 200, 501]
        assert await client.at_end()
    assert len(upstream.received) == 2


async def test_a_refusal_is_read_by_a_client_that_still_sends_its_body(path: Rig) -> None:
    """A path without a route is refused at once, and the connection closed only after some more was read."""
    async with path.client() as client:
        client.writer.write(b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n")
        for _ in range(10):
            client.writer.write(b"a" * 10_000)
            await client.writer.drain()
            await asyncio.sleep(0.01)
        assert (await client.read()).status == 404


async def test_a_thousand_pipelined_requests_are_all_answered(path: Rig, upstream: Origin) -> None:
    """However many come at once, each is answered, and the ones behind wait."""
    key = await path.add_key()
    async with path.client() as client:
        client.writer.write(get(key) * 1000)
        for _ in range(1000):
            assert (await client.read()).body == OK_JSON
    assert len(upstream.received) == 1000


async def test_a_head_in_single_bytes_is_read(path: Rig) -> None:
    """A request may come in any pieces."""
    key = await path.add_key()
    async with path.client() as client:
        for byte in get(key):
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.read()).body == OK_JSON


async def test_http_10_is_answered_and_closed(path: Rig) -> None:
    """A client of HTTP/1.0 without keep-alive gets its answer and the end of the connection."""
    key = await path.add_key()
    async with path.client() as client:
        got = await client.send(
            f"GET /service-json/GetItemInfoList?instanceKey={key} HTTP/1.0\r\n\r\n".encode()
        )
        assert (got.status, got.body, got.header("connection")) == (200, OK_JSON, "close")
        assert await client.at_end()


async def test_connection_close_is_honoured(path: Rig) -> None:
    """The connection ends after the answer when the client asks for it."""
    key = await path.add_key()
    async with path.client() as client:
        got = await client.send(get(key, "Connection: close\r\n"))
        assert got.header("connection") == "close"
        assert await client.at_end()


async def test_a_head_request_gets_a_head(path: Rig, upstream: Origin) -> None:
    """The length of the body is told, no body follows, and the connection goes on."""
    key = await path.add_key()

    async def head(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")

    upstream.act = head
    async with path.client() as client:
        for _ in range(2):
            client.writer.write(get(key).replace(b"GET", b"HEAD"))
            got = await client.read(head_request=True)
            assert (got.status, got.header("content-length")) == (200, "5")
    assert upstream.connections == 2  # some servers send the body that the length announces


async def test_the_body_that_is_needed_is_asked_for(path: Rig, upstream: Origin) -> None:
    """A client that waits with its form gets 100 Continue, then its answer."""
    key = await path.add_key()
    body = f"instanceKey={key}&itemId=1".encode()
    async with path.client() as client:
        first = await client.send(
            FORM_POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        assert first.status == 100
        assert (await client.send(body)).status == 200
    assert upstream.received[0].header(b"expect") is None


async def test_a_body_of_a_refused_call_is_not_asked_for(path: Rig) -> None:
    """Whoever has no key is refused before it sends its body."""
    async with path.client() as client:
        got = await client.send(
            b"POST /rest/items?x=1 HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"
            b"Expect: 100-continue\r\nContent-Length: 100000\r\n\r\n"
        )
        assert got.status == 401
        assert got.header("connection") == "close"


async def test_a_malformed_chunk_ends_the_call(path: Rig, upstream: Origin) -> None:
    """Where a body cannot be read, the call is refused and the connection closed."""
    key = await path.add_key()
    async with path.client() as client:
        got = await client.send(
            f"POST /service-json/GetItemFullInfo?instanceKey={key} HTTP/1.1\r\nHost: a\r\n".encode()
            + b"Content-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        )
        assert not got.body.startswith(b'{"ErrorCode":"Ok"')
        assert await client.at_end()
    assert upstream.received == []


def quick(upstream: Origin, **server: Any) -> Settings:
    """Return the settings with impatient deadlines."""
    settings = example_settings(upstream.port)
    return dataclasses.replace(settings, server=dataclasses.replace(settings.server, **server))


async def test_a_slow_head_is_closed_by_its_deadline(
    redis: object, valkey_url: str, upstream: Origin
) -> None:
    """A head that does not end is refused in time, however steadily it drips."""
    async with (
        rig(valkey_url, upstream, quick(upstream, head_timeout_s=0.4)) as path,
        path.client() as client,
    ):
        client.writer.write(b"GET /service-json/T HTTP/1.1\r\n")
        drip = asyncio.create_task(_drip(client.writer))
        got = await client.read()
        drip.cancel()
        assert got.status == 408


async def _drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"X")
        await asyncio.sleep(0.05)


async def test_a_stalled_body_is_closed_by_its_deadline(
    redis: object, valkey_url: str, upstream: Origin
) -> None:
    """A body that does not come is refused in time."""
    async with (
        rig(valkey_url, upstream, quick(upstream, body_timeout_s=0.3)) as path,
        path.client() as client,
    ):
        got = await client.send(FORM_POST + b"Content-Length: 50\r\n\r\ninstanceKey=")
        assert got.header("connection") == "close"
        assert b"<ErrorCode>" in got.body
        assert await client.at_end()


async def test_an_idle_connection_is_closed(redis: object, valkey_url: str, upstream: Origin) -> None:
    """A kept connection without a request ends after its time."""
    async with (
        rig(valkey_url, upstream, quick(upstream, idle_timeout_s=0.3)) as path,
        path.client() as client,
    ):
        key = await path.add_key()
        assert (await client.send(get(key))).status == 200
        assert await client.at_end()


async def test_more_connections_than_allowed_are_closed_at_once(
    redis: object, valkey_url: str, upstream: Origin
) -> None:
    """The connection over the bound is closed, the others go on."""
    async with rig(valkey_url, upstream, quick(upstream, max_connections=1)) as path:
        key = await path.add_key()
        async with path.client() as first:
            assert (await first.send(get(key))).status == 200
            async with path.client() as second:
                assert await second.at_end()
            assert (await first.send(get(key))).status == 200


async def test_draining_ends_idle_connections_and_finishes_calls(path: Rig, upstream: Origin) -> None:
    """A call under way gets its whole answer and is told that the connection closes."""
    key = await path.add_key()
    gate = asyncio.Event()

    async def wait(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(upstream.reply)

    async with path.client() as idle, path.client() as busy:
        assert (await idle.send(get(key))).status == 200
        upstream.act = wait
        busy.writer.write(get(key))
        await until(lambda: len(upstream.received) == 2)
        path.proxy.drain()
        path.proxy.close_idle()
        assert await idle.at_end()
        gate.set()
        got = await busy.read()
        assert (got.body, got.header("connection")) == (OK_JSON, "close")
        assert await busy.at_end()


def memory_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_a_large_answer_streams_at_the_pace_of_a_slow_client(path: Rig, upstream: Origin) -> None:
    """200 MB pass whole while the worker's memory grows by less than 16 MiB."""
    key = await path.add_key()
    block = bytes(range(256)) * 1024
    blocks = 200 * MIB // len(block)

    async def large(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
            % (blocks * len(block))
        )
        for _block in range(blocks):
            writer.write(block)
            await writer.drain()

    upstream.act = large
    reader, writer = await asyncio.open_connection("127.0.0.1", path.port)
    writer.write(get(key))
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.3)  # the client does not read: everything between it and the origin has to fill up
    before = memory_bytes()
    digest, got, peak = hashlib.sha256(), 0, 0
    while got < blocks * len(block):
        data = await reader.read(1 << 20)
        assert data
        digest.update(data)
        got += len(data)
        peak = max(peak, memory_bytes())
    writer.close()
    assert digest.digest() == hashlib.sha256(block * blocks).digest()
    assert peak - before < 16 * MIB


async def test_a_large_upload_streams_at_the_pace_of_a_slow_upstream(
    redis: object, valkey_url: str, upstream: Origin
) -> None:
    """200 MB of a body that need not be read pass whole, chunked or not, without piling up."""
    block = bytes(range(256)) * 1024
    blocks = 200 * MIB // len(block)
    seen = hashlib.sha256()
    peak = before = 0

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal peak, before
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: %d\r\n" % (blocks * len(block)) in head
        await asyncio.sleep(0.3)
        before = memory_bytes()
        left = blocks * len(block)
        while left:
            data = await reader.read(1 << 20)
            seen.update(data)
            left -= len(data)
            peak = max(peak, memory_bytes())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = example_settings(port, max_body_bytes=300 * MIB)
    async with rig(valkey_url, port, settings) as path, path.client() as client:
        key = await path.add_key()
        client.writer.write(
            f"PUT /rest/items/1 HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\nContent-Type: image/jpeg\r\n"
            f"Content-Length: {blocks * len(block)}\r\n\r\n".encode()
        )
        for _ in range(blocks):
            client.writer.write(block)
            await client.writer.drain()
        assert (await client.read()).body == b"ok"
    server.close()
    assert seen.digest() == hashlib.sha256(block * blocks).digest()
    assert peak - before < 16 * MIB
