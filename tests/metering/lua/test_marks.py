"""What `project.lua`, `collect.lua` and `advance.lua` answer and leave behind, to the field."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from metering.names import READY, collected_name
from metering.scripts import ADVANCE, COLLECT, PROJECT
from tests.metering.lua.store import RECORD, TOUCHED, everything, run

COLLECTED = collected_name("ab")


@pytest.mark.parametrize(
    ("current", "given", "restored", "in_force"),
    [
        (None, 1, 0, 1),
        (None, 2, 0, 0),
        (None, 2, 1, 2),
        (9, 10, 0, 10),
        (10, 9, 1, 10),
        (1, 2, 0, 2),
    ],
)
async def test_newer_record_is_put_into_force(
    redis: Redis, current: int | None, given: int, restored: int, in_force: int
) -> None:
    """A newer record replaces an older one; into an emptied store a changed one goes only once restored."""
    if current is not None:
        await redis.hset(RECORD, mapping={"rev": current, "data": f"record {current}"})
    assert await run(redis, PROJECT, [RECORD], given, f"record {given}", restored) == in_force
    record = {RECORD: {"rev": str(in_force), "data": f"record {in_force}"}}
    assert await everything(redis) == (record if in_force else {})


async def test_record_of_the_same_revision_stays(redis: Redis) -> None:
    """The record that was first in force with a revision is the one with it."""
    await run(redis, PROJECT, [RECORD], 1, "first", 0)
    assert await run(redis, PROJECT, [RECORD], 1, "second", 0) == 1
    assert await redis.hget(RECORD, "data") == b"first"


@pytest.mark.parametrize("left", [(), ("left",), ("left", "one")])
@pytest.mark.parametrize("new", [(), ("one", "other")])
async def test_what_changed_is_set_aside(redis: Redis, left: tuple[str, ...], new: tuple[str, ...]) -> None:
    """New members join those that were left behind, and it is told how many that makes, as often as asked."""
    for name, members in ((COLLECTED, left), (TOUCHED, new)):
        if members:
            await redis.sadd(name, *members)
    expected = {*left, *new}
    for _ in range(2):
        assert await run(redis, COLLECT, [TOUCHED, COLLECTED]) == len(expected)
        assert await everything(redis) == ({COLLECTED: expected} if expected else {})


async def test_only_the_store_that_was_rolled_up_is_told(redis: Redis) -> None:
    """The mark goes on from what it was when the roll-up began, and from nothing else."""
    assert await run(redis, ADVANCE, [READY], 5, 6) == 0
    assert await everything(redis) == {}
    await redis.set(READY, 5)
    assert await run(redis, ADVANCE, [READY], 4, 6) == 0
    assert await everything(redis) == {READY: "5"}
    assert await run(redis, ADVANCE, [READY], 5, 6) == 1
    assert await everything(redis) == {READY: "6"}
