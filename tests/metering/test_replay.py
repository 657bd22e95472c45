"""Journals are brought in once, on top of all that the ledger has, whatever Redis lost meanwhile."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from metering import batches, journal, replay
from metering.batches import Outcome, Owed
from metering.ledger import usage
from metering.names import READY, day_name, roll_name
from metering.projecting import project_pending
from metering.rebuild import rebuild
from metering.replay import Replayed, bring_in, released
from metering.rollup import RollupReport, roll_up
from metering.scripts import ADVANCE
from metering.wire import Wire
from policies.quota import Window
from policies.waiver import Waiver
from tests.metering.samples import (
    DAY,
    NOW,
    TODAY,
    ZONE,
    counted,
    counting,
    day_of_key,
    make_key,
    settled,
    take,
    window_of_key,
)

METHOD = "SearchItemsFrame|search"
TTL_S = 35 * 86_400


def write(
    directory: Path, key_id: str, calls: int, *, name: str = "00000000000000aa", waived: int = 0
) -> Path:
    """Write a journal as a worker leaves it."""
    directory.mkdir(mode=0o700, exist_ok=True)
    name = "00000000000000aa"
    records = [journal.encode_header(name)]
    call = take(key_id=key_id, window=Window.ROLLING_24H)
    for number in range(calls):
        owed = Owed()
        batches.admit(owed, call, NOW + number)
        records.append(journal.encode_owed((key_id, DAY), owed))
    for _ in range(waived):
        owed = Owed()
        batches.waive(owed, call, Waiver.UPSTREAM_BROKEN)
        records.append(journal.encode_owed((key_id, DAY), owed))
    path = directory / f"{name}{journal.SUFFIX}"
    path.write_bytes(b"".join(records))
    return path


async def brought_in(redis: Redis, engine: AsyncEngine, directory: Path) -> list[Replayed]:
    """Bring in all journals that nobody holds."""
    paths = await asyncio.to_thread(released, directory)
    return await bring_in(redis, engine, paths, ttl_s=TTL_S)


async def rolled_up(redis: Redis, engine: AsyncEngine, now: float = NOW) -> RollupReport:
    """Roll up, and rebuild where that is asked for, as the control process does."""
    report = await roll_up(redis, engine, zone=ZONE, now=now)
    if report.lost or report.older or report.new:
        await rebuild(redis, engine, zone=ZONE, now=now)
    return report


async def calls_in_ledger(engine: AsyncEngine, key_id: str) -> int:
    """How many calls the ledger has of a key today."""
    async with engine.connect() as connection:
        (snapshot,) = await usage.read(connection, [(key_id, TODAY)])
    return sum(calls for calls, _, _ in snapshot.methods.values())


@pytest.fixture
async def key_id(redis: Redis, engine: AsyncEngine) -> str:
    """A key in force, in a Redis that has been rolled up."""
    made = await make_key(engine)
    await rolled_up(redis, engine)
    await project_pending(redis, engine)
    return made.id


async def test_a_journal_is_brought_in_and_removed(
    redis: Redis, engine: AsyncEngine, key_id: str, tmp_path: Path
) -> None:
    """Its calls, waivers, window and first call are counted as if they had been taken."""
    path = write(tmp_path / "journal", key_id, 5, waived=2)
    (report,) = await brought_in(redis, engine, path.parent)
    assert report == Replayed(path, 5, 1, (), 0, None)
    assert list(path.parent.iterdir()) == []
    assert await day_of_key(redis, key_id) == {
        "used": 5,
        "back": 2,
        f"c:{METHOD}": 5,
        f"t:{METHOD}": 5,
        f"w:{METHOD}": 2,
        "v:upstream_broken": 2,
    }
    assert (await window_of_key(redis, key_id))["sum"] == 3
    assert await redis.hget(day_name(key_id, DAY), "first") == str(int(NOW * 1000)).encode()
    await rolled_up(redis, engine, NOW + 9)
    assert await calls_in_ledger(engine, key_id) == 5


async def test_a_call_that_is_waived_before_it_is_brought_in_leaves_the_window(
    redis: Redis, engine: AsyncEngine, key_id: str, tmp_path: Path
) -> None:
    """What was under way when an outage ended is waived first and added later; its quota is free then."""
    path = write(tmp_path / "journal", key_id, 5)
    call = take(key_id=key_id, window=Window.ROLLING_24H)
    async with counting(redis) as counters:
        for _ in range(2):
            counters.waive(call, Waiver.UPSTREAM_BROKEN)
        await settled(counters)
        assert await redis.ttl(roll_name(key_id)) > 86_400
        await brought_in(redis, engine, path.parent)
        assert await window_of_key(redis, key_id) == {str(call.bucket): 3, "sum": 3, "min": call.bucket}
        (taken,) = await counted(counters, call._replace(limit=4))
    assert (taken.outcome, taken.used) == (Outcome.GRANTED, 4)


async def test_a_journal_that_was_brought_in_has_no_second_effect(
    redis: Redis, engine: AsyncEngine, key_id: str, tmp_path: Path
) -> None:
    """When its file could not be removed in time, or came back, it counts nothing again."""
    path = write(tmp_path / "journal", key_id, 5)
    data = path.read_bytes()
    for _ in range(3):
        path.write_bytes(data)
        await brought_in(redis, engine, path.parent)
    assert (await day_of_key(redis, key_id))["used"] == 5


async def test_a_crash_half_way_is_made_good(
    redis: Redis,
    engine: AsyncEngine,
    key_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was settled before the crash is not settled again, and the rest is."""
    other = (await make_key(engine, "other")).id
    await project_pending(redis, engine)
    path = write(tmp_path / "journal", key_id, 3)
    owed = Owed()
    batches.admit(owed, take(key_id=other), NOW)
    with path.open("ab") as file:
        file.write(journal.encode_owed((other, DAY), owed))
    monkeypatch.setattr(replay, "CHUNK", 1)
    run, calls = Wire.run, []

    async def dies(self: Wire, script: object, batch: object) -> list[object]:
        answer = await run(self, script, batch)  # type: ignore[arg-type] # passed on as they came
        if script is replay.SETTLE:
            calls.append(batch)
            if len(calls) == 1:
                raise ConnectionResetError
        return answer

    monkeypatch.setattr(Wire, "run", dies)
    with pytest.raises(ConnectionResetError):
        await brought_in(redis, engine, path.parent)
    assert path.exists()
    await brought_in(redis, engine, path.parent)
    assert not path.exists()
    assert (await day_of_key(redis, key_id))["used"] == 3
    assert (await day_of_key(redis, other))["used"] == 1


