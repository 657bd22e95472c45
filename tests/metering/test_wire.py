"""How batches of commands travel to Redis and their replies back."""

from __future__ import annotations

import asyncio
from hashlib import sha1
from pathlib import Path
from typing import Any

import hiredis
import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from metering.clients import connect, wire_to
from metering.scripts import COLLECT, Script
from metering.wire import LOST
from tests.metering.lossy import lossy


async def test_replies_come_in_the_order_of_the_commands(redis: Redis) -> None:
    """Each command has its reply, an error among them is a value, and large ones arrive whole."""
    wire = wire_to(redis)
    big = b"x" * 3_000_000
    replies = await wire.exchange(
        [("SET", "a", big), ("GET", "a"), ("NONSENSE",), ("INCR", "n"), ("GET", "none"), ("ECHO", 7)]
    )
    assert replies[:2] == [b"OK", big]
    assert isinstance(replies[2], hiredis.ReplyError)
    assert replies[3:] == [1, None, b"7"]
    await wire.close()


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True])
async def test_replies_have_one_form_whatever_the_client_is_set_to(
    valkey_url: str, redis: Redis, protocol: int, decode: bool
) -> None:
    """Hashes are flat lists of bytes for clients of either protocol, with or without decoding."""
    await redis.hset("h", mapping={"a": 1})
    client = Redis.from_url(valkey_url, protocol=protocol, decode_responses=decode)
    wire = wire_to(client)
    assert await wire.exchange([("HGETALL", "h"), ("SMEMBERS", "none")]) == [[b"a", b"1"], []]
    await wire.close()
    await client.aclose()


async def test_reply_that_came_too_late_meets_no_other_question(redis: Redis) -> None:
    """After a wait that was given up, the next question goes over a new connection."""
    wire = wire_to(redis, timeout_s=0.05)
    blocked = asyncio.ensure_future(wire.exchange([("BLPOP", "list", "0.2"), ("ECHO", "old")]))
    with pytest.raises(LOST):
        await blocked
    assert await wire.exchange([("ECHO", "new")]) == [b"new"]
    cancelled = asyncio.ensure_future(wire.exchange([("ECHO", "cancelled")]))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait({cancelled})
    assert await wire.exchange([("ECHO", "newer")]) == [b"newer"]
    await wire.close()


async def test_question_without_a_task_needs_a_connection_that_stands(redis: Redis) -> None:
    """It is not sent before one was made, nor when the answer to one before it may yet come late."""
    wire = wire_to(redis, timeout_s=0.05)
    told: asyncio.Queue[list[Any] | Exception] = asyncio.Queue()
    assert not wire.ask([("ECHO", "early")], told.put_nowait)
    await wire.exchange([("PING",)])
    assert wire.ask([("ECHO", "one"), ("ECHO", "two")], told.put_nowait)
    assert await told.get() == [b"one", b"two"]
    assert wire.ask([("BLPOP", "list", "0.2")], told.put_nowait)
    assert isinstance(await told.get(), LOST)
    assert not wire.ask([("ECHO", "late")], told.put_nowait)
    assert await wire.exchange([("ECHO", "new")]) == [b"new"]
    assert wire.ask([("BLPOP", "list", "0.04"), ("ECHO", "in time")], told.put_nowait)
    await wire.close()
    assert isinstance(await told.get(), LOST)
    assert told.empty()


async def test_server_without_enough_replicas_is_looked_for_anew(redis: Redis) -> None:
    """Another one may be the master by now: no question goes over the same connection again."""
    wire = wire_to(redis, timeout_s=1.0, replicas=1)
    told: asyncio.Queue[list[Any] | Exception] = asyncio.Queue()
    await wire.exchange([("PING",)])
    assert wire.ask([("SET", "a", 1)], told.put_nowait)
    with pytest.raises(LOST, match="0 of 1 replicas"):
        raise await told.get()
    assert not wire.ask([("PING",)], told.put_nowait)
    await wire.close()


async def test_closed_connection_is_made_anew(redis: Redis) -> None:
    """A connection that the server closed while it was idle costs no question."""
    wire = wire_to(redis)
    ((identity,),) = (await wire.exchange([("CLIENT", "ID")]),)
    await redis.execute_command("CLIENT", "KILL", "ID", identity)
    async with asyncio.timeout(5):
        while not (wire._link is None or wire._link.is_lost):
            await asyncio.sleep(0.001)
    assert await wire.exchange([("ECHO", "again")]) == [b"again"]
    await wire.close()


async def test_connection_lost_under_way_is_an_error(valkey_url: str, tmp_path: Path) -> None:
    """A question whose connection breaks is not asked again by itself."""
    async with lossy(valkey_url, tmp_path) as (broken, url):
        client = connect(url)
        wire = wire_to(client)
        await wire.exchange([("SCRIPT", "LOAD", b"return redis.call('INCR', KEYS[1])")])
        broken.lose_replies = 1
        with pytest.raises(LOST):
            await wire.exchange([("EVALSHA", "7f923f79fe76194c868d7e1d0820de36700eb649", 1, "n")])
        assert broken.lost == 1
        await wire.close()
        await client.aclose()


async def test_nobody_at_the_address_is_an_error(tmp_path: Path) -> None:
    """A refused connection is told as one of the errors that callers expect."""
    client = connect(f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(LOST):
        await wire_to(client).exchange([("PING",)])
    await client.aclose()


async def test_script_is_loaded_when_it_is_not_known(redis: Redis) -> None:
    """A script runs on a server that forgot it, and its errors are raised."""
    await redis.script_flush()
    wire = wire_to(redis)
    assert await wire.run(COLLECT, [(("a", "b"), ()), (("c", "d"), ())]) == [0, 0]
    assert await wire.run(COLLECT, []) == []
    text = b"return redis.error_reply('nonsense')"
    with pytest.raises(RedisError, match="nonsense"):
        sha = sha1(text).hexdigest()  # noqa: S324 - Redis names scripts so
        await wire.run(Script("x", text, sha), [((), ())])
    await wire.close()


async def test_server_on_a_socket_is_known_by_its_name(redis: Redis, valkey_url: str) -> None:
    """Wherever the socket lies; nobody else is to be found beside it."""
    wire = wire_to(redis)
    (holder,) = await wire.holders()
    assert (holder.address, holder.slots) == ("unix:valkey.sock", ((0, 16_383),))
    assert wire.beside(holder.address, 1.0) is None
    await wire.close()


def test_other_urls_are_refused() -> None:
    """A URL that is none of Redis is an error at once."""
    with pytest.raises(ValueError, match="redis://"):
        connect("http://example.com")


class Closed(Connection):
    """What uvloop makes of a connection that the server closed while it was being made."""

    async def connect(self) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed")


async def test_a_connection_that_closes_while_it_is_made_is_lost_like_any_other() -> None:
    """What uvloop calls an error of the program is a lost connection."""
    client = Redis(connection_pool=ConnectionPool(connection_class=Closed, retry=Retry(NoBackoff(), 0)))
    with pytest.raises(LOST, match="closed meanwhile"):
        await wire_to(client, timeout_s=1.0).exchange([("PING",)])
    await client.aclose()
