"""The roll-up: what was counted in Redis goes into the ledger as absolute numbers.

It may be run twice, late, by two nodes at once, or after a crash half-way: the ledger is the same. Which
counters changed is set aside first and read second, so a call that comes in between is in this roll-up or
makes the next one look again; a member of that set is removed once the ledger has it, so a crash leaves it
for the next roll-up.

A counter that stands lower than in the ledger means that Redis lost data. It is raised by what is missing,
and reported: never billed less in silence, never twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from metering.clients import Client, wire_to
from metering.commands import Command
from metering.day_lines import lines_of_hash
from metering.interruptions import Interruption
from metering.ledger import accounts, marks, usage
from metering.ledger.audit import Author
from metering.live import CHUNK, Found, days_in_turn, find, in_pieces, key_of, without_counters
from metering.names import READY, SHARDS, collected_name, touched_name
from metering.projecting import project_pending
from metering.restore import raise_call
from metering.scripts import ADVANCE, COLLECT, RAISE
from metering.snapshot import Snapshot, behind, day_text
from metering.watch import Watch
from metering.wire import Wire, refuse_errors
from policies.period import day_of

SHARDS_TOGETHER, ASKED_TOGETHER = 64, 1_000  # shards and members in one exchange: calls wait for it
REMOVED_TOGETHER, REMOVED_AT_ONCE = 8_000, 200
WITHOUT_A_CALL_MAX = 10_000  # keys that are remembered during a roll-up
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

    `rows` counts key days that changed in the ledger. `lost` says that Redis came back without its data and
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
    life: int = 0,
) -> RollupReport:
    """Bring the ledger up to the counters that changed, or with `full` to all there are.

    A full one also looks for today's and yesterday's counters of the ledger that Redis does not have. The
    first call with a key on one of `sandbox_plans` is its account's first request (contract OT-2). Calls wait
    for their counts to reach so many `replicas`; `life` is that of `Watch`. What it raises is of the stores.
    """
    wire = wire_to(redis)
    try:
        async with engine.connect() as connection, marks.carrying(connection):
            (ready,) = refuse_errors(await wire.exchange([("GET", READY)]))
            mark = await marks.get(connection, marks.ROLLUP)
            older = ready is not None and int(ready) < mark
            watch = Watch(wire, now, replicas, life)
            await watch.begin(connection)
            changed = await _changed(wire)
            carried = _Carried(sandbox_plans, datetime.fromtimestamp(now, UTC))
            await carried.carry(redis, engine, changed)
            if full or older:
                async for piece in in_pieces(days_in_turn(wire), changed):
                    await carried.carry(redis, engine, piece)
            if full or older or watch.is_unsure:
                yesterday = day_of(now, zone) - timedelta(days=1)
                # What Redis has was compared with the ledger already, where all of it was looked through.
                among = _in_ledger(connection, yesterday, wire if full or older else None)
                async for piece in in_pieces(among, changed):
                    await carried.carry(redis, engine, piece)
            await carried.stamp(redis, engine)
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
            carried.key_days,
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
        self.key_days = self.rows = 0
        self.raised: list[Raised] = []
        self.stamped: list[str] = []
        self._sandbox_plans = sandbox_plans
        self._now = now
        self._without_a_call: set[str] | None = None  # keys to be stamped; None: any may be one
        self._are_asked = False  # which keys these are
        self._to_be_stamped: list[bytes] = []  # members of such keys

    async def carry(self, redis: Client, engine: AsyncEngine, names: Collection[bytes]) -> None:
        """Carry counters, a chunk after the other: to do more at once would take the cores from calls."""
        if not names:
            return
        members = sorted(names)
        self.key_days += len(members)
        wire = wire_to(redis)
        done = _Done(wire)
        try:
            async with engine.connect() as connection:
                if len(members) > CHUNK and self._sandbox_plans and not self._are_asked:
                    # Asked once, so that hardly any chunk has to ask for its own keys. One that is made later
                    # is in the next roll-up, as its calls are.
                    self._are_asked = True
                    self._without_a_call = await accounts.keys_without_first_request(
                        connection, self._sandbox_plans, most=WITHOUT_A_CALL_MAX
                    )
                for first in range(0, len(members), CHUNK):
                    chunk = members[first : first + CHUNK]
                    found = await find(wire, [member.decode() for member in chunk])
                    higher, unstamped = await self._write(connection, found)
                    await self._raise(wire, found, higher)
                    # Only now: what is taken out of the set is what the ledger has.
                    if not unstamped:
                        await done.add(chunk)
                        continue
                    waiting = {member: key_of(member.decode()) in unstamped for member in chunk}
                    self._to_be_stamped += [member for member in chunk if waiting[member]]
                    await done.add([member for member in chunk if not waiting[member]])
                await done.remove()
        finally:
            await wire.close()

    async def _write(
        self, connection: AsyncConnection, found: Sequence[Found]
    ) -> tuple[Sequence[Snapshot], Collection[str]]:
        """Write what was found; return what the ledger has more of, and the keys that are to be stamped."""
        days = [lines_of_hash(each.key_id, each.day, each.pairs, each.buckets) for each in found]
        written = await usage.write_lines(connection, days)
        self.rows += written.rows
        unstamped = await self._unstamped(connection, {each.key_id for each in days if not each.is_empty})
        await connection.commit()
        return written.higher, unstamped

    async def _unstamped(self, connection: AsyncConnection, key_ids: set[str]) -> Collection[str]:
        if not self._sandbox_plans:
            return ()
        if self._without_a_call is not None:
            return key_ids & self._without_a_call
        found = await accounts.keys_without_first_request(
            connection, self._sandbox_plans, among=key_ids, most=len(key_ids)
        )
        return found or ()

    async def stamp(self, redis: Client, engine: AsyncEngine) -> None:
        """Stamp accounts once everything is carried: the first call of an account may be in any piece.

        Only then its keys are taken out of the set, so that a crash leaves them for the next roll-up.
        """
        wire = wire_to(redis)
        done = _Done(wire)
        try:
            for first in range(0, len(self._to_be_stamped), CHUNK):
                members = self._to_be_stamped[first : first + CHUNK]
                key_ids = sorted({key_of(member.decode()) for member in members})
                async with engine.begin() as connection:
                    self.stamped += await accounts.stamp_first_requests(
                        connection, key_ids, self._sandbox_plans, now=self._now, by=AUTHOR
                    )
                await done.add(members)
            await done.remove()
        finally:
            await wire.close()

    async def _raise(self, wire: Wire, found: Sequence[Found], higher: Sequence[Snapshot]) -> None:
        if not higher:
            return
        seen = {(each.key_id, each.day): each for each in found}
        calls = []
        for ledger in higher:
            lower = behind(seen[(ledger.key_id, ledger.day)].snapshot(), ledger)
            calls.append(raise_call(ledger, [(name, *values) for name, values in lower.items()]))
            self.raised += [
                Raised(ledger.key_id, ledger.day, name, *values) for name, values in lower.items()
            ]
        await wire.run(RAISE, calls)


class _Done:
    """Members that the ledger has, taken out of the collected sets many at a time."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._by_shard: dict[bytes, list[bytes]] = {}
        self._waiting = 0

    async def add(self, members: Sequence[bytes]) -> None:
        """Take members out soon."""
        for member in members:
            self._by_shard.setdefault(member.partition(b":")[0][-2:], []).append(member)
        self._waiting += len(members)
        if self._waiting >= REMOVED_TOGETHER:
            await self.remove()

    async def remove(self) -> None:
        """Take out what waits, a shard or a few at a time."""
        by_shard, self._by_shard, self._waiting = self._by_shard, {}, 0
        commands: list[Command] = []
        size = 0
        for shard, members in by_shard.items():
            commands.append(("SREM", collected_name(shard.decode()), *members))
            size += len(members)
            if size >= REMOVED_AT_ONCE:
                refuse_errors(await self._wire.exchange(commands))
                commands, size = [], 0
        if commands:
            refuse_errors(await self._wire.exchange(commands))


