"""The e-mail of an issued invoice, from the bill to the mailbox."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from email.message import EmailMessage

import aiohttp
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.control.resources import Control
from gateway.notices import mail
from gateway.notices.delivery import Postman
from tests.gateway.control.bills import Shop
from tests.gateway.control.conftest import (  # noqa: F401 - fixtures
    Api,
    Clock,
    admin,
    as_role,
    client,
    clock,
    control,
    settings,
    uptime,
)
from tests.gateway.notices.receivers import Mailbox, mail_server


@pytest.fixture
async def shop(
    admin: Api,  # noqa: F811 - the fixture
    engine: AsyncEngine,
    clock: Clock,  # noqa: F811 - the fixture
) -> Shop:
    """A shop whose October costs 125.00, issued on 10 November."""
    made = Shop(admin, engine, clock)
    await made.open()
    await made.count(date(2026, 10, 5), 1_500)
    await made.bill()
    return made


async def sent(control: Control, subject: str = "Invoice ") -> EmailMessage:  # noqa: F811 - the fixture
    """Deliver what is due and return the e-mail whose subject begins so, the invoice's."""
    mailbox = Mailbox()
    async with mail_server(mailbox) as smtp, aiohttp.ClientSession() as session:
        now = replace(control.settings, notices=replace(control.settings.notices, smtp=smtp))
        await Postman(control.engine, lambda: now, control.now, session).round()
    [message] = [each for each in mailbox.got if each["Subject"].startswith(subject)]
    return message


def text_of(message: EmailMessage) -> str:
    body = message.get_body(("plain",))
    assert body is not None
    return str(body.get_content())


async def test_an_invoice_comes_as_a_page_and_says_what_follows(
    shop: Shop,
    control: Control,  # noqa: F811 - the fixture
) -> None:
    """The mail says what is due when and what happens otherwise, and brings the page that the API shows."""
    message = await sent(control)
    text = text_of(message)
    assert message["Subject"] == "Invoice INV-000001: 125.00 USD, due by 17 November 2026"
    assert "Due by   17 November 2026" in text
    for step in ("18 November 2026, 00:00", "The keys are restricted.", "2 December 2026, 00:00", "banned"):
        assert step in text
    [page] = message.iter_attachments()
    assert (page.get_content_type(), page.get_filename()) == ("text/html", "INV-000001.html")
    listed = (await shop.api.get("/v1/invoices")).body["items"][0]["id"]
    shown = await shop.api.get(f"/v1/invoices/{listed}?format=html")
    assert page.get_content().replace("\r\n", "\n").strip() == shown.text.strip()


async def test_what_credit_paid_is_not_asked_for_again(
    shop: Shop,
    control: Control,  # noqa: F811 - the fixture
) -> None:
    """An invoice that is paid before it is mailed says so, and threatens with nothing."""
    await shop.post("/v1/payments", {"account_id": shop.account, "amount": "125.00"})
    message = await sent(control)
    assert message["Subject"] == "Invoice INV-000001: 125.00 USD, nothing left to pay"
    text = text_of(message)
    assert "Nothing is left to pay." in text
    for asked in ("restricted", "Due by", "Pay to"):
        assert asked not in text


async def test_a_void_invoice_is_asked_of_nobody(
    shop: Shop,
    control: Control,  # noqa: F811 - the fixture
) -> None:
    """An invoice that is made void before it is mailed asks for nothing, and neither does its subject."""
    [invoice] = (await shop.api.get("/v1/invoices")).body["items"]
    await shop.post(f"/v1/invoices/{invoice['id']}/void", {"reason": "billed twice"})
    message = await sent(control, "Invoice INV-000001: ")
    assert message["Subject"] == "Invoice INV-000001: 125.00 USD, nothing left to pay"
    assert "The invoice was made void since" in text_of(message)
    assert "Due by" not in text_of(message)


async def test_a_page_too_large_for_mail_servers_stays_out(
    shop: Shop,
    control: Control,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The text comes without it, and does not speak of it."""
    monkeypatch.setattr(mail, "MAX_ATTACHED_BYTES", 100)
    message = await sent(control)
    assert list(message.iter_attachments()) == []
    assert "attached" not in text_of(message)


async def test_a_payment_that_names_an_invoice_is_said_to_pay_it(
    shop: Shop,
    control: Control,  # noqa: F811 - the fixture
) -> None:
    """What the customer is told of the order in which invoices are paid is what the reckoning does."""
    [invoice] = (await shop.api.get("/v1/invoices")).body["items"]
    given = {"account_id": shop.account, "amount": "5.00", "invoice_id": invoice["id"]}
    await shop.post("/v1/payments", given)
    text = text_of(await sent(control, "Payment received"))
    assert "It pays invoice INV-000001 first, then your oldest open invoice" in text


@pytest.mark.parametrize(
    ("counts", "said", "unsaid"),
    [(False, "does not count as unpaid", "all the same"), (True, "all the same", "does not count as unpaid")],
)
async def test_it_says_whether_what_is_in_dispute_is_to_be_paid(
    shop: Shop,
    control: Control,  # noqa: F811 - the fixture
    counts: bool,
    said: str,
    unsaid: str,
) -> None:
    """The mail says of the amount in dispute what the settings say of it."""
    billing = replace(control.settings.billing, disputed_counts_as_unpaid=counts)
    control.settings = replace(control.settings, billing=billing)
    text = text_of(await sent(control))
    assert said in text
    assert unsaid not in text
