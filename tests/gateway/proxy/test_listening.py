"""The client's address on the wire: behind proxies that are trusted, and those that are not."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from redis.asyncio import Redis

from tests.certificates import authority
from tests.gateway.proxy.test_proxy_protocol import ADDRESSES, SSL, V1, v2
from tests.origin import OK_JSON, Origin, origin
from tests.rig import Rig, example_settings, rig, until

FORWARDED = ("X-Forwarded-For: 6.6.6.6, 203.0.113.7", "X-Forwarded-Proto: https")


def get(key: str, *fields: str) -> bytes:
    """Return a call with further header fields."""
    lines = "".join(f"{field}\r\n" for field in fields)
    return f"GET /service-json/GetItemInfoList?instanceKey={key} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode()


@contextlib.asynccontextmanager
async def behind(valkey_url: str, upstream: Origin, *networks: str, **server: Any) -> AsyncIterator[Rig]:
    """Run a data path that trusts proxies in these networks."""
    settings = example_settings(upstream.port)
    changed = dataclasses.replace(settings.server, trusted_proxies=networks, **server)
    async with rig(valkey_url, upstream, dataclasses.replace(settings, server=changed)) as path:
        yield path


def balanced(valkey_url: str, upstream: Origin, **server: Any) -> contextlib.AbstractAsyncContextManager[Rig]:
    """Run a data path that expects PROXY headers from this machine."""
    return behind(valkey_url, upstream, "127.0.0.0/8", proxy_protocol=True, **server)


def clients(path: Rig) -> list[str]:
    """Return the addresses in the access log."""
    path.proxy._access_log.flush()
    return [json.loads(line)["client"] for line in path.log.getvalue().splitlines()]


async def test_a_trusted_proxy_names_the_client(redis: Redis, valkey_url: str, upstream: Origin) -> None:
    """Its word reaches the access log, the upstream and the key's list of networks."""
    async with behind(valkey_url, upstream, "127.0.0.0/8") as path:
        key = await path.add_key(allow_networks=("203.0.113.0/24",))
        assert (await path.send(get(key, *FORWARDED))).body == OK_JSON
        assert (await path.send(get(key, "X-Forwarded-For: 198.51.100.1"))).json()[
            "SubErrorCode"
        ] == "CallFromIP"
        assert clients(path) == ["203.0.113.7", "198.51.100.1"]
    (seen,) = upstream.received
    assert [value for name, value in seen.headers if name.lower() == b"x-forwarded-for"] == [b"203.0.113.7"]
    assert [value for name, value in seen.headers if name.lower() == b"x-forwarded-proto"] == [b"https"]


async def test_requests_of_one_connection_may_be_of_different_clients(
    redis: Redis, valkey_url: str, upstream: Origin
) -> None:
    """A balancer that reuses its connections is asked anew with each request."""
    async with behind(valkey_url, upstream, "127.0.0.0/8") as path, path.client() as client:
        key = await path.add_key()
        for number in (1, 2):
            await client.send(get(key, f"X-Forwarded-For: 203.0.113.{number}"))
        await client.send(get(key))
        assert clients(path) == ["203.0.113.1", "203.0.113.2", "127.0.0.1"]


async def test_a_stranger_names_nobody(path: Rig, upstream: Origin) -> None:
    """Without trusted proxies the peer is the client, whatever it says."""
    key = await path.add_key()
    await path.send(get(key, *FORWARDED))
    assert clients(path) == ["127.0.0.1"]
    assert upstream.received[0].header(b"x-forwarded-for") == b"127.0.0.1"
    assert upstream.received[0].header(b"x-forwarded-proto") == b"http"


