"""Issuing a month's drafts: numbers without gaps, days on which they are due, and standing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from metering.billing import standing
from metering.billing.errors import BillingError
from metering.billing.terms import Terms
from metering.ledger import accounts, audit, closing, credit_notes, disputes, invoices, numbers
from metering.ledger.audit import Author, Change
from metering.ledger.invoices import Invoice, Status
from policies.period import Period

ZERO = Decimal("0.00")
CHUNK = 1_000  # invoices of one transaction

Told = Callable[[AsyncConnection, Sequence[Invoice]], Awaitable[None]]


@dataclass(slots=True)
class IssueReport:
    """What was issued: how many, for how much by currency, and under which numbers.

    When they were to be kept, `issued` has the invoices by number, without their snapshots. `held` are
    accounts left as drafts; `done` says that no draft of the month is left.
    """

    period: Period
    count: int = 0
    totals: dict[str, Decimal] = field(default_factory=dict)
    first_number: int | None = None
    last_number: int | None = None
    issued: list[Invoice] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    done: bool = False

    def add(self, invoices: Sequence[Invoice], *, keep: bool) -> None:
        """Take in what was issued."""
        self.count += len(invoices)
        for each in invoices:
            self.totals[each.currency] = self.totals.get(each.currency, ZERO) + each.total
        if invoices and invoices[-1].number is not None:
            self.last_number = invoices[-1].number
            self.first_number = self.first_number or invoices[0].number
        if keep:
            self.issued += invoices


async def issue(
    engine: AsyncEngine,
    period: Period,
    *,
    terms: Terms,
    now: datetime,
    by: Author,
    hold: Collection[str] = (),
    disagreeing: Collection[str] = (),
    account_ids: Collection[str] | None = None,
    confirmed: str | None = None,
    told: Told | None = None,
    keep: bool = True,
) -> IssueReport:
    """Issue the drafts of a closed month but those of some accounts; doing it again issues nothing.

    Left are those of `hold`, which was asked for, and of `disagreeing`, whose books do not agree. With
    `confirmed`, the digest of the drafts but those in `hold` that somebody agreed to, nothing is issued and
    BillingError raised when they are others by now. Nobody closes the month while it is issued.

    `told` is called with the invoices in the transaction that issues them, to note what is to be said of
    them. With `keep` the report holds them all; without it memory holds `CHUNK` of them at a time. They
    can be listed page by page: before by `preview.preview_issue`, afterwards by `invoices.listed`.
    """
    report = IssueReport(period)
    left = {*hold, *disagreeing}
    after = ""
    async with engine.connect() as connection, closing.month_held(connection, period.first):
        while True:
            async with connection.begin():
                last = await numbers.lock(connection, "invoice")
                drafts = await invoices.drafts(
                    connection, period.first, hold=left, account_ids=account_ids, after=after, limit=CHUNK
                )
                if drafts and not after and confirmed is not None:
                    found = await invoices.drafts_digest(
                        connection, period.first, hold=hold, account_ids=account_ids
                    )
                    _check_confirmed(period, found, confirmed)
                if drafts:
                    report.add(await _issue(connection, drafts, last, terms, now, by, told), keep=keep)
                if len(drafts) < CHUNK:
                    report.held = await _held(connection, period, left)
                    report.done = await invoices.finish_month(connection, period.first, now=now)
                    return report
                after = drafts[-1].account_id


async def void(
    connection: AsyncConnection, invoice_id: str, *, reason: str, terms: Terms, now: datetime, by: Author
) -> Invoice:
    """Make a draft or an issued invoice void; its number stays taken, and its month is not billed again.

    Raises NotFoundError, and BillingError when credit notes or open disputes hang on it.
    """
    account_id = (await invoices.get(connection, invoice_id)).account_id
    await accounts.lock(connection, [account_id])
    before = await invoices.get(connection, invoice_id)
    if before.status is Status.VOID:
        return before
    if await credit_notes.of_invoice(connection, invoice_id):
        raise BillingError("wrong_amount", "a credit note was issued for it: credit what is left instead")
    if invoice_id in await disputes.open_amounts(connection, [account_id]):
        raise BillingError("already_disputed", "a line of it is under dispute: resolve that first")
    await invoices.void(connection, invoice_id, reason=reason, now=now, by=by.actor)
    change = Change("invoice.void", "invoice", invoice_id, {"status": before.status}, {"reason": reason})
    await audit.write(connection, [change], now=now, by=by)
    await standing.settle(connection, {account_id: now}, terms=terms, by=by)
    return await invoices.get(connection, invoice_id)


async def _issue(
    connection: AsyncConnection,
    drafts: Sequence[Invoice],
    last: int,
    terms: Terms,
    now: datetime,
    by: Author,
    told: Told | None,
) -> list[Invoice]:
    account_ids = [draft.account_id for draft in drafts]
    await accounts.lock(connection, account_ids)
    today = terms.day_of(now)
    issued = await invoices.put_under_numbers(
        connection,
        {draft.id: number for number, draft in enumerate(drafts, last + 1)},
        issued_at=now,
        issued_on=today,
        due_on=today + timedelta(days=terms.due_days),
    )
    if len(issued) != len(drafts):
        raise RuntimeError("a draft vanished under the lock of its month")
    await numbers.advance(connection, "invoice", len(issued))
    changes = [
        Change(
            "invoice.issue",
            "invoice",
            invoice.id,
            None,
            {"number": invoice.number, "total": str(invoice.total), "due_on": invoice.due_on},
        )
        for invoice in issued
    ]
    await audit.write(connection, changes, now=now, by=by)
    await standing.settle(connection, dict.fromkeys(account_ids, now), terms=terms, by=by)
    if told is not None:
        await told(connection, issued)
    return issued


def _check_confirmed(period: Period, found: str, confirmed: str) -> None:
    if found != confirmed:
        raise BillingError(
            "changed",
            f"the drafts of {period.first:%Y-%m} are no longer those that were confirmed, and none was "
            "issued: look at what would be issued now, and confirm that",
        )


async def _held(connection: AsyncConnection, period: Period, hold: Collection[str]) -> list[str]:
    if not hold:
        return []
    left = await invoices.drafts(connection, period.first, account_ids=hold, limit=len(hold))
    return [draft.account_id for draft in left]