async def test_a_journal_that_somebody_holds_is_left_alone(
    redis: Redis, engine: AsyncEngine, key_id: str, tmp_path: Path
) -> None:
    """A living writer's journal is not read; once the lock is gone it is."""
    path = write(tmp_path / "journal", key_id, 2)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert await asyncio.to_thread(released, path.parent) == []
        assert await bring_in(redis, engine, [path], ttl_s=TTL_S) == []
    assert await day_of_key(redis, key_id) == {}
    assert len(await brought_in(redis, engine, path.parent)) == 1


async def test_two_who_bring_in_at_once_count_once(
    redis: Redis, engine: AsyncEngine, key_id: str, tmp_path: Path
) -> None:
    """Of two control processes one takes the journal."""
    path = write(tmp_path / "journal", key_id, 7)
    reports = await asyncio.gather(*(bring_in(redis, engine, [path], ttl_s=TTL_S) for _ in range(3)))
    assert sum(map(len, reports)) == 1
    assert (await day_of_key(redis, key_id))["used"] == 7


async def test_an_emptied_redis_has_its_counts_back_before_the_journal(
    redis: Redis, engine: AsyncEngine, key_id: str, tmp_path: Path
) -> None:
    """Without the key's record the journal waits; after the rebuild both are there, and the ledger agrees."""
    async with counting(redis) as counters:
        await counted(counters, *[take(key_id=key_id)] * 10)
    await rolled_up(redis, engine)
    await redis.flushall()
    path = write(tmp_path / "journal", key_id, 4)
    (early,) = await brought_in(redis, engine, path.parent)
    assert early.waiting == ((key_id, DAY),)
    assert path.exists()
    assert (await rolled_up(redis, engine, NOW + 1)).lost
    (late,) = await brought_in(redis, engine, path.parent)
    assert late.waiting == ()
    assert (await day_of_key(redis, key_id))["used"] == 14
    report = await rolled_up(redis, engine, NOW + 2)
    assert report.raised == ()
    assert await calls_in_ledger(engine, key_id) == 14


