"""The run through the days: what happens is queued by its instant, and done by the real functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from decimal import Decimal
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from metering import catalogue
from metering.billing.close import close
from metering.billing.issue import issue
from metering.billing.terms import Terms
from metering.catalogue_entry import Shop as Seller
from metering.ledger import accounts, keys, usage
from metering.ledger.credentials import NewCredential
from metering.ledger.keys import NewKey
from metering.rehearsal import checks, deeds, fleet
from metering.rehearsal.fleet import Shop, aware, instant
from metering.rehearsal.prices import price_lists
from metering.rehearsal.report import Account, Report
from metering.rehearsal.stage import BY, Member, Stage
from metering.snapshot import Snapshot
from policies.period import Period, add_months, day_of, midnight, month_of, next_day
from policies.plan_versions import NOTICE_DAYS
from policies.standing import Standing

CHUNK = 5_000  # key days that are written at a time
RUN_OUT_DAYS = 75  # after the span, in which its last invoices are issued, paid and disputed
CLOSED_AFTER_S, MORNING_S = 1_800, 36_000

Progress = Callable[[int, int], None]  # days done, days in all


async def rehearse(
    engine: AsyncEngine,
    span: Period,
    *,
    terms: Terms,
    customers: int,
    seed: int,
    progress: Progress | None = None,
) -> Report:
    """Run a fleet through whole months on an empty ledger and tell what became of it.

    Afterwards the last month's invoices are issued and run out. Raises ValueError for a span that is not made
    of whole months.
    """
    if span.first.day != 1 or span.last_excluded.day != 1 or span.first == span.last_excluded:
        raise ValueError("a rehearsal runs from the first day of a month to that of a later one")
    run = _Run(Stage(engine, terms, span, seed), customers)
    await run.through(progress)
    return await run.told()


class _Run:
    """What happens to all customers together."""

    def __init__(self, stage: Stage, customers: int) -> None:
        self._stage = stage
        self._plans = [plan.name for plan in stage.terms.contract.plans.values() if not plan.sandbox]
        months = list(_months(stage.span))
        # A new price in the middle of the span, when there is time for its notice.
        moving = months[len(months) // 2] if len(months) >= 4 else None
        made = fleet.fleet(customers, stage.span, self._plans, stage.zone, stage.seed, moving)
        self._members = [Member(customer) for customer in made]
        self._by_account: dict[str, Member] = {}
        self._queue_prices(moving)
        for month in months:
            self._queue_month(month)
        for member in self._members:
            self._queue_member(member)

    async def through(self, progress: Progress | None) -> None:
        """Do everything that is queued, in the order of time."""
        stage = self._stage
        days = (stage.span.last_excluded - stage.span.first).days + RUN_OUT_DAYS
        while stage.next_at is not None:
            day = day_of(stage.next_at, stage.zone)
            await stage.play()
            if progress is not None:
                progress(min(days, (day - stage.span.first).days), days)
        if progress is not None:
            progress(days, days)

    async def told(self) -> Report:
        """Check what is left behind, and tell it."""
        stage, contract = self._stage, self._stage.terms.contract
        until = midnight(stage.span.last_excluded, stage.zone) + RUN_OUT_DAYS * 86_400
        told = [
            Account(
                customer=member.customer,
                charged=[(bill.month, bill.total, bill.credited) for bill in member.books.bills],
                paid=sum((each.amount for each in member.books.received.values()), Decimal("0.00")),
                reversed=member.books.reversed,
                balance=member.books.balance(),
                turns=member.books.turns(contract.steps, stage.zone, until),
            )
            for member in self._members
        ]
        books = {member.account_id: member.books for member in self._members if member.account_id}
        key_ids = [(member.books, list(member.keys.values())) for member in self._members]
        found = [
            checks.Check("everything was done as planned", len(self._members), tuple(sorted(stage.wrong))),
            *await checks.of_money(
                stage.engine, books, disputed_counts=stage.terms.disputed_counts_as_unpaid
            ),
            await checks.of_standing(stage.engine, contract, key_ids, until),
        ]
        return Report(stage.span, stage.zone.key, stage.terms.currency, stage.seed, tuple(told), tuple(found))

    def _queue_prices(self, moving: date | None) -> None:
        stage, first = self._stage, self._stage.span.first
        stage.at(midnight(first, stage.zone), partial(self._announce, 1, first))
        if moving is not None:
            announced = instant(moving - timedelta(days=NOTICE_DAYS), MORNING_S, stage.zone)
            stage.at(announced, partial(self._announce, 2, moving))

    def _queue_month(self, first: date) -> None:
        stage, month = self._stage, month_of(first)
        over = midnight(month.last_excluded, stage.zone)
        issued_on = fleet.issue_day(first, stage.terms.issue_day, stage.seed)
        stage.at(midnight(first, stage.zone), partial(self._arrive, month))
        stage.at(over, partial(self._count, month))
        stage.at(over + CLOSED_AFTER_S, partial(self._close, month))
        stage.at(instant(issued_on, MORNING_S, stage.zone), partial(self._issue, month))

    def _queue_member(self, member: Member) -> None:
        stage = self._stage
        for shop in member.customer.shops:
            if shop.moves_on is not None:
                asked = instant(shop.moves_on - timedelta(days=5), MORNING_S, stage.zone)
                stage.plan(asked, member, deeds.change_price, shop, shop.moves_on)
            if shop.closes_at is not None:
                stage.plan(shop.closes_at, member, deeds.end, shop)

    async def _announce(self, version: int, effective_from: date, at: float) -> None:
        terms, now = self._stage.terms, aware(at)
        seller = Seller(plans=self._plans, currency=terms.currency, zone=terms.zone)
        entries = price_lists(self._plans, version, effective_from, seller, now)
        async with self._stage.engine.begin() as connection:
            await catalogue.apply(connection, entries, seller, now=now, by=BY)

    async def _arrive(self, month: Period, at: float) -> None:
        """Make the accounts and keys of those who buy in a month."""
        now, stage = aware(at), self._stage
        coming = [
            (member, shop)
            for member in self._members
            for shop in member.customer.shops
            if day_of(shop.bought_at, stage.zone) in month
        ]
        async with stage.engine.begin() as connection:
            for member, _ in coming:
                if member.account_id:
                    continue
                account = await accounts.create(
                    connection,
                    name=member.customer.name,
                    currency=stage.terms.currency,
                    main_domain=member.customer.domain,
                    first_request_at=aware(member.customer.first_request_at),
                    now=now,
                    by=BY,
                )
                member.account_id = account.id
                self._by_account[account.id] = member
            new = [_new_key(member, shop) for member, shop in coming]
            made = await keys.create_many(connection, new, now=now, by=BY)
        for (member, shop), key_id in zip(coming, made, strict=True):
            member.keys[shop.site] = key_id

    async def _count(self, month: Period, at: float) -> None:
        counted = list(self._counted(month, at))
        async with self._stage.engine.begin() as connection:
            for chunk in _chunks(counted):
                await usage.write(connection, chunk)

    def _counted(self, month: Period, at: float) -> Iterator[Snapshot]:
        """Yield a month's counts; who is banned at the begin of a day makes no calls on it."""
        stage = self._stage
        days = [month.first + timedelta(days=n) for n in range((month.last_excluded - month.first).days)]
        spans = [(day, midnight(day, stage.zone), midnight(next_day(day), stage.zone)) for day in days]
        for member in self._members:
            if not member.account_id:
                continue
            turns = member.books.turns(stage.terms.contract.steps, stage.zone, at)
            for day, begins, ends in spans:
                standing = [to for since, to in turns if since <= begins][-1:]
                if standing != [Standing.BANNED]:
                    yield from self._counted_on(member, day, begins, ends)

    def _counted_on(self, member: Member, day: date, begins: float, ends: float) -> Iterator[Snapshot]:
        for shop in member.customer.shops:
            closed = shop.closes_at is not None and shop.closes_at <= begins
            if closed or shop.bought_at >= ends:
                continue
            methods = fleet.calls_of(member.customer, shop, day, self._stage.seed)
            if methods:
                yield deeds.counted(member.keys[shop.site], day, methods)

    async def _close(self, month: Period, at: float) -> None:
        stage = self._stage
        told = await close(stage.engine, month, terms=stage.terms, now=aware(at), by=BY)
        stage.wrong += [f"{month.first:%Y-%m}: {each.reason}" for each in told.left_out]

    async def _issue(self, month: Period, at: float) -> None:
        stage = self._stage
        told = await issue(stage.engine, month, terms=stage.terms, now=aware(at), by=BY)
        got = [(self._by_account[invoice.account_id], invoice) for invoice in told.issued]
        for member, invoice in sorted(got, key=lambda each: each[0].customer.number):
            deeds.get_invoice(stage, member, invoice, at)


def _new_key(member: Member, shop: Shop) -> NewKey:
    credential = NewCredential(f"rehearsed:{shop.site}", "rehearsal", shop.site[:8])
    return NewKey(
        member.account_id, shop.plan, credential, site=shop.site, purchased_at=aware(shop.bought_at)
    )


def _chunks(snapshots: Sequence[Snapshot]) -> Iterator[Sequence[Snapshot]]:
    for start in range(0, len(snapshots), CHUNK):
        yield snapshots[start : start + CHUNK]


def _months(span: Period) -> Iterator[date]:
    month = span.first
    while month < span.last_excluded:
        yield month
        month = add_months(month, 1)
