"""Days and months of the billing timezone, to the second, on both sides of clock changes."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger import key_changes, keys
from metering.rating import LineKind
from metering.rebuild import rebuild
from metering.rollup import roll_up
from policies.decision import conditions
from policies.period import day_of, midnight
from policies.quota import bucket_of
from policies.trial import TrialTerms
from tests.metering.billing.books import BY, Books, month, version
from tests.metering.samples import counted, counting, take

ZONES = ["Europe/Moscow", "America/New_York", "Asia/Shanghai", "Pacific/Chatham"]
# Months in which clocks change somewhere, on one side or the other, and those of a leap year's February.
MONTHS = ["2026-03", "2026-04", "2026-09", "2026-11", "2028-02"]


def books_in(engine: AsyncEngine, zone: str, **terms: object) -> Books:
    """Books in a timezone."""
    return Books(engine).with_terms(contract={"zone": ZoneInfo(zone), **terms})


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("text", MONTHS)
async def test_first_and_last_second_of_a_month(
    engine: AsyncEngine, redis: Redis, zone: str, text: str
) -> None:
    """Calls of the first and the last second are in the month's invoice, those around it are not."""
    books = books_in(engine, zone)
    period = month(text)
    await books.announce(version())
    key = await books.key(await books.account())
    start, end = (midnight(day, books.terms.zone) for day in (period.first, period.last_excluded))
    await rebuild(redis, engine, zone=books.terms.zone, now=start)
    instants = {
        start - 0.001: 1,
        start: 10,
        start + 0.999: 100,
        end - 1: 1000,
        end - 0.001: 10_000,
        end: 100_000,
    }
    async with counting(redis) as counters:
        for now, cost in instants.items():
            day = day_of(now, books.terms.zone)
            call = take(key_id=key, day=f"{day:%Y%m%d}", cost=cost, bucket=bucket_of(now))
            await counted(counters, call, now=now)
    await roll_up(redis, engine, zone=books.terms.zone, now=end)
    await books.close(text, on=None)
    (draft,) = await books.invoices()
    assert draft.total == Decimal("111.10")
    assert (draft.period.first, draft.period.last_excluded) == (period.first, period.last_excluded)


@pytest.mark.parametrize("zone", ZONES)
async def test_closing_is_allowed_from_local_midnight_on(engine: AsyncEngine, zone: str) -> None:
    """The day of issue is the local one, in the last second before midnight and in the first after it."""
    books = books_in(engine, zone)
    await books.announce(version())
    for _ in range(2):
        await books.key(await books.account())
    await books.close("2026-10")
    first, second = (invoice.account_id for invoice in await books.invoices())
    await books.issue("2026-10", "2026-11-04 23:59:59", account_ids=[first])
    await books.issue("2026-10", "2026-11-05 00:00:00", account_ids=[second])
    days = {invoice.account_id: (invoice.issued_on, invoice.due_on) for invoice in await books.invoices()}
    assert days == {
        first: (date(2026, 11, 4), date(2026, 11, 11)),
        second: (date(2026, 11, 5), date(2026, 11, 12)),
    }


@pytest.mark.parametrize(
    ("bought", "free_until"),
    [
        ("2026-01-31 18:00:00", "2026-02-28"),
        ("2028-01-31 18:00:00", "2028-02-29"),
        ("2028-01-29 23:59:59", "2028-02-29"),
        ("2026-10-05 00:00:00", "2026-11-05"),
        ("2026-12-31 12:00:00", "2027-01-31"),
    ],
)
@pytest.mark.parametrize("zone", ZONES)
async def test_free_month_to_the_day(engine: AsyncEngine, zone: str, bought: str, free_until: str) -> None:
    """The day before the end is free and the end is paid for; the minimum covers the paid days only."""
    books = books_in(engine, zone, trial=TrialTerms())
    await books.announce(version(minimum=Decimal(310)))
    key = await books.key(await books.account(), bought)
    end = date.fromisoformat(free_until)
    last_free = date.fromordinal(end.toordinal() - 1)
    await books.use(key, str(last_free), 7)
    await books.use(key, free_until, 11)
    text = free_until[:7]
    await books.close(text)
    free, paid, minimum = await books.lines_of_key(key)
    assert (free.kind, free.quantity, free.amount, free.last_excluded) == (LineKind.TRIAL, 7, 0, end)
    assert (paid.kind, paid.quantity, paid.amount, paid.first) == (LineKind.USAGE, 11, Decimal("0.11"), end)
    days = (month(text).last_excluded - end).days
    share = Decimal(310) * days / (month(text).last_excluded - month(text).first).days
    assert paid.amount + minimum.amount == share.quantize(Decimal("0.01"), "ROUND_HALF_UP")


async def test_month_wholly_free_costs_nothing(engine: AsyncEngine) -> None:
    """In a month that is wholly free there is a line of what was used, at nothing, and no minimum."""
    books = books_in(engine, "Europe/Moscow", trial=TrialTerms())
    await books.announce(version(minimum=Decimal(100)))
    key = await books.key(await books.account(), "2026-10-05 12:00:00")
    await books.use(key, "2026-10-30", 4000)
    (invoice,) = await books.bill("2026-10", "2026-11-05")
    (line,) = await books.lines(invoice)
    assert (line.kind, line.quantity, invoice.total) == (LineKind.TRIAL, 4000, 0)
    assert (await books.record(key)).oldest_unpaid_issued_on is None


@pytest.mark.parametrize(
    ("closed", "last_excluded"),
    [
        ("2026-10-10 00:00:00", date(2026, 10, 10)),
        ("2026-10-10 00:00:01", date(2026, 10, 11)),
        ("2026-10-10 23:59:59", date(2026, 10, 11)),
        ("2026-10-31 23:59:59", date(2026, 11, 1)),
    ],
)
@pytest.mark.parametrize("zone", ZONES)
async def test_last_day_of_service(engine: AsyncEngine, zone: str, closed: str, last_excluded: date) -> None:
    """The day that holds the moment of closing is billed; closing at midnight leaves the new day unbilled."""
    books = books_in(engine, zone)
    await books.announce(version())
    key = await books.key(await books.account())
    async with engine.begin() as connection:
        await key_changes.close(connection, key, at=books.at(closed), now=books.at(closed), by=BY)
    await books.close("2026-10")
    await books.close("2026-11")
    (line,) = await books.lines_of_key(key)
    assert line.last_excluded == last_excluded


async def test_restriction_begins_at_local_midnight_across_a_clock_change(engine: AsyncEngine) -> None:
    """Eight days that hold a clock change are still eight calendar days."""
    books = books_in(engine, "America/New_York")
    await books.announce(version())
    key = await books.key(await books.account())
    await books.use(key, "2026-09-30", 100)
    await books.bill("2026-09", "2026-10-27 12:00:00")
    record = keys.record_of(await books.record(key))
    begins = datetime(
        2026, 11, 4, 5, tzinfo=UTC
    ).timestamp()  # midnight in New York, an hour later than before
    found = [conditions(record, books.terms.contract, now).standing.value for now in (begins - 1, begins)]
    assert found == ["active", "restricted"]
