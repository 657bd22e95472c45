"""Months: closed into drafts, and these issued under numbers; a dry run of either tells it page by page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.control import billing
from gateway.control.auth import Right
from gateway.control.invoice_models import (
    Closed,
    Closing,
    Difference,
    InvoiceOut,
    Issued,
    Issuing,
    LeftOut,
    invoice_fields,
    line_out,
)
from gateway.control.models import NoQuery
from gateway.control.operations import Call, Operation, Reply
from gateway.control.problems import FieldError, Problem, invalid
from gateway.control.terms import terms_of
from metering import notices as texts
from metering.billing import preview
from metering.billing.preview import Compared
from metering.ledger import invoices, notices
from metering.ledger.invoices import Invoice
from policies.period import Period, parse_period

ZERO = Decimal("0.00")


async def close_month(call: Call[Closing, NoQuery]) -> Reply:
    """Reckon a month into drafts; a dry run changes nothing and compares with what there is."""
    body, control = call.body, call.control
    period = parse_period(body.period)
    if body.dry_run:
        return await _preview_close(call, period)
    _refuse_cursor(body.cursor)
    report = await billing.close_month(control, period, by=call.by, account_ids=body.accounts)
    return Reply(
        Closed(
            period=body.period,
            dry_run=False,
            accounts=report.accounts,
            made=report.made,
            lines=report.lines,
            late_lines=report.late_lines,
            totals=report.totals,
            left_out=[LeftOut.model_validate(each, from_attributes=True) for each in report.left_out],
            drafts=[],
            next_cursor=None,
            issues_at=await _issues_at(call, period),
        )
    )


async def _preview_close(call: Call[Closing, NoQuery], period: Period) -> Reply:
    body, control = call.body, call.control
    if body.cursor is None:
        await control.rollups.roll_up(full=True)  # once, before the first page
    try:
        page = await preview.preview_close(
            control.engine,
            period,
            terms=terms_of(control.settings),
            account_ids=body.accounts,
            cursor=body.cursor,
            limit=body.limit,
        )
    except ValueError as error:
        raise _wrong_cursor(error) from error
    drafts = [each.draft for each in page.items if each.draft is not None]
    return Reply(
        Closed(
            period=body.period,
            dry_run=True,
            accounts=len(drafts),
            made=sum(each.draft is not None and each.is_open for each in page.items),
            lines=page.lines,
            late_lines=page.late_lines,
            totals=_totals([(draft.currency, draft.total) for draft in drafts]),
            left_out=[LeftOut.model_validate(each, from_attributes=True) for each in page.left_out],
            drafts=[_difference(each) for each in page.items],
            next_cursor=page.next_cursor,
            issues_at=None,
        )
    )


async def issue_month(call: Call[Issuing, NoQuery]) -> Reply:
    """Issue a month's drafts, and tell their customers."""
    body, control = call.body, call.control
    period = parse_period(body.period)
    if body.dry_run:
        return await _preview_issue(call, period)
    _refuse_cursor(body.cursor)
    report = await billing.issue_month(
        control,
        period,
        by=call.by,
        told=tell_issued,
        hold=body.hold,
        account_ids=body.accounts,
        confirmed=body.confirmed,
        keep=False,
    )
    shown: list[Invoice] = []
    if report.first_number is not None and report.last_number is not None:
        async with control.engine.connect() as connection:
            numbers = (report.first_number, report.last_number)
            shown = await invoices.numbered(connection, period.first, *numbers, limit=body.limit)
    return Reply(
        Issued(
            period=body.period,
            dry_run=False,
            done=report.done,
            count=report.count,
            totals=report.totals,
            held=report.held,
            issues_at=await _issues_at(call, period) if report.held else None,
            invoices=[InvoiceOut(**invoice_fields(each)) for each in shown],
            next_cursor=None,
            digest=None,
            in_force=await control.project(),
        )
    )


