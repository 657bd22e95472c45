"""Books of one customer, kept beside the ledger in the plainest way, to compare the ledger with. Pure.

What is outstanding is reckoned anew from all rows, by sums, and never by the code that is rehearsed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from zoneinfo import ZoneInfo

from policies.standing import Standing, Step

ZERO = Decimal("0.00")
Turn = tuple[float, Standing]


@dataclass(slots=True)
class Bill:
    """An issued invoice."""

    invoice_id: str
    month: date
    issued_on: date
    total: Decimal
    credited: Decimal = ZERO
    disputed: Decimal = ZERO


@dataclass(slots=True)
class Received:
    """A payment that stands; `invoice_id` is the invoice it names."""

    amount: Decimal
    invoice_id: str | None


@dataclass(slots=True)
class Books:
    """Bills, payments and, since when, the day of the oldest unpaid bill."""

    bills: list[Bill] = field(default_factory=list)
    received: dict[str, Received] = field(default_factory=dict)
    reversed: Decimal = ZERO
    unpaid_since: list[tuple[float, date | None]] = field(default_factory=list)

    def outstanding(self) -> dict[str, Decimal]:
        """Return what is left of each bill: named payments first, then the oldest bills, disputes last."""
        left = {bill.invoice_id: bill.total - bill.credited for bill in self.bills}
        pool = ZERO
        for payment in self.received.values():
            taken = ZERO
            if payment.invoice_id is not None:
                taken = max(ZERO, min(payment.amount, left[payment.invoice_id]))
                left[payment.invoice_id] -= taken
            pool += payment.amount - taken
        for invoice_id, amount in left.items():
            if amount < 0:
                pool -= amount
                left[invoice_id] = ZERO
        for spares in (True, False):
            for bill in sorted(self.bills, key=lambda bill: bill.issued_on):
                open_part = left[bill.invoice_id] - (bill.disputed if spares else ZERO)
                taken = max(ZERO, min(pool, open_part))
                left[bill.invoice_id] -= taken
                pool -= taken
        return left

    def settle(self, at: float) -> None:
        """Note the oldest unpaid bill as it is from `at` on; what is disputed does not count."""
        left = self.outstanding()
        unpaid = [bill.issued_on for bill in self.bills if left[bill.invoice_id] > bill.disputed]
        oldest = min(unpaid, default=None)
        if oldest != (self.unpaid_since[-1][1] if self.unpaid_since else None):
            self.unpaid_since.append((at, oldest))

    def balance(self) -> Decimal:
        """Return bills less credit notes less payments."""
        billed = sum((bill.total - bill.credited for bill in self.bills), ZERO)
        return billed - sum((payment.amount for payment in self.received.values()), ZERO)

    def standing_at(self, at: float, steps: tuple[Step, ...], zone: ZoneInfo) -> Standing:
        """Return how the customer's keys stand, by the calendar alone."""
        turns = self.turns(steps, zone, at)
        return turns[-1][1] if turns else Standing.ACTIVE

    def turns(self, steps: tuple[Step, ...], zone: ZoneInfo, until: float) -> list[Turn]:
        """Return when standing changed and to what, up to `until` included."""
        moments: list[Turn] = []
        ends = [*(at for at, _ in self.unpaid_since[1:]), until + 1]
        for (at, oldest), end in zip(self.unpaid_since, ends, strict=False):
            standing = Standing.ACTIVE
            later: list[Turn] = []
            for step in steps if oldest is not None else ():
                assert oldest is not None  # there are no steps otherwise
                begins = _local_midnight(oldest + timedelta(days=step.after_days + 1), zone)
                if begins <= at:
                    standing = step.standing
                elif begins < end:
                    later.append((begins, step.standing))
            moments += [(at, standing), *later]
        return changes_of([turn for turn in moments if turn[0] <= until])


def changes_of(turns: list[Turn]) -> list[Turn]:
    """Leave out turns to a standing that holds already; everybody begins as active."""
    kept: list[Turn] = []
    for at, standing in turns:
        if standing is not (kept[-1][1] if kept else Standing.ACTIVE):
            kept.append((at, standing))
    return kept


@lru_cache(maxsize=2000)
def _local_midnight(day: date, zone: ZoneInfo) -> float:
    """Return a day's first instant by looking at one minute after the other."""
    at = int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) - 7200
    while datetime.fromtimestamp(at, zone).date() < day:
        at += 60
    return float(at)
