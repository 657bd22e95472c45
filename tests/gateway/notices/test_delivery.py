from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestServer
from sqlalchemy.ext.asyncio import AsyncEngine
from standardwebhooks import Webhook as Verifier
from structlog.testing import capture_logs

from gateway import sealing
from gateway.config import example_path, load
from gateway.notices.delivery import BATCH, SPARED_S, WAITS_S, Postman
from gateway.notices.post import new_secret
from gateway.settings import Settings
from metering.ledger import accounts, notices, tables, webhooks
from metering.ledger.audit import Author
from metering.ledger.webhooks import Webhook
from metering.notices import Notice, invoice_issued
from tests.gateway.notices.receivers import Hook, Mailbox, mail_server

BY = Author("tests")


@dataclass
class Round:
    """A postman, its clock, and who receives."""

    engine: AsyncEngine
    settings: Settings
    postman: Postman
    account: str
    hook: Hook
    hook_id: str
    secret: str
    mailbox: Mailbox
    now: datetime

    async def tell(self, number: int = 1) -> None:
        async with self.engine.begin() as connection:
            await notices.add(connection, [issued(self.account, number)], now=self.now)

    async def ways(self) -> dict[str, notices.Delivery]:
        async with self.engine.connect() as connection:
            page = await notices.listed(connection)
        return {way.channel: way for notice in page.items for way in notice.deliveries}


def issued(account: str, number: int = 1) -> Notice:
    return invoice_issued(
        account_id=account,
        invoice_id=f"inv_{number:016x}",
        number=f"2026-{number:06}",
        currency="USD",
        total=Decimal("1234.50"),
        period_first=datetime(2026, 10, 1, tzinfo=UTC).date(),
        issued_on=datetime(2026, 11, 10, tzinfo=UTC).date(),
        due_on=datetime(2026, 11, 17, tzinfo=UTC).date(),
    )


@pytest.fixture
def example(tmp_path: Path) -> Settings:
    """The example configuration with a data directory of its own."""
    return load(example_path(), {"TALLYGATE_DATA_DIR": str(tmp_path / "data")})


@pytest.fixture
async def round_(engine: AsyncEngine, example: Settings) -> AsyncIterator[Round]:
    """A postman for one account with an address and a webhook."""
    hook, mailbox = Hook(), Mailbox()
    app = web.Application()
    app.router.add_post("/hook", hook.receive)
    secret = new_secret()
    # Receivers hold a signature's time against the real clock, so the clock starts there.
    now = datetime.now(UTC)
    async with (
        mail_server(mailbox) as smtp,
        TestServer(app) as server,
        aiohttp.ClientSession() as session,
    ):
        settings = dataclasses.replace(example, notices=dataclasses.replace(example.notices, smtp=smtp))
        async with engine.begin() as connection:
            account = await accounts.create(
                connection, name="Shop", currency="USD", billing_email="bills@shop.example", now=now, by=BY
            )
            webhook = await webhooks.create(
                connection,
                url=str(server.make_url("/hook")),
                secret=sealing.seal(secret, settings.security.peppers),
                account_id=account.id,
                events=None,
                now=now,
                by=BY,
            )
        postman = Postman(engine, lambda: settings, lambda: made.now, session)
        made = Round(engine, settings, postman, account.id, hook, webhook.id, secret, mailbox, now)
        yield made


async def test_a_webhook_is_signed_so_that_anybody_can_check_it(round_: Round) -> None:
    """A receiver with the secret verifies the body with any library of the standard; another secret fails."""
    await round_.tell()
    await round_.postman.round()
    [(headers, body)] = round_.hook.got
    told = Verifier(round_.secret).verify(body, headers)
    assert told["type"] == "invoice.issued"
    assert told["data"]["account_id"] == round_.account
    assert told["data"]["total"] == "1234.50"
    with pytest.raises(Exception, match="No matching signature"):
        Verifier(new_secret()).verify(body, headers)


async def test_an_e_mail_says_what_is_due_when(round_: Round) -> None:
    """The customer reads number, amount and due date, and the message can be told from a repetition."""
    await round_.tell()
    await round_.postman.round()
    [message] = round_.mailbox.got
    async with round_.engine.connect() as connection:
        [notice] = (await notices.listed(connection)).items
    assert message["To"] == "bills@shop.example"
    assert message["Subject"] == "Invoice 2026-000001: 1,234.50 USD, due by 17 November 2026"
    assert message["Message-ID"] == f"<{notice.id}@seller.example>"
    assert "10 November 2026" in message.get_content()


