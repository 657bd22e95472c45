"""What customers are told while an invoice stays unpaid."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.control.periodic import Jobs
from tests.gateway.control.bills import Shop
from tests.gateway.control.conftest import Api, Clock

ISSUED_ON = date(2026, 11, 10)
MIDNIGHT = datetime(2026, 11, 9, 21, 0, tzinfo=UTC)  # at which that day begins in Moscow


@pytest.fixture
async def shop(admin: Api, engine: AsyncEngine, clock: Clock) -> Shop:
    """A shop with an invoice of 10 November."""
    made = Shop(admin, engine, clock)
    await made.open()
    await made.count(date(2026, 10, 5), 1_500)
    await made.bill()
    return made


async def told(shop: Shop, jobs: Jobs, days: float) -> list[str]:
    """Look for reminders so many days after the invoice's day began; return all that was told so far."""
    shop.clock.now = MIDNIGHT + timedelta(days=days)
    await jobs.remind()
    items = (await shop.api.get("/v1/notices")).body["items"]
    return [f"{each['event']} {each['data'].get('standing', '')}".strip() for each in items]


async def test_every_step_is_told_ahead_and_when_it_is_reached(shop: Shop, jobs: Jobs) -> None:
    """Looked for every six hours over a month, each is told once, in this order."""
    for quarter in range(4 * 30):
        found = await told(shop, jobs, quarter / 4)
    assert found == [
        "invoice.issued",
        "standing.ahead restricted",
        "standing.reached restricted",
        "standing.ahead banned",
        "standing.reached banned",
    ]


async def test_a_paid_invoice_is_not_reminded_of(shop: Shop, jobs: Jobs) -> None:
    """After full payment nothing more is told, and after its reversal the step that holds then is."""
    assert (await told(shop, jobs, 5))[-1] == "standing.ahead restricted"
    paid = await shop.post("/v1/payments", {"account_id": shop.account, "amount": "125.00"})
    assert "standing.reached restricted" not in await told(shop, jobs, 9)
    await shop.post(f"/v1/payments/{paid.body['id']}/reverse", {"reason": "charged back"})
    assert (await told(shop, jobs, 9.1))[-1] == "standing.reached restricted"


async def test_what_is_disputed_is_not_reminded_of(shop: Shop, jobs: Jobs) -> None:
    """While the whole invoice is under dispute its customer is not warned; what is left after it is."""
    [invoice] = (await shop.api.get("/v1/invoices")).body["items"]
    for position in (1, 2):
        opened = await shop.post(
            "/v1/disputes",
            {
                "invoice_id": invoice["id"],
                "position": position,
                "evidence": "x",
                "determined_on": ISSUED_ON.isoformat(),
            },
        )
        assert opened.status == 201, opened.text
    assert await told(shop, jobs, 12) == ["invoice.issued"]
    rejected = await shop.post(
        f"/v1/disputes/{opened.body['id']}/resolve", {"accepted": False, "resolution": "all were answered"}
    )
    assert rejected.status == 200
    assert await told(shop, jobs, 12) == ["invoice.issued", "standing.reached restricted"]


async def test_a_reminder_asks_for_what_is_not_disputed(shop: Shop, jobs: Jobs) -> None:
    """With a part under dispute the rest is asked for, as paying that ends the ladder (contract OT-13)."""
    [invoice] = (await shop.api.get("/v1/invoices")).body["items"]
    opened = await shop.post(
        "/v1/disputes",
        {
            "invoice_id": invoice["id"],
            "position": 1,
            "amount": "20.00",
            "evidence": "x",
            "determined_on": ISSUED_ON.isoformat(),
        },
    )
    assert opened.status == 201, opened.text
    assert (await told(shop, jobs, 5))[-1] == "standing.ahead restricted"
    notice = (await shop.api.get("/v1/notices")).body["items"][-1]
    assert notice["data"]["outstanding"] == "105.00"
    paid = await shop.post("/v1/payments", {"account_id": shop.account, "amount": "105.00"})
    assert paid.body["oldest_unpaid_issued_on"] is None


@pytest.mark.parametrize("looked", [61, 90])
async def test_an_old_invoice_that_is_unpaid_again_is_reminded_of(
    shop: Shop, jobs: Jobs, looked: int
) -> None:
    """Money that is taken back after two months bans the keys at once, and the customer is told of it."""
    shop.clock.now = MIDNIGHT + timedelta(days=2)
    paid = await shop.post("/v1/payments", {"account_id": shop.account, "amount": "125.00"})
    assert "standing" not in " ".join(await told(shop, jobs, 60))
    await shop.post(f"/v1/payments/{paid.body['id']}/reverse", {"reason": "charged back"})
    assert await shop.standing() == "banned"
    assert (await told(shop, jobs, looked))[-1] == "standing.reached banned"


async def test_an_old_dispute_that_is_rejected_is_reminded_of(shop: Shop, jobs: Jobs) -> None:
    """What was held apart for two months is unpaid since its day of issue, and the customer is told so."""
    [invoice] = (await shop.api.get("/v1/invoices")).body["items"]
    given = {"invoice_id": invoice["id"], "evidence": "x", "determined_on": ISSUED_ON.isoformat()}
    opened = [await shop.post("/v1/disputes", given | {"position": position}) for position in (1, 2)]
    assert await told(shop, jobs, 60) == ["invoice.issued"]
    rejected = {"accepted": False, "resolution": "all were answered"}
    await shop.post(f"/v1/disputes/{opened[0].body['id']}/resolve", rejected)
    assert await told(shop, jobs, 60.1) == ["invoice.issued", "standing.reached banned"]
