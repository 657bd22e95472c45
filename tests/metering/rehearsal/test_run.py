from __future__ import annotations

import os
from datetime import date
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.billing.terms import Terms
from metering.ledger import scratch
from metering.ledger.tables import usage_daily
from metering.rehearsal import Report, rehearse
from metering.rehearsal.checks import of_money
from policies.decision import Contract
from policies.period import Period
from policies.trial import TrialTerms
from tests.metering.ledger_lines import put_line
from tests.policies.samples import BANNED, CHATHAM, MOSCOW, NEW_YORK, PLANS, RESTRICTED, SHANGHAI

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
SPRING = Period(date(2026, 2, 1), date(2026, 6, 1))  # clocks change, and a new price comes in the middle


def terms(zone: ZoneInfo = MOSCOW) -> Terms:
    plans = {name: plan for name, plan in PLANS.items() if plan.lifetime_months is None}
    return Terms(Contract(plans=plans, trial=TrialTerms(), steps=(RESTRICTED, BANNED), zone=zone))


async def told(url: str, zone: ZoneInfo = MOSCOW, *, customers: int = 16, span: Period = SPRING) -> Report:
    async with scratch.beside(url) as engine:
        return await rehearse(engine, span, terms=terms(zone), customers=customers, seed=7)


@pytest.mark.parametrize("zone", [MOSCOW, NEW_YORK, SHANGHAI, CHATHAM], ids=str)
async def test_everything_holds(postgres_url: str, zone: ZoneInfo) -> None:
    """Sums, numbers and every turn of standing hold in each timezone, clock changes included."""
    report = await told(postgres_url, zone)
    assert report.holds, report.lines()
    assert all(check.cases for check in report.checks if check.name != "credit note numbers without gaps")


async def test_a_rehearsal_is_told_the_same_twice(postgres_url: str) -> None:
    """Two runs with equal arguments are told in the same bytes."""
    assert (await told(postgres_url)).lines() == (await told(postgres_url)).lines()


@pytest.mark.deeper
async def test_a_large_fleet_goes_through_a_year(postgres_url: str) -> None:
    """A year with disputes, credit notes, moves and late counts holds (with many more customers in deep)."""
    year = Period(date(2026, 1, 1), date(2027, 1, 1))
    report = await told(postgres_url, customers=1000 if DEEP else 25, span=year)
    assert report.holds, report.lines()[-40:]
    assert sum(credit for account in report.accounts for _, _, credit in account.charged) > 0


async def test_a_difference_is_found(engine: AsyncEngine) -> None:
    """A unit that was never billed, and money that the books do not know, are named."""
    report = await rehearse(engine, SPRING, terms=terms(), customers=6, seed=7)
    assert report.holds, report.lines()
    table = usage_daily
    async with engine.begin() as connection:
        row = (await connection.execute(sa.select(table).limit(1))).one()
        line = (row.method, row._mapping["class"])
        await put_line(connection, row.key_id, row.day, line, row.calls, row.taken + 1, row.waived)
    checks = {check.name: check.failures for check in await of_money(engine, {}, disputed_counts=False)}
    assert checks["billed units = the ledger's billable units"] != ()
    assert checks["invoices - credit notes - payments = balances"] != ()  # no account was given to sum up


async def test_a_span_is_whole_months(engine: AsyncEngine) -> None:
    """A rehearsal begins and ends with a month."""
    with pytest.raises(ValueError, match="first day of a month"):
        await rehearse(engine, Period(date(2026, 1, 2), date(2026, 3, 1)), terms=terms(), customers=1, seed=1)


async def test_what_is_told_adds_up(postgres_url: str) -> None:
    """Each customer's charges less credit and payments are its balance, and progress reaches its end."""
    steps: list[tuple[int, int]] = []
    async with scratch.beside(postgres_url) as engine:
        report = await rehearse(
            engine,
            SPRING,
            terms=terms(),
            customers=6,
            seed=7,
            progress=lambda done, total: steps.append((done, total)),
        )
    for account in report.accounts:
        charged = sum((total - credit for _, total, credit in account.charged), Decimal(0))
        assert charged - account.paid == account.balance
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]


async def test_nothing_is_left_on_the_server(engine: AsyncEngine, postgres_url: str) -> None:
    """The scratch database is gone afterwards, and the ledger beside it was not touched."""
    await told(postgres_url, customers=2)
    async with engine.connect() as connection:
        names = (await connection.execute(sa.text("SELECT datname FROM pg_database"))).scalars().all()
        rows = (await connection.execute(sa.select(sa.func.count()).select_from(usage_daily))).scalar_one()
    assert not any(name.startswith(scratch.PREFIX) for name in names)
    assert rows == 0
