"""What closing or issuing a month would do, told a page at a time.

Memory holds one page, however many accounts there are.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncEngine

from metering.billing.close import check_month, reckon
from metering.billing.reckoning import ZERO, Draft, LeftOut
from metering.billing.terms import Terms
from metering.ledger import accounts, invoices
from metering.ledger.invoices import Invoice, Status
from metering.ledger.rows import Page, check_limit, page_of, read_cursor
from policies.period import Period

PAGE = 500  # accounts


@dataclass(frozen=True, slots=True)
class Compared:
    """What an account would be charged beside the invoice that there is.

    One of both may be missing, never both; where the invoice is void there is no draft, as the month is not
    billed again. The invoice comes without its snapshot.
    """

    account_id: str
    draft: Draft | None
    invoice: Invoice | None

    @property
    def is_open(self) -> bool:
        """Whether there is no invoice yet, or a draft, which closing would replace."""
        return self.invoice is None or self.invoice.status is Status.DRAFT

    @property
    def difference(self) -> Decimal:
        """What closing the month now would add to what there is; negative for less."""
        if self.invoice is not None and self.invoice.status is Status.VOID:
            return ZERO
        wanted = ZERO if self.draft is None else self.draft.total
        return wanted - (ZERO if self.invoice is None else self.invoice.total)


@dataclass(frozen=True, slots=True)
class Preview:
    """A page of accounts in the order of their ids. `next_cursor` goes on and is None at the end.

    Accounts that neither would have an invoice nor have one are left out, so that a page may hold less than
    its limit, or nothing, and others may still follow.
    """

    items: tuple[Compared, ...]
    left_out: tuple[LeftOut, ...]
    lines: int
    late_lines: int
    next_cursor: str | None


async def preview_close(
    engine: AsyncEngine,
    period: Period,
    *,
    terms: Terms,
    account_ids: Collection[str] | None = None,
    cursor: str | None = None,
    limit: int = PAGE,
) -> Preview:
    """Tell what closing a month would make of its next `limit` accounts; changes nothing.

    The month need not be over. An issued invoice is compared with what it would be now, were it a draft.
    Raises BillingError for what is no month, and ValueError for a wrong cursor or limit.
    """
    check_month(period)
    async with engine.connect() as connection, connection.begin() as transaction:
        page = await accounts.ids(connection, only=account_ids, cursor=cursor, limit=limit)
        told = await reckon(connection, period, terms=terms, account_ids=page.items, keep=True)
        there = {each.account_id: each for each in await invoices.of_month(connection, period, page.items)}
        await transaction.rollback()
    void = {each.account_id for each in there.values() if each.status is Status.VOID}
    drafts = {draft.account_id: draft for draft in told.drafts if draft.account_id not in void}
    items = [
        Compared(account_id, drafts.get(account_id), there.get(account_id))
        for account_id in page.items
        if account_id in drafts or account_id in there
    ]
    return Preview(tuple(items), tuple(told.left_out), told.lines, told.late_lines, page.next_cursor)


async def digest_issue(
    engine: AsyncEngine,
    period: Period,
    *,
    hold: Collection[str] = (),
    account_ids: Collection[str] | None = None,
) -> str:
    """Return what `issue` takes as `confirmed` from whoever agrees to the drafts of all pages.

    Taken before the first page is read, it is no longer right when a draft changes while they are read.
    """
    async with engine.connect() as connection:
        return await invoices.drafts_digest(connection, period.first, hold=hold, account_ids=account_ids)


async def preview_issue(
    engine: AsyncEngine,
    period: Period,
    *,
    hold: Collection[str] = (),
    account_ids: Collection[str] | None = None,
    cursor: str | None = None,
    limit: int = PAGE,
) -> Page[Invoice]:
    """Return the next `limit` drafts that issuing a month would issue, without their snapshots, by account.

    Raises ValueError for a wrong cursor or limit.
    """
    after = "" if cursor is None else read_cursor(cursor, str)[0]
    async with engine.connect() as connection:
        found = await invoices.drafts(
            connection,
            period.first,
            hold=hold,
            account_ids=account_ids,
            after=after,
            limit=check_limit(limit) + 1,
        )
    return page_of(found, limit, lambda draft: (draft.account_id,))
