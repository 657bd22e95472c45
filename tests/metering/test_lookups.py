"""How records are looked up for calls: many in one round trip, each with its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import RedisError

from metering import lookups
from metering.commands import Command
from metering.link import Answered, Link
from metering.lookups import EmptiedError, Found, Lookups
from metering.names import READY, digest_name, record_name
from metering.projection import project
from metering.wire import ServerWire
from policies.record import KeyRecord

KEYS = 300


def record(number: int) -> KeyRecord:
    """A key whose credential has the digest `digest-NUMBER`."""
    return KeyRecord(f"key_{number:016x}", "acc_1", "K1", 1, 1_790_000_000.0, {f"digest-{number}": None})


@pytest_asyncio.fixture
async def looking(redis: Redis) -> AsyncIterator[Lookups]:
    """Lookups in a store of 300 records."""
    await project(redis, [record(number) for number in range(KEYS)])
    await redis.set(READY, 1)
    found = Lookups(redis)
    yield found
    await found.close()


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands each round trip had."""
    seen: list[int] = []
    send = ServerWire._send

    def counted(self: ServerWire, link: Link, commands: Sequence[Command], answered: Answered) -> None:
        seen.append(len(commands))
        send(self, link, commands, answered)

    monkeypatch.setattr(ServerWire, "_send", counted)
    return seen


async def sought(looking: Lookups, *digests: str) -> list[Found]:
    """Seek all at once, and wait for the answers."""
    loop = asyncio.get_running_loop()
    answers: list[asyncio.Future[Found]] = [loop.create_future() for _ in digests]
    for digest, answer in zip(digests, answers, strict=True):
        looking.seek(digest, answer.set_result)
    return await asyncio.gather(*answers)


async def find(looking: Lookups, digest: str) -> KeyRecord | None:
    """Seek one, and raise what is told in place of a record."""
    (found,) = await sought(looking, digest)
    if isinstance(found, Exception):
        raise found
    return found


async def test_all_that_is_asked_at_once_takes_two_round_trips(
    looking: Lookups, exchanges: list[int]
) -> None:
    """Hundreds of keys that nobody remembers are found together, each with its own record."""
    found = await asyncio.gather(*(find(looking, f"digest-{number}") for number in range(KEYS)))
    assert found == [record(number) for number in range(KEYS)]
    assert exchanges == [KEYS, KEYS]


async def test_a_round_is_bounded(
    looking: Lookups, exchanges: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More questions than fit one round trip take several."""
    monkeypatch.setattr(lookups, "ASKED_TOGETHER", 100)
    assert None not in await asyncio.gather(*(find(looking, f"digest-{number}") for number in range(KEYS)))
    assert max(exchanges) == 100


async def test_one_that_cannot_be_answered_costs_no_other(looking: Lookups, redis: Redis) -> None:
    """An unknown key, a record that is none, and a name of another kind fail by themselves."""
    await redis.hset(record_name(record(1).key_id), "data", "{}")
    await redis.delete(digest_name("digest-2"))
    await redis.rpush(digest_name("digest-2"), "x")
    asked = [find(looking, digest) for digest in ("digest-0", "digest-1", "digest-2", "digest-none")]
    found, broken, wrong, unknown = await asyncio.gather(*asked, return_exceptions=True)
    assert found == record(0)
    assert isinstance(broken, TypeError)
    assert isinstance(wrong, RedisError)
    assert unknown is None


async def test_what_is_sought_is_told_by_a_call(looking: Lookups, redis: Redis, exchanges: list[int]) -> None:
    """Records, and that a key is unknown, are told in two round trips; a store that was emptied says so."""
    await redis.hset(record_name(record(1).key_id), "data", "{}")
    await redis.delete(record_name(record(3).key_id), digest_name("digest-2"))
    await redis.rpush(digest_name("digest-2"), "x")
    asked = [f"digest-{number}" for number in (0, 1, 2, 3, "none")]
    found, broken, wrong, *unknown = await sought(looking, *asked)
    assert found == record(0)
    assert isinstance(broken, TypeError)
    assert isinstance(wrong, RedisError)
    assert unknown == [None, None]
    assert exchanges == [5, 4, 1]
    await redis.flushdb()
    (emptied,) = await sought(looking, "digest-0")
    assert isinstance(emptied, EmptiedError)


async def test_a_mistake_of_who_asked_costs_no_other(looking: Lookups) -> None:
    """An answer that somebody cannot take is reported, and all others are told theirs."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def fails(_: Found) -> None:
        raise ValueError("cannot take it")

    looking.seek("digest-0", fails)
    assert await sought(looking, "digest-1") == [record(1)]
    assert [type(each["exception"]) for each in told] == [ValueError]


async def test_who_stops_waiting_disturbs_nobody(looking: Lookups) -> None:
    """A question whose asker has gone is answered to nobody."""
    gone, staying = (asyncio.ensure_future(looking.fetch(record(0).key_id)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    assert await staying == record(0)


async def test_a_store_that_is_away_is_an_error_and_found_again(
    looking: Lookups, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All questions of a lost round fail, and the next round is asked on a new connection."""
    with monkeypatch.context() as patched:

        async def refused(*_: object) -> None:
            raise ConnectionRefusedError

        patched.setattr(ServerWire, "_open", refused)
        lost = await asyncio.gather(
            find(looking, "digest-0"), looking.fetch(record(1).key_id), return_exceptions=True
        )
        assert all(isinstance(error, ConnectionRefusedError) for error in lost)
    assert await looking.fetch(record(1).key_id) == record(1)


async def test_the_end_answers_whoever_waits(redis: Redis) -> None:
    """Questions that are under way at the end fail instead of waiting for ever."""
    looking = Lookups(redis)
    waiting = asyncio.ensure_future(find(looking, "digest-0"))
    await asyncio.sleep(0)
    await looking.close()
    with pytest.raises(RedisError, match="closed"):
        await waiting
    (closed,) = await sought(looking, "digest-0")
    assert isinstance(closed, RedisError)
