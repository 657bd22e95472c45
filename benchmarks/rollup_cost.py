"""`python -m benchmarks.rollup_cost [KEYS]`: how long a roll-up of many keys takes, on stores of the wheels.

Each key has calls of five methods. They are rolled up three times: into an empty ledger, again when every
counter has grown, and again when every key was touched and none has. PostgreSQL is crash-safe, as embedded.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import uvloop

from benchmarks.store import Store
from gateway import collector
from gateway.stores import EmbeddedPostgres, run_directory
from metering.clients import connect, wire_to
from metering.ledger import make_engine, migrate
from metering.names import READY, day_name, touched_name
from metering.rollup import roll_up
from metering.wire import Command, Wire

KEYS = 100_000
METHODS = 5
CHUNK = 1000
NOW = 1_795_000_000.0
DAY = "20261118"


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run PostgreSQL until the block ends; gives its URL."""
    store = EmbeddedPostgres(folder, run_directory(folder))
    store.prepare()
    with store.log_file.open("wb") as log:
        started = subprocess.Popen(store.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        while not store.is_ready():
            if started.poll() is not None:
                raise RuntimeError(store.log_file.read_text())
            time.sleep(0.05)
        yield store.url
    finally:
        started.send_signal(store.stop_signal)
        started.wait()


async def count(wire: Wire, keys: int, calls: int) -> None:
    """Write counters as they stand after so many calls of each method."""
    for first in range(0, keys, CHUNK):
        commands: list[Command] = []
        for number in range(first, min(keys, first + CHUNK)):
            # Odd multipliers spread the ids over all shards, as random ones would be.
            key_id = f"key_{number * 0x9E3779B97F4A7C15 % 2**64:016x}"
            fields: list[str | int] = ["used", calls * METHODS, "first", int(NOW * 1000), "bt:w0-0000", calls]
            for method in range(METHODS):
                fields += [f"c:Method{method}|item", calls, f"t:Method{method}|item", calls]
            commands.append(("HSET", day_name(key_id, DAY), *fields))
            commands.append(("SADD", touched_name(key_id[-2:]), f"{key_id}:{DAY}"))
        await wire.exchange(commands)


async def report(redis_url: str, database_url: str, keys: int) -> None:
    """Print a line per roll-up."""
    redis = connect(redis_url, timeout_s=60)
    engine = make_engine(database_url)
    await migrate(engine)
    wire = wire_to(redis)
    await wire.exchange([("SET", READY, 1)])
    print(f"{keys} keys, {METHODS} methods each")
    for calls, what in ((10, "new"), (11, "grown"), (11, "unchanged")):
        await count(wire, keys, calls)
        began, cpu = time.perf_counter(), time.process_time()
        done = await roll_up(redis, engine, zone=ZoneInfo("UTC"), now=NOW)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        assert done.key_days == keys
        print(
            f"{what:>10}: {took:6.1f} s, {keys / took:8.0f} keys/s, {done.rows} rows changed, "
            f"{cpu / keys * 1e6:.0f} us of this process a key"
        )
    await wire.close()
    await engine.dispose()
    await redis.aclose()


def main() -> None:
    """Measure on stores of its own."""
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else KEYS
    collector.settle()
    cores = frozenset(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # PostgreSQL may run as another user, who has to reach its directory.
        folder.chmod(0o755)
        with Store(cores, folder) as store, postgres(folder) as database_url:
            uvloop.run(report(store.url, database_url, keys))


if __name__ == "__main__":
    main()
