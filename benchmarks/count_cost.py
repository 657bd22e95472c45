"""`python -m benchmarks.count_cost`: what counting a call costs, in microseconds of a core.

Batches of a fixed size are counted one after another on a Valkey of the wheel, on one hot key and on as many
keys as calls. The worker's time is what a call takes from the proxy; Redis' time is what bounds all workers
together. Each figure is the best of several rounds, so that another process's work does not show in it.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop
from redis.asyncio import Redis

from benchmarks.store import Store
from metering.clients import connect
from metering.counters import Counters, Outcome, Take, Taken
from metering.names import record_name
from policies.quota import Window, bucket_of
from policies.record import KeyRecord

ROUNDS = 10
CALLS_IN_A_ROUND = 6400
NOW = 1_795_000_000.0
SHAPES = (
    (64, 1),
    (64, 64),
    (16, 1),
    (16, 16),
    (1, 1),
    (512, 512),
)  # calls in a batch, keys they are spread over


class Load:
    """Counts batches and waits for each."""

    def __init__(self, counters: Counters, takes: list[Take]) -> None:
        self._counters = counters
        self._takes = takes
        self._left = 0
        self._finished: Callable[[None], None]

    async def count(self, batches: int) -> None:
        """Count the batch so many times; fails when a call is not granted."""
        loop = asyncio.get_running_loop()
        for _ in range(batches):
            finished = loop.create_future()
            self._finished = finished.set_result
            self._left = len(self._takes)
            for take in self._takes:
                # A gateway makes one for each call, too.
                self._counters.take(Take(*take), NOW, self._done)
            await finished

    def _done(self, taken: Taken) -> None:
        assert taken.outcome is Outcome.GRANTED
        self._left -= 1
        if not self._left:
            self._finished(None)


async def measure(redis: Redis, batch: int, keys: int, window: Window) -> str:
    """Count batches of `batch` calls spread over `keys` keys; returns a line with the costs."""
    await redis.flushdb()
    ids = [f"key_{number:016x}" for number in range(keys)]
    for key_id in ids:
        record = KeyRecord(key_id, "acc_0000000000000001", "K1", 1, NOW, {})
        await redis.hset(record_name(key_id), mapping={"rev": 1, "data": record.to_json()})
    counters = Counters(redis, writer="bench", deadline_s=10, retention_days=35)
    await counters.start()
    bucket = bucket_of(NOW)
    takes = [
        Take(ids[n % keys], 1, "20261118", "SearchItemsFrame", "search", 1, True, 10**12, window, bucket)
        for n in range(batch)
    ]
    load = Load(counters, takes)
    batches = max(1, min(500, CALLS_IN_A_ROUND // batch))
    await load.count(batches)
    worker, script, wall = [], [], []
    for _ in range(ROUNDS):
        await redis.config_resetstat()
        began, cpu = time.perf_counter(), time.process_time()
        await load.count(batches)
        worker.append((time.process_time() - cpu) / batches)
        wall.append((time.perf_counter() - began) / batches)
        script.append((await redis.info("commandstats"))["cmdstat_evalsha"]["usec"] / batches)
    await counters.close()
    return (
        f"{batch:>5} {keys:>5}  {window.value:<12} {min(worker) * 1e6 / batch:>10.2f} "
        f"{min(script) / batch:>10.2f} {min(wall) * 1e6:>12.0f}"
    )


async def report(url: str) -> None:
    """Print the table."""
    redis = connect(url)
    print("calls  keys  window        us of the  us of Redis    us until a")
    print("                         worker/call        /call  batch is done")
    for window in Window:
        for batch, keys in SHAPES:
            print(await measure(redis, batch, keys, window))
    await redis.aclose()


def main() -> None:
    """Measure on a store of its own."""
    cores = frozenset(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, Store(cores, Path(folder)) as store:
        uvloop.run(report(store.url))


if __name__ == "__main__":
    main()
