"""Calls on keys of all servers of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from redis.crc import key_slot

from metering.clients import Client
from metering.counters import Taken
from metering.lanes import AnyCounters, counters_on
from metering.names import SHARDS, record_name
from tests import clusters
from tests.metering.samples import NOW, take


@contextlib.asynccontextmanager
async def counting(
    client: Client, *, writer: str = "w0", replicas: int = 0, deadline_s: float = 5.0
) -> AsyncIterator[AnyCounters]:
    """Counters that run until the block ends, once they have found the cluster."""
    counters = counters_on(client, writer=writer, deadline_s=deadline_s, retention_days=35, replicas=replicas)
    await counters.start()
    async with asyncio.timeout(20):
        while counters.breaker.is_open:
            await asyncio.sleep(0.01)
    try:
        yield counters
    finally:
        await counters.close()


async def ask(counters: AnyCounters, key_id: str, calls: int, limit: int | None = None) -> list[Taken]:
    """Make calls with a key at once, and wait for what becomes of each."""
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[Taken]] = [loop.create_future() for _ in range(calls)]
    for future in waiting:
        counters.take(take(key_id=key_id, limit=limit), NOW, future.set_result)
    return await asyncio.gather(*waiting)


def key_ids(count: int = 12) -> list[str]:
    """Keys of different shards, on all servers."""
    found = [f"key_{'0' * 14}{shard}" for shard in SHARDS[:: len(SHARDS) // count]]
    assert len({key_slot(record_name(each).encode()) // (clusters.SLOTS // 3) for each in found}) >= 3
    return found
