"""Reconciling a month: counters against the ledger, the ledger against invoices, invoices against payments.

Every difference is named; none is mended here. Counters are compared as far as Redis still has them. Counts
that a server of Redis took along are in no book; that there may be some is named as an interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from metering.billing.balance import ZERO
from metering.billing.standing import balances
from metering.billing.terms import Terms
from metering.clients import Client, wire_to
from metering.histories import shards_in
from metering.interruptions import Interruption, explained
from metering.ledger import comparing, interruptions, keys, usage
from metering.ledger.rows import NotFoundError
from metering.live import CHUNK, days_in_turn, in_pieces, read
from metering.names import SHARDS
from metering.wire import Wire
from policies.period import Period, bounds

ACCOUNTS = 1_000  # whose payments are looked at in one go


class Kind(StrEnum):
    """Between what the difference is."""

    COUNTER = "counter"  # Redis and the ledger
    BILLED = "billed"  # the ledger and the invoices
    INVOICE = "invoice"  # an invoice's total and its lines
    CREDIT_NOTE = "credit_note"  # a credit note's total and its lines
    NUMBERS = "numbers"  # a series of numbers and what bears them
    STANDING = "standing"  # what is unpaid and the day on a key
    INTERRUPTION = "interruption"  # what was answered and what was counted, as far as anybody can say


@dataclass(frozen=True, slots=True)
class Difference:
    """Two books that do not agree on an object."""

    kind: Kind
    object_id: str
    account_id: str | None
    expected: str
    found: str
    explanation: str


@dataclass(slots=True)
class Reconciliation:
    """What was compared. Amounts are of the month's issued invoices, in their accounts' currencies.

    `counted` and `billed` are billable units of all keys but sandboxes. Void invoices are neither among
    `invoices` nor in `billed`; the units that they had billed are `voided`, and are not billed again.
    """

    period: Period
    differences: list[Difference] = field(default_factory=list)
    invoices: int = 0
    counted: int = 0
    billed: int = 0
    voided: int = 0
    invoiced: Decimal = ZERO
    credited: Decimal = ZERO
    paid: Decimal = ZERO
    outstanding: Decimal = ZERO
    counters: int = 0  # days of keys that Redis still has; one that moves meanwhile may be counted twice

    @property
    def accounts(self) -> set[str]:
        """Accounts of which something does not agree."""
        return {each.account_id for each in self.differences if each.account_id is not None}


async def reconcile(
    engine: AsyncEngine, redis: Client | None, period: Period, *, terms: Terms
) -> Reconciliation:
    """Compare the books of a calendar month; without `redis` the counters are left out."""
    told = Reconciliation(period)
    sandboxes = [plan.name for plan in terms.contract.plans.values() if plan.sandbox]
    async with engine.connect() as connection:
        if redis is not None:
            await _counters(redis, connection, told)
        sums = await comparing.sums(connection, period, sandboxes)
        told.invoices, told.counted = sums.invoices, sums.counted
        told.billed, told.voided = sums.billed, sums.voided
        for row in await comparing.counts(connection, period, sandboxes):
            told.differences.append(_billed(row))
        for row in await comparing.invoices(connection, period):
            told.differences.append(_invoice(row))
        for row in await comparing.credit_notes(connection, period):
            text = "the credit note's total is not the sum of its lines"
            given = (str(row["amount"]), str(row["total"]), text)
            told.differences.append(Difference(Kind.CREDIT_NOTE, row["id"], row["account_id"], *given))
        for row in await comparing.numbers(connection):
            expected = f"1 to {row['last']} without a gap"
            found = f"{row['count']} numbers up to {row['highest']}, {row['passed_over']} passed over"
            text = f"numbers of the series {row['series']!r} are missing"
            told.differences.append(Difference(Kind.NUMBERS, row["series"], None, expected, found, text))
        await _payments(connection, told, terms)
        await _interruptions(connection, told, terms)
    return told


async def _counters(redis: Client, connection: AsyncConnection, told: Reconciliation) -> None:
    """Compare counters as they are found: the names of all keys and days of a month are too many to keep."""
    wire = wire_to(redis)
    named: dict[str, Difference] = {}  # one that was found twice, as it moved meanwhile, is one
    try:
        async for piece in in_pieces(days_in_turn(wire, f"{told.period.first:%Y%m}*")):
            members = sorted(member.decode() for member in piece)
            told.counters += len(members)
            for start in range(0, len(members), CHUNK):
                await _compare(wire, connection, members[start : start + CHUNK], named)
    finally:
        await wire.close()
    told.differences += [named[member] for member in sorted(named)]


async def _compare(
    wire: Wire, connection: AsyncConnection, members: Sequence[str], named: dict[str, Difference]
) -> None:
    """Name each `<key_id>:<day>` whose counters are not what the ledger has."""
    snapshots = await read(wire, members)
    kept = await usage.read(connection, [(each.key_id, each.day) for each in snapshots])
    for member, seen, ledger in zip(members, snapshots, kept, strict=True):
        if seen.methods != ledger.methods:
            named[member] = Difference(
                Kind.COUNTER,
                f"{seen.key_id}/{seen.day}",
                await _account(connection, seen.key_id),
                _sums(seen.methods),
                _sums(ledger.methods),
                "Redis and the ledger have different counts of that day: roll up, and look again",
            )


async def _account(connection: AsyncConnection, key_id: str) -> str | None:
    try:
        return (await keys.get(connection, key_id)).account_id
    except NotFoundError:
        return None


def _billed(row: Any) -> Difference:
    expected = f"{row['calls']} calls, {row['taken']} taken, {row['waived']} waived"
    if row["billed_calls"] is None:
        found = "nothing"
        text = (
            "the ledger has no such key"
            if row["account_id"] is None
            else f"the month is not closed, or the plan {row['plan']} has no price for this key then"
        )
    else:
        found = f"{row['billed_calls']} calls, {row['billed_taken']} taken, {row['billed_waived']} waived"
        text = (
            "counts came after the invoice, which the next one bills; or calls were counted on days on which "
            "the key was not in service, such as before its purchase"
        )
    return Difference(Kind.BILLED, row["key_id"], row["account_id"], expected, found, text)


def _invoice(row: Any) -> Difference:
    expected = f"{row['lines_amount']} for {row['lines_quantity']:f} units in lines"
    found = f"{row['total']}, and {row['parts_amount']} for {row['parts_quantity']:f} units by key"
    text = "the invoice's total, its lines and its keys do not add up"
    return Difference(Kind.INVOICE, row["id"], row["account_id"], expected, found, text)


def _sums(methods: dict[tuple[str, str], list[int]]) -> str:
    calls, taken, waived = (sum(numbers[index] for numbers in methods.values()) for index in range(3))
    return f"{calls} calls, {taken} taken, {waived} waived"


async def _payments(connection: AsyncConnection, told: Reconciliation, terms: Terms) -> None:
    """Add up how the month's invoices stand, and check the day that follows on every key."""
    after = ""
    while ids := await comparing.billed_accounts(connection, told.period, after=after, limit=ACCOUNTS):
        after = ids[-1]
        found = await balances(connection, ids, disputed_counts=terms.disputed_counts_as_unpaid)
        month = await comparing.issued_ids(connection, told.period, ids)
        for balance in found.values():
            for invoice in balance.invoices:
                if invoice.invoice_id in month:
                    told.invoiced += invoice.total
                    told.credited += invoice.credited
                    told.paid += invoice.allocated
                    told.outstanding += invoice.outstanding
        for account_id, key_id, day in await comparing.standing_days(connection, ids):
            balance = found[account_id]
            due = balance.oldest_unpaid_on
            if balance.invoices and day != due:
                text = "the key's day of the oldest unpaid invoice is not what payments say"
                told.differences.append(
                    Difference(Kind.STANDING, key_id, account_id, str(due), str(day), text)
                )


async def _interruptions(connection: AsyncConnection, told: Reconciliation, terms: Terms) -> None:
    """Name the interruptions in which calls of the month may have been lost, until somebody acknowledges."""
    since, until = bounds(told.period, terms.zone)
    cursor = None
    while True:
        page = await interruptions.listed(
            connection, is_open=True, since=since, until=until, cursor=cursor, limit=CHUNK
        )
        for each in page.items:
            given = ("every call that was answered", _may_lack(each), explained(each))
            told.differences.append(Difference(Kind.INTERRUPTION, each.id, None, *given))
        if (cursor := page.next_cursor) is None:
            return


def _may_lack(interruption: Interruption) -> str:
    shards = len(shards_in(interruption.slots))
    whose = "all keys" if shards == len(SHARDS) else f"keys of {shards} of {len(SHARDS)} shards"
    since, until = (f"{each:%Y-%m-%dT%H:%M:%S}Z" for each in (interruption.since, interruption.until))
    return f"calls of {whose} between {since} and {until} may lack in the count"
