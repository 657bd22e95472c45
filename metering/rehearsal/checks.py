"""What must hold when a rehearsal is over: sums against sums, and standings against the calendar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from metering.billing.standing import balances
from metering.ledger import audit, credit_notes, invoice_lines, invoices, keys, payments, scratch
from metering.ledger.audit import Entry
from metering.ledger.invoices import Invoice, Status
from metering.ledger.keys import Key, record_of
from metering.rating import LineKind
from metering.rehearsal.books import ZERO, Books, Turn, changes_of
from policies.decision import Contract, conditions

PAGE = 5_000
KEYS = 500  # whose history is read at a time
UNITS = {LineKind.USAGE, LineKind.TRIAL, LineKind.LATE}


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must hold: how many cases were looked at, and which do not hold."""

    name: str
    cases: int
    failures: tuple[str, ...] = ()


async def of_money(engine: AsyncEngine, books: Mapping[str, Books], *, disputed_counts: bool) -> list[Check]:
    """Compare the ledger's rows with each other, and with the books of the accounts."""
    async with engine.connect() as connection:
        billed = [each for each in await _all(connection, invoices.listed) if each.status is Status.ISSUED]
        notes = await _all(connection, credit_notes.listed)
        paid = await _all(connection, payments.listed)
        found = await balances(connection, list(books), disputed_counts=disputed_counts)
        lines = await _lines_add_up(connection, billed)
        units = await scratch.billable(connection)
    owed = sum((balance.total for balance in found.values()), ZERO)
    billed_total = sum((invoice.total for invoice in billed), ZERO)
    credited = sum((note.total for note in notes), ZERO)
    received = sum((payment.amount for payment in paid if payment.reversed_at is None), ZERO)
    sums = f"{billed_total:,} - {credited:,} - {received:,} is not {owed:,}"
    differing = [
        f"books say {books[account_id].balance()}, the ledger {balance.total}"
        for account_id, balance in found.items()
        if balance.total != books[account_id].balance()
    ]
    uneven = [
        f"credit note {note.reference} is {note.total}, and its lines add up to something else"
        for note in notes
        if sum((line.amount for line in note.lines), ZERO) != note.total
    ]
    return [
        Check(
            "invoices - credit notes - payments = balances",
            len(billed) + len(notes) + len(paid),
            () if billed_total - credited - received == owed else (sums,),
        ),
        Check("every customer's balance is that of books kept by hand", len(found), tuple(differing)),
        Check(
            "billed units = the ledger's billable units",
            units,
            () if lines.units == units else (f"{lines.units} units were billed, {units} were counted",),
        ),
        Check(
            "the lines of invoices and credit notes add up to the cent", lines.count, (*lines.uneven, *uneven)
        ),
        Check("one invoice for an account and month", len(billed), _twice(billed)),
        Check("invoice numbers without gaps", len(billed), _gaps([each.number for each in billed])),
        Check("credit note numbers without gaps", len(notes), _gaps([each.number for each in notes])),
    ]


async def of_standing(
    engine: AsyncEngine, contract: Contract, customers: Sequence[tuple[Books, Sequence[str]]], until: float
) -> Check:
    """Compare each turn of each key's standing, to the second, with the calendar of its customer's books."""
    turns, failures = 0, []
    async with engine.connect() as connection:
        whose = [(key_id, books) for books, key_ids in customers for key_id in key_ids]
        for start in range(0, len(whose), KEYS):
            part = dict(whose[start : start + KEYS])
            history = await audit.of_objects(connection, list(part), action="key.change")
            for key in await keys.by_id(connection, list(part)):
                books = part[key.id]
                created = key.created_at.timestamp()
                all_turns = books.turns(contract.steps, contract.zone, until)
                since = [(created, to) for at, to in all_turns if at <= created][-1:]
                expected = changes_of([*since, *(turn for turn in all_turns if turn[0] > created)])
                found = _turns(key, history[key.id], contract, until)
                turns += len(expected)
                if found != expected:
                    failures.append(f"{key.site}: expected {_shown(expected)}, found {_shown(found)}")
    return Check("every change of standing came to the second", turns, tuple(failures))


@dataclass(slots=True)
class _Lines:
    count: int
    units: Decimal
    uneven: list[str]


async def _lines_add_up(connection: AsyncConnection, billed: Sequence[Invoice]) -> _Lines:
    told = _Lines(0, Decimal(0), [])
    for start in range(0, len(billed), PAGE):
        chunk = billed[start : start + PAGE]
        lines = await invoice_lines.of_invoices(connection, [invoice.id for invoice in chunk])
        for invoice in chunk:
            mine = lines[invoice.id]
            told.count += len(mine)
            told.units += sum((line.quantity for line in mine if line.kind in UNITS), Decimal(0))
            total = sum((line.amount for line in mine), ZERO)
            if total != invoice.total:
                told.uneven.append(f"{invoice.reference} is {invoice.total}, its lines are {total}")
    return told


def _turns(key: Key, history: Sequence[Entry], contract: Contract, until: float) -> list[Turn]:
    """Return when a key's standing changed, decided as a gateway would on what the ledger said then."""
    name = "oldest_unpaid_issued_on"
    changes = [entry for entry in history if entry.after is not None and name in entry.after]
    first = changes[0].before if changes else {name: _text(key.oldest_unpaid_issued_on)}
    said = [(key.created_at.timestamp(), (first or {}).get(name))]
    said += [(entry.at.timestamp(), (entry.after or {})[name]) for entry in changes]
    turns: list[Turn] = []
    ends = [at for at, _ in said[1:]] + [until + 1]
    for (since, day), end in zip(said, ends, strict=True):
        # What ended a key is left out: it would hide how an account stands.
        oldest = None if day is None else date.fromisoformat(day)
        record = replace(record_of(key), oldest_unpaid_issued_on=oldest, closed_at=None)
        at = since
        while at < end:
            held = conditions(record, contract, at)
            turns.append((at, held.standing))
            at = held.until
    return changes_of([turn for turn in turns if turn[0] <= until])


async def _all(connection: AsyncConnection, listed: Any) -> list[Any]:
    """Go through all pages of a list."""
    found: list[Any] = []
    cursor = None
    while True:
        page = await listed(connection, cursor=cursor, limit=PAGE)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


def _twice(billed: Sequence[Invoice]) -> tuple[str, ...]:
    seen: set[tuple[str, date]] = set()
    twice = []
    for invoice in billed:
        place = (invoice.account_id, invoice.period.first)
        if place in seen:
            twice.append(f"{invoice.reference} is a second one for {invoice.period.first:%Y-%m}")
        seen.add(place)
    return tuple(twice)


def _gaps(numbers: Sequence[int | None]) -> tuple[str, ...]:
    given = sorted(number for number in numbers if number is not None)
    missing = sorted(set(range(1, len(given) + 1)) - set(given))
    return tuple(f"number {number} is missing" for number in missing)


def _text(day: date | None) -> str | None:
    return None if day is None else day.isoformat()


def _shown(turns: Sequence[Turn]) -> str:
    return ", ".join(f"{to.value} at {at:.0f}" for at, to in turns) or "always active"
