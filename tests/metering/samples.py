"""Keys, takes and days that tests of the count share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.counters import Counters, Take, Taken
from metering.ledger import accounts, keys
from metering.ledger.audit import Author
from metering.ledger.credentials import NewCredential
from metering.names import day_name, record_name, roll_name
from policies.quota import Window, bucket_of
from policies.record import KeyRecord

ZONE = ZoneInfo("Europe/Moscow")
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
DAY = "20261121"
TODAY = date(2026, 11, 21)
KEY = "key_00000000000000ab"
OTHER_KEY = "key_00000000000000cd"
BY = Author("tok_0000000000000001", "req_1")
WHEN = datetime.fromtimestamp(NOW, UTC)


def take(**changes: Any) -> Take:
    """A paid call of one unit on a key without a limit, with changes."""
    fields: dict[str, Any] = {
        "key_id": KEY,
        "revision": 1,
        "day": DAY,
        "method": "SearchItemsFrame",
        "klass": "search",
        "cost": 1,
        "billable": True,
        "limit": None,
        "window": Window.DAY,
        "bucket": bucket_of(NOW),
    }
    return Take(**fields | changes)


def record(key_id: str = KEY, revision: int = 1, **changes: Any) -> KeyRecord:
    """A key's record, with changes."""
    return KeyRecord(
        key_id, "acc_0000000000000001", "K1", revision, NOW, {f"digest of {key_id}": None}, **changes
    )


async def put_record(redis: Redis, key_id: str = KEY, revision: int = 1, **changes: Any) -> KeyRecord:
    """Put a key's record into force, whatever is there."""
    made = record(key_id, revision, **changes)
    await redis.hset(record_name(key_id), mapping={"rev": revision, "data": made.to_json()})
    return made


@asynccontextmanager
async def counting(redis: Redis, *, deadline_s: float = 5.0, writer: str = "w0") -> AsyncIterator[Counters]:
    """Counters that run until the block ends; a round that fails by a mistake of theirs fails the test."""
    loop = asyncio.get_running_loop()
    failed: list[dict[str, Any]] = []

    def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        failed.extend([context] if context["message"] == "a round of counts failed" else [])
        loop.default_exception_handler(context)

    if loop.get_exception_handler() is None:
        loop.set_exception_handler(note)
    counters = Counters(redis, writer=writer, deadline_s=deadline_s, retention_days=35)
    await counters.start()
    try:
        yield counters
    finally:
        await counters.close()
    assert failed == []


async def counted(counters: Counters, *takes: Take, now: float = NOW) -> list[Taken]:
    """Count calls that arrive at once, and wait for what becomes of each; fails when one has no answer."""
    loop = asyncio.get_running_loop()
    results: list[asyncio.Future[Taken]] = []
    for each in takes:
        result: asyncio.Future[Taken] = loop.create_future()
        results.append(result)
        counters.take(each, now, result.set_result)
    answers = asyncio.gather(*results)
    idle = 0
    while not answers.done():
        await asyncio.wait({answers}, timeout=0.2)
        idle = 0 if counters.pending else idle + 1
        assert answers.done() or idle < 2, "a call was not answered, and nothing is pending"
    return answers.result()


async def settled(counters: Counters) -> None:
    """Wait until nothing is pending; fails after a time that no busy machine takes."""
    async with asyncio.timeout(15):
        while counters.pending:
            await asyncio.sleep(0.001)


async def day_of_key(redis: Redis, key_id: str = KEY, day: str = DAY) -> dict[str, int]:
    """A day's counters by name, without the batch numbers of writers and the time of the first call."""
    found = await redis.hgetall(day_name(key_id, day))
    return {
        name.decode(): int(value)
        for name, value in found.items()
        if name[:3] not in {b"bt:", b"bs:"} and name not in {b"first", b"rolling"}
    }


async def window_of_key(redis: Redis, key_id: str = KEY) -> dict[str, int]:
    """The rolling window's hash."""
    return {name.decode(): int(value) for name, value in (await redis.hgetall(roll_name(key_id))).items()}


async def make_key(engine: AsyncEngine, name: str = "shop", plan: str = "K1", **changes: Any) -> keys.Key:
    """An account with a key in the ledger."""
    async with engine.begin() as connection:
        account = await accounts.create(connection, name=name, currency="USD", now=WHEN, by=BY)
        credential = NewCredential(f"digest of {name}", "p1", "wxyz")
        return await keys.create(
            connection, keys.NewKey(account.id, plan, credential, **changes), now=WHEN, by=BY
        )
