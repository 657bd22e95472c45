"""What billing jobs pull over the API: FOCUS rows and their schema."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.control.resources import Control
from metering import focus
from tests.gateway.control.bills import Shop
from tests.gateway.control.conftest import Api, Clock


async def test_rows_name_their_schema(admin: Api, engine: AsyncEngine, clock: Clock) -> None:
    """As CSV and as JSON the rows say where their columns are described."""
    shop = Shop(admin, engine, clock)
    await shop.open()
    await shop.count(date(2026, 10, 5), 1_500)
    await shop.bill()
    sheet = await admin.get("/v1/exports/focus?period=2026-10")
    assert sheet.headers["Link"] == '</v1/exports/focus/schema>; rel="describedby"'
    page = (await admin.get("/v1/exports/focus?period=2026-10&format=json")).body
    schema = (await admin.get("/v1/exports/focus/schema")).body["Schema"]
    assert page["schema_id"] == schema["SchemaId"] == focus.SCHEMA_ID
    assert [row["BilledCost"] for row in page["items"]] == ["100.00", "25.00"]
    assert page["items"][0]["ChargeClass"] is None


async def test_nothing_is_exported_in_nobodys_name(admin: Api, control: Control) -> None:
    """Rows name who issues the invoice, so a seller without a name is told to give one."""
    billing = control.settings.billing
    seller = replace(billing.seller, name="  ")
    control.settings = replace(control.settings, billing=replace(billing, seller=seller))
    for path in ("/v1/exports/focus?period=2026-10", "/v1/exports/focus/schema"):
        refused = await admin.get(path)
        assert (refused.status, "[billing.seller]" in refused.body["detail"]) == (409, True)
