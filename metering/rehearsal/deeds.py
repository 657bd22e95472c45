"""What single customers do, and what is done about them: payments, disputes, moves, ends, late counts."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from functools import partial

from metering.billing.disputes import open_dispute, resolve
from metering.billing.moves import move
from metering.billing.payments import NewPayment, receive, reverse
from metering.ledger import invoices, keys, usage
from metering.ledger.invoices import Invoice
from metering.rating import LineKind
from metering.rehearsal import fleet
from metering.rehearsal.books import Bill, Received
from metering.rehearsal.fleet import Payment, Shop, aware, instant
from metering.rehearsal.stage import BY, Member, Stage
from metering.snapshot import Snapshot
from policies.money import round_cents
from policies.period import Period, day_of
from policies.plan_versions import Move

NOON_S = 43_200
RESOLVED_AFTER = timedelta(days=9)


def get_invoice(stage: Stage, member: Member, invoice: Invoice, at: float) -> None:
    """Take an invoice into the customer's books, and queue what the customer makes of it."""
    assert invoice.issued_on is not None  # it was issued just now
    customer, books, month = member.customer, member.books, invoice.period
    books.bills.append(Bill(invoice.id, month.first, invoice.issued_on, invoice.total))
    books.settle(at)
    planned = fleet.payments_for(customer, invoice.issued_on, stage.zone, stage.seed)
    for index, payment in enumerate(planned):
        stage.at(payment.at, partial(pay, stage, member, invoice.id, index, payment), member)
    if fleet.disputed_month(customer, month.first, stage.seed):
        opens = instant(invoice.issued_on + timedelta(days=6), NOON_S, stage.zone)
        stage.at(opens, partial(dispute, stage, member, invoice), member)
    share = fleet.late_share(customer, month.first, stage.seed)
    if share and month.last_excluded < stage.span.last_excluded:  # there is a next invoice for it
        stage.at(at + 86_400, partial(count_late, stage, member, month, share), member)


async def pay(stage: Stage, member: Member, invoice_id: str, index: int, planned: Payment, at: float) -> None:
    """Pay a share of what is outstanding of an invoice; some send everything twice."""
    amount = round_cents(member.books.outstanding()[invoice_id] * planned.share)
    if amount <= 0:
        return
    named = invoice_id if member.customer.names_invoices else None
    new = NewPayment(member.account_id, amount, aware(at), f"{invoice_id}/{index}", invoice_id=named)
    async with stage.engine.begin() as connection:
        payment, _ = await receive(connection, new, terms=stage.terms, now=aware(at), by=BY)
    member.books.received[payment.id] = Received(amount, named)
    member.books.settle(at)
    if member.customer.number % 10 == 0:
        async with stage.engine.begin() as connection:
            again, fresh = await receive(connection, new, terms=stage.terms, now=aware(at), by=BY)
        if fresh or again.id != payment.id:
            stage.wrong.append(f"{member.customer.name}: a payment that was sent twice counted twice")
    if planned.reversed_at is not None:
        stage.at(planned.reversed_at, partial(take_back, stage, member, payment.id), member)


async def take_back(stage: Stage, member: Member, payment_id: str, at: float) -> None:
    """Let the bank take a payment back."""
    async with stage.engine.begin() as connection:
        await reverse(
            connection, payment_id, reason="returned by the bank", terms=stage.terms, now=aware(at), by=BY
        )
    member.books.reversed += member.books.received.pop(payment_id).amount
    member.books.settle(at)


async def dispute(stage: Stage, member: Member, invoice: Invoice, at: float) -> None:
    """Dispute the dearest line of usage, if there is one; every other dispute is accepted by half."""
    async with stage.engine.begin() as connection:
        lines = await invoices.lines(connection, invoice.id)
        usable = [line for line in lines if line.kind is LineKind.USAGE and line.amount > 0]
        if not usable:
            return
        line = max(usable, key=lambda line: (line.amount, line.site or "", line.first, line.tier))
        opened = await open_dispute(
            connection,
            invoice.id,
            line.position,
            evidence="our own log has half of these calls",
            determined_on=day_of(at, stage.zone),
            terms=stage.terms,
            now=aware(at),
            by=BY,
        )
    bill = next(bill for bill in member.books.bills if bill.invoice_id == invoice.id)
    bill.disputed += opened.amount
    member.books.settle(at)
    accepted = (member.customer.number + invoice.period.first.month) % 2 == 0
    quantity = line.quantity // 2 if accepted else None
    ends = instant(day_of(at, stage.zone) + RESOLVED_AFTER, NOON_S, stage.zone)
    stage.at(ends, partial(decide, stage, member, bill, opened.id, opened.amount, quantity), member)


async def decide(
    stage: Stage,
    member: Member,
    bill: Bill,
    dispute_id: str,
    amount: Decimal,
    quantity: Decimal | None,
    at: float,
) -> None:
    """Accept a dispute with the right quantity, or reject it without one."""
    async with stage.engine.begin() as connection:
        _, note = await resolve(
            connection,
            dispute_id,
            accepted=quantity is not None,
            resolution="the log is right" if quantity is None else "half of the calls were ours",
            quantity=quantity,
            terms=stage.terms,
            now=aware(at),
            by=BY,
        )
    bill.disputed -= amount
    bill.credited += Decimal(0) if note is None else note.total
    member.books.settle(at)


async def change_price(stage: Stage, member: Member, shop: Shop, first: date, at: float) -> None:
    """Move a shop to the second version of its plan's price."""
    async with stage.engine.begin() as connection:
        key_id = member.keys[shop.site]
        await move(connection, key_id, Move(first, 2), terms=stage.terms, now=aware(at), by=BY)


async def end(stage: Stage, member: Member, shop: Shop, at: float) -> None:
    """Close a shop's key."""
    async with stage.engine.begin() as connection:
        await keys.close(connection, member.keys[shop.site], at=aware(at), now=aware(at), by=BY)


async def count_late(stage: Stage, member: Member, month: Period, share: Decimal, at: float) -> None:
    """Let the counts of a month's last day grow by a share, as when a journal is read late."""
    day = month.last_excluded - timedelta(days=1)
    async with stage.engine.begin() as connection:
        found = await usage.read(connection, [(key_id, day) for key_id in member.keys.values()])
        grown = [
            counted(
                each.key_id,
                day,
                {name: [n + int(n * share) for n in numbers] for name, numbers in each.methods.items()},
            )
            for each in found
            if each.methods
        ]
        await usage.write(connection, grown)


def counted(key_id: str, day: date, methods: dict[tuple[str, str], list[int]]) -> Snapshot:
    """Return a key's day as a roll-up would write it."""
    used = sum(numbers[1] for numbers in methods.values())
    back = sum(numbers[2] for numbers in methods.values())
    return Snapshot(key_id, day, used=used, back=back, methods=methods)
