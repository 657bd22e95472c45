"""Calls as a worker counts them, for tests of what is shown of them."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from gateway.settings import Settings
from metering.counters import Counters, Take, Taken
from policies.decision import Reason
from policies.period import day_of
from policies.quota import Window, bucket_of
from policies.waiver import Waiver
from tests.gateway.control.conftest import Clock
from tests.metering.records import fetch_record


async def count(
    redis: Redis,
    settings: Settings,
    clock: Clock,
    key_id: str,
    *,
    method: str = "SearchItemsFrame",
    klass: str = "search",
    calls: int = 1,
    waived: int = 0,
    denied: int = 0,
    window: Window = Window.DAY,
) -> None:
    """Take `calls` units for a key now, give `waived` of them back, and count `denied` calls as suspended."""
    record = await fetch_record(redis, key_id)
    assert record is not None
    counters = Counters(redis, writer="test", deadline_s=5, retention_days=5)
    await counters.start()
    day = day_of(clock(), settings.contract.zone).strftime("%Y%m%d")
    take = Take(
        key_id=key_id,
        revision=record.revision,
        day=day,
        method=method,
        klass=klass,
        cost=1,
        billable=True,
        limit=None,
        window=window,
        bucket=bucket_of(clock()),
    )
    waiting: list[asyncio.Future[Taken]] = []
    for _ in range(calls):
        future = asyncio.get_running_loop().create_future()
        counters.take(take, clock(), future.set_result)
        waiting.append(future)
    assert {taken.outcome.name for taken in await asyncio.gather(*waiting)} <= {"GRANTED"}
    for _ in range(waived):
        counters.waive(take, Waiver.ERROR_CODE)
    for _ in range(denied):
        counters.deny(key_id, day, Reason.SUSPENDED)
    await counters.close()
