"""The roll-up: what was counted in Redis goes into the ledger as absolute numbers.

It may be run twice, late, by two nodes at once, or after a crash half-way: the ledger is the same. Which
counters changed is set aside first and read second, so a call that comes in between is in this roll-up or
makes the next one look again; a member of that set is removed once the ledger has it, so a crash leaves it
for the next roll-up.

A counter that stands lower than in the ledger means that Redis lost data. It is raised by what is missing,
and reported: never billed less in silence, never twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from metering.clients import Client, wire_to
from metering.interruptions import Interruption
from metering.ledger import accounts, marks, usage
from metering.ledger.audit import Author
from metering.live import CHUNK, key_of, read
from metering.names import READY, SHARDS, collected_name, day_name, touched_name
from metering.projection import project_pending
from metering.restore import raise_call
from metering.scripts import ADVANCE, COLLECT, RAISE
from metering.snapshot import Snapshot, behind, day_text
from metering.watch import Watch
from metering.wire import Command, Wire, refuse_errors
from policies.period import day_of

LANES = 3  # connections to PostgreSQL that one roll-up works on, beside that of its lock
AUTHOR = Author("rollup")


@dataclass(frozen=True, slots=True)
class Raised:
    """A counter that Redis had lost a part of; `seen` and `ledger` are its values there and here."""

    key_id: str
    day: date
    counter: str
    seen: int
    ledger: int


@dataclass(frozen=True, slots=True)
class RollupReport:
    """What a roll-up did.

    `rows` counts rows of `usage_daily` that changed. `lost` says that Redis came back without its data and
    `older` that it came back with older data: either way the counters and records are to be rebuilt.
    `new` says that there was never a roll-up, and Redis is to be filled for the first time. `interruptions`
    are those that it noticed, `proven` earlier ones that turned out to have lost nothing; with `unsure`
    changes of keys may be missing too, and everything is to be rebuilt. `blind` says that Redis does not let
    itself be asked about its past.
    """

    key_days: int
    rows: int
    raised: tuple[Raised, ...]
    stamped_accounts: tuple[str, ...]
    lost: bool
    older: bool
    new: bool
    interruptions: tuple[Interruption, ...] = ()
    proven: tuple[Interruption, ...] = ()
    unsure: bool = False
    blind: bool = False


async def roll_up(
    redis: Client,
    engine: AsyncEngine,
    *,
    zone: ZoneInfo,
    now: float,
    full: bool = False,
    sandbox_plans: Collection[str] = (),
    replicas: int = 0,
) -> RollupReport:
    """Bring the ledger up to the counters that changed, or with `full` to all there are.

    A full one also looks for today's and yesterday's counters of the ledger that Redis does not have. The
    first call with a key on one of `sandbox_plans` is its account's first request (contract OT-2). Calls wait
    for their counts to reach so many `replicas`. What it raises is of the stores.
    """
    wire = wire_to(redis)
    try:
        async with engine.connect() as connection, marks.carrying(connection):
            (ready,) = refuse_errors(await wire.exchange([("GET", READY)]))
            mark = await marks.get(connection, marks.ROLLUP)
            older = ready is not None and int(ready) < mark
            watch = Watch(wire, now, replicas)
            await watch.begin(connection)
            members = await _changed(wire)
            if full or older:
                members |= await _all(wire)
            if full or older or watch.is_unsure:
                members |= await _in_ledger(connection, day_of(now, zone) - timedelta(days=1))
            carried = _Carried(sandbox_plans, datetime.fromtimestamp(now, UTC))
            await carried.carry(redis, engine, sorted(members))
            if older or watch.is_unsure:
                # The records are as old as the counters were: without the mark everything is rebuilt.
                refuse_errors(await wire.exchange([("DEL", READY)]))
            elif ready is not None:
                stamp = max(int(now * 1000), mark + 1)
                (advanced,) = await wire.run(ADVANCE, [((READY,), (ready, stamp))])
                if advanced:
                    await marks.raise_to(connection, marks.ROLLUP, stamp)
                    await connection.commit()
            noticed = await watch.end(connection)
            proven = await watch.look_back(connection)
        if carried.stamped:
            await project_pending(redis, engine)
        return RollupReport(
            len(members),
            carried.rows,
            tuple(carried.raised),
            tuple(carried.stamped),
            lost=ready is None and mark > 0,
            older=older,
            new=ready is None and mark == 0,
            interruptions=tuple(noticed),
            proven=tuple(proven),
            unsure=watch.is_unsure,
            blind=watch.is_blind,
        )
    finally:
        await wire.close()


class _Carried:
    """What one roll-up has carried so far."""

    def __init__(self, sandbox_plans: Collection[str], now: datetime) -> None:
        self.rows = 0
        self.raised: list[Raised] = []
        self.stamped: list[str] = []
        self._sandbox_plans = sandbox_plans
        self._now = now

    async def carry(self, redis: Client, engine: AsyncEngine, members: Sequence[str]) -> None:
        """Carry counters in lanes: while PostgreSQL takes the chunk of one, another reads from Redis."""
        chunks = iter([members[first : first + CHUNK] for first in range(0, len(members), CHUNK)])
        count = min(LANES, -(-len(members) // CHUNK))
        lanes = [asyncio.ensure_future(self._lane(redis, engine, chunks)) for _ in range(count)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            if lanes:
                await asyncio.wait(lanes)

    async def _lane(self, redis: Client, engine: AsyncEngine, chunks: Iterator[Sequence[str]]) -> None:
        wire = wire_to(redis)
        try:
            async with engine.connect() as connection:
                for chunk in chunks:
                    snapshots = await read(wire, chunk)
                    higher = await self._write(connection, snapshots)
                    await self._raise(wire, snapshots, higher)
                    # Only now: what is taken out of the set is what the ledger has.
                    done: list[Command] = [
                        ("SREM", collected_name(key_of(each)[-2:]), each) for each in chunk
                    ]
                    refuse_errors(await wire.exchange(done))
        finally:
            await wire.close()

    async def _write(self, connection: AsyncConnection, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
        written = await usage.write(connection, snapshots)
        self.rows += written
        higher = await usage.higher_than(connection, snapshots)
        if self._sandbox_plans:
            key_ids = sorted({each.key_id for each in snapshots if each.first_at is not None})
            stamped = await accounts.stamp_first_requests(
                connection, key_ids, self._sandbox_plans, now=self._now, by=AUTHOR
            )
            self.stamped += stamped
        await connection.commit()
        return higher

    async def _raise(self, wire: Wire, snapshots: Sequence[Snapshot], higher: Sequence[Snapshot]) -> None:
        seen = {(each.key_id, each.day): each for each in snapshots}
        calls = []
        for ledger in higher:
            lower = behind(seen[(ledger.key_id, ledger.day)], ledger)
            calls.append(raise_call(ledger, [(name, *values) for name, values in lower.items()]))
            self.raised += [
                Raised(ledger.key_id, ledger.day, name, *values) for name, values in lower.items()
            ]
        await wire.run(RAISE, calls)


async def _changed(wire: Wire) -> set[str]:
    calls = [((touched_name(shard), collected_name(shard)), ()) for shard in SHARDS]
    return {member.decode() for members in await wire.run(COLLECT, calls) for member in members}


async def _all(wire: Wire) -> set[str]:
    found: set[str] = set()
    for holder in await wire.holders():
        cursor = b"0"
        while True:
            scan: Command = (
                "SCAN",
                cursor,
                "MATCH",
                day_name("*", "*").replace("{*}", "{??}"),
                "COUNT",
                5000,
            )
            ((cursor, names),) = refuse_errors(await holder.wire.exchange([scan]))
            found.update(":".join(name.decode().split(":")[-2:]) for name in names)
            if cursor == b"0":
                break
    return found


async def _in_ledger(connection: AsyncConnection, since: date) -> set[str]:
    found: set[str] = set()
    after = None
    while places := await usage.places_since(connection, since, after=after, limit=CHUNK):
        found.update(f"{key_id}:{day_text(day)}" for key_id, day in places)
        after = places[-1]
    return found
