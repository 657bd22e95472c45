"""`Dry-Run: true`: every change can be told without being made."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.control.app import OPERATIONS
from tests.gateway.control.bills import Shop
from tests.gateway.control.conftest import Api, Clock

DRY = {"Dry_Run": "true"}


@pytest.fixture
async def shop(admin: Api, engine: AsyncEngine, clock: Clock) -> Shop:
    """A shop with an unpaid invoice of 125.00."""
    made = Shop(admin, engine, clock)
    await made.open()
    await made.count(date(2026, 10, 5), 1_500)
    await made.bill()
    return made


async def changes(api: Api) -> list[Any]:
    """Return what was ever changed, as the audit log has it."""
    return list((await api.get("/v1/audit?limit=1000")).body["items"])


async def test_what_would_be_made_is_told_without_its_secrets(admin: Api) -> None:
    """Account, key, token and webhook are checked and told; none exists, and nothing secret is shown."""
    account = (await admin.post("/v1/accounts", {"name": "Shop"})).body["id"]
    before = await changes(admin)
    for path, body, secret in (
        ("/v1/accounts", {"name": "Other"}, None),
        ("/v1/keys", {"account_id": account, "plan": "K1"}, "key"),
        ("/v1/tokens", {"name": "job", "role": "billing"}, "token"),
        ("/v1/webhooks", {"url": "https://hooks.example"}, "secret"),
    ):
        told = await admin.post(path, body, **DRY)
        assert (told.status, told.headers["Dry-Run"]) == (201, "true"), told.text
        assert secret is None or told.body[secret] is None
        assert (await admin.get(f"{path}/{told.body['id']}")).status in (404, 405)
    assert await changes(admin) == before


async def test_a_payment_is_told_with_what_would_follow(shop: Shop) -> None:
    """The answer has the balance afterwards; the books stay, and the idempotency key is not used up."""
    body = {"account_id": shop.account, "amount": "125.00"}
    told = await shop.api.post("/v1/payments", body, Idempotency_Key="bank-1", **DRY)
    assert told.body["outstanding"] == "0.00"
    assert (await shop.api.get("/v1/payments")).body["items"] == []
    paid = await shop.api.post("/v1/payments", body | {"amount": "25.00"}, Idempotency_Key="bank-1")
    assert (paid.status, paid.body["outstanding"]) == (201, "100.00")
    notices = (await shop.api.get("/v1/notices?event=payment.received")).body["items"]
    assert len(notices) == 1


async def test_a_credit_note_is_told_and_takes_no_number(shop: Shop) -> None:
    """Resolving a dispute shows the credit note; its number is given to the one that is issued."""
    [invoice] = (await shop.api.get("/v1/invoices")).body["items"]
    opened = await shop.post(
        "/v1/disputes",
        {"invoice_id": invoice["id"], "position": 2, "evidence": "x", "determined_on": "2026-11-10"},
    )
    path = f"/v1/disputes/{opened.body['id']}/resolve"
    body = {"accepted": True, "resolution": "x", "quantity": 1_400}
    told = await shop.api.post(path, body, Idempotency_Key="dry", **DRY)
    assert (told.body["credit_note"]["reference"], told.body["credit_note"]["total"]) == (
        "CRN-000001",
        "5.00",
    )
    assert (await shop.api.get("/v1/credit-notes")).body["items"] == []
    done = await shop.post(path, body)
    assert done.body["credit_note"]["reference"] == "CRN-000001"


async def test_a_payment_needs_its_key_in_a_dry_run_too(shop: Shop) -> None:
    """What is done once is refused without an Idempotency-Key, whether it is done or only told."""
    refused = await shop.api.post("/v1/payments", {"account_id": shop.account, "amount": "1.00"}, **DRY)
    assert (refused.status, refused.fields) == (422, {"header.Idempotency-Key"})


async def test_what_is_refused_is_refused_in_a_dry_run(admin: Api) -> None:
    """A dry run finds what the change would find."""
    missing = await admin.post("/v1/keys", {"account_id": "acc_0000000000000000", "plan": "K1"}, **DRY)
    assert missing.status == 404
    wrong = await admin.post("/v1/keys", {"plan": "K1"}, **DRY)
    assert (wrong.status, wrong.fields) == (422, {"body.account_id"})


async def test_where_nothing_can_be_taken_back_a_dry_run_is_refused(admin: Api) -> None:
    """A job that runs on its own is not started by somebody who asks for a dry run; reading is always dry."""
    running = [each for each in OPERATIONS if each.verb != "GET" and not each.changes]
    assert {each.name for each in running} == {"closeMonth", "issueMonth", "rollUp", "rebuild"}
    for operation in running:
        body = {"period": "2026-10"} if operation.name in {"closeMonth", "issueMonth"} else {}
        refused = await admin.call(operation.verb, operation.path, body, **DRY)
        assert (refused.status, "header.Dry-Run" in refused.text) == (422, True), operation.name
    assert (await admin.get("/v1/accounts", **DRY)).status == 200
    odd = await admin.post("/v1/accounts", {"name": "x"}, Dry_Run="yes")
    assert (odd.status, odd.fields) == (422, {"header.Dry-Run"})
    assert (await admin.get("/v1/accounts")).body["items"] == []
