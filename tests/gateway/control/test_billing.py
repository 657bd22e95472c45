"""Billing by itself: months are closed when they are over, and issued on their day."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from gateway.control.billing import AUTHOR, BillingRounds, close_month, issue_month
from gateway.control.months import tell_issued
from gateway.control.resources import Control
from gateway.settings import Settings
from metering.ledger import audit, invoices, keys, notices, plan_versions
from metering.ledger.credentials import NewCredential
from metering.ledger.invoices import Invoice, Status
from metering.names import day_name
from policies.plan_versions import PlanVersion
from tests.gateway.control.conftest import Api, Clock
from tests.gateway.control.counting import count
from tests.metering.billing.books import month, version

MOSCOW = ZoneInfo("Europe/Moscow")


def at(text: str) -> datetime:
    """An instant in Moscow."""
    return datetime.fromisoformat(text).replace(tzinfo=MOSCOW)


@pytest.fixture
async def account(admin: Api) -> str:
    """An account that asked too long ago for a free month."""
    made = await admin.post("/v1/accounts", {"name": "Shop", "first_request_at": "2026-01-01T00:00:00Z"})
    assert made.status == 201, made.text
    return str(made.body["id"])


class Ticks:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the seconds so far."""
        return self.now


@pytest.fixture
def ticks() -> Ticks:
    """The clock by which rounds are tried again."""
    return Ticks()


@pytest.fixture
def rounds(control: Control, ticks: Ticks) -> BillingRounds:
    """What the periodic job runs."""
    return BillingRounds(control, tell_issued, ticks)


async def announce(control: Control, *versions: PlanVersion) -> None:
    """Put prices into the catalogue now."""
    async with control.engine.begin() as connection:
        await plan_versions.add(connection, versions, now=control.now(), by=AUTHOR)


async def found(control: Control) -> list[Invoice]:
    """All invoices, by month."""
    async with control.engine.connect() as connection:
        return list((await invoices.listed(connection)).items)


async def test_days_that_pass_bill_by_itself(
    control: Control,
    rounds: BillingRounds,
    redis: Redis,
    settings: Settings,
    clock: Clock,
    key: dict[str, Any],
) -> None:
    """A month that is over is a draft at once, is issued with late counts on its day, and is told once."""
    await rounds.round()
    await announce(control, version("K1"))
    await count(redis, settings, clock, key["id"], calls=3)
    clock.now = at("2026-11-30 23:59:59")
    await rounds.round()
    assert await found(control) == []
    clock.now = at("2026-12-01 00:00:00")
    await rounds.round()
    (draft,) = await found(control)
    assert (draft.status, draft.total, draft.period) == (Status.DRAFT, Decimal("0.03"), month("2026-11"))
    name = day_name(key["id"], "20261121")
    field = next(each for each in await redis.hkeys(name) if each.startswith(b"c:")).decode()[2:]
    await redis.hincrby(name, f"t:{field}", 7)
    clock.now = at("2026-12-09 23:59:59")
    await rounds.round()
    assert [invoice.status for invoice in await found(control)] == [Status.DRAFT]
    clock.now = at("2026-12-10 00:00:00")
    await rounds.round()
    await rounds.round()
    (issued,) = await found(control)
    assert (issued.status, issued.total, str(issued.issued_on)) == (
        Status.ISSUED,
        Decimal("0.10"),
        "2026-12-10",
    )
    async with control.engine.connect() as connection:
        told = (await notices.listed(connection)).items
        assert [each.event_key for each in told] == [f"invoice.issued:{issued.id}"]
        assert str((await keys.get(connection, key["id"])).oldest_unpaid_issued_on) == "2026-12-10"
        entry = (await audit.listed(connection, object_id=issued.id)).items[0]
        assert (entry.action, entry.actor) == ("invoice.issue", "billing")


async def test_months_that_were_missed_are_made_up(
    control: Control, rounds: BillingRounds, clock: Clock, key: dict[str, Any]
) -> None:
    """After a long stop every month gets its invoice, in order; months before the first price get none."""
    await announce(control, version("K1", minimum=Decimal(30)))
    clock.now = at("2027-02-11 12:00:00")
    await rounds.round()
    assert [(invoice.period, invoice.number) for invoice in await found(control)] == [
        (month("2026-11"), 1),
        (month("2026-12"), 2),
        (month("2027-01"), 3),
    ]


async def test_a_month_that_was_passed_over_is_named(
    control: Control, rounds: BillingRounds, clock: Clock, key: dict[str, Any]
) -> None:
    """Whoever closes a later month first is told that the one before is not billed; the rest goes on."""
    await announce(control, version("K1"))
    clock.now = at("2027-01-01 00:00:00")
    await close_month(control, month("2026-12"), by=AUTHOR)
    clock.now = at("2027-02-01 00:00:00")
    with capture_logs() as told:
        await rounds.round()
        await rounds.round()
    named = [each["month"] for each in told if "passed over" in each["event"]]
    assert named == ["2026-11"]
    assert {invoice.period for invoice in await found(control)} == {month("2026-12"), month("2027-01")}


