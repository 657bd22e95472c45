"""Closing a month: every subscription is rated, and each account gets one draft (contract OT-4 to OT-7).

Closing again reckons the drafts anew and leaves issued invoices as they are. What the ledger counted after a
month's invoice was issued comes as late lines on the next draft.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from metering.billing.errors import BillingError
from metering.billing.reckoning import CloseReport, Draft, LeftOut, Reckoning, Versions
from metering.billing.terms import Terms
from metering.ledger import audit, closing, plan_versions, subscriptions
from metering.ledger.audit import Author, Change
from metering.ledger.subscriptions import Subscription
from metering.rating import Segment, segments_of
from policies.period import Period, month_of
from policies.plan_versions import NoPriceError

__all__ = ["CloseReport", "Draft", "LeftOut", "close"]

Progress = Callable[[int, int], None]  # accounts done, accounts in all


async def close(
    engine: AsyncEngine,
    period: Period,
    *,
    terms: Terms,
    now: datetime,
    by: Author,
    account_ids: Collection[str] | None = None,
    progress: Progress | None = None,
) -> CloseReport:
    """Make the drafts of a calendar month, all or none; returns what they hold.

    Raises BillingError for what is no month or not over yet; `preview` tells what it would do.
    """
    check_month(period)
    _check_over(period, terms, now)
    await closing.rate_until(engine, period.last_excluded)
    async with engine.begin() as connection:
        await closing.lock_month(connection, period.first)
        report = await reckon(
            connection, period, terms=terms, account_ids=account_ids, keep=False, progress=progress
        )
        report.made = await closing.make_drafts(
            connection, period, account_ids=account_ids, now=now, by=by.actor
        )
        after = {"accounts": report.accounts, "made": report.made, "left_out": len(report.left_out)}
        change = Change("month.close", "month", f"{period.first:%Y-%m}", None, after)
        await audit.write(connection, [change], now=now, by=by)
    return report


async def reckon(
    connection: AsyncConnection,
    period: Period,
    *,
    terms: Terms,
    account_ids: Collection[str] | None,
    keep: bool,
    progress: Progress | None = None,
) -> CloseReport:
    """Rate a month, once in the caller's transaction; returns the drafts with `keep` and stages them without.

    What is kept is held in memory; what is staged is for `closing.make_drafts`.
    """
    report = CloseReport(period)
    catalogue: Versions = {
        plan: {version.version: version for version in versions}
        for plan, versions in (await plan_versions.by_plan(connection)).items()
    }
    await closing.prepare(connection)
    await _stage_segments(connection, period, terms, catalogue, account_ids, report)
    total = await closing.count(connection, period)
    reckoning = Reckoning(connection, period, terms, catalogue, report, keep=keep)
    await reckoning.add_late(await closing.late(connection, period, account_ids))
    async for rows in closing.counted(connection):
        for row in rows:
            reckoning.add(row)
        await reckoning.carry()
        if progress is not None:
            progress(report.accounts, total)
    await reckoning.finish()
    if progress is not None:
        progress(report.accounts, report.accounts)
    report.drafts.sort(key=lambda draft: draft.account_id)
    return report


def check_month(period: Period) -> None:
    """Raise BillingError for what is no calendar month."""
    if period != month_of(period.first):
        raise BillingError("wrong_date", f"{period.first} to {period.last_excluded} is no calendar month")


def _check_over(period: Period, terms: Terms, now: datetime) -> None:
    today = terms.day_of(now)
    if today < period.last_excluded:
        raise BillingError(
            "not_over",
            f"{period.first:%Y-%m} is not over: it can be closed from {period.last_excluded} on "
            f"({terms.zone.key}); a dry run shows how it stands",
        )


async def _stage_segments(
    connection: AsyncConnection,
    period: Period,
    terms: Terms,
    catalogue: Versions,
    account_ids: Collection[str] | None,
    report: CloseReport,
) -> None:
    """Cut the month of every subscription, and hand the cuts to PostgreSQL to count."""
    only = None if account_ids is None else list(account_ids)
    async for part in subscriptions.through(connection, contract=terms.contract, account_ids=only):
        rows: list[tuple[Any, ...]] = []
        for each in part:
            try:
                segments = _segments(each, period, catalogue)
            except NoPriceError as error:
                report.left_out.append(LeftOut(each.key_id, each.account_id, str(error)))
                continue
            rows += [
                (
                    each.account_id,
                    each.key_id,
                    each.site,
                    each.label,
                    each.plan,
                    number,
                    segment.first,
                    segment.last_excluded,
                    None if segment.version is None else segment.version.version,
                )
                for number, segment in enumerate(segments)
            ]
        await closing.stage_segments(connection, rows)


def _segments(each: Subscription, period: Period, catalogue: Versions) -> tuple[Segment, ...]:
    return segments_of(
        period,
        started=each.started_on,
        trial_until=each.trial_until,
        closed_on=each.closed_on,
        versions=tuple(catalogue.get(each.plan, {}).values()),
        moves=each.moves,
        gaps=each.gaps,
    )
