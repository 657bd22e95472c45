from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger import accounts, notices, webhooks
from metering.ledger.audit import Author
from metering.notices import Event, Notice

NOW = datetime(2026, 11, 10, 9, 0, tzinfo=UTC)
BY = Author("tests")


@pytest.fixture
async def account(engine: AsyncEngine) -> str:
    """An account that has its bills sent."""
    async with engine.begin() as connection:
        made = await accounts.create(
            connection, name="Shop", currency="USD", billing_email="bills@shop.example", now=NOW, by=BY
        )
    return made.id


async def add(engine: AsyncEngine, *told: Notice) -> int:
    async with engine.begin() as connection:
        return await notices.add(connection, told, now=NOW)


async def take(engine: AsyncEngine, at: datetime = NOW) -> list[notices.Due]:
    async with engine.begin() as connection:
        return await notices.take_due(connection, now=at, lease_s=60, limit=100)


def issued(account_id: str | None, number: int = 1) -> Notice:
    return Notice(Event.INVOICE_ISSUED, f"inv_{number}", account_id, {"number": number})


async def webhook(
    engine: AsyncEngine, account_id: str | None = None, events: list[str] | None = None
) -> webhooks.Webhook:
    async with engine.begin() as connection:
        return await webhooks.create(
            connection,
            url="https://hooks.example/",
            secret="sealed",
            account_id=account_id,
            events=events,
            now=NOW,
            by=BY,
        )


async def test_an_event_is_told_once(engine: AsyncEngine, account: str) -> None:
    """Twenty transactions that raise the same three events at once leave three notices."""
    told = [issued(account, number) for number in range(3)]
    made = await asyncio.gather(*(add(engine, *told[turn % 3 :], *told[: turn % 3]) for turn in range(20)))
    assert sum(made) == 3
    async with engine.connect() as connection:
        page = await notices.listed(connection)
        assert await notices.known(connection, ["invoice.issued:inv_1", "invoice.issued:inv_9"]) == {
            "invoice.issued:inv_1"
        }
    assert {notice.event_key for notice in page.items} == {f"invoice.issued:inv_{n}" for n in range(3)}
    assert all(len(notice.deliveries) == 1 for notice in page.items)


async def test_who_hears_of_an_event(engine: AsyncEngine, account: str) -> None:
    """The account's address, webhooks for all, and those of the account; no others."""
    async with engine.begin() as connection:
        other = await accounts.create(connection, name="Other", currency="USD", now=NOW, by=BY)
    everything = await webhook(engine)
    own = await webhook(engine, account, ["invoice.issued"])
    await webhook(engine, account, ["payment.received"])
    await webhook(engine, other.id)
    await add(engine, issued(account))
    due = await take(engine)
    assert {(each.channel, each.target) for each in due} == {
        ("email", "bills@shop.example"),
        ("webhook", everything.id),
        ("webhook", own.id),
    }


async def test_what_was_taken_is_not_taken_again_within_its_lease(engine: AsyncEngine, account: str) -> None:
    """Two that deliver at once share the work, and what one dropped is taken again when its lease ends."""
    await add(engine, *(issued(account, number) for number in range(10)))
    first, second = await asyncio.gather(take(engine), take(engine))
    assert len(first) + len(second) == 10
    assert await take(engine, NOW + timedelta(seconds=59)) == []
    again = await take(engine, NOW + timedelta(seconds=60))
    assert len(again) == 10
    assert {each.attempt for each in again} == {2}


async def test_an_attempt_that_came_back_late_settles_nothing(engine: AsyncEngine, account: str) -> None:
    """The result of an attempt whose lease has ended leaves the attempt that took its place alone."""
    await add(engine, issued(account))
    [first] = await take(engine)
    [second] = await take(engine, NOW + timedelta(seconds=61))
    async with engine.begin() as connection:
        await notices.failed(connection, first, error="too late")
        await notices.delivered(connection, second, now=NOW)
        kept = await notices.get(connection, first.notice.id)
    assert [(way.state, way.attempts, way.last_error) for way in kept.deliveries] == [("delivered", 2, None)]


async def test_failed_deliveries_can_be_tried_again(engine: AsyncEngine, account: str) -> None:
    """A retry starts over with the first attempt, and leaves what arrived alone."""
    await webhook(engine)
    await add(engine, issued(account))
    mail, hook = sorted(await take(engine), key=lambda due: due.channel)
    async with engine.begin() as connection:
        await notices.delivered(connection, mail, now=NOW)
        await notices.failed(connection, hook, error="HTTP 500")
        await notices.retry(connection, mail.notice.id, now=NOW, by=Author("tests"))
    assert [(each.channel, each.attempt) for each in await take(engine)] == [("webhook", 1)]


async def test_a_disabled_webhook_hears_nothing_more(engine: AsyncEngine, account: str) -> None:
    """What waits for it fails, and new events are not addressed to it."""
    hook = await webhook(engine, account)
    await add(engine, issued(account, 1))
    async with engine.begin() as connection:
        await webhooks.disable(connection, hook.id, reason="gone", now=NOW, by=BY)
    await add(engine, issued(account, 2))
    assert {each.channel for each in await take(engine)} == {"email"}


async def test_a_notice_that_is_rolled_back_is_not_told(engine: AsyncEngine, account: str) -> None:
    """What happened to nobody is told to nobody."""
    async with engine.connect() as connection:
        await notices.add(connection, [issued(account)], now=NOW)
        await connection.rollback()
    assert await take(engine) == []
    assert await add(engine, issued(account)) == 1