async def test_who_closes_a_month_late_sees_its_drafts(
    control: Control, rounds: BillingRounds, clock: Clock, ticks: Ticks, admin: Api, key: dict[str, Any]
) -> None:
    """A month that people close on its day or later is left to them for a day; so are drafts they hold."""
    await announce(control, version("K1", minimum=Decimal(30)))
    clock.now = at("2026-12-10 00:00:00")
    closed = await admin.post("/v1/invoices/close", {"period": "2026-11"})
    assert closed.body["issues_at"] == "2026-12-11T00:00:00+03:00"
    clock.now = at("2026-12-10 23:59:59")
    await rounds.round()
    assert [invoice.status for invoice in await found(control)] == [Status.DRAFT]
    holding = {"period": "2026-11", "hold": [key["account_id"]]}
    held = await admin.post("/v1/invoices/issue", holding)
    assert (held.body["held"], held.body["issues_at"]) == ([key["account_id"]], "2026-12-11T23:59:59+03:00")
    clock.now = at("2026-12-11 23:59:58")
    await rounds.round()
    assert [invoice.status for invoice in await found(control)] == [Status.DRAFT]
    clock.now = at("2026-12-11 23:59:59")
    await rounds.round()
    assert [invoice.status for invoice in await found(control)] == [Status.ISSUED]


async def test_who_closes_a_month_early_does_not_put_it_off(
    control: Control, rounds: BillingRounds, clock: Clock, admin: Api, key: dict[str, Any]
) -> None:
    """Closed by hand in the last second before its day, a month is issued on it all the same."""
    await announce(control, version("K1", minimum=Decimal(30)))
    clock.now = at("2026-12-09 23:59:59")
    closed = await admin.post("/v1/invoices/close", {"period": "2026-11"})
    assert closed.body["issues_at"] == "2026-12-10T00:00:00+03:00"
    clock.now = at("2026-12-10 00:00:00")
    await rounds.round()
    assert [invoice.status for invoice in await found(control)] == [Status.ISSUED]


async def test_books_that_do_not_agree_are_held(
    control: Control,
    rounds: BillingRounds,
    redis: Redis,
    settings: Settings,
    clock: Clock,
    ticks: Ticks,
    key: dict[str, Any],
) -> None:
    """An account with a key that has no price stays a draft until it has one; it is tried each hour."""
    await announce(control, version("K3"))
    await count(redis, settings, clock, key["id"], calls=3)
    async with control.engine.begin() as connection:
        new = keys.NewKey(key["account_id"], "K3", NewCredential("d", "p", "h"))
        await keys.create(connection, new, now=clock.now, by=AUTHOR)
    clock.now = at("2026-12-10 12:00:00")
    await rounds.round()
    assert [invoice.status for invoice in await found(control)] == [Status.DRAFT]
    await announce(control, version("K1"))
    await rounds.round()
    assert [invoice.status for invoice in await found(control)] == [Status.DRAFT]
    ticks.now += 3600
    await rounds.round()
    assert [(invoice.status, invoice.total) for invoice in await found(control)] == [
        (Status.ISSUED, Decimal("0.03"))
    ]


async def test_nothing_is_issued_without_the_counters(
    control: Control, clock: Clock, key: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Redis is away no invoice is issued: its counts may be the last of the month."""
    await announce(control, version("K1", minimum=Decimal(30)))
    clock.now = at("2026-12-10 12:00:00")
    await close_month(control, month("2026-11"), by=AUTHOR)
    (draft,) = await found(control)
    nowhere = Redis(unix_socket_path="/nonexistent/redis.sock")
    monkeypatch.setattr(control, "redis", nowhere)
    with pytest.raises((RedisError, OSError)):
        await issue_month(control, month("2026-11"), by=AUTHOR, told=tell_issued)
    await nowhere.aclose()
    assert await found(control) == [draft]


async def test_a_key_that_cannot_be_rated_is_named_when_its_month_is_closed(
    control: Control, rounds: BillingRounds, clock: Clock, key: dict[str, Any]
) -> None:
    """A key that nobody used holds no account, so the log says that its minimum is not asked for."""
    await announce(control, version("K3"))
    clock.now = at("2026-12-01 00:00:00")
    with capture_logs() as logs:
        await rounds.round()
    (warning,) = [each for each in logs if each["log_level"] == "warning"]
    assert (warning["month"], warning["keys"]) == ("2026-11", 1)
    assert warning["first"][0].startswith(f"{key['id']}: no price applies on 2026-11-")