async def _issues_at(call: Call[Any, Any], period: Period) -> datetime | None:
    """Return when what is left of a month is issued by itself; None for one that was not closed for all."""
    async with call.control.engine.connect() as connection:
        unissued = await invoices.months_open(connection)
    terms = terms_of(call.control.settings)
    for each in unissued:
        if each.first == period.first:
            return billing.issues_at(period, each.closed_at, each.closed_by, terms)
    return None


async def _preview_issue(call: Call[Issuing, NoQuery], period: Period) -> Reply:
    body, engine = call.body, call.control.engine
    if body.confirmed is not None:
        raise invalid([FieldError("body.confirmed", "goes without dry_run, which tells what to confirm")])
    chosen: Mapping[str, Any] = {"hold": body.hold, "account_ids": body.accounts}
    # Before the drafts are read: one that changes meanwhile makes it wrong, and nothing is issued with it.
    digest = await preview.digest_issue(engine, period, **chosen) if body.cursor is None else None
    try:
        page = await preview.preview_issue(
            engine,
            period,
            **chosen,
            cursor=body.cursor,
            limit=body.limit,
        )
    except ValueError as error:
        raise _wrong_cursor(error) from error
    return Reply(
        Issued(
            period=body.period,
            dry_run=True,
            done=False,
            count=len(page.items),
            totals=_totals([(each.currency, each.total) for each in page.items]),
            issues_at=None,
            held=body.hold,
            invoices=[InvoiceOut(**invoice_fields(each)) for each in page.items],
            next_cursor=page.next_cursor,
            digest=digest,
            in_force=True,
        )
    )


async def tell_issued(connection: AsyncConnection, issued: Sequence[Invoice]) -> None:
    """Keep a notice of each invoice, in the transaction that issues it."""
    told = []
    for each in issued:
        assert each.reference is not None and each.issued_on is not None and each.due_on is not None
        told.append(
            texts.invoice_issued(
                account_id=each.account_id,
                invoice_id=each.id,
                number=each.reference,
                currency=each.currency,
                total=each.total,
                period_first=each.period.first,
                issued_on=each.issued_on,
                due_on=each.due_on,
            )
        )
    if issued and issued[0].issued_at is not None:
        await notices.add(connection, told, now=issued[0].issued_at)


def _difference(compared: Compared) -> Difference:
    """Tell an account's charge as it would be now from what there is."""
    draft, there = compared.draft, compared.invoice
    either = draft or there
    assert either is not None  # one of both is given
    return Difference(
        account_id=compared.account_id,
        currency=either.currency,
        total=draft.total if draft is not None else ZERO,
        invoice=there.id if there is not None else None,
        invoice_status=there.status if there is not None else None,
        invoice_total=there.total if there is not None else None,
        difference=compared.difference,
        lines=[line_out(line) for line in draft.lines] if draft is not None else [],
    )


def _totals(amounts: Sequence[tuple[str, Decimal]]) -> dict[str, Decimal]:
    totals: dict[str, Decimal] = {}
    for currency, amount in amounts:
        totals[currency] = totals.get(currency, ZERO) + amount
    return totals


def _refuse_cursor(cursor: str | None) -> None:
    if cursor is not None:
        raise invalid(
            [FieldError("body.cursor", "goes with dry_run: what is done is done for the whole month")]
        )


def _wrong_cursor(error: ValueError) -> Problem:
    return invalid([FieldError("body.cursor", str(error))])


OPERATIONS = (
    Operation(
        "closeMonth",
        "POST",
        "/v1/invoices/close",
        "Reckon a month into drafts; doing it again reckons the drafts anew",
        close_month,
        rights=(Right.BILLS_WRITE,),
        body=Closing,
        answer=Closed,
    ),
    Operation(
        "issueMonth",
        "POST",
        "/v1/invoices/issue",
        "Issue a closed month's drafts; doing it again issues nothing",
        issue_month,
        rights=(Right.BILLS_WRITE,),
        body=Issuing,
        answer=Issued,
    ),
)
