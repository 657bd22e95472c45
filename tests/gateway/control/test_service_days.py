"""The days for which a key is paid."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.gateway.control.bills import ISSUING, SEPTEMBER, Shop
from tests.gateway.control.conftest import Api, Clock


@pytest.fixture
async def shop(admin: Api, engine: AsyncEngine, clock: Clock) -> Shop:
    """A shop whose first calls were on 3 October."""
    made = Shop(admin, engine, clock)
    await made.open()
    await made.count(date(2026, 10, 4), 9)
    await made.count(date(2026, 10, 3), 5)
    clock.now = ISSUING
    return made


async def test_a_purchase_leaves_no_call_without_an_invoice(shop: Shop) -> None:
    """A key is bought on the day of its first calls at the latest: days before would be on no invoice."""
    path = f"/v1/keys/{shop.key}"
    refused = await shop.api.patch(path, {"purchased_at": "2026-10-04T00:00:00+03:00"})
    assert (refused.status, refused.fields) == (422, {"body.purchased_at"})
    assert "counted on 2026-10-03" in refused.text
    assert (await shop.api.patch(path, {"purchased_at": "2026-10-03T23:59:59+03:00"})).status == 200
    assert (await shop.api.patch(path, {"purchased_at": None})).status == 200
    await shop.bill()
    compared = (await shop.api.get("/v1/reconcile?period=2026-10")).body
    assert (compared["counted"], compared["billed"], compared["differences"]) == (14, 14, [])


async def test_a_purchase_does_not_lie_ahead(shop: Shop) -> None:
    """A key can be used at once, so no day of its use may come before it is bought."""
    path, fresh = "/v1/keys", {"account_id": shop.account, "plan": "K1"}
    tomorrow = {"purchased_at": "2026-11-11T00:00:00+03:00"}
    made = await shop.post(path, fresh)
    for refused in (
        await shop.post(path, fresh | tomorrow),
        await shop.api.patch(f"{path}/{made.body['id']}", tomorrow),
    ):
        assert (refused.status, refused.fields) == (422, {"body.purchased_at"})
        assert "lies ahead" in refused.text and "2026-11-10" in refused.text
    later_today = {"purchased_at": "2026-11-10T23:59:59+03:00"}
    assert (await shop.post(path, fresh | later_today)).status == 201


async def test_a_key_owes_nothing_for_days_in_which_it_was_dead(shop: Shop) -> None:
    """Expired on the 10th and let go on on the 21st, it owes 21 days of 31 (contract OT-14)."""
    path = f"/v1/keys/{shop.key}"
    shop.clock.now = SEPTEMBER
    assert (await shop.api.patch(path, {"expires_at": "2026-10-10T12:00:00+03:00"})).status == 200
    shop.clock.now = datetime(2026, 10, 21, 9, tzinfo=UTC)
    for _ in range(2):
        assert (await shop.api.patch(path, {"expires_at": "2027-10-10T12:00:00+03:00"})).status == 200
    [served] = (await shop.api.get("/v1/subscriptions")).body["items"]
    assert served["gaps"] == [{"first_day": "2026-10-11", "last_excluded": "2026-10-21"}]
    changes = (await shop.api.get(f"/v1/audit?object={shop.key}")).body["items"]
    assert [each["action"] for each in changes].count("subscription.gap") == 1
    invoice = (await shop.api.get(f"/v1/invoices/{await shop.bill()}")).body
    assert invoice["total"] == "67.74"
    days = {
        (line["first_day"], line["last_excluded"]) for line in invoice["lines"] if line["kind"] == "usage"
    }
    assert days == {("2026-10-01", "2026-11-01")}
    assert (await shop.api.get("/v1/reconcile?period=2026-10")).body["differences"] == []


async def test_calls_before_and_behind_dead_days_are_one_quantity(shop: Shop) -> None:
    """They share the tiers, and a dispute of them gives back what was counted on either side."""
    path = f"/v1/keys/{shop.key}"
    await shop.count(date(2026, 10, 25), 2_000)
    shop.clock.now = SEPTEMBER
    await shop.api.patch(path, {"expires_at": "2026-10-10T12:00:00+03:00"})
    shop.clock.now = datetime(2026, 10, 21, 9, tzinfo=UTC)
    await shop.api.patch(path, {"expires_at": "2027-10-10T12:00:00+03:00"})
    invoice = (await shop.api.get(f"/v1/invoices/{await shop.bill()}")).body
    told = [(line["quantity"], line["amount"]) for line in invoice["lines"]]
    assert told == [("1000", "100.00"), ("1014", "50.70")]
    position = invoice["lines"][1]["position"]
    asked = {
        "invoice_id": invoice["id"],
        "position": position,
        "evidence": "x",
        "determined_on": "2026-11-10",
    }
    opened = await shop.post("/v1/disputes", asked)
    right = {"accepted": True, "quantity": 4, "resolution": "a robot"}
    done = await shop.post(f"/v1/disputes/{opened.body['id']}/resolve", right)
    assert (done.status, done.body["credit_note"]["total"]) == (200, "82.96")  # down to the minimum of 67.74


@pytest.mark.parametrize("change", [{"expires_at": "2026-12-10T12:00:00+03:00"}, {"label": "renewed"}])
async def test_only_a_key_that_is_let_go_on_has_a_gap(shop: Shop, change: dict[str, str]) -> None:
    """One that goes on before it has ended, or stays ended, is paid for as ever."""
    path = f"/v1/keys/{shop.key}"
    shop.clock.now = SEPTEMBER
    await shop.api.patch(path, {"expires_at": "2026-11-10T12:00:00+03:00"})
    shop.clock.now = ISSUING if "expires_at" in change else datetime(2026, 12, 1, tzinfo=UTC)
    assert (await shop.api.patch(path, change)).status == 200
    [served] = (await shop.api.get("/v1/subscriptions")).body["items"]
    assert served["gaps"] == []
