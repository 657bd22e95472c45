"""Upstreams that answer with malformed or malicious bytes: nothing crosses, nothing splits, nothing is used
again."""

from __future__ import annotations

import asyncio

import pytest

from gateway.proxy.upstream import ANSWER_HEAD_MAX_BYTES, UpstreamConnection
from tests.origin import OK_JSON, Origin, Received, answer
from tests.rig import Client, Rig, until

START = b"HTTP/1.1 200 OK\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
GOOD = answer()
FORGED = answer(b'{"ErrorCode":"Ok","Forged":true}')


def get(key: str, method: str = "GET") -> bytes:
    """Return a plain call."""
    return f"{method} /service-json/GetItemInfoList?instanceKey={key} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def field(line: bytes) -> bytes:
    """Return an answer with this line among its fields."""
    return START + line + b"\r\nContent-Type: application/json\r\n\r\n" + OK_JSON


# Before any of them has been passed on they are found to be no answer.
REFUSED = {
    "no HTTP": b"nonsense\r\n\r\n",
    "HTTP/0.9": OK_JSON,
    "HTTP/0.9 in the line": GOOD.replace(b"/1.1", b"/0.9"),
    "HTTP/2.0": GOOD.replace(b"/1.1", b"/2.0"),
    "HTTP/1.2": GOOD.replace(b"/1.1", b"/1.2"),
    "lower case": GOOD.replace(b"HTTP", b"http"),
    "ICY": GOOD.replace(b"HTTP/1.1", b"ICY"),
    "a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "status 099": GOOD.replace(b"200 OK", b"099 X"),
    "status 000": GOOD.replace(b"200 OK", b"000 X"),
    "status 20": GOOD.replace(b"200 OK", b"20 OK"),
    "status 2000": GOOD.replace(b"200 OK", b"2000 OK"),
    "status +20": GOOD.replace(b"200 OK", b"+20 OK"),
    "two spaces": GOOD.replace(b" 200", b"  200"),
    "LF in the phrase": GOOD.replace(b"200 OK", b"200 O\nX: y"),
    "lines end in LF": GOOD.replace(b"\r\n", b"\n"),
    "NUL in a value": field(b"X: a\x00b"),
    "CR in a value": field(b"X: a\rSet-Cookie: b"),
    "LF in a value": field(b"X: a\nSet-Cookie: b"),
    "DEL in a value": field(b"X: a\x7f"),
    "folded value": field(b"X: a\r\n b"),
    "folded first line": field(b" X: a"),
    "space before the colon": field(b"X : a"),
    "NUL in a name": field(b"X\x00: a"),
    "no colon": field(b"X"),
    "empty name": field(b": a"),
    "length +2": field(b"Content-Length: +2"),
    "length -2": field(b"Content-Length: -2"),
    "length 0x2": field(b"Content-Length: 0x2"),
    "length 2, 2": field(b"Content-Length: 2, 2"),
    "length empty": field(b"Content-Length:"),
    "length overflows": field(b"Content-Length: 18446744073709551617"),
    "length twice": field(b"Content-Length: 65\r\nContent-Length: 65"),
    "two lengths": field(b"Content-Length: 65\r\nContent-Length: 2"),
    "length and chunks": field(b"Content-Length: 65\r\nTransfer-Encoding: chunked"),
    "chunks and length": field(b"Transfer-Encoding: chunked\r\nContent-Length: 65"),
    "gzip, chunked": field(b"Transfer-Encoding: gzip, chunked"),
    "chunked twice": field(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    "identity": field(b"Transfer-Encoding: identity"),
    "xchunked": field(b"Transfer-Encoding: xchunked"),
    "HTTP/1.0 with chunks": CHUNKED.replace(b"/1.1", b"/1.0") + b"2\r\nok\r\n0\r\n\r\n",
    "101 unasked": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + GOOD,
    "101 without Upgrade": b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + GOOD,
    "flood of 103": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 50 + GOOD,
    "100 with a body": b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nok" + GOOD,
    "endless fields": START + b"X: y\r\n" * (ANSWER_HEAD_MAX_BYTES // 5) + GOOD,
    "endless value": START + b"X: " + b"y" * (2 * ANSWER_HEAD_MAX_BYTES),
    "endless name": START + b"X" * (2 * ANSWER_HEAD_MAX_BYTES),
    "endless phrase": b"HTTP/1.1 200 " + b"O" * (2 * ANSWER_HEAD_MAX_BYTES),
    "endless line ends": b"\r\n" * (2 * ANSWER_HEAD_MAX_BYTES),
    "only 103": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "half a head": START + b"Content-Type: appl",
    "nothing": b"",
}  # fmt: skip

# Their beginning has been passed on, so the client's connection is cut.
TRUNCATED = {
    "fewer bytes than announced": START + b"Content-Length: 500\r\n\r\n" + OK_JSON,
    "a huge length": START + b"Content-Length: 9223372036854775807\r\n\r\n" + OK_JSON,
    "no last chunk": CHUNKED + b"2\r\nok\r\n",
    "half a chunk": CHUNKED + b"ffff\r\nok",
    "a size that is none": CHUNKED + b"2\r\nok\r\nzz\r\nok\r\n0\r\n\r\n",
    "a negative size": CHUNKED + b"2\r\nok\r\n-1\r\n\r\n",
    "a size that overflows": CHUNKED + b"2\r\nok\r\nffffffffffffffff5\r\nok",
    "a chunk too long": CHUNKED + b"2\r\nokok\r\n0\r\n\r\n",
    "LF for CR LF": CHUNKED + b"2\nok\n0\n\n",
    "a trailer that is none": CHUNKED + b"2\r\nok\r\n0\r\nX : y\r\n\r\n",
    "a length as a trailer": CHUNKED + b"2\r\nok\r\n0\r\nContent-Length: 5\r\n\r\n",
    "endless extension": CHUNKED + b"2;" + b"x" * (2 * ANSWER_HEAD_MAX_BYTES),
    "endless trailer": CHUNKED + b"2\r\nok\r\n0\r\nX: " + b"y" * (2 * ANSWER_HEAD_MAX_BYTES),
    "endless trailers": CHUNKED + b"2\r\nok\r\n0\r\n" + b"X: y\r\n" * (ANSWER_HEAD_MAX_BYTES // 2),
}

# These are whole by their own word; what follows them is never read as another answer.
WHOLE = {
    "garbage behind": GOOD + b"garbage",
    "an answer behind": GOOD + FORGED,
    "half an answer behind": GOOD + FORGED[:20],
    "a 100 behind": GOOD + b"HTTP/1.1 100 Continue\r\n\r\n",
    "a body longer than its length": answer(OK_JSON + b" " * 20).replace(b"85", b"65"),
    "garbage behind chunks": CHUNKED + b"%x\r\n%b\r\n0\r\n\r\ngarbage" % (len(OK_JSON), OK_JSON),
    "an answer behind trailers": CHUNKED
    + b"%x\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(OK_JSON), OK_JSON)
    + FORGED,
    "Connection: close": answer(headers=b"Connection: close\r\n") + FORGED,
    "HTTP/1.0": GOOD.replace(b"/1.1", b"/1.0") + FORGED,
}


def says(upstream: Origin, raw: bytes) -> None:
    """Let the origin answer the next request with these bytes and its end, and further ones with GOOD."""
    calls = len(upstream.received)

    async def act(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(upstream.received) == calls + 1:
            writer.write(raw)
            await writer.drain()
            if raw not in WHOLE.values():
                writer.close()
        else:
            writer.write(GOOD)

    upstream.act = act


async def is_untouched(path: Rig, upstream: Origin, key: str, client: Client | None = None) -> None:
    """Check that the next call gets its own answer over a connection of its own."""
    opened = upstream.connections
    got = await (client.send(get(key)) if client else path.send(get(key)))
    assert got.body == OK_JSON
    assert upstream.connections == opened + 1


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_answer_is_refused(path: Rig, upstream: Origin, name: str) -> None:
    """The client gets a refusal and nothing of the bytes, on a connection that goes on; the call is not
    charged, and the upstream's connection is dropped."""
    key = await path.add_key()
    says(upstream, REFUSED[name])
    async with path.client() as client:
        got = await client.send(get(key))
        assert got.json()["ErrorCode"] == "NotAvailable"
        await is_untouched(path, upstream, key, client)
    counts = await path.counts(key)
    assert counts["c:GetItemInfoList|item"] == 2
    assert sum(count for label, count in counts.items() if label.startswith("v:upstream_")) == 1


@pytest.mark.parametrize("name", TRUNCATED)
async def test_an_answer_that_breaks_off_is_cut_off(path: Rig, upstream: Origin, name: str) -> None:
    """The client sees that the answer is not whole, the upstream's connection is dropped, and the call is
    counted once."""
    key = await path.add_key()
    says(upstream, TRUNCATED[name])
    async with path.client() as client:
        client.writer.write(get(key))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.read()
    await until(lambda: upstream.open_connections == 0 and path.proxy.calls_in_flight == 0)
    await is_untouched(path, upstream, key)
    assert (await path.counts(key))["c:GetItemInfoList|item"] == 2


@pytest.mark.parametrize("name", WHOLE)
async def test_what_follows_an_answer_is_no_answer(path: Rig, upstream: Origin, name: str) -> None:
    """The client gets the answer that was announced, and the next call goes over another connection."""
    key = await path.add_key()
    says(upstream, WHOLE[name])
    async with path.client() as client:
        assert (await client.send(get(key))).body == OK_JSON
        await is_untouched(path, upstream, key, client)
    counts = await path.counts(key)
    assert counts["c:GetItemInfoList|item"] == 2
    assert not [label for label in counts if label.startswith("v:")]


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_body_that_must_not_be_is_not_read(path: Rig, upstream: Origin, status: bytes) -> None:
    """A 204 or 304 with a length ends with its head, for the client too, and its connection is not used
    again."""
    key = await path.add_key()
    says(upstream, b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status, len(FORGED)))
    async with path.client() as client:
        got = await client.send(get(key))
        assert got.status == int(status[:3])
        assert (got.header("content-length") is None) is (got.status == 204)
        await is_untouched(path, upstream, key, client)


async def test_a_body_in_answer_to_head_is_not_read(path: Rig, upstream: Origin) -> None:
    """What an upstream sends behind the head of its answer to HEAD, at once or later, is no answer."""
    key = await path.add_key()
    for pause_s in (0.0, 0.05):
        calls = len(upstream.received)

        async def act(
            _: Received,
            __: asyncio.StreamReader,
            writer: asyncio.StreamWriter,
            calls: int = calls,
            pause_s: float = pause_s,
        ) -> None:
            if len(upstream.received) != calls + 1:
                writer.write(GOOD)
                return
            writer.write(START + b"Content-Length: %d\r\n\r\n" % len(FORGED))
            await asyncio.sleep(pause_s)
            writer.write(FORGED)

        upstream.act = act
        async with path.client() as client:
            client.writer.write(get(key, "HEAD"))
            assert (await client.read(head_request=True)).status == 200
            await is_untouched(path, upstream, key, client)


async def test_an_upstream_that_speaks_first_is_not_listened_to(path: Rig, upstream: Origin) -> None:
    """An answer that comes over a connection which serves nobody closes it."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(FORGED)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    pool = next(iter(path.proxy._pools.values()))
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: UpstreamConnection(pool), "127.0.0.1", server.sockets[0].getsockname()[1]
    )
    await until(lambda: connection.closed)
    server.close()