async def test_what_arrived_is_not_sent_again(round_: Round) -> None:
    """Neither a second round nor the same event raised again reaches anybody twice."""
    await round_.tell()
    assert await round_.postman.round() == 2
    await round_.tell()
    round_.now += timedelta(days=5)
    assert await round_.postman.round() == 0
    assert (len(round_.hook.got), len(round_.mailbox.got)) == (1, 1)
    assert {way.state for way in (await round_.ways()).values()} == {"delivered"}


async def test_many_postmen_share_the_post(round_: Round) -> None:
    """Four gateways that deliver at once send each of fifty notices once on each way."""
    for number in range(50):
        await round_.tell(number)
    made = await asyncio.gather(*(round_.postman.round() for _ in range(4)))
    assert sum(made) == 100
    assert len({headers["Webhook-Id"] for headers, _ in round_.hook.got}) == len(round_.hook.got) == 50
    assert len({message["Message-ID"] for message in round_.mailbox.got}) == len(round_.mailbox.got) == 50


async def test_a_webhook_that_fails_is_tried_again_with_the_same_id(round_: Round) -> None:
    """After each wait it is tried again, no sooner, with the same id and body; then it has arrived."""
    round_.hook.answers = [500, 302, 429, 200]
    await round_.tell()
    await round_.postman.round()
    for wait_s in WAITS_S[:3]:
        round_.now += timedelta(seconds=wait_s - 1)
        assert await round_.postman.round() == 0
        round_.now += timedelta(seconds=1)
        assert await round_.postman.round() == 1
    assert len({(headers["Webhook-Id"], body) for headers, body in round_.hook.got}) == 1
    assert len(round_.hook.got) == 4
    way = (await round_.ways())["webhook"]
    assert (way.state, way.attempts, way.last_error) == ("delivered", 4, None)


async def test_a_webhook_that_keeps_failing_is_given_up(round_: Round) -> None:
    """After all attempts the delivery has failed and says why, and a retry by hand starts over."""
    round_.hook.answers = [503]
    await round_.tell()
    for wait_s in (0, *WAITS_S, 90_000, 90_000):
        round_.now += timedelta(seconds=wait_s)
        await round_.postman.round()
    way = (await round_.ways())["webhook"]
    assert (way.state, way.attempts, way.last_error) == ("failed", len(WAITS_S) + 1, "HTTP 503")
    round_.hook.answers = [200]
    async with round_.engine.begin() as connection:
        [notice] = (await notices.listed(connection)).items
        await notices.retry(connection, notice.id, now=round_.now, by=Author("tests"))
    await round_.postman.round()
    assert (await round_.ways())["webhook"].state == "delivered"


async def another_webhook(round_: Round, url: str) -> Webhook:
    """Have everything sent to a URL too."""
    async with round_.engine.begin() as connection:
        return await webhooks.create(
            connection,
            url=url,
            secret=sealing.seal(new_secret(), round_.settings.security.peppers),
            account_id=None,
            events=None,
            now=round_.now,
            by=BY,
        )


async def test_a_webhook_that_is_silent_does_not_hold_up_the_rest(round_: Round) -> None:
    """After one batch without an answer its other notices wait without being tried, and mail goes out."""
    silent = await another_webhook(round_, "http://127.0.0.1:1/nobody")
    for number in range(40):
        await round_.tell(number)
    await round_.postman.round()
    assert (len(round_.hook.got), len(round_.mailbox.got)) == (40, 40)
    async with round_.engine.connect() as connection:
        page = await notices.listed(connection, limit=100)
    ways = [way for notice in page.items for way in notice.deliveries if way.target == silent.id]
    assert len(ways) == 40
    assert sum(way.attempts for way in ways) <= BATCH
    round_.now += timedelta(seconds=SPARED_S)
    assert await round_.postman.round() > 0


