"""Billing by itself: a month is closed when it is over, and issued on the day that the settings name.

Both may run on several nodes at once and any number of times: a month has one draft per account, and a
draft is issued once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Set
from datetime import date, datetime, timedelta

import structlog

from gateway.control.resources import Control
from gateway.control.terms import terms_of
from metering.billing.close import CloseReport, close
from metering.billing.errors import BillingError
from metering.billing.issue import IssueReport, Told, issue
from metering.billing.reconcile import Kind, reconcile
from metering.billing.terms import Terms
from metering.ledger import invoices, plan_versions
from metering.ledger.audit import Author
from policies.period import Period, midnight, month_of

AUTHOR = Author("billing")
TRY_AGAIN_S = 3_600.0  # a month with accounts that are held is looked at so often
# Who closes a month whose day has come wants to see its drafts: so long nothing is issued over their heads.
LOOK = timedelta(days=1)
SHOWN = 20  # in one log line
HOLDING = {Kind.COUNTER, Kind.BILLED, Kind.INVOICE}  # differences with which no invoice is issued

log = structlog.get_logger("gateway.control")


async def close_month(
    control: Control,
    period: Period,
    *,
    by: Author,
    account_ids: Collection[str] | None = None,
) -> CloseReport:
    """Roll everything up, and make a month's drafts; raises BillingError."""
    await control.rollups.roll_up(full=True)
    return await close(
        control.engine,
        period,
        terms=terms_of(control.settings),
        now=control.now(),
        by=by,
        account_ids=account_ids,
    )


async def issue_month(
    control: Control,
    period: Period,
    *,
    by: Author,
    told: Told,
    hold: Collection[str] = (),
    account_ids: Collection[str] | None = None,
    confirmed: str | None = None,
    keep: bool = True,
) -> IssueReport:
    """Roll everything up, make the drafts anew, compare the books, and issue what agrees.

    Raises BillingError for a month that was not closed, and when the drafts, made anew, are not those that
    were `confirmed`; then nothing is issued.
    Accounts of which counters, ledger and drafts do not agree are held as drafts and named in the log, like
    those of `hold`; with `account_ids` only these are issued. Without `keep` the report has no invoices, and
    memory does not grow with them.
    """
    account_ids = await _closed(control, period, account_ids)
    await close_month(control, period, by=by, account_ids=account_ids)
    terms = terms_of(control.settings)
    found = await reconcile(control.engine, control.redis, period, terms=terms)
    held = [each for each in found.differences if each.kind in HOLDING and each.account_id is not None]
    if held:
        log.error(
            "accounts whose books do not agree are not invoiced",
            month=f"{period.first:%Y-%m}",
            accounts=len({each.account_id for each in held}),
            first=[f"{each.kind} {each.object_id}: {each.expected}; {each.found}" for each in held[:SHOWN]],
        )
    report = await issue(
        control.engine,
        period,
        terms=terms,
        now=control.now(),
        by=by,
        hold=hold,
        disagreeing={each.account_id for each in held if each.account_id is not None},
        account_ids=account_ids,
        confirmed=confirmed,
        told=told,
        keep=keep,
    )
    await control.project()
    return report


async def _closed(
    control: Control, period: Period, account_ids: Collection[str] | None
) -> Collection[str] | None:
    """Return of which accounts drafts are made anew, None for all; raises BillingError when it is none.

    What nobody closed is not closed on the way: nobody has seen a draft of it.
    """
    async with control.engine.connect() as connection:
        if await invoices.is_closed(connection, period.first):
            return account_ids
        there = await invoices.of_month(connection, period, list(account_ids or ()))
    if not there:
        month = f"{period.first:%Y-%m}"
        raise BillingError("not_closed", f"{month} was not closed: close it, and look at its drafts before")
    return {invoice.account_id for invoice in there}


def issues_at(period: Period, closed_at: datetime, closed_by: str, terms: Terms) -> datetime:
    """Return when the drafts of a month are issued by themselves, if people do not issue them before."""
    day = period.last_excluded + timedelta(days=terms.issue_day - 1)
    due = datetime.fromtimestamp(midnight(day, terms.zone), terms.zone)
    by_hand = closed_by != AUTHOR.actor
    return (closed_at + LOOK).astimezone(terms.zone) if by_hand and closed_at >= due else due


class BillingRounds:
    """Looks again and again which month is due."""

    def __init__(self, control: Control, told: Told, clock: Callable[[], float]) -> None:
        self._control = control
        self._told = told
        self._clock = clock
        self._tried: dict[date, float] = {}
        self._named: set[date] = set()

    async def round(self) -> None:
        """Close the months that are over and were not closed yet, and issue those whose day has come."""
        control = self._control
        terms = terms_of(control.settings)
        today = terms.day_of(control.now())
        async with control.engine.connect() as connection:
            begun = await plan_versions.first_applied(connection)
            closed = await invoices.closed_months(connection)
        if begun is None:
            return  # nothing is sold
        first = month_of(terms.day_of(begun))
        if closed:
            self._name_passed_over(first, closed)
            first = month_of(month_of(max(closed)).last_excluded)
        while first.last_excluded <= today:
            report = await close_month(control, first, by=AUTHOR)
            log.info("a month was closed", month=f"{first.first:%Y-%m}", accounts=report.accounts)
            if report.left_out:
                # One that was never used is in no book that could disagree: nothing else would tell of it.
                log.warning(
                    "keys that cannot be rated are not invoiced",
                    month=f"{first.first:%Y-%m}",
                    keys=len(report.left_out),
                    first=[f"{each.key_id}: {each.reason}" for each in report.left_out[:SHOWN]],
                )
            first = month_of(first.last_excluded)
        async with control.engine.connect() as connection:
            unissued = await invoices.months_open(connection)
        for each in unissued:
            month = month_of(each.first)
            if control.now() >= issues_at(month, each.closed_at, each.closed_by, terms):
                await self._issue(month)

    def _name_passed_over(self, first: Period, closed: Set[date]) -> None:
        """Log the months that nobody closed before a later one; what becomes of them people have to say."""
        while first.first < max(closed):
            if first.first not in closed and first.first not in self._named:
                self._named.add(first.first)
                log.warning("a month was passed over, and is not billed", month=f"{first.first:%Y-%m}")
            first = month_of(first.last_excluded)

    async def _issue(self, month: Period) -> None:
        tried = self._tried.get(month.first)
        if tried is not None and self._clock() - tried < TRY_AGAIN_S:
            return
        report = await issue_month(self._control, month, by=AUTHOR, told=self._told, keep=False)
        # Only now: a store that was away is tried again with the next round.
        self._tried[month.first] = self._clock()
        log.info(
            "a month was issued",
            month=f"{month.first:%Y-%m}",
            invoices=report.count,
            held=len(report.held),
        )
