"""Take, settle, send again, roll up, crash and rebuild in any order: the counts are those of a plain model.

The model counts with dictionaries, one call after another. The real thing runs the scripts on a real Valkey
and rolls up into a real PostgreSQL; both are compared after every step.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from metering import batches
from metering.batches import Groups, Outcome, Owed, Take, TakeBatch, encode_settlement
from metering.clients import wire_to
from metering.commands import Command, load
from metering.ledger import make_engine, tables
from metering.ledger import usage as ledger_usage
from metering.names import SHARDS, collected_name, day_name, roll_name, touched_name
from metering.rebuild import rebuild
from metering.rollup import roll_up
from metering.scripts import COLLECT, SETTLE, TAKE
from metering.snapshot import day_text, read_hash
from metering.wire import Wire, refuse_errors
from policies.period import day_of
from policies.quota import BUCKET_S, BUCKETS_IN_24H, Window, bucket_of
from policies.waiver import Waiver
from tests.metering.records import fetch_record
from tests.metering.samples import NOW, ZONE

Result = TypeVar("Result")
DAILY, ROLLING = "key_00000000000000ab", "key_11111111111111ab"
WINDOWS = {DAILY: Window.DAY, ROLLING: Window.ROLLING_24H}
LIMIT = 12
MOST_EXAMPLES = 300  # each takes seconds, as both stores are asked after every step
WRITERS = ("w0-a", "w1-b")
METHODS = (("Search", "search", True), ("Item", "item", True), ("Category", "other", False))
WAIVERS = [waiver for waiver in Waiver if waiver is not Waiver.FREE_METHOD]


@dataclass
class Model:
    """The counts as they have to be: by (key, day) and name, and the rolling windows by key and bucket."""

    days: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    windows: dict[str, Counter[int]] = field(default_factory=lambda: {ROLLING: Counter()})

    def copy(self) -> Model:
        """Keep what is counted by now."""
        days = {place: Counter(counts) for place, counts in self.days.items()}
        return Model(days, {key_id: Counter(window) for key_id, window in self.windows.items()})

    def counts(self, key_id: str, day: str) -> Counter[str]:
        """The counters of a key's day."""
        return self.days.setdefault((key_id, day), Counter())

    def in_use(self, take: Take) -> int:
        """Units that count against the limit when this call comes."""
        if take.window is Window.DAY:
            counts = self.counts(take.key_id, take.day)
            return counts["used"] - counts["back"]
        window = self.windows[take.key_id]
        return sum(units for bucket, units in window.items() if bucket >= take.bucket - BUCKETS_IN_24H)

    def take(self, take: Take) -> bool:
        """Count one call; says whether it was granted."""
        counts = self.counts(take.key_id, take.day)
        if take.limit is not None and self.in_use(take) + take.cost > take.limit:
            counts["d:quota_exceeded"] += 1
            return False
        field_name = f"{take.method}|{take.klass}"
        counts["used"] += take.cost
        counts[f"c:{field_name}"] += 1
        counts[f"t:{field_name}"] += take.cost
        if not take.billable:
            counts[f"w:{field_name}"] += take.cost
            counts["v:free_method"] += take.cost
        if take.window is Window.ROLLING_24H:
            self.windows[take.key_id][take.bucket] += take.cost
            self.forget(take)
        return True

    def forget(self, take: Take) -> None:
        """Drop the buckets that left the window; nothing is given back to them afterwards."""
        window = self.windows[take.key_id]
        for bucket in [bucket for bucket in window if bucket < take.bucket - BUCKETS_IN_24H]:
            del window[bucket]

    def waive(self, take: Take, waiver: Waiver) -> None:
        """Give a granted call's quota and price back."""
        counts = self.counts(take.key_id, take.day)
        counts["back"] += take.cost
        if take.billable:
            counts[f"w:{take.method}|{take.klass}"] += take.cost
            counts[f"v:{waiver.value}"] += take.cost
        if take.window is Window.ROLLING_24H:
            window = self.windows[take.key_id]
            window[take.bucket] -= min(window[take.bucket], take.cost)
            if not window[take.bucket]:
                del window[take.bucket]