@pytest.mark.parametrize("header", [V1, v2(), v2(body=ADDRESSES + SSL)], ids=["v1", "v2", "v2-tls"])
@pytest.mark.parametrize("pieces", [1, 2, 100])
async def test_a_balancer_names_the_client(
    redis: Redis, valkey_url: str, upstream: Origin, header: bytes, pieces: int
) -> None:
    """A PROXY header holds for all requests of its connection, in however many pieces it comes."""
    async with (
        behind(valkey_url, upstream, "127.0.0.0/8", proxy_protocol=True) as path,
        path.client() as client,
    ):
        key = await path.add_key()
        raw = header + get(key)
        size = max(1, len(header) // pieces)
        if pieces > 1:
            for start in range(0, len(header), size):
                client.writer.write(header[start : start + size])
                await client.writer.drain()
                await asyncio.sleep(0)
            raw = get(key)
        assert (await client.send(raw)).body == OK_JSON
        assert (await client.send(get(key, *FORWARDED))).body == OK_JSON
        assert clients(path) == ["203.0.113.7"] * 2
    scheme = b"https" if header == v2(body=ADDRESSES + SSL) else b"http"
    assert [seen.header(b"x-forwarded-for") for seen in upstream.received] == [b"203.0.113.7"] * 2
    assert [seen.header(b"x-forwarded-proto") for seen in upstream.received] == [scheme] * 2


async def test_a_balancers_health_check_is_its_own(redis: Redis, valkey_url: str, upstream: Origin) -> None:
    """A header that names no client leaves the peer as it is."""
    async with balanced(valkey_url, upstream) as path:
        key = await path.add_key()
        for header in (b"PROXY UNKNOWN\r\n", v2(command=0x20, family=0, body=b"")):
            assert (await path.send(header + get(key))).body == OK_JSON
        assert clients(path) == ["127.0.0.1"] * 2


@pytest.mark.parametrize("start", [b"", b"PROXY TCP4 x\r\n", v2(command=0x22)], ids=["none", "v1", "v2"])
async def test_without_a_right_header_a_balancer_is_closed(
    redis: Redis, valkey_url: str, upstream: Origin, start: bytes
) -> None:
    """A trusted proxy that sends none, or a malformed one, gets no answer, and the figure says so."""
    async with (
        behind(valkey_url, upstream, "127.0.0.0/8", proxy_protocol=True) as path,
        path.client() as client,
    ):
        key = await path.add_key()
        client.writer.write(start + get(key))
        assert await client.at_end()
        assert path.proxy.tally.bad_requests == {"proxy_protocol": 1}
    assert upstream.received == []


async def test_a_slow_header_is_closed_by_its_deadline(
    redis: Redis, valkey_url: str, upstream: Origin
) -> None:
    """Who begins a header and goes no further is closed."""
    async with (
        balanced(valkey_url, upstream, head_timeout_s=0.2) as path,
        path.client() as client,
    ):
        client.writer.write(V1[:20])
        assert await client.at_end()
        assert path.proxy.tally.bad_requests == {"proxy_protocol": 1}


async def test_a_stranger_cannot_speak_it(redis: Redis, valkey_url: str, upstream: Origin) -> None:
    """From a peer that is not trusted a PROXY header is no HTTP, and its own calls pass as they are."""
    async with behind(valkey_url, upstream, "10.0.0.0/8", proxy_protocol=True) as path:
        key = await path.add_key()
        assert (await path.send(V1 + get(key))).status == 501
        assert (await path.send(get(key, *FORWARDED))).body == OK_JSON
        assert clients(path) == ["127.0.0.1"]


async def test_a_header_comes_before_tls(
    redis: Redis, valkey_url: str, upstream: Origin, tmp_path: Path
) -> None:
    """A balancer that passes TLS through says who the client is before the handshake begins."""
    trusted = authority(tmp_path)
    files = trusted.issue("server")
    async with (
        balanced(valkey_url, upstream, proxy_tls=files) as path,
        path.client() as client,
    ):
        key = await path.add_key()
        client.writer.write(V1)
        await client.writer.start_tls(trusted.trusting(), server_hostname="127.0.0.1")
        assert (await client.send(get(key))).body == OK_JSON
        assert clients(path) == ["203.0.113.7"]
    assert upstream.received[0].header(b"x-forwarded-proto") == b"https"


async def test_connections_in_their_header_are_bounded(
    redis: Redis, valkey_url: str, upstream: Origin
) -> None:
    """No more than `max_connections` may be in the middle of a header; further ones are closed at once."""
    async with (
        balanced(valkey_url, upstream, max_connections=2) as path,
        path.client() as first,
        path.client() as second,
    ):
        for client in (first, second):
            client.writer.write(b"PROXY ")
        await until(lambda: True)
        await asyncio.sleep(0.05)
        async with path.client() as third:
            assert await third.at_end()
        assert path.proxy.tally.connections_refused == 1


@pytest.mark.parametrize("tls", [False, True])
def test_the_workers_loop_does_it_too(valkey_url: str, tmp_path: Path, tls: bool) -> None:
    """Under the event loop that workers run on, a header is read off and the rest of the bytes is left."""
    trusted = authority(tmp_path)

    async def scenario() -> None:
        async with origin() as upstream:
            files = trusted.issue("server") if tls else None
            async with balanced(valkey_url, upstream, proxy_tls=files) as path:
                key = await path.add_key()
                for _ in range(3):
                    async with path.client() as client:
                        client.writer.write(V1[:30])
                        await client.writer.drain()
                        await asyncio.sleep(0.01)
                        if tls:
                            client.writer.write(V1[30:])
                            await client.writer.start_tls(trusted.trusting(), server_hostname="127.0.0.1")
                            assert (await client.send(get(key))).body == OK_JSON
                        else:
                            assert (await client.send(V1[30:] + get(key))).body == OK_JSON
                assert clients(path) == ["203.0.113.7"] * 3

    uvloop.run(scenario())
