"""From which day on a key is paid for."""

from __future__ import annotations

from datetime import date

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.gateway.control.bills import ISSUING, Shop
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