calls = st.tuples(
    st.sampled_from([DAILY, ROLLING]),
    st.sampled_from(METHODS),
    st.integers(1, 4),
    st.sampled_from([LIMIT, LIMIT, None]),
    st.booleans(),
)


class Counting(RuleBasedStateMachine):
    """One shard with a key of each window, two writers, and time that goes on."""

    runner: asyncio.Runner
    redis: Redis
    engine: AsyncEngine
    wire: Wire

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)
        self.model = Model()
        self.rolled = Model()
        self.now = NOW
        self.revision = 1
        self.is_watched = self.is_unnoticed = False  # by a roll-up; a loss since the last one
        self.granted: list[Take] = []
        self.last: dict[str, tuple[Command, list[Any]]] = {}

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do something on the loop of all examples."""
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        """Two keys, nothing counted."""

        async def empty() -> None:
            await self.redis.flushall()
            async with self.engine.begin() as connection:
                names = ", ".join(table.name for table in tables.metadata.sorted_tables)
                await connection.execute(sa.text(f"TRUNCATE {names}"))
                account = {"id": "acc_1", "name": "a", "currency": "USD", "created_at": sa.func.now()}
                await connection.execute(sa.insert(tables.accounts).values(account))
                for key_id in WINDOWS:
                    key = {"id": key_id, "account_id": "acc_1", "plan": "K1", "created_at": sa.func.now()}
                    rest = {"unlimited": False, "revision": 1, "projected_revision": 0}
                    await connection.execute(sa.insert(tables.keys).values(key | rest))
            refuse_errors(await self.wire.exchange([load(script) for script in (TAKE, SETTLE, COLLECT)]))
            await rebuild(self.redis, self.engine, zone=ZONE, now=self.now)

        self.run(empty())

    @property
    def day(self) -> str:
        """The billing day of now, as Redis writes it."""
        return day_text(self.today)

    @property
    def today(self) -> date:
        """The billing day of now."""
        return day_of(self.now, ZONE)

    def made(self, call: tuple[str, tuple[str, str, bool], int, int | None, bool]) -> Take:
        """A call as a gateway would count it now; its last part says whether its record is an old one."""
        key_id, (method, klass, billable), cost, limit, stale = call
        revision = self.revision - 1 if stale and self.revision > 1 else self.revision
        return Take(
            key_id,
            revision,
            self.day,
            method,
            klass,
            cost,
            billable,
            limit,
            WINDOWS[key_id],
            bucket_of(self.now),
        )

    async def send(self, writer: str, groups: Groups) -> list[tuple[Take, list[Outcome]]]:
        """Count a batch, and say what was answered to each group."""
        batch = TakeBatch(groups, writer, next(self.numbers), 86_400 * 9)
        (replies,) = refuse_errors(await self.wire.exchange([batch.command]))
        self.last[writer] = (batch.command, replies)
        return [
            (take, [granted.outcome] * calls + [other.outcome] * (len(waiting) - 1 - calls))
            for take, waiting, calls, granted, other in batch.read(replies)
        ]

    @rule(writer=st.sampled_from(WRITERS), wanted=st.lists(calls, min_size=1, max_size=6))
    def take(self, writer: str, wanted: list[Any]) -> None:
        """Calls that arrive at once are granted as if they had come one after the other."""
        groups: Groups = {}
        for call in wanted:
            groups.setdefault(self.made(call), [self.now]).append(None)
        for take, outcomes in self.run(self.send(writer, groups)):
            expected = []
            for _ in outcomes:
                if take.revision != self.revision:
                    expected.append(Outcome.STALE)
                elif self.model.take(take):
                    expected.append(Outcome.GRANTED)
                    self.granted.append(take)
                else:
                    expected.append(Outcome.EXHAUSTED)
            if take.window is Window.ROLLING_24H and take.revision == self.revision:
                self.model.forget(take)
            assert outcomes == expected

    @precondition(lambda self: self.last)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        """The last batch of a writer, sent again, answers the same grants and changes nothing."""
        command, replies = self.last[data.draw(st.sampled_from(sorted(self.last)))]

        def grants(reply: Any) -> Any:
            return reply[3:] if isinstance(reply, list) else reply >= 0

        (again,) = self.run(self.wire.exchange([command]))
        if command[1] == TAKE.sha:
            assert list(map(grants, again)) == list(map(grants, replies))
        else:
            assert again == replies

    @precondition(lambda self: self.granted)
    @rule(
        writer=st.sampled_from(WRITERS),
        waivers=st.lists(st.sampled_from(WAIVERS), min_size=1, max_size=3),
        more=st.integers(0, 5),
        again=st.booleans(),
        data=st.data(),
    )
    def settle(self, writer: str, waivers: list[Waiver], more: int, again: bool, data: st.DataObject) -> None:
        """Waivers, further units and denials are added once, however often they are sent."""
        owed: dict[tuple[str, str], Owed] = {}
        for waiver in waivers[: len(self.granted)]:
            take = self.granted.pop(data.draw(st.integers(0, len(self.granted) - 1)))
            due = owed.setdefault((take.key_id, take.day), Owed())
            batches.waive(due, take, waiver)
            self.model.waive(take, waiver)
            due.add("d:banned", 1)
            self.model.counts(take.key_id, take.day)["d:banned"] += 1
        if more and self.granted and self.granted[-1].bucket == bucket_of(self.now):
            take = self.granted[-1]
            if not any(bucket == take.bucket for due in owed.values() for bucket in due.buckets):
                batches.charge_more(owed.setdefault((take.key_id, take.day), Owed()), take, more)
                counts = self.model.counts(take.key_id, take.day)
                for name in ("used", f"t:{take.method}|{take.klass}"):
                    counts[name] += more
                if not take.billable:
                    for name in (f"w:{take.method}|{take.klass}", "v:free_method"):
                        counts[name] += more
                if take.window is Window.ROLLING_24H:
                    self.model.windows[take.key_id][take.bucket] += more
        command = encode_settlement(owed, writer, next(self.numbers), 86_400 * 9)
        for _ in range(1 + again):
            (applied,) = refuse_errors(self.run(self.wire.exchange([command])))
            assert set(applied) == {1}

    @rule(seconds=st.sampled_from([1, BUCKET_S, 7 * 3600, 86_400, 86_400 + BUCKET_S, 2 * 86_400]))
    def wait(self, seconds: int) -> None:
        """Time goes on."""
        self.now += seconds

    @rule()
    def change_the_keys(self) -> None:
        """Both keys are changed, and their records projected at once."""
        self.revision += 1

        async def change() -> None:
            async with self.engine.begin() as connection:
                await connection.execute(sa.update(tables.keys).values(revision=self.revision))
            await rebuild(self.redis, self.engine, zone=ZONE, now=self.now)

        self.run(change())

    @rule(full=st.booleans(), times=st.integers(1, 2))
    def roll_up(self, full: bool, times: int) -> None:
        """After a roll-up, the ledger has what was counted; a loss is named by the first one after it."""
        for _ in range(times):
            report = self.run(roll_up(self.redis, self.engine, zone=ZONE, now=self.now, full=full))
            assert (report.raised, report.lost, report.older) == ((), False, False)
            assert bool(report.interruptions) is report.unsure is self.is_unnoticed
            self.is_watched, self.is_unnoticed = True, False
            if report.unsure:
                self.run(rebuild(self.redis, self.engine, zone=ZONE, now=self.now))
        self.rolled = self.model.copy()
        self.ledger_has_what_was_rolled_up()

    @rule()
    def crash_while_rolling_up(self) -> None:
        """A roll-up dies after it set aside what changed."""
        sets = [((touched_name(shard), collected_name(shard)), ()) for shard in SHARDS]
        self.run(self.wire.run(COLLECT, sets))

    @rule()
    def lose_redis(self) -> None:
        """Redis comes back empty: a rebuild brings back the days that matter, as of the last roll-up."""

        async def lose() -> None:
            await self.redis.flushall()
            refuse_errors(await self.wire.exchange([load(script) for script in (TAKE, SETTLE, COLLECT)]))
            assert await fetch_record(self.redis, DAILY) is None
            await rebuild(self.redis, self.engine, zone=ZONE, now=self.now)

        self.run(lose())
        self.is_unnoticed = self.is_watched
        self.model = self.rolled.copy()
        since = day_text(self.today - timedelta(days=2))
        self.model.days = {place: counts for place, counts in self.model.days.items() if place[1] >= since}
        oldest = bucket_of(self.now) - BUCKETS_IN_24H
        kept = {bucket: units for bucket, units in self.model.windows[ROLLING].items() if bucket >= oldest}
        self.model.windows[ROLLING] = Counter(kept)
        # What was counted since, and calls of days that are over, can be settled no more.
        self.granted.clear()
        self.last.clear()

    @invariant()
    def redis_has_the_models_counts(self) -> None:
        """Every counter of every day, and every bucket of the window, is the model's."""

        async def compare() -> None:
            for (key_id, day), expected in self.model.days.items():
                found = await self.redis.hgetall(day_name(key_id, day))
                pairs = [part for pair in found.items() for part in pair]
                counts = dict(
                    read_hash(key_id, date(int(day[:4]), int(day[4:6]), int(day[6:])), pairs).fields()
                )
                assert counts == {name: number for name, number in expected.items() if number}
            window = {
                name.decode(): int(value)
                for name, value in (await self.redis.hgetall(roll_name(ROLLING))).items()
            }
            total, oldest = window.pop("sum", 0), window.pop("min", None)
            # What nothing in the window holds is kept for units to come; these have come and left.
            for name in [name for name in window if name.startswith("late:")]:
                assert int(name.removeprefix("late:")) < bucket_of(self.now) - BUCKETS_IN_24H
                del window[name]
            assert window == {str(bucket): units for bucket, units in self.model.windows[ROLLING].items()}
            assert total == sum(window.values())
            assert oldest == (min(map(int, window)) if window else None)

        self.run(compare())

    def ledger_has_what_was_rolled_up(self) -> None:
        """The ledger is what the last roll-up saw; nothing but a roll-up writes it."""

        async def compare() -> None:
            async with self.engine.connect() as connection:
                places = [
                    (key_id, date(int(day[:4]), int(day[4:6]), int(day[6:])))
                    for key_id, day in self.rolled.days
                ]
                for snapshot in await ledger_usage.read(connection, places):
                    expected = self.rolled.days[(snapshot.key_id, day_text(snapshot.day))]
                    assert dict(snapshot.fields()) == {
                        name: number for name, number in expected.items() if number
                    }

        self.run(compare())


@pytest.mark.deeper
def test_counts_are_those_of_the_model(valkey_url: str, database_url: str) -> None:
    """Whatever happens in whatever order, each call is counted once, and the ledger has it."""

    async def open_stores() -> None:
        Counting.redis = Redis.from_url(valkey_url)
        Counting.engine = make_engine(database_url)
        Counting.wire = wire_to(Counting.redis)

    async def close_stores() -> None:
        await Counting.wire.close()
        await Counting.redis.aclose()
        await Counting.engine.dispose()

    with asyncio.Runner() as runner:
        Counting.runner = runner
        runner.run(open_stores())
        try:
            examples = min(settings.default.max_examples, MOST_EXAMPLES)
            run_state_machine_as_test(Counting, settings=settings(max_examples=examples))
        finally:
            runner.run(close_stores())