async def test_an_older_redis_is_owed_what_it_lost_and_the_journal(
    redis: Redis, engine: AsyncEngine, key_id: str, tmp_path: Path
) -> None:
    """A store that came back as it was before gets its lost counts, and the journal's on top of them."""
    async with counting(redis) as counters:
        await counted(counters, *[take(key_id=key_id)] * 10)
        await rolled_up(redis, engine, NOW + 1)
        older = {name: await redis.dump(name) for name in await redis.keys("*")}
        await counted(counters, *[take(key_id=key_id)] * 5)
        await rolled_up(redis, engine, NOW + 2)
    await redis.flushall()
    for name, value in older.items():
        assert value is not None
        await redis.restore(name, 0, value)
    path = write(tmp_path / "journal", key_id, 4)
    assert (await rolled_up(redis, engine, NOW + 3)).older
    await brought_in(redis, engine, path.parent)
    assert (await day_of_key(redis, key_id))["used"] == 19
    await rolled_up(redis, engine, NOW + 4)
    assert await calls_in_ledger(engine, key_id) == 19


async def test_a_day_that_redis_no_longer_has_is_added_to_what_the_ledger_has(
    redis: Redis, engine: AsyncEngine, key_id: str, tmp_path: Path
) -> None:
    """A journal that was found late does not stand for the whole of its day."""
    async with counting(redis) as counters:
        await counted(counters, *[take(key_id=key_id)] * 10)
    await rolled_up(redis, engine)
    await redis.delete(day_name(key_id, DAY))
    path = write(tmp_path / "journal", key_id, 4)
    await brought_in(redis, engine, path.parent)
    report = await rolled_up(redis, engine, NOW + 1)
    assert report.raised == ()
    assert await calls_in_ledger(engine, key_id) == 14


async def test_what_was_settled_leaves_a_journal_that_waits_for_the_rest(
    redis: Redis, engine: AsyncEngine, key_id: str, tmp_path: Path
) -> None:
    """A waiting journal holds nothing that would count twice if Redis forgot that it had it."""
    gone = "key_00000000000000ff"
    path = write(tmp_path / "journal", key_id, 3)
    owed = Owed()
    batches.admit(owed, take(key_id=gone), NOW)
    with path.open("ab") as file:
        file.write(journal.encode_owed((gone, DAY), owed))
    for _ in range(2):
        (report,) = await brought_in(redis, engine, path.parent)
        assert report.waiting == ((gone, DAY),)
    await rolled_up(redis, engine, NOW + 1)
    await redis.flushall()
    await rolled_up(redis, engine, NOW + 2)
    (report,) = await brought_in(redis, engine, path.parent)
    assert (report.calls, report.waiting) == (1, ((gone, DAY),))
    assert path.stat().st_mode & 0o777 == 0o600
    assert (await day_of_key(redis, key_id))["used"] == 3


async def test_a_torn_end_is_cut_off_and_kept(
    redis: Redis, engine: AsyncEngine, key_id: str, tmp_path: Path
) -> None:
    """Whole records count, the rest is reported and stays for whoever wants to look."""
    path = write(tmp_path / "journal", key_id, 3)
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    (report,) = await brought_in(redis, engine, path.parent)
    assert report.kept_as is not None
    assert (report.calls, report.kept_as.read_bytes()) == (2, data[:-5])
    assert report.torn_bytes > 0
    assert await brought_in(redis, engine, path.parent) == []
    assert (await day_of_key(redis, key_id))["used"] == 2


def test_drafts_of_dead_writers_are_swept_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    """A file that no call was let through with goes, unless somebody is about to use it."""
    dead, living = tmp_path / ".draft-dead", tmp_path / ".draft-living"
    dead.touch()
    file = os.open(living, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        replay.sweep(tmp_path)
        assert list(tmp_path.iterdir()) == [living]
    finally:
        os.close(file)


async def test_a_store_that_was_replaced_during_a_roll_up_is_found_out(
    redis: Redis, engine: AsyncEngine, key_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A roll-up does not tell an older store that its data are the newest."""
    await rolled_up(redis, engine, NOW + 5)
    run = Wire.run

    async def replaced(self: Wire, script: object, batch: object) -> list[object]:
        if script is ADVANCE:
            await redis.set(READY, int((NOW + 1) * 1000))
        return await run(self, script, batch)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(Wire, "run", replaced)
    await roll_up(redis, engine, zone=ZONE, now=NOW + 6)
    monkeypatch.setattr(Wire, "run", run)
    assert (await roll_up(redis, engine, zone=ZONE, now=NOW + 7)).older
