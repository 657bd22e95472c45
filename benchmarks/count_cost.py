"""Measure what counting a call costs: Python's time in the worker, and Redis' time in the script.

    python benchmarks/count_cost.py [redis URL]        (default: redis://127.0.0.1:6379/0; database is flushed)

Batches of a fixed size are counted one after another, on one hot key and on as many keys as calls. The
worker's CPU time is what a call takes from the proxy; Redis' is what bounds all workers together.
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop
from redis.asyncio import Redis

from metering.counters import Counters, Outcome, Take, Taken
from metering.names import record_name
from metering.wire import connect
from policies.quota import Window, bucket_of
from policies.record import KeyRecord

BATCHES = 2000
NOW = 1_795_000_000.0


async def measure(redis: Redis, batch: int, keys: int, window: Window) -> str:
    """Count batches of `batch` calls spread over `keys` keys, and return a line with the costs."""
    await redis.flushdb()
    ids = [f"key_{number:016x}" for number in range(keys)]
    for key_id in ids:
        record = KeyRecord(key_id, "acc_0000000000000001", "K1", 1, NOW, {})
        await redis.hset(record_name(key_id), mapping={"rev": 1, "data": record.to_json()})
    counters = Counters(redis, writer="bench", deadline_s=10, retention_days=35)
    await counters.start()
    loop = asyncio.get_running_loop()
    granted = 0
    left = 0
    finished = loop.create_future()

    def done(taken: Taken) -> None:
        nonlocal granted, left
        granted += taken.outcome is Outcome.GRANTED
        left -= 1
        if not left:
            finished.set_result(None)

    async def count() -> None:
        nonlocal left, finished
        finished = loop.create_future()
        left = batch
        for index in range(batch):
            counters.take(
                Take(
                    ids[index % keys],
                    1,
                    "20261118",
                    "SearchItemsFrame",
                    "search",
                    1,
                    True,
                    10**9,
                    window,
                    bucket_of(NOW),
                ),
                NOW,
                done,
            )
        await finished

    for _ in range(50):
        await count()
    await redis.config_resetstat()
    rounds = max(200, BATCHES * 64 // (batch * 32))
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        await count()
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    script = (await redis.info("commandstats"))["cmdstat_evalsha"]
    await counters.close()
    calls = rounds * batch
    assert granted == calls + 50 * batch
    return (
        f"{batch:>6} {keys:>6} {window.value:>12} {cpu / calls * 1e6:>12.2f} "
        f"{script['usec'] / calls:>11.2f} {took / rounds * 1e6:>12.0f}"
    )


async def main() -> None:
    """Print the table."""
    redis = connect(sys.argv[1] if len(sys.argv) > 1 else "redis://127.0.0.1:6379/0")
    print("us per call, but the last column")
    print(
        f"{'batch':>6} {'keys':>6} {'window':>12} {'worker CPU':>12} {'Redis CPU':>11} {'us per batch':>12}"
    )
    for window in Window:
        for batch, keys in ((64, 1), (64, 64), (16, 1), (16, 16), (1, 1), (512, 512)):
            print(await measure(redis, batch, keys, window))
    await redis.aclose()


if __name__ == "__main__":
    uvloop.run(main())
