"""A month's bill over the control API: closed, issued, paid, disputed, told and shown."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.control.resources import Control
from policies.standing import Standing, Step
from tests.gateway.control.bills import CLOSING, ISSUING, Shop
from tests.gateway.control.conftest import Api, Clock


@pytest.fixture
async def shop(admin: Api, engine: AsyncEngine, clock: Clock) -> Shop:
    """A shop that used 1,500 units in October: 1,000 at 0.10 and 500 at 0.05, 125.00 in all."""
    made = Shop(admin, engine, clock)
    await made.open()
    await made.count(date(2026, 10, 5), 1_200)
    await made.count(date(2026, 10, 31), 300)
    return made


async def test_a_month_becomes_one_invoice_whatever_is_repeated(shop: Shop) -> None:
    """Closing and issuing twice leaves one invoice under one number, and one notice of it."""
    first = await shop.bill()
    again = await shop.post("/v1/invoices/close", {"period": "2026-10"})
    issued = await shop.post("/v1/invoices/issue", {"period": "2026-10"})
    assert (again.status, issued.status) == (200, 200)
    assert issued.body["invoices"] == []
    listed = (await shop.api.get("/v1/invoices")).body["items"]
    assert [(each["id"], each["reference"], each["total"]) for each in listed] == [
        (first, "INV-000001", "125.00")
    ]
    told = (await shop.api.get("/v1/notices?event=invoice.issued")).body["items"]
    assert [each["data"]["number"] for each in told] == ["INV-000001"]


async def test_a_dry_run_changes_nothing_and_tells_the_difference(shop: Shop) -> None:
    """Before closing the whole charge is the difference; after issuing and late counts only those are."""
    shop.clock.now = CLOSING
    asked = {"period": "2026-10", "dry_run": True}
    before = await shop.post("/v1/invoices/close", asked)
    [draft] = before.body["drafts"]
    assert (draft["total"], draft["invoice"], draft["difference"]) == ("125.00", None, "125.00")
    assert [(line["quantity"], line["amount"]) for line in draft["lines"]] == [
        ("1000", "100.00"),
        ("500", "25.00"),
    ]
    assert (await shop.api.get("/v1/invoices")).body["items"] == []
    await shop.bill()
    await shop.count(date(2026, 10, 7), 100)
    after = await shop.post("/v1/invoices/close", asked)
    [draft] = after.body["drafts"]
    assert (draft["invoice_status"], draft["invoice_total"], draft["difference"]) == (
        "issued",
        "125.00",
        "5.00",
    )


async def test_standing_follows_payment_to_the_second(shop: Shop) -> None:
    """Restricted from 00:00 of the eighth day after issuing, active on the call after full payment."""
    await shop.bill()
    restricted = datetime(2026, 11, 17, 21, 0, tzinfo=UTC)  # 18 November in Moscow
    shop.clock.now = restricted - timedelta(seconds=1)
    assert await shop.standing() == "active"
    shop.clock.now = restricted
    assert await shop.standing() == "restricted"
    part = await shop.post("/v1/payments", {"account_id": shop.account, "amount": "100.00"})
    assert (part.status, part.body["outstanding"], part.body["in_force"]) == (201, "25.00", True)
    assert await shop.standing() == "restricted"
    rest = await shop.post("/v1/payments", {"account_id": shop.account, "amount": "30.00"})
    assert (rest.body["outstanding"], rest.body["credit"]) == ("0.00", "5.00")
    assert await shop.standing() == "active"
    back = await shop.post(f"/v1/payments/{rest.body['id']}/reverse", {"reason": "charged back"})
    assert back.body["oldest_unpaid_issued_on"] == "2026-11-10"
    assert await shop.standing() == "restricted"


async def test_a_payment_of_no_invoice_is_refused(shop: Shop) -> None:
    """An invoice that does not exist is named in the answer, and nothing is noted."""
    body = {"account_id": shop.account, "amount": "34.50", "invoice_id": "inv_0000000000000000"}
    refused = await shop.post("/v1/payments", body)
    assert (refused.status, refused.body["detail"]) == (404, "There is no invoice inv_0000000000000000.")
    assert (await shop.api.get("/v1/payments")).body["items"] == []


async def test_a_payment_is_noted_once(shop: Shop) -> None:
    """A repeated request brings the same payment and no second one; another one under its key is refused."""
    await shop.bill()
    body = {"account_id": shop.account, "amount": "50.00"}
    first = await shop.api.post("/v1/payments", body, Idempotency_Key="bank-1")
    again = await shop.api.post("/v1/payments", body, Idempotency_Key="bank-1")
    other = await shop.api.post("/v1/payments", {**body, "amount": "60.00"}, Idempotency_Key="bank-1")
    assert first.body["id"] == again.body["id"]
    assert other.status == 422
    assert len((await shop.api.get("/v1/payments")).body["items"]) == 1
    balance = (await shop.api.get(f"/v1/accounts/{shop.account}/balance")).body
    assert (balance["outstanding"], balance["total"]) == ("75.00", "75.00")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/payments", {"account_id": "acc_0123456789abcdef", "amount": "1.00"}),
        ("/v1/payments/pay_0123456789abcdef/reverse", {"reason": "x"}),
        ("/v1/invoices/inv_0123456789abcdef/void", {"reason": "x"}),
        ("/v1/disputes/dsp_0123456789abcdef/resolve", {"accepted": False, "resolution": "x"}),
    ],
)
async def test_what_moves_money_needs_an_idempotency_key(admin: Api, path: str, body: Any) -> None:
    """Without one nothing is done, and the answer says what is missing."""
    refused = await admin.post(path, body)
    assert (refused.status, refused.fields) == (422, {"header.Idempotency-Key"})


@pytest.mark.parametrize("amount", ["1.005", "-1", "1e3", "", "NaN", 5, 5.5, "1,00"])
async def test_amounts_are_text_in_whole_cents(admin: Api, account: str, amount: Any) -> None:
    """An amount that is no text of digits with at most two places is refused by its field."""
    refused = await admin.post("/v1/payments", {"account_id": account, "amount": amount}, Idempotency_Key="x")
    assert (refused.status, refused.fields) == (422, {"body.amount"})


async def test_a_payment_is_not_received_tomorrow(shop: Shop) -> None:
    """A day ahead in the billing timezone is a slip, of which the customer would be told; today is none."""
    shop.clock.now = ISSUING
    paid = {"account_id": shop.account, "amount": "1.00"}
    refused = await shop.post("/v1/payments", paid | {"received_at": "2026-11-11T00:00:00+03:00"})
    assert (refused.status, refused.fields) == (422, {"body.received_at"})
    today = await shop.post("/v1/payments", paid | {"received_at": "2026-11-10T23:59:59+03:00"})
    assert today.status == 201


async def test_a_dispute_spares_its_amount_and_ends_in_a_credit_note(shop: Shop) -> None:
    """The disputed line is no reason to restrict; accepted, invoice less credit note is what is right."""
    invoice = await shop.bill()
    shop.clock.now = ISSUING + timedelta(days=6)
    await shop.post("/v1/payments", {"account_id": shop.account, "amount": "25.00"})
    opened = await shop.post(
        "/v1/disputes",
        {
            "invoice_id": invoice,
            "position": 1,
            "evidence": "200 of these calls were answered empty",
            "determined_on": "2026-11-12",
        },
    )
    assert (opened.status, opened.body["amount"], opened.body["status"]) == (201, "100.00", "open")
    shop.clock.now = ISSUING + timedelta(days=30)
    assert await shop.standing() == "active"
    resolved = await shop.post(
        f"/v1/disputes/{opened.body['id']}/resolve",
        {"accepted": True, "resolution": "200 calls taken off", "amount": "80.00"},
    )
    assert resolved.status == 200, resolved.text
    assert resolved.body["credit_note"]["total"] == "20.00"
    whole = (await shop.api.get(f"/v1/invoices/{invoice}")).body
    assert (whole["total"], whole["credited"], whole["paid"], whole["outstanding"]) == (
        "125.00",
        "20.00",
        "25.00",
        "80.00",
    )
    assert whole["credit_notes"] == [resolved.body["credit_note"]["reference"]]
    assert await shop.standing() == "banned"
    [told] = (await shop.api.get("/v1/notices?event=credit_note.issued")).body["items"]
    assert told["data"]["amount"] == "20.00"


async def test_a_refusal_of_the_books_says_why(shop: Shop) -> None:
    """A month that is not over, a dispute that comes too late: the reason, and what would be accepted."""
    shop.clock.now = datetime(2026, 10, 31, 20, 59, 59, tzinfo=UTC)  # the last second of October in Moscow
    early = await shop.post("/v1/invoices/close", {"period": "2026-10"})
    assert (early.status, early.body["type"]) == (409, "tallygate:problem:not-over")
    assert "2026-11-01" in early.body["detail"]
    invoice = await shop.bill()
    shop.clock.now = datetime(2026, 12, 20, tzinfo=UTC)
    late = await shop.post(
        "/v1/disputes",
        {"invoice_id": invoice, "position": 1, "evidence": "x", "determined_on": "2026-11-12"},
    )
    assert (late.status, late.body["type"]) == (409, "tallygate:problem:too-late")
    assert "until 2026-12-12" in late.body["detail"]


async def test_an_invoice_is_shown_as_json_csv_and_a_page(shop: Shop) -> None:
    """All three hold the same lines; the page loads nothing from anywhere."""
    invoice = await shop.bill()
    whole = await shop.api.get(f"/v1/invoices/{invoice}")
    assert sum(float(line["amount"]) for line in whole.body["lines"]) == 125.0
    sheet = (await shop.api.get(f"/v1/invoices/{invoice}?format=csv")).text.splitlines()
    assert len(sheet) == 1 + len(whole.body["lines"])
    assert sheet[0].startswith("invoice,currency,position,kind,key_id,site,tier,quantity")
    page = await shop.api.get(f"/v1/invoices/{invoice}?format=html")
    assert page.headers["Content-Type"].startswith("text/html")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "INV-000001" in page.text
    assert "125.00 USD" in page.text


async def test_what_did_not_change_is_told_in_a_line(shop: Shop) -> None:
    """With the entity tag of an earlier answer an invoice is 304 until something about it changes."""
    invoice = await shop.bill()
    first = await shop.api.get(f"/v1/invoices/{invoice}")
    same = await shop.api.get(f"/v1/invoices/{invoice}", If_None_Match=first.headers["ETag"])
    assert (same.status, same.text) == (304, "")
    page = await shop.api.get(f"/v1/invoices/{invoice}?format=html")
    again = await shop.api.get(f"/v1/invoices/{invoice}?format=html", If_None_Match=page.headers["ETag"])
    assert again.status == 304
    usage = await shop.api.get("/v1/usage?period=2026-10&format=csv")
    known = {"If_None_Match": usage.headers["ETag"]}
    assert (await shop.api.get("/v1/usage?period=2026-10&format=csv", **known)).status == 304
    assert (await shop.api.get("/v1/usage?period=2026-10&format=json", **known)).status == 200
    await shop.post("/v1/payments", {"account_id": shop.account, "amount": "1.00"})
    changed = await shop.api.get(f"/v1/invoices/{invoice}", If_None_Match=first.headers["ETag"])
    assert (changed.status, changed.body["paid"]) == (200, "1.00")


async def test_a_customer_sees_own_issued_invoices_only(shop: Shop) -> None:
    """With its own key a site lists and shows invoices of its account, no drafts and none of others."""
    own = Api(shop.api.client, None)
    made = await shop.post(
        "/v1/keys", {"account_id": shop.account, "plan": "sandbox", "site": "test.example"}
    )
    headers = {"X_Api_Key": made.body["key"]}
    other_account = await shop.post("/v1/accounts", {"name": "Other"})
    other = await shop.post("/v1/keys", {"account_id": other_account.body["id"], "plan": "K1"})
    shop.clock.now = CLOSING
    await shop.post("/v1/invoices/close", {"period": "2026-10"})
    assert (await own.get("/v1/me/invoices", **headers)).body["items"] == []
    invoice = await shop.bill()
    listed = await own.get("/v1/me/invoices", **headers)
    assert [each["id"] for each in listed.body["items"]] == [invoice]
    assert (await own.get(f"/v1/me/invoices/{invoice}?format=html", **headers)).status == 200
    stranger = {"X_Api_Key": other.body["key"]}
    assert (await own.get(f"/v1/me/invoices/{invoice}", **stranger)).status == 404
    assert (await own.get("/v1/me/invoices", X_Api_Key="tg_wrong")).status == 401


async def test_a_voided_invoice_asks_for_nothing(shop: Shop) -> None:
    """Making it void lifts the standing; its number stays taken, and the list says so."""
    invoice = await shop.bill()
    shop.clock.now = ISSUING + timedelta(days=30)
    assert await shop.standing() == "banned"
    made = await shop.post(f"/v1/invoices/{invoice}/void", {"reason": "billed to the wrong company"})
    assert (made.status, made.body["status"], made.body["number"]) == (200, "void", 1)
    assert await shop.standing() == "active"


async def test_the_customer_hears_of_a_void_invoice_once(shop: Shop) -> None:
    """What was issued is taken back in words too, with the reason; repeated, it is told once."""
    invoice = await shop.bill()
    voiding = {"reason": "billed to the wrong company"}
    await shop.post(f"/v1/invoices/{invoice}/void", voiding)
    await shop.post(f"/v1/invoices/{invoice}/void", voiding)
    [told] = (await shop.api.get("/v1/notices?event=invoice.voided")).body["items"]
    assert (told["account_id"], told["data"]["number"]) == (shop.account, "INV-000001")
    assert (told["data"]["total"], told["data"]["period"]) == ("125.00", "2026-10")
    assert told["data"]["voided_at"] == "2026-11-10T12:00:00+03:00"
    assert told["data"]["reason"] == "billed to the wrong company"


async def test_nobody_hears_of_a_void_draft(shop: Shop) -> None:
    """A draft was never sent, so nothing is taken back."""
    shop.clock.now = CLOSING
    await shop.post("/v1/invoices/close", {"period": "2026-10"})
    [draft] = (await shop.api.get("/v1/invoices")).body["items"]
    made = await shop.post(f"/v1/invoices/{draft['id']}/void", {"reason": "a test"})
    assert (made.status, made.body["status"], made.body["number"]) == (200, "void", None)
    assert (await shop.api.get("/v1/notices?event=invoice.voided")).body["items"] == []


async def test_other_drafts_than_were_confirmed_are_not_issued(shop: Shop) -> None:
    """Counts that came after the dry run change what is asked for: refused, and confirmed anew issued."""
    shop.clock.now = CLOSING
    await shop.post("/v1/invoices/close", {"period": "2026-10"})
    issuing, asked = {"period": "2026-10"}, {"period": "2026-10", "dry_run": True}
    seen = (await shop.post("/v1/invoices/issue", asked)).body
    await shop.count(date(2026, 10, 7), 100)
    shop.clock.now = ISSUING
    refused = await shop.post("/v1/invoices/issue", issuing | {"confirmed": seen["digest"]})
    assert (refused.status, refused.body["type"]) == (409, "tallygate:problem:changed")
    assert "none was issued: look at what would be issued now" in refused.body["detail"]
    (draft,) = (await shop.api.get("/v1/invoices")).body["items"]
    assert (draft["status"], draft["total"]) == ("draft", "130.00")
    anew = (await shop.post("/v1/invoices/issue", asked)).body
    assert (anew["totals"], anew["digest"] == seen["digest"]) == ({"USD": "130.00"}, False)
    done = await shop.post("/v1/invoices/issue", issuing | {"confirmed": anew["digest"]})
    assert [each["total"] for each in done.body["invoices"]] == ["130.00"]
    repeated = await shop.post("/v1/invoices/issue", issuing | {"confirmed": anew["digest"]})
    assert (repeated.status, repeated.body["count"]) == (200, 0)  # there is nothing left that could differ
    again = await shop.post("/v1/invoices/issue", asked | {"confirmed": anew["digest"]})
    assert (again.status, again.fields) == (422, {"body.confirmed"})


async def test_a_digest_is_of_the_accounts_that_it_was_asked_for(shop: Shop) -> None:
    """Confirmed with one account held, nothing is issued with none held, and the other way round."""
    other = (await shop.post("/v1/accounts", {"name": "Other"})).body["id"]
    await shop.post("/v1/keys", {"account_id": other, "plan": "K1"})
    shop.clock.now = ISSUING
    await shop.post("/v1/invoices/close", {"period": "2026-10"})
    held = {"period": "2026-10", "hold": [other]}
    seen = (await shop.post("/v1/invoices/issue", held | {"dry_run": True})).body["digest"]
    wider = await shop.post("/v1/invoices/issue", {"period": "2026-10", "confirmed": seen})
    assert wider.status == 409
    done = await shop.post("/v1/invoices/issue", held | {"confirmed": seen})
    assert [each["account_id"] for each in done.body["invoices"]] == [shop.account]
    assert done.body["held"] == [other]


async def test_issuing_closes_no_month_and_no_account_on_its_own(shop: Shop) -> None:
    """Nobody has seen a draft of what was not closed, so it is refused; one account may be closed."""
    shop.clock.now = ISSUING
    other = (await shop.post("/v1/accounts", {"name": "Other"})).body["id"]
    refused = await shop.post("/v1/invoices/issue", {"period": "2026-10"})
    assert (refused.status, refused.body["type"]) == (409, "tallygate:problem:not-closed")
    assert "2026-10 was not closed: close it" in refused.body["detail"]
    assert (await shop.api.get("/v1/invoices")).body["items"] == []
    await shop.post("/v1/invoices/close", {"period": "2026-10", "accounts": [shop.account]})
    await shop.post("/v1/keys", {"account_id": other, "plan": "K1"})
    assert (await shop.post("/v1/invoices/issue", {"period": "2026-10"})).status == 409
    both = {"period": "2026-10", "accounts": [shop.account, other]}
    done = await shop.post("/v1/invoices/issue", both)
    assert [each["account_id"] for each in done.body["invoices"]] == [shop.account]
    assert len((await shop.api.get("/v1/invoices")).body["items"]) == 1


async def test_closing_says_how_many_drafts_that_made(shop: Shop) -> None:
    """A month that was issued, or made void, is reckoned and stays as it is; only drafts are made anew."""
    closing = {"period": "2026-10"}
    shop.clock.now = CLOSING
    first = await shop.post("/v1/invoices/close", closing)
    assert (first.body["accounts"], first.body["made"]) == (1, 1)
    invoice = await shop.bill()
    again = await shop.post("/v1/invoices/close", closing)
    assert (again.body["accounts"], again.body["made"]) == (1, 0)
    dry = await shop.post("/v1/invoices/close", closing | {"dry_run": True})
    assert (dry.body["accounts"], dry.body["made"]) == (1, 0)
    await shop.post(f"/v1/invoices/{invoice}/void", {"reason": "billed to the wrong company"})
    void = await shop.post("/v1/invoices/close", closing | {"dry_run": True})
    assert (void.body["accounts"], void.body["made"], void.body["totals"]) == (0, 0, {})
    (told,) = void.body["drafts"]
    assert (told["invoice_status"], told["total"], told["difference"]) == ("void", "0.00", "0.00")


@pytest.mark.parametrize(("after_days", "due_on"), [(3, "2026-11-13"), (14, "2026-11-17")])
async def test_the_last_day_to_pay_is_before_the_ladder(
    shop: Shop, control: Control, after_days: int, due_on: str
) -> None:
    """An invoice is due within seven days, and sooner where a key would be restricted sooner (OT-8)."""
    steps = (Step(after_days, Standing.RESTRICTED, frozenset({"search"})),)
    contract = replace(control.settings.contract, steps=steps)
    control.settings = replace(control.settings, contract=contract)
    invoice = await shop.bill()
    assert (await shop.api.get(f"/v1/invoices/{invoice}")).body["due_on"] == due_on


async def test_a_price_in_the_free_month_is_said_to_charge_nothing(shop: Shop) -> None:
    """A key's price for a day of its free month tells that it is not asked for yet (OT-2)."""
    because = {}
    for day in ("2026-09-30", "2026-10-01"):
        asked = await shop.api.get(f"/v1/plans/K1/price?key={shop.key}&day={day}&quantity=10")
        because[day] = asked.body["because"]
    assert because["2026-09-30"].endswith("; until 2026-10-01 its free month charges nothing")
    assert "free month" not in because["2026-10-01"]
