"""What a process leaves on disk for whoever brings it in."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.clients import connect
from metering.counters import Counters
from metering.journal import Content, read
from metering.open_calls import FULL, Admission, OpenCalls
from metering.rebuild import rebuild
from metering.replay import bring_in, released
from policies.decision import Reason
from policies.waiver import Waiver
from tests.metering.lossy import lossy
from tests.metering.samples import (
    DAY,
    KEY,
    NOW,
    OTHER_KEY,
    ZONE,
    counted,
    counting,
    day_of_key,
    make_key,
    put_record,
    settled,
    take,
)

METHOD = "SearchItemsFrame|search"


def open_calls(counters: Counters, directory: Path) -> OpenCalls:
    """Open calls that wait for a slow disk."""
    return OpenCalls(counters, directory, allowance=10, journal_max_bytes=1 << 20, deadline_s=20)


async def contents(directory: Path) -> list[Content]:
    """Read all journals."""

    def read_all() -> list[Content]:
        found = []
        for path in directory.glob("*.journal"):
            with path.open("rb") as file:
                found.append(read(file))
        return found

    return await asyncio.to_thread(read_all)


async def test_what_could_not_be_settled_by_the_end_is_kept(tmp_path: Path) -> None:
    """A process that ends while Redis is away leaves its waivers and denials, beside what it let through."""
    client = connect(f"unix://{tmp_path}/nobody.sock", timeout_s=0.1)
    counters = Counters(client, writer="w0", deadline_s=0.2, retention_days=35)
    calls = open_calls(counters, tmp_path / "journal")
    await counters.start()
    await calls.start()
    async with asyncio.timeout(20):
        while not counters.breaker.is_open:
            await asyncio.sleep(0.01)
    admitted: asyncio.Future[Admission] = asyncio.get_running_loop().create_future()
    calls.admit(take(cost=2), NOW, admitted.set_result)
    assert await admitted is Admission.ADMITTED
    counters.waive(take(cost=3), Waiver.ERROR_CODE)  # of a call that was granted before
    counters.deny(OTHER_KEY, DAY, Reason.BANNED)
    await counters.close()
    calls.keep(counters.unsettled())
    await calls.close()
    await client.aclose()
    (content,) = await contents(tmp_path / "journal")
    assert content.owed[(KEY, DAY)].fields == {
        f"c:{METHOD}": 1,
        f"t:{METHOD}": 2,
        "used": 2,
        f"w:{METHOD}": 3,
        "v:error_code": 3,
        "back": 3,
    }
    assert content.owed[(OTHER_KEY, DAY)].fields == {"d:banned": 1}


async def test_what_could_not_be_kept_is_told(tmp_path: Path) -> None:
    """With neither Redis nor a disk, what was to be settled is lost, and no longer without a word."""
    (tmp_path / "journal").write_text("a file where the directory should be", encoding="utf-8")
    client = connect(f"unix://{tmp_path}/nobody.sock", timeout_s=0.1)
    counters = Counters(client, writer="w0", deadline_s=0.2, retention_days=35)
    calls = open_calls(counters, tmp_path / "journal")
    await counters.start()
    await calls.start()
    counters.waive(take(cost=3), Waiver.ERROR_CODE)
    counters.deny(OTHER_KEY, DAY, Reason.BANNED)
    await counters.close()
    calls.keep(counters.unsettled(), counters.in_doubt())
    await calls.close()
    await client.aclose()
    assert calls.unkept == 2


async def test_journals_that_are_full_are_told_once(tmp_path: Path) -> None:
    """The first refusal is told, and not each; the end of the outage ends it."""
    client = connect(f"unix://{tmp_path}/nobody.sock", timeout_s=0.1)
    counters = Counters(client, writer="w0", deadline_s=0.2, retention_days=35)
    calls = OpenCalls(counters, tmp_path / "journal", allowance=10, journal_max_bytes=1, deadline_s=20)
    told: list[str | None] = []
    calls.listen(told.append)
    loop = asyncio.get_running_loop()
    results: list[asyncio.Future[Admission]] = [loop.create_future() for _ in range(4)]
    for result in results:
        calls.admit(take(), NOW, result.set_result)
    assert await asyncio.gather(*results) == [Admission.ADMITTED, *[Admission.JOURNAL_FULL] * 3]
    assert told == [FULL]
    await calls.close()
    assert calls.failure is None
    await counters.close()
    await client.aclose()


async def test_nothing_is_kept_of_what_was_settled(redis: Redis, tmp_path: Path) -> None:
    """With Redis there, a process leaves no journal."""
    await put_record(redis)
    async with counting(redis) as counters:
        calls = open_calls(counters, tmp_path / "journal")
        await calls.start()
        counters.deny(KEY, DAY, Reason.BANNED)
        await settled(counters)
    assert counters.unsettled() == {}
    calls.keep(counters.unsettled())
    await calls.close()
    assert await contents(tmp_path / "journal") == []


@pytest.mark.parametrize("arrives", [True, False])
async def test_what_was_under_way_at_the_end_is_settled_once(
    redis: Redis, valkey_url: str, engine: AsyncEngine, tmp_path: Path, arrives: bool
) -> None:
    """A settlement that is not answered when its process ends is left behind, and has one effect."""
    key_id = (await make_key(engine)).id
    await rebuild(redis, engine, zone=ZONE, now=NOW)
    async with lossy(valkey_url, tmp_path) as (proxy, url):
        client = connect(url, timeout_s=5)
        counters = Counters(client, writer="w0", deadline_s=1.0, retention_days=35)
        calls = open_calls(counters, tmp_path / "journal")
        await counters.start()
        await counted(counters, *[take(key_id=key_id)] * 3)
        if arrives:
            proxy.lose_replies = 1
            counters.waive(take(key_id=key_id), Waiver.ERROR_CODE)
            async with asyncio.timeout(5):
                while not proxy.lost:
                    await asyncio.sleep(0.001)
        else:
            counters.waive(take(key_id=key_id), Waiver.ERROR_CODE)
        proxy.lose_requests = 1_000_000
        await counters.close()
        calls.keep(counters.unsettled(), counters.in_doubt())
        await calls.close()
        await client.aclose()
    assert (await day_of_key(redis, key_id)).get("back", 0) == int(arrives)
    paths = await asyncio.to_thread(released, tmp_path / "journal")
    (report,) = await bring_in(redis, engine, paths, ttl_s=86_400)
    assert (report.places, report.waiting) == (1, ())
    assert await day_of_key(redis, key_id) == {
        "used": 3,
        "back": 1,
        f"c:{METHOD}": 3,
        f"t:{METHOD}": 3,
        f"w:{METHOD}": 1,
        "v:error_code": 1,
    }


async def test_what_is_priced_by_its_answer_needs_a_unit_of_the_allowance(tmp_path: Path) -> None:
    """A bulk result costs nothing before it is there, and is let through for who has a unit left."""
    client = connect(f"unix://{tmp_path}/nobody.sock", timeout_s=0.1)
    calls = open_calls(Counters(client, writer="w0", deadline_s=0.2, retention_days=35), tmp_path)
    answers = []
    for limit in (0, 1):
        admitted: asyncio.Future[Admission] = asyncio.get_running_loop().create_future()
        calls.admit(take(cost=0, limit=limit, priced_later=True), NOW, admitted.set_result)
        answers.append(await admitted)
    assert answers == [Admission.OVER_ALLOWANCE, Admission.ADMITTED]
    await calls.close()
    await client.aclose()
