"""The run through the days: what happens is queued by its instant, and done by the real functions."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncEngine

from metering import catalogue
from metering.billing.close import close
from metering.billing.disputes import open_dispute, resolve
from metering.billing.issue import issue
from metering.billing.moves import move
from metering.billing.payments import NewPayment, receive, reverse
from metering.billing.terms import Terms
from metering.catalogue import Shop as Seller
from metering.ledger import accounts, invoices, keys, usage
from metering.ledger.audit import Author
from metering.ledger.invoices import Invoice
from metering.ledger.keys import NewCredential, NewKey
from metering.rating import LineKind
from metering.rehearsal import checks, fleet
from metering.rehearsal.books import Bill, Books, Received
from metering.rehearsal.fleet import Customer, Payment, Shop, aware, instant
from metering.rehearsal.prices import price_lists
from metering.rehearsal.report import Account, Report
from metering.snapshot import Snapshot
from policies.money import round_cents
from policies.period import Period, add_months, day_of, midnight, month_of, next_day
from policies.plan_versions import NOTICE_DAYS, Move
from policies.standing import Standing

BY = Author("rehearsal")
CHUNK = 5_000  # key days that are written at a time
LANES = 4  # customers who act at a time, each on a connection
RUN_OUT_DAYS = 75  # after the span, in which its last invoices are issued, paid and disputed
HALF_AN_HOUR_S, TEN_HOURS_S = 1_800, 36_000

Happening = Callable[[float], Awaitable[None]]
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
    run = _Run(engine, span, terms, customers, seed)
    await run.through(progress)
    return await run.told()


@dataclass(slots=True)
class _Member:
    """A customer with what is known of it so far."""

    customer: Customer
    books: Books
    account_id: str = ""
    keys: dict[str, str] = field(default_factory=dict)  # by site


class _Run:
    def __init__(self, engine: AsyncEngine, span: Period, terms: Terms, customers: int, seed: int) -> None:
        self._engine = engine
        self._span = span
        self._terms = terms
        self._zone = terms.zone
        self._seed = seed
        self._plans = [plan.name for plan in terms.contract.plans.values() if not plan.sandbox]
        self._months = list(_months(span))
        # A new price in the middle of the span, when there is time for its notice.
        self._moving = self._months[len(self._months) // 2] if len(self._months) >= 4 else None
        made = fleet.fleet(customers, span, self._plans, self._zone, seed, self._moving)
        self._members = [_Member(customer, Books()) for customer in made]
        self._by_account: dict[str, _Member] = {}
        self._queue: list[tuple[float, int, _Member | None, Happening]] = []
        self._order = 0
        self._wrong: list[str] = []
        self._plan_events()

    async def through(self, progress: Progress | None) -> None:
        """Do everything that is queued, in the order of time."""
        days = (self._span.last_excluded - self._span.first).days + RUN_OUT_DAYS
        while self._queue:
            day = day_of(self._queue[0][0], self._zone)
            await self._next_of(midnight(next_day(day), self._zone))
            if progress is not None:
                progress(min(days, (day - self._span.first).days), days)
        if progress is not None:
            progress(days, days)

    async def _next_of(self, ends: float) -> None:
        """Do what comes next before `ends`: one thing that is about all, or all that single customers do.

        Customers do nothing to each other, so they act side by side, each in the order of its own time.
        """
        at, _, member, happening = heapq.heappop(self._queue)
        if member is None:
            await happening(at)
            return
        acts = {id(member): [(at, happening)]}
        while self._queue and self._queue[0][0] < ends:
            at, _, member, happening = self._queue[0]
            if member is None:
                break
            heapq.heappop(self._queue)
            acts.setdefault(id(member), []).append((at, happening))
        waiting = iter(acts.values())
        await asyncio.gather(*(_act(waiting) for _ in range(min(LANES, len(acts)))))

    async def told(self) -> Report:
        """Check what is left behind, and tell it."""
        told = []
        until = midnight(self._span.last_excluded, self._zone) + RUN_OUT_DAYS * 86_400
        for member in self._members:
            books = member.books
            told.append(
                Account(
                    customer=member.customer,
                    charged=[(bill.month, bill.total, bill.credited) for bill in books.bills],
                    paid=sum((each.amount for each in books.received.values()), Decimal("0.00")),
                    reversed=books.reversed,
                    balance=books.balance(),
                    turns=books.turns(self._terms.contract.steps, self._zone, until),
                )
            )
        found = [
            checks.Check("every step was done as planned", len(self._members), tuple(sorted(self._wrong))),
            *await checks.of_money(
                self._engine, {m.account_id: m.books for m in self._members if m.account_id}
            ),
            await checks.of_standing(
                self._engine,
                self._terms.contract,
                [(m.books, list(m.keys.values())) for m in self._members],
                until,
            ),
        ]
        return Report(self._span, self._zone.key, self._terms.currency, self._seed, tuple(told), tuple(found))

    def _plan_events(self) -> None:
        self._at(midnight(self._span.first, self._zone), self._announce(1, self._span.first))
        if self._moving is not None:
            announced = self._moving - timedelta(days=NOTICE_DAYS)
            self._at(instant(announced, TEN_HOURS_S, self._zone), self._announce(2, self._moving))
        for month in self._months:
            after = add_months(month, 1)
            self._at(midnight(month, self._zone), self._arrive(month_of(month)))
            self._at(midnight(after, self._zone), self._count(month_of(month)))
            self._at(midnight(after, self._zone) + HALF_AN_HOUR_S, self._close(month_of(month)))
            issued_on = fleet.issue_day(month, self._terms.issue_day, self._seed)
            self._at(instant(issued_on, TEN_HOURS_S, self._zone), self._issue(month_of(month)))
        for member in self._members:
            for shop in member.customer.shops:
                if shop.moves_on is not None:
                    asked = shop.moves_on - timedelta(days=5)
                    self._at(instant(asked, TEN_HOURS_S, self._zone), self._move(member, shop), member)
                if shop.closes_at is not None:
                    self._at(shop.closes_at, self._end(member, shop), member)

    def _at(self, at: float, happening: Happening, member: _Member | None = None) -> None:
        """Queue what happens, to one member alone where one is given; the first queued comes first."""
        self._order += 1
        heapq.heappush(self._queue, (at, self._order, member, happening))

    def _announce(self, version: int, effective_from: date) -> Happening:
        async def announce(at: float) -> None:
            now, seller = aware(at), self._seller()
            entries = price_lists(self._plans, version, effective_from, seller, now)
            async with self._engine.begin() as connection:
                await catalogue.apply(connection, entries, seller, now=now, by=BY)

        return announce

    def _seller(self) -> Seller:
        return Seller(plans=self._plans, currency=self._terms.currency, zone=self._zone)

    def _arrive(self, month: Period) -> Happening:
        async def arrive(at: float) -> None:
            now = aware(at)
            new: list[tuple[_Member, Shop, NewKey]] = []
            async with self._engine.begin() as connection:
                for member in self._members:
                    customer = member.customer
                    for shop in customer.shops:
                        if day_of(shop.bought_at, self._zone) not in month:
                            continue
                        if not member.account_id:
                            account = await accounts.create(
                                connection,
                                name=customer.name,
                                currency=self._terms.currency,
                                main_domain=customer.domain,
                                first_request_at=aware(customer.first_request_at),
                                now=now,
                                by=BY,
                            )
                            member.account_id = account.id
                            self._by_account[account.id] = member
                        credential = NewCredential(f"rehearsed:{shop.site}", "rehearsal", shop.site[:8])
                        key = NewKey(
                            member.account_id,
                            shop.plan,
                            credential,
                            site=shop.site,
                            purchased_at=aware(shop.bought_at),
                        )
                        new.append((member, shop, key))
                made = await keys.create_many(connection, [key for _, _, key in new], now=now, by=BY)
            for (member, shop, _), created in zip(new, made, strict=True):
                member.keys[shop.site] = created.id

        return arrive

    def _count(self, month: Period) -> Happening:
        async def count(at: float) -> None:
            async with self._engine.begin() as connection:
                for chunk in _chunks(list(self._counted(month, at))):
                    await usage.write(connection, chunk)

        return count

    def _counted(self, month: Period, at: float) -> Iterator[Snapshot]:
        """Yield a month's counts; who is banned at the begin of a day makes no calls on it."""
        steps = self._terms.contract.steps
        for member in self._members:
            if not member.account_id:
                continue
            turns = member.books.turns(steps, self._zone, at)
            day = month.first
            while day in month:
                begins = midnight(day, self._zone)
                standing = [to for since, to in turns if since <= begins][-1:]
                if standing != [Standing.BANNED]:
                    yield from self._counted_on(member, day)
                day = next_day(day)

    def _counted_on(self, member: _Member, day: date) -> Iterator[Snapshot]:
        begins, ends = midnight(day, self._zone), midnight(next_day(day), self._zone)
        for shop in member.customer.shops:
            closed = shop.closes_at is not None and shop.closes_at <= begins
            if closed or shop.bought_at >= ends or shop.site not in member.keys:
                continue
            methods = fleet.calls_of(member.customer, shop, day, self._seed)
            if methods:
                yield _snapshot(member.keys[shop.site], day, methods)

    def _close(self, month: Period) -> Happening:
        async def run(at: float) -> None:
            told = await close(self._engine, month, terms=self._terms, now=aware(at), by=BY)
            self._wrong += [f"{month.first:%Y-%m}: {each.reason}" for each in told.left_out]

        return run

    def _issue(self, month: Period) -> Happening:
        async def run(at: float) -> None:
            told = await issue(self._engine, month, terms=self._terms, now=aware(at), by=BY)
            by_number = sorted(
                told.issued, key=lambda each: self._by_account[each.account_id].customer.number
            )
            for invoice in by_number:
                self._enter(self._by_account[invoice.account_id], invoice, at)

        return run

    def _enter(self, member: _Member, invoice: Invoice, at: float) -> None:
        """Take an invoice into the customer's books, and queue what the customer makes of it."""
        assert invoice.issued_on is not None  # it was issued just now
        customer, books, month = member.customer, member.books, invoice.period
        books.bills.append(Bill(invoice.id, month.first, invoice.issued_on, invoice.total))
        books.settle(at)
        for index, payment in enumerate(
            fleet.payments_for(customer, invoice.issued_on, self._zone, self._seed)
        ):
            self._at(payment.at, self._pay(member, invoice.id, index, payment), member)
        if fleet.disputed_month(customer, month.first, self._seed):
            opens = instant(invoice.issued_on + timedelta(days=6), TEN_HOURS_S, self._zone)
            self._at(opens, self._dispute(member, invoice), member)
        if month.last_excluded < self._span.last_excluded:
            share = fleet.late_share(customer, month.first, self._seed)
            if share:
                self._at(at + 86_400, self._count_late(member, month, share), member)

    def _count_late(self, member: _Member, month: Period, share: Decimal) -> Happening:
        async def count(at: float) -> None:
            day = month.last_excluded - timedelta(days=1)
            async with self._engine.begin() as connection:
                places = [(key_id, day) for key_id in member.keys.values()]
                found = [each for each in await usage.read(connection, places) if each.methods]
                grown = [
                    _snapshot(
                        each.key_id,
                        day,
                        {
                            name: [n + int(n * share) for n in numbers]
                            for name, numbers in each.methods.items()
                        },
                    )
                    for each in found
                ]
                await usage.write(connection, grown)

        return count

    def _pay(self, member: _Member, invoice_id: str, index: int, planned: Payment) -> Happening:
        async def pay(at: float) -> None:
            amount = round_cents(member.books.outstanding()[invoice_id] * planned.share)
            if amount <= 0:
                return
            named = invoice_id if member.customer.names_invoices else None
            new = NewPayment(member.account_id, amount, aware(at), f"{invoice_id}/{index}", invoice_id=named)
            async with self._engine.begin() as connection:
                payment, _ = await receive(connection, new, terms=self._terms, now=aware(at), by=BY)
            member.books.received[payment.id] = Received(amount, named)
            member.books.settle(at)
            if member.customer.number % 10 == 0:  # some send everything twice
                async with self._engine.begin() as connection:
                    again, fresh = await receive(connection, new, terms=self._terms, now=aware(at), by=BY)
                if fresh or again.id != payment.id:
                    self._wrong.append(f"{member.customer.name}: a payment that was sent twice counted twice")
            if planned.reversed_at is not None:
                self._at(planned.reversed_at, self._reverse(member, payment.id), member)

        return pay

    def _reverse(self, member: _Member, payment_id: str) -> Happening:
        async def run(at: float) -> None:
            async with self._engine.begin() as connection:
                await reverse(
                    connection,
                    payment_id,
                    reason="returned by the bank",
                    terms=self._terms,
                    now=aware(at),
                    by=BY,
                )
            member.books.reversed += member.books.received.pop(payment_id).amount
            member.books.settle(at)

        return run

    def _dispute(self, member: _Member, invoice: Invoice) -> Happening:
        async def run(at: float) -> None:
            async with self._engine.begin() as connection:
                lines = await invoices.lines(connection, invoice.id)
                usable = [line for line in lines if line.kind is LineKind.USAGE and line.amount > 0]
                if not usable:
                    return
                line = max(usable, key=lambda line: (line.amount, line.site or "", line.first, line.tier))
                dispute = await open_dispute(
                    connection,
                    invoice.id,
                    line.position,
                    evidence="our own log has half of these calls",
                    determined_on=day_of(at, self._zone),
                    terms=self._terms,
                    now=aware(at),
                    by=BY,
                )
            bill = next(bill for bill in member.books.bills if bill.invoice_id == invoice.id)
            bill.disputed += dispute.amount
            member.books.settle(at)
            accepted = (member.customer.number + invoice.period.first.month) % 2 == 0
            resolved = instant(day_of(at, self._zone) + timedelta(days=9), TEN_HOURS_S, self._zone)
            quantity = line.quantity // 2 if accepted else None
            self._at(resolved, self._resolve(member, bill, dispute.id, dispute.amount, quantity), member)

        return run

    def _resolve(
        self, member: _Member, bill: Bill, dispute_id: str, amount: Decimal, quantity: Decimal | None
    ) -> Happening:
        async def run(at: float) -> None:
            async with self._engine.begin() as connection:
                _, note = await resolve(
                    connection,
                    dispute_id,
                    accepted=quantity is not None,
                    resolution="half of the calls were ours" if quantity is not None else "the log is right",
                    quantity=quantity,
                    terms=self._terms,
                    now=aware(at),
                    by=BY,
                )
            bill.disputed -= amount
            bill.credited += Decimal(0) if note is None else note.total
            member.books.settle(at)

        return run

    def _move(self, member: _Member, shop: Shop) -> Happening:
        async def run(at: float) -> None:
            assert shop.moves_on is not None  # it was queued for that
            key_id = member.keys[shop.site]
            async with self._engine.begin() as connection:
                await move(
                    connection, key_id, Move(shop.moves_on, 2), terms=self._terms, now=aware(at), by=BY
                )

        return run

    def _end(self, member: _Member, shop: Shop) -> Happening:
        async def run(at: float) -> None:
            async with self._engine.begin() as connection:
                await keys.close(connection, member.keys[shop.site], at=aware(at), now=aware(at), by=BY)

        return run


async def _act(waiting: Iterator[list[tuple[float, Happening]]]) -> None:
    """Take one customer after the other, and do what each does."""
    for acts in waiting:
        for at, happening in acts:
            await happening(at)


def _snapshot(key_id: str, day: date, methods: dict[tuple[str, str], list[int]]) -> Snapshot:
    used = sum(numbers[1] for numbers in methods.values())
    back = sum(numbers[2] for numbers in methods.values())
    return Snapshot(key_id, day, used=used, back=back, methods=methods)


def _chunks(snapshots: Sequence[Snapshot]) -> Iterator[Sequence[Snapshot]]:
    for start in range(0, len(snapshots), CHUNK):
        yield snapshots[start : start + CHUNK]


def _months(span: Period) -> Iterator[date]:
    month = span.first
    while month < span.last_excluded:
        yield month
        month = add_months(month, 1)
