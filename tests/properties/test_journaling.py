"""Let through, settle, kill, bring in, crash, roll up and lose Redis in any order: each call counts once.

The model adds numbers up. The real thing writes journals, runs the scripts on a real Valkey and rolls up into
a real PostgreSQL; both are compared after every step.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections import Counter
from collections.abc import Coroutine, Sequence
from pathlib import Path
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

from metering import batches, journal, replay
from metering.batches import Outcome, Owed, TakeBatch
from metering.clients import wire_to
from metering.commands import load
from metering.journal import Journal
from metering.ledger import make_engine, tables
from metering.ledger import usage as ledger_usage
from metering.names import day_name, record_name
from metering.rebuild import rebuild
from metering.rollup import roll_up
from metering.scripts import SETTLE, TAKE, Script
from metering.snapshot import read_day, read_hash
from metering.wire import Wire, refuse_errors
from policies.period import day_of
from policies.quota import Window
from policies.waiver import Waiver
from tests.metering.samples import DAY, NOW, ZONE, take

Result = TypeVar("Result")
WINDOWS = {"key_00000000000000ab": Window.DAY, "key_11111111111111cd": Window.ROLLING_24H}
YESTERDAY = "20261120"
PLACES = [(key_id, day) for key_id in WINDOWS for day in (DAY, YESTERDAY)]
WORKERS = ("w0", "w1")
TTL_S = 9 * 86_400

Counts = dict[tuple[str, str], Counter[str]]


class CrashError(Exception):
    """The end of the process that brings journals in."""


def copy(counts: Counts) -> Counts:
    """Keep what is counted by now."""
    return {place: Counter(numbers) for place, numbers in counts.items()}


class Journaling(RuleBasedStateMachine):
    """Two workers with a journal each, one who brings them in, and a Redis that is lost or goes back."""

    runner: asyncio.Runner
    redis: Redis
    engine: AsyncEngine
    wire: Wire

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.numbers = itertools.count(1)
        self.folder = tempfile.TemporaryDirectory()
        self.directory = Path(self.folder.name) / "journal"
        self.written: dict[str, Journal] = {}  # by worker
        self.pending: dict[str, Counts] = {}  # by journal: what is on disk and not counted yet
        self.half_done = False
        self.lost = False
        self.counted: Counts = {place: Counter() for place in PLACES}
        self.ledger: Counts = copy(self.counted)
        self.kept: tuple[dict[bytes, bytes], Counts] | None = None

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        """Start with empty stores and two keys."""

        async def empty() -> None:
            await self.redis.flushall()
            async with self.engine.begin() as connection:
                names = ", ".join(table.name for table in tables.metadata.sorted_tables)
                await connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
                await connection.execute(sa.text(f"TRUNCATE {names} CASCADE"))
                account = {"id": "acc_1", "name": "a", "currency": "USD", "created_at": sa.func.now()}
                await connection.execute(sa.insert(tables.accounts).values(account))
                for key_id in WINDOWS:
                    key = {"id": key_id, "account_id": "acc_1", "plan": "K1", "created_at": sa.func.now()}
                    rest = {"unlimited": False, "revision": 1, "projected_revision": 0}
                    await connection.execute(sa.insert(tables.keys).values(key | rest))
            await self.rolled_up()

        self.run(empty())

    def teardown(self) -> None:
        for made in self.written.values():
            self.run(made.close())
        self.folder.cleanup()

    async def rolled_up(self) -> None:
        """Roll up and rebuild as the control process does, and let the model follow."""
        self.now += 1
        report = await roll_up(self.redis, self.engine, zone=ZONE, now=self.now, full=True)
        if report.lost or report.older or report.new:
            await rebuild(self.redis, self.engine, zone=ZONE, now=self.now)
        refuse_errors(await self.wire.exchange([load(TAKE), load(SETTLE)]))
        if self.lost or report.older:
            for place, numbers in self.counted.items():
                self.counted[place] = numbers | self.ledger[place]  # the higher of each
        self.lost = False
        self.ledger = copy(self.counted)

    # -- workers

    @rule(worker=st.sampled_from(WORKERS), place=st.sampled_from(PLACES), calls=st.integers(1, 4))
    def let_through(self, worker: str, place: tuple[str, str], calls: int) -> None:
        """Calls are journaled; they are not counted yet."""
        made = self.written.get(worker)
        if made is None:
            made = self.written[worker] = Journal(self.directory, deadline_s=20)
            self.pending[made.id] = {each: Counter() for each in PLACES}
        call = take(key_id=place[0], day=place[1], window=WINDOWS[place[0]])
        dues = [Owed() for _ in range(calls)]
        for due in dues:
            batches.admit(due, call, self.now)
            self.pending[made.id][place].update(due.fields)
        assert self.run(self.appended(made, place, dues)) == [True] * calls

    @rule(worker=st.sampled_from(WORKERS), place=st.sampled_from(PLACES))
    def waive(self, worker: str, place: tuple[str, str]) -> None:
        """A call that was let through is waived while its journal is open."""
        made = self.written.get(worker)
        if made is None or self.pending[made.id][place]["used"] <= self.pending[made.id][place]["back"]:
            return
        due = Owed()
        call = take(key_id=place[0], day=place[1], window=WINDOWS[place[0]])
        batches.waive(due, call, Waiver.UPSTREAM_BROKEN)
        self.pending[made.id][place].update(due.fields)
        assert self.run(self.appended(made, place, [due])) == [True]

    async def appended(self, made: Journal, place: tuple[str, str], dues: Sequence[Owed]) -> list[bool]:
        """Append, and wait for what is said of each."""
        loop = asyncio.get_running_loop()
        results: list[asyncio.Future[bool]] = []
        for due in dues:
            result: asyncio.Future[bool] = loop.create_future()
            made.append(place, due, result.set_result)
            results.append(result)
        return await asyncio.gather(*results)

    @rule(worker=st.sampled_from(WORKERS))
    def outage_ends(self, worker: str) -> None:
        """The worker closes its journal."""
        made = self.written.pop(worker, None)
        if made is not None:
            self.run(made.close())

    @rule(worker=st.sampled_from(WORKERS), torn=st.integers(0, 200))
    def worker_dies(self, worker: str, torn: int) -> None:
        """The worker is killed; a part of a record that was not said to be on disk may be there."""
        made = self.written.pop(worker, None)
        if made is None or made._file is None:
            return
        due = Owed()
        batches.admit(due, take(), self.now)
        record = journal.encode_owed(PLACES[0], due)
        os.write(made._file, record[: min(torn, len(record) - 1)])
        os.close(made._file)  # as the kernel does
        made._file = None

    # -- whoever brings in

    @rule(crash=st.sampled_from([None, None, "before", 1, 2, 3, "after"]))
    def bring_in(self, crash: str | int | None) -> None:
        """Journals that were let go of are counted once, wherever it is broken off."""
        if self.half_done and crash is not None:
            return  # one crash at a time is enough; the second try is the point
        self.run(self.rolled_up())
        found = replay.released(self.directory)
        settled: list[tuple[str, tuple[str, str]]] = []
        with pytest.MonkeyPatch.context() as patched:
            self.break_at(patched, crash, settled)
            try:
                done = self.run(replay.bring_in(self.redis, self.engine, found, ttl_s=TTL_S))
            except CrashError:
                self.half_done = True
            else:
                self.half_done = False
                assert {each.path for each in done} == set(found)
                assert all(not each.waiting for each in done)
        for journal_id, place in settled:
            counts = self.pending[journal_id]
            self.counted[place].update(counts[place])
            counts[place] = Counter()

    def break_at(
        self,
        patched: pytest.MonkeyPatch,
        crash: str | int | None,
        settled: list[tuple[str, tuple[str, str]]],
    ) -> None:
        """Note what is settled, place by place, and crash where it is wanted."""
        run, finish, count = Wire.run, replay._finish, itertools.count(1)

        async def watched(wire: Wire, script: Script, calls: Sequence[Any]) -> list[Any]:
            if script is not SETTLE:
                return await run(wire, script, calls)
            if crash == "before":
                raise CrashError
            answer = await run(wire, script, calls)
            for _, arguments in calls:
                key_id, day = str(arguments[3]).split(":")
                settled.append((str(arguments[0]), (key_id, day)))
            if crash == next(count):
                raise CrashError
            return answer

        def finished(*arguments: Any) -> Any:
            if crash == "after":
                raise CrashError
            return finish(*arguments)

        patched.setattr(replay, "CHUNK", 1)
        patched.setattr(Wire, "run", watched)
        patched.setattr(replay, "_finish", finished)

    # -- counting and its store

    @precondition(lambda self: not self.lost)
    @rule(place=st.sampled_from(PLACES), calls=st.integers(1, 3))
    def count(self, place: tuple[str, str], calls: int) -> None:
        """Calls are counted as ever, between outages and beside what is brought in."""
        call = take(key_id=place[0], day=place[1], window=WINDOWS[place[0]])
        batch = TakeBatch({call: [self.now, *[None] * calls]}, "w", next(self.numbers), TTL_S)
        (replies,) = refuse_errors(self.run(self.wire.exchange([batch.command])))
        for _, _, granted, answer, _ in batch.read(replies):
            assert (granted, answer.outcome) == (calls, Outcome.GRANTED)
        field_name = f"{call.method}|{call.klass}"
        self.counted[place].update({f"c:{field_name}": calls, f"t:{field_name}": calls, "used": calls})

    @rule()
    def roll_up(self) -> None:
        """The ledger gets what is counted."""
        self.run(self.rolled_up())

    @precondition(lambda self: not self.half_done)
    @rule()
    def lose_redis(self) -> None:
        """Redis comes back empty, and stays so until a roll-up finds out."""
        self.run(self.redis.flushall())
        self.lost = True
        self.counted = {place: Counter() for place in PLACES}
        self.kept = None

    @precondition(lambda self: not self.half_done and not self.lost)
    @rule()
    def keep(self) -> None:
        """What Redis holds now is what it will come back with."""

        async def dump() -> dict[bytes, bytes]:
            return {name: (await self.redis.dump(name)) or b"" for name in await self.redis.keys("*")}

        self.kept = (self.run(dump()), copy(self.counted))

    @precondition(lambda self: not self.half_done and self.kept is not None)
    @rule()
    def go_back(self) -> None:
        """Redis comes back with the data that it had once, and a roll-up finds out."""
        assert self.kept is not None
        dumps, counted = self.kept

        async def restore() -> None:
            await self.redis.flushall()
            for name, value in dumps.items():
                await self.redis.restore(name, 0, value)
            await self.rolled_up()

        self.counted, self.lost = copy(counted), False
        self.run(restore())

    @invariant()
    def stores_agree_with_the_model(self) -> None:
        """Every counter is the model's, in Redis and in the ledger."""

        async def compare() -> None:
            for (key_id, day), expected in self.counted.items():
                found = await self.redis.hgetall(day_name(key_id, day))
                pairs = [part for pair in found.items() for part in pair]
                assert dict(read_hash(key_id, read_day(day), pairs).fields()) == dict(+expected)
            assert self.lost or await self.redis.exists(*map(record_name, WINDOWS)) == len(WINDOWS)
            async with self.engine.connect() as connection:
                places = [(key_id, read_day(day)) for key_id, day in PLACES]
                for snapshot in await ledger_usage.read(connection, places):
                    place = (snapshot.key_id, f"{snapshot.day:%Y%m%d}")
                    assert dict(snapshot.fields()) == dict(+self.ledger[place])

        assert day_of(self.now, ZONE) == read_day(DAY)
        self.run(compare())


@pytest.mark.deeper
def test_what_was_let_through_counts_once(valkey_url: str, database_url: str) -> None:
    """Whatever is killed, lost or repeated, a call that was let through is in the ledger once."""

    async def open_stores() -> None:
        Journaling.redis = Redis.from_url(valkey_url)
        Journaling.engine = make_engine(database_url)
        Journaling.wire = wire_to(Journaling.redis)

    async def close_stores() -> None:
        await Journaling.wire.close()
        await Journaling.redis.aclose()
        await Journaling.engine.dispose()

    with asyncio.Runner() as runner:
        Journaling.runner = runner
        runner.run(open_stores())
        try:
            # Each example empties a ledger: many more would take an hour.
            few = settings(max_examples=min(settings.default.max_examples // 3, 100))
            run_state_machine_as_test(Journaling, settings=few)
        finally:
            runner.run(close_stores())
