"""What single customers do, and what is done about them: payments, disputes, moves, ends, late counts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal

from metering.billing.disputes import open_dispute, resolve
from metering.billing.moves import move
from metering.billing.payments import NewPayment, receive_all, reverse_all
from metering.ledger import invoice_lines, key_changes, payments, usage
from metering.ledger.invoices import Invoice
from metering.rating import LineKind
from metering.rehearsal import fleet
from metering.rehearsal.books import Bill, Received
from metering.rehearsal.fleet import Shop, aware, instant
from metering.rehearsal.stage import BY, Deed, Member, Stage, one_by_one
from metering.snapshot import Snapshot
from policies.money import round_cents
from policies.period import Period, day_of
from policies.plan_versions import Move

NOON_S = 43_200
RESOLVED_AFTER = timedelta(days=9)


def get_invoice(stage: Stage, member: Member, invoice: Invoice, at: float) -> None:
    """Take an invoice into the customer's books, and plan what the customer makes of it."""
    assert invoice.issued_on is not None  # it was issued just now
    customer, books, month = member.customer, member.books, invoice.period
    books.bills.append(Bill(invoice.id, month.first, invoice.issued_on, invoice.total))
    books.settle(at)
    planned = fleet.payments_for(customer, invoice.issued_on, stage.zone, stage.seed)
    for index, payment in enumerate(planned):
        stage.plan(payment.at, member, pay, invoice.id, index, payment)
    if fleet.disputed_month(customer, month.first, stage.seed):
        opens = instant(invoice.issued_on + timedelta(days=6), NOON_S, stage.zone)
        stage.plan(opens, member, dispute, invoice)
    share = fleet.late_share(customer, month.first, stage.seed)
    if share and month.last_excluded < stage.span.last_excluded:  # there is a next invoice for it
        stage.plan(at + 86_400, member, count_late, month, share)


async def pay(stage: Stage, deeds: Sequence[Deed]) -> None:
    """Pay shares of what is outstanding of invoices, as a bank's list has it; some send everything twice."""
    sent: list[tuple[Deed, NewPayment]] = []
    for deed in deeds:
        invoice_id, index, planned = deed.given
        member = deed.member
        amount = round_cents(member.books.outstanding()[invoice_id] * planned.share)
        if amount <= 0:
            continue
        named = invoice_id if member.customer.names_invoices else None
        key = f"{invoice_id}/{index}"
        sent.append((deed, NewPayment(member.account_id, amount, aware(deed.at), key, invoice_id=named)))
    received = await _receive(stage, sent)
    twice = [each for each in sent if each[0].member.customer.number % 10 == 0]
    again = await _receive(stage, twice)
    first = {payment.idempotency_key: payment.id for payment, _ in received}
    for (deed, _), (payment, fresh) in zip(twice, again, strict=True):
        if fresh or payment.id != first[payment.idempotency_key]:
            stage.wrong.append(f"{deed.member.customer.name}: a payment that was sent twice counted twice")
    for (deed, new), (payment, _) in zip(sent, received, strict=True):
        planned = deed.given[2]
        deed.member.books.received[payment.id] = Received(new.amount, new.invoice_id)
        deed.member.books.settle(deed.at)
        if planned.reversed_at is not None:
            stage.plan(planned.reversed_at, deed.member, take_back, payment.id)


async def _receive(
    stage: Stage, sent: Sequence[tuple[Deed, NewPayment]]
) -> list[tuple[payments.Payment, bool]]:
    if not sent:
        return []
    new = [(aware(deed.at), each) for deed, each in sent]
    async with stage.engine.begin() as connection:
        return await receive_all(connection, new, terms=stage.terms, by=BY)


async def take_back(stage: Stage, deeds: Sequence[Deed]) -> None:
    """Let the bank take payments back."""
    moments = {str(deed.given[0]): aware(deed.at) for deed in deeds}
    async with stage.engine.begin() as connection:
        await reverse_all(connection, moments, reason="returned by the bank", terms=stage.terms, by=BY)
    for deed in deeds:
        books = deed.member.books
        books.reversed += books.received.pop(deed.given[0]).amount
        books.settle(deed.at)


@one_by_one
async def dispute(stage: Stage, member: Member, at: float, invoice: Invoice) -> None:
    """Dispute the dearest line of usage, if there is one; every other dispute is accepted by half."""
    async with stage.engine.begin() as connection:
        lines = await invoice_lines.of_invoice(connection, invoice.id)
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
    stage.plan(ends, member, decide, bill, opened.id, opened.amount, quantity)


@one_by_one
async def decide(
    stage: Stage,
    member: Member,
    at: float,
    bill: Bill,
    dispute_id: str,
    amount: Decimal,
    quantity: Decimal | None,
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


@one_by_one
async def change_price(stage: Stage, member: Member, at: float, shop: Shop, first: date) -> None:
    """Move a shop to the second version of its plan's price."""
    async with stage.engine.begin() as connection:
        key_id = member.keys[shop.site]
        await move(connection, key_id, Move(first, 2), terms=stage.terms, now=aware(at), by=BY)


@one_by_one
async def end(stage: Stage, member: Member, at: float, shop: Shop) -> None:
    """Close a shop's key."""
    async with stage.engine.begin() as connection:
        await key_changes.close(connection, member.keys[shop.site], at=aware(at), now=aware(at), by=BY)


@one_by_one
async def count_late(stage: Stage, member: Member, at: float, month: Period, share: Decimal) -> None:
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
