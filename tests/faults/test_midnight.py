"""The turn of a day, a month, a year, a leap day and the clocks: one day per call, none between days."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger.tables import usage_daily
from metering.rollup import roll_up
from policies.period import midnight, month_of
from tests.origin import Origin, Received, origin
from tests.rig import Rig, example_settings, rig, until

TURNS = [
    ("Europe/Moscow", date(2026, 11, 22)),
    ("Europe/Moscow", date(2026, 12, 1)),
    ("Europe/Moscow", date(2027, 1, 1)),
    ("UTC", date(2028, 2, 29)),
    ("UTC", date(2028, 3, 1)),
    ("America/New_York", date(2026, 3, 9)),  # after a day of 23 hours
    ("America/New_York", date(2026, 11, 2)),  # after one of 25
    ("America/Havana", date(2026, 3, 8)),  # a day without a midnight: clocks go from 23:59 to 01:00
    ("America/Havana", date(2026, 11, 1)),  # a day whose first hour comes twice
    ("Pacific/Chatham", date(2026, 4, 5)),
]


@pytest.fixture
async def upstream() -> AsyncIterator[Origin]:
    """An origin."""
    async with origin() as made:
        yield made


def get(key: str) -> bytes:
    """A billable call."""
    return f"GET /service-json/GetItemInfo?instanceKey={key}&itemId=1 HTTP/1.1\r\nHost: a\r\n\r\n".encode()


@pytest.mark.parametrize(("zone", "day"), TURNS, ids=lambda value: str(value))
async def test_a_call_across_midnight_belongs_to_the_day_on_which_it_began(
    redis: Redis, valkey_url: str, upstream: Origin, engine: AsyncEngine, zone: str, day: date
) -> None:
    """Begun a moment before midnight and answered after it: counted on the old day, once, and billed there.

    A call that begins at midnight is of the new day; the days of both months add up to all calls; rolling up
    again changes nothing.
    """
    settings = example_settings(upstream.port)
    contract = dataclasses.replace(settings.contract, zone=ZoneInfo(zone))
    began = midnight(day, contract.zone)
    gate = asyncio.Event()

    async def wait(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(upstream.reply)

    async with rig(valkey_url, upstream, dataclasses.replace(settings, contract=contract)) as path:
        key = await path.add_key(created_at=began - 86_400)
        upstream.act = wait
        path.now = began - 0.001
        across = asyncio.ensure_future(path.send(get(key)))
        await until(lambda: upstream.received)
        path.now = began
        gate.set()
        assert (await across).json()["ErrorCode"] == "Ok"
        for seconds in (0.0, 1.0, 3_600.0):
            path.now = began + seconds
            assert (await path.send(get(key))).json()["ErrorCode"] == "Ok"
        await path.counts(key)
        first = await rolled_up(path, engine, contract.zone)
        assert await rolled_up(path, engine, contract.zone) == first
    eve = day - timedelta(days=1)
    assert [(row[1], row[5]) for row in first] == [(eve, 1), (day, 3)]
    months = {month_of(each) for each in (eve, day)}
    assert (
        sum(row[5] for month in months for row in first if month.first <= row[1] < month.last_excluded) == 4
    )


async def rolled_up(
    path: Rig, engine: AsyncEngine, zone: ZoneInfo
) -> list[tuple[object, date, str, str, int, int, int]]:
    """Roll up, and return the ledger's rows by day."""
    assert path.now is not None
    await roll_up(path.redis, engine, zone=zone, now=path.now, full=True)
    async with engine.connect() as connection:
        rows = await connection.execute(sa.select(usage_daily).order_by(usage_daily.c.day))
        return [tuple(row) for row in rows]