async def _changed(wire: Wire) -> set[bytes]:
    """Set aside which counters changed, and return them; Redis is asked for some shards at a time."""
    counts: list[int] = []
    for first in range(0, len(SHARDS), SHARDS_TOGETHER):
        shards = SHARDS[first : first + SHARDS_TOGETHER]
        counts += await wire.run(
            COLLECT, [((touched_name(shard), collected_name(shard)), ()) for shard in shards]
        )
    waiting = deque((shard, count, b"0") for shard, count in zip(SHARDS, counts, strict=True) if count)
    found: set[bytes] = set()
    while waiting:
        asked: list[tuple[str, int, bytes]] = []
        size = 0
        while waiting and size < ASKED_TOGETHER:
            asked.append(waiting.popleft())
            size += min(asked[-1][1], ASKED_TOGETHER)
        commands: list[Command] = [
            ("SSCAN", collected_name(shard), cursor, "COUNT", ASKED_TOGETHER) for shard, _, cursor in asked
        ]
        replies = refuse_errors(await wire.exchange(commands))
        for (shard, count, _), (cursor, members) in zip(asked, replies, strict=True):
            found.update(members)
            if cursor != b"0":
                waiting.append((shard, count, cursor))
    return found


async def _in_ledger(
    connection: AsyncConnection, since: date, wire: Wire | None
) -> AsyncIterator[Collection[bytes]]:
    """Yield the counters of the ledger; with `wire` only those that Redis does not have."""
    after = None
    while places := await usage.places_since(connection, since, after=after, limit=CHUNK):
        members = [f"{key_id}:{day_text(day)}".encode() for key_id, day in places]
        yield members if wire is None else await without_counters(wire, members)
        after = places[-1]