async def test_a_host_that_cannot_be_looked_up_fails_by_itself(round_: Round) -> None:
    """A name that the resolver refuses to write ends neither the round nor what else is due."""
    await another_webhook(round_, "http://hooks..example/")
    await round_.tell()
    assert await round_.postman.round() == 3
    assert (len(round_.hook.got), len(round_.mailbox.got)) == (1, 1)
    async with round_.engine.connect() as connection:
        [notice] = (await notices.listed(connection)).items
    assert [way.last_error for way in notice.deliveries if way.last_error] == [
        "no such host can be looked up"
    ]


async def test_a_notice_that_cannot_be_written_waits_by_itself(round_: Round) -> None:
    """One of an event that only a newer version knows is kept for that one, and the others arrive."""
    await round_.tell()
    async with round_.engine.begin() as connection:
        await connection.execute(sa.update(tables.notices).values(event="of.tomorrow"))
    await round_.tell(2)
    with capture_logs() as told:
        assert await round_.postman.round() == 4
    assert [message["Subject"].split(":")[0] for message in round_.mailbox.got] == ["Invoice 2026-000002"]
    assert [event["error"] for event in told if event["event"] == "a notice could not be tried"] == [
        "KeyError"
    ]
    async with round_.engine.connect() as connection:
        (kept,) = (await notices.listed(connection, event="of.tomorrow")).items
    assert {way.channel: way.state for way in kept.deliveries} == {"email": "pending", "webhook": "delivered"}


async def test_a_webhook_that_is_gone_is_disabled(round_: Round) -> None:
    """A receiver that answers 410 hears nothing more, and the reason is kept."""
    round_.hook.answers = [410]
    await round_.tell(1)
    await round_.postman.round()
    await round_.tell(2)
    await round_.postman.round()
    assert len(round_.hook.got) == 1
    async with round_.engine.connect() as connection:
        webhook = await webhooks.get(connection, round_.hook_id)
    assert webhook.disabled_reason == "it answered 410"


@pytest.mark.parametrize(("refusal", "state"), [("550 no such mailbox", "failed"), ("451 later", "pending")])
async def test_a_refused_e_mail_is_tried_again_only_when_that_may_help(
    round_: Round, refusal: str, state: str
) -> None:
    """A mailbox that does not exist is not tried again, one that is busy is."""
    round_.mailbox.refusal = refusal
    await round_.tell()
    await round_.postman.round()
    way = (await round_.ways())["email"]
    assert (way.state, way.last_error) == (
        state,
        f"SMTP {refusal[:3]}" if state == "failed" else way.last_error,
    )
    assert way.last_error is not None


async def test_a_mail_server_that_takes_nobody_is_tried_again(round_: Round) -> None:
    """What it says at the door is of no message: all that is due would be lost with one wrong setting."""

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"554 not from here\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        smtp = round_.settings.notices.smtp
        assert smtp is not None
        closed = dataclasses.replace(smtp, port=server.sockets[0].getsockname()[1])
        told = dataclasses.replace(round_.settings.notices, smtp=closed)
        round_.postman.settings = lambda: dataclasses.replace(round_.settings, notices=told)
        await round_.tell()
        await round_.postman.round()
    way = (await round_.ways())["email"]
    assert (way.state, way.last_error) == ("pending", "SMTP 554")


async def test_without_a_mail_server_an_e_mail_fails_and_says_so(round_: Round) -> None:
    """It is not kept to be sent in a heap on the day a server is configured."""
    settings = dataclasses.replace(
        round_.settings, notices=dataclasses.replace(round_.settings.notices, smtp=None)
    )
    round_.postman.settings = lambda: settings
    with capture_logs() as logs:
        for number in (1, 2):
            await round_.tell(number)
            await round_.postman.round()
    way = (await round_.ways())["email"]
    assert (way.state, way.last_error) == ("failed", "no [notices.smtp] is configured")
    # That is a choice and no fault: it is told once, and not as an error.
    assert [each["log_level"] for each in logs] == ["info"]


async def test_nobody_is_told_the_secret(round_: Round) -> None:
    """Neither the ledger's row nor what is sent holds the text of the secret."""
    await round_.tell()
    await round_.postman.round()
    async with round_.engine.connect() as connection:
        webhook = await webhooks.get(connection, round_.hook_id)
    [(headers, body)] = round_.hook.got
    for text in (webhook.secret, repr(webhook), json.dumps(headers), body.decode()):
        assert round_.secret.removeprefix("whsec_") not in text
