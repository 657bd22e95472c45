"""`python -m benchmarks.rollup_cost [KEYS] [--rate CALLS]`: what a roll-up of many keys costs, and whom it
delays.

Each key has calls of five methods out of twenty. They are rolled up three times: into an empty ledger, again
when every counter has grown, and again when every key was touched and none has. PostgreSQL is crash-safe, as
embedded. With a rate, calls go through a gateway before and meanwhile, all of it on the same cores, and what
was answered is compared with the ledger at the end. The load and the upstream, which have machines of their
own in practice, take short turns on a core as the worker and Redis do: they are not what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import sqlalchemy as sa
import uvloop
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.load import Load, driven
from benchmarks.machine import Layout, cpu_s_by_program, python
from benchmarks.origin import Origin
from benchmarks.peers import Bench
from benchmarks.peers.tallygate import Tallygate
from benchmarks.store import Store
from benchmarks.workloads import SMALL_BYTES, Workload, request_of
from gateway import throwaway
from gateway.leashing import BEHIND_CALLS, SHORT_TURN_NS, leashed
from metering.clients import Client, connect, wire_to
from metering.commands import Command
from metering.ledger import accounts, make_engine, migrate, tables
from metering.ledger.audit import Author
from metering.names import READY, day_name, touched_name
from metering.snapshot import day_text
from metering.wire import Wire
from policies.period import day_of

KEYS = 100_000
METHODS, METHODS_OF_A_KEY = 20, 5
CHUNK = 1000
BY = Author("bench")
_FILL = sa.text(
    """
    INSERT INTO keys (id, account_id, plan, created_at, unlimited, revision, projected_revision)
    SELECT id, :account, 'K1', :now, false, 1, 1 FROM unnest(CAST(:ids AS text[])) AS id
    """
)
TRAFFIC = Workload("traffic", "GET", SMALL_BYTES, 64, keys=1_000)
BEFORE_S = 20.0
PROGRAMS = {"postgres": "PostgreSQL", "valkey-server": "Redis"}
GOAL_KEYS, GOAL_S, GOAL_P99 = 1_000_000, 60.0, 2.0


class Traffic:
    """Calls that go through a gateway at a rate; with a rate of 0 there are none."""

    def __init__(self, store: Store, folder: Path, rate: float, stack: ExitStack) -> None:
        self._cores, self._folder, self.rate = frozenset(os.sched_getaffinity(0)), folder, rate
        self.answered = self.failed = 0
        if rate:
            origin = stack.enter_context(
                Origin(TRAFFIC.answer_bytes, self._cores, folder, turn_ns=SHORT_TURN_NS)
            )
            bench = Bench(Layout(self._cores, self._cores), store, origin.port, folder, TRAFFIC.keys)
            self._gateway = stack.enter_context(Tallygate(bench))

    @contextmanager
    def going_on(self) -> Iterator[list[Load]]:
        """Let calls go on while the block lasts; what was measured is in the list after it."""
        seen: list[Load] = []
        if not self.rate:
            yield seen
            return
        request = request_of(TRAFFIC, self._gateway.credential)
        port = self._gateway.port
        own = (self._cores, self._folder, self.rate)
        with driven(port, request, TRAFFIC, *own, turn_ns=SHORT_TURN_NS) as end:
            yield seen
            seen.append(end())
        self.answered += seen[0].answered
        self.failed += seen[0].failed

    async def in_ledger(self, engine: AsyncEngine) -> int:
        """Return the calls of its keys that the ledger has."""
        rows = tables.usage_daily.c
        query = sa.select(sa.func.sum(rows.calls)).where(rows.key_id.in_(self._gateway.key_ids))
        async with engine.connect() as connection:
            return int((await connection.execute(query)).scalar_one() or 0)


def key_id(number: int) -> str:
    """Return the id of a key: odd multipliers spread the ids over all shards, as random ones would be."""
    return f"key_{number * 0x9E3779B97F4A7C15 % 2**64:016x}"


async def fill(engine: AsyncEngine, keys: int) -> None:
    """Let the ledger know the keys: a roll-up looks there for those on sandbox plans."""
    async with engine.begin() as connection:
        now = datetime.now(UTC)
        account = await accounts.create(connection, name="Bench", currency="EUR", now=now, by=BY)
        for first in range(0, keys, CHUNK):
            ids = [key_id(number) for number in range(first, min(keys, first + CHUNK))]
            await connection.execute(_FILL, {"ids": ids, "account": account.id, "now": now})
        await connection.execute(sa.text("ANALYZE keys"))


async def count(wire: Wire, keys: int, calls: int, began: float) -> None:
    """Write counters as they stand after so many calls of each method, the first of them at `began`."""
    day = day_text(day_of(began, ZoneInfo("UTC")))
    for first in range(0, keys, CHUNK):
        commands: list[Command] = []
        for number in range(first, min(keys, first + CHUNK)):
            name = key_id(number)
            used = calls * METHODS_OF_A_KEY
            fields: list[str | int] = ["used", used, "first", int(began * 1000), "bt:w0-0000", calls]
            for place in range(METHODS_OF_A_KEY):  # not the same ones for all, nor in the same order
                method = (number * 7 + place * (1, 3, 7, 9)[number % 4]) % METHODS
                fields += [f"c:Method{method}|item", calls, f"t:Method{method}|item", calls]
            commands.append(("HSET", day_name(name, day), *fields))
            commands.append(("SADD", touched_name(name[-2:]), f"{name}:{day}"))
        await wire.exchange(commands)
        if sys.stderr.isatty():
            done = min(keys, first + CHUNK)
            print(f"\r\033[Kcounters of {done:,} keys", end="", file=sys.stderr, flush=True)


async def report(stores: Stores, keys: int, traffic: Traffic) -> bool:
    """Print what was measured; returns whether each answered call is in the ledger once."""
    await migrate(stores.engine)
    await fill(stores.engine, keys)
    wire = wire_to(stores.redis)
    await wire.exchange([("SET", READY, 1)])
    print(f"{keys:,} keys, {METHODS_OF_A_KEY} methods each")
    usual = None
    if traffic.rate:
        with traffic.going_on() as before:
            await asyncio.sleep(BEFORE_S)
        usual = before[0]
        print(f"traffic alone: {usual.rate:,.0f} calls/s, {_latencies(usual)}")
    empty = await _used_bytes(stores.redis)
    began = time.time()
    for calls, what in ((10, "new"), (11, "grown"), (11, "unchanged")):
        await count(wire, keys, calls, began)
        if what == "new":
            print(f"Redis keeps {(await _used_bytes(stores.redis) - empty) / keys:,.0f} B for each of them")
        await _rewritten(stores.redis)
        used = cpu_s_by_program()
        with traffic.going_on() as meanwhile:
            done = await rolled_up(stores)
        assert done["key_days"] >= keys
        costs = {"control process": done["cpu_s"]}
        costs |= {
            PROGRAMS[name]: now - used[name] for name, now in cpu_s_by_program().items() if name in PROGRAMS
        }
        told = ", ".join(f"{name} {cpu_s / keys * 1e6:.1f}" for name, cpu_s in costs.items())
        took = done["seconds"]
        print(f"{what}: {took:.1f} s{_met(took <= GOAL_S, keys)}, {done['rows']:,} rows changed")
        print(f"    us of a core for a key: {told}")
        for load in meanwhile:
            assert usual is not None
            ratio = load.p99_ms / usual.p99_ms
            goal = _met(ratio <= GOAL_P99, keys)
            print(f"    traffic: {_latencies(load)}, {ratio:.1f} times that alone{goal}")
    await wire.close()
    if not traffic.rate:
        return True
    await rolled_up(stores)
    difference = traffic.answered - await traffic.in_ledger(stores.engine)
    print(
        f"answered {traffic.answered:,} calls, failed {traffic.failed}, difference to the ledger {difference}"
    )
    return difference == traffic.failed == 0


async def _rewritten(redis: Client) -> None:
    """Wait while Redis rewrites its append-only file, which writing the counters has made it do."""
    while await _is_rewriting(redis):  # noqa: ASYNC110 - Redis tells nobody when it is done
        await asyncio.sleep(0.1)


async def _is_rewriting(redis: Client) -> bool:
    told = await redis.info("persistence")
    return bool(told["aof_rewrite_in_progress"] or told["aof_rewrite_scheduled"])


async def _used_bytes(redis: Client) -> int:
    return int((await redis.info("memory"))["used_memory"])


async def rolled_up(stores: Stores) -> dict[str, float]:
    """Roll up in a process of its own that stands behind calls, as the control process does."""
    line = python("benchmarks.rollup_once", stores.redis_url, stores.database_url)
    line = leashed(line, on_parent_death=signal.SIGTERM, nice=BEHIND_CALLS)
    process = await asyncio.create_subprocess_exec(*line, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("the roll-up failed")
    done: dict[str, float] = json.loads(told)
    return done


def _latencies(load: Load) -> str:
    return f"p50 {load.p50_ms:.2f} ms, p99 {load.p99_ms:.2f} ms"


def _met(is_met: bool, keys: int) -> str:
    """Say whether a goal is met, of as many keys as it is set for."""
    return "" if keys < GOAL_KEYS else " (goal met)" if is_met else " (goal missed)"


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores' addresses, and what is connected to them."""

    redis_url: str
    database_url: str
    redis: Client
    engine: AsyncEngine


def main() -> int:
    """Measure on stores of its own; returns 1 when the count is not exact."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.rollup_cost", description=__doc__)
    options.add_argument("keys", type=int, nargs="?", default=KEYS)
    options.add_argument("--rate", type=float, default=0, help="calls a second that go on meanwhile (0)")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name, throwaway.postgres(durable=True) as url, ExitStack() as stack:
        store = stack.enter_context(Store(frozenset(os.sched_getaffinity(0)), Path(name)))
        traffic = Traffic(store, Path(name), given.rate, stack)
        return 0 if uvloop.run(measure(store.url, url, given.keys, traffic)) else 1


async def measure(redis_url: str, database_url: str, keys: int, traffic: Traffic) -> bool:
    """Connect, and report."""
    redis, engine = connect(redis_url, timeout_s=60), make_engine(database_url)
    try:
        return await report(Stores(redis_url, database_url, redis, engine), keys, traffic)
    finally:
        await engine.dispose()
        await redis.aclose()


if __name__ == "__main__":
    sys.exit(main())
