"""The outbox's postman: takes what is due, tries it, and writes down what became of it.

Each attempt is taken under a lease before it is made: of many gateways one makes it, and one that is killed
while making it leaves it to be made again, with the same notice id, so that the receiver can tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import aiohttp
import aiosmtplib
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway import sealing
from gateway.notices import post
from gateway.notices.mail import Mailer, RejectedError
from gateway.pages import kept
from gateway.pages.invoice import View
from gateway.settings import Settings
from metering.ledger import NotFoundError, invoices, notices, webhooks
from metering.ledger.audit import Author
from metering.ledger.notices import Due, Kept
from metering.notices import Event

BATCH = 16  # tried at the same time
ATTEMPT_S = 90.0  # at the longest, whatever the timeouts within it add up to
LEASE_S = 120.0
SPARED_S = 60.0
# What the Standard Webhooks specification proposes: three days in all, closely at first.
WAITS_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
BY = Author("notices")

log = structlog.get_logger("gateway.notices")


class _HopelessError(Exception):
    """Trying again is of no use."""


class _NoMailServerError(Exception):
    """E-mail is not configured, which is a choice and no fault."""


@dataclass
class Postman:
    """Delivers what is due; `settings` are asked for at each round, as they may be read again."""

    engine: AsyncEngine
    settings: Callable[[], Settings]
    clock: Callable[[], datetime]
    session: aiohttp.ClientSession
    _mailer: Mailer | None = None
    _told_of_no_mail: bool = False
    # Webhooks that did not answer at all, and until when they are spared: each try of one holds up a batch.
    _silent: dict[str, datetime] = field(default_factory=dict)

    async def round(self) -> int:
        """Try all that is due now; returns how many attempts were made."""
        made = 0
        while True:
            async with self.engine.begin() as connection:
                due = await notices.take_due(connection, now=self.clock(), lease_s=LEASE_S, limit=BATCH)
            await asyncio.gather(*(self._attempt(each) for each in due))
            made += len(due)
            if len(due) < BATCH:
                return made

    async def _attempt(self, due: Due) -> None:
        spared = self._silent.get(due.target)
        if spared is not None and self.clock() < spared:
            async with self.engine.begin() as connection:
                await notices.give_back(connection, due, until=spared)
            return
        try:
            async with asyncio.timeout(ATTEMPT_S):
                if due.channel == notices.EMAIL:
                    await self._mail(due)
                else:
                    await self._post(due)
        except _NoMailServerError:
            await self._left_unsent(due)
        except (_HopelessError, RejectedError) as error:
            await self._failed(due, str(error))
        except (post.StatusError, aiosmtplib.SMTPResponseException) as error:
            await self._put_off(
                due, str(error) if isinstance(error, post.StatusError) else f"SMTP {error.code}"
            )
        except UnicodeError:  # of the resolver, for a host whose labels are empty or too long
            await self._put_off(due, "no such host can be looked up")
        except (aiohttp.ClientError, aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            if due.channel == notices.WEBHOOK:
                self._silent[due.target] = self.clock() + timedelta(seconds=SPARED_S)
            await self._put_off(due, type(error).__name__)
        except SQLAlchemyError:
            raise  # the ledger is away, for all of them
        except Exception as error:  # noqa: BLE001 - one that cannot be written must not end the post of all
            log.error("a notice could not be tried", notice=due.notice.id, error=type(error).__name__)
            await self._put_off(due, type(error).__name__)
        else:
            self._silent.pop(due.target, None)
            async with self.engine.begin() as connection:
                await notices.delivered(connection, due, now=self.clock())

    async def _mail(self, due: Due) -> None:
        smtp = self.settings().notices.smtp
        if smtp is None:
            raise _NoMailServerError
        if self._mailer is None or self._mailer.smtp != smtp:
            self._mailer = Mailer(smtp)
        await self._mailer.send(due.notice, due.target, await self._invoice(due.notice))

    async def _invoice(self, notice: Kept) -> View | None:
        """Return the invoice that is sent along, as it stands now."""
        if notice.event != Event.INVOICE_ISSUED:
            return None
        async with self.engine.connect() as connection:
            try:
                invoice = await invoices.get(connection, notice.data["invoice_id"])
            except NotFoundError:
                return None  # what is told stands in the notice
            return await kept.view(connection, invoice, self.settings())

    async def _post(self, due: Due) -> None:
        settings = self.settings()
        async with self.engine.connect() as connection:
            try:
                webhook = await webhooks.get(connection, due.target)
            except NotFoundError as error:
                raise _HopelessError("the webhook is gone") from error
        if webhook.disabled_at is not None:
            raise _HopelessError("the webhook is disabled")
        try:
            secret = sealing.unseal(webhook.secret, settings.security.peppers)
        except sealing.SealError as error:
            raise _HopelessError(str(error)) from error
        try:
            await post.post(
                self.session,
                due.notice,
                url=webhook.url,
                secret=secret,
                now=self.clock(),
                timeout_s=settings.notices.webhook_timeout_s,
            )
        except post.StatusError as error:
            if error.status == post.GONE:
                async with self.engine.begin() as connection:
                    await webhooks.disable(
                        connection, webhook.id, reason="it answered 410", now=self.clock(), by=BY
                    )
                raise _HopelessError("HTTP 410: the webhook is disabled") from error
            raise

    async def _put_off(self, due: Due, error: str) -> None:
        if due.attempt > len(WAITS_S):
            await self._failed(due, error)
            return
        until = self.clock() + timedelta(seconds=WAITS_S[due.attempt - 1])
        async with self.engine.begin() as connection:
            await notices.put_off(connection, due, until=until, error=error)

    async def _left_unsent(self, due: Due) -> None:
        """Keep an e-mail as one that was not sent; that there is no mail server is told once."""
        if not self._told_of_no_mail:
            self._told_of_no_mail = True
            log.info("e-mail is not sent, as no [notices.smtp] is configured; `tallygate notice list` has it")
        async with self.engine.begin() as connection:
            await notices.failed(connection, due, error="no [notices.smtp] is configured")

    async def _failed(self, due: Due, error: str) -> None:
        log.error(
            "a notice could not be delivered",
            notice=due.notice.id,
            notice_event=due.notice.event,
            channel=due.channel,
            error=error,
        )
        async with self.engine.begin() as connection:
            await notices.failed(connection, due, error=error)
