"""Rating: usage of a month times the price that applies, as the lines of a bill (contract OT-4 to OT-6).

A month is cut into segments wherever the free month ends or another version of the price takes over. Each
segment is rated on its own quantity: bounds of tiers and flat fees are not cut down to its days. The minimum
is one true-up line for the key. Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from enum import StrEnum

from policies.money import prorate, round_cents
from policies.period import Period
from policies.plan_versions import Move, PlanVersion, Proration, changes_in
from policies.pricing import ONE, ZERO, charges


class LineKind(StrEnum):
    """What a line of a bill is for."""

    USAGE = "usage"  # units times a tier's price
    FLAT = "flat"  # a fee of a tier, or packages
    TRIAL = "trial"  # the free month's units, at nothing
    MINIMUM = "minimum"  # what the minimum of the month adds
    LATE = "late"  # what counts that came after an earlier invoice change


@dataclass(frozen=True, slots=True)
class Counts:
    """What the ledger counted: calls, and units taken and waived."""

    calls: int = 0
    taken: int = 0
    waived: int = 0

    @property
    def billable(self) -> int:
        """The units that are charged for."""
        return self.taken - self.waived

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.calls + other.calls, self.taken + other.taken, self.waived + other.waived)


@dataclass(frozen=True, slots=True)
class Segment:
    """Whole days `first <= day < last_excluded` under one version of the price; None is the free month."""

    first: date
    last_excluded: date
    version: PlanVersion | None

    @property
    def days(self) -> int:
        """How many days the segment has."""
        return (self.last_excluded - self.first).days


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a bill, for the days `first <= day < last_excluded`.

    `amount` is `quantity` times `unit_price`, rounded once, half up to the cent; a late line, being the
    difference of two reckonings, has no unit price. `calls`, `taken` and `waived` are what the ledger counted
    in those days: all lines of a segment come from the same counts, so these are not to be added up.
    """

    kind: LineKind
    key_id: str
    site: str | None
    tier: str
    quantity: Decimal
    unit_price: Decimal | None
    amount: Decimal
    first: date
    last_excluded: date
    plan: str | None
    version: int | None
    calls: int
    taken: int
    waived: int


def segments_of(
    month: Period,
    *,
    started: date,
    trial_until: date | None,
    closed_on: date | None,
    versions: Sequence[PlanVersion],
    moves: Sequence[Move] = (),
    gaps: Sequence[Period] = (),
) -> tuple[Segment, ...]:
    """Cut a month of one subscription where its free month ends and where its price changes.

    `trial_until` is the first day that is paid for, `closed_on` the last one: the day that holds the moment
    of closing is billed (contract OT-14). In `gaps`, in the order of their days, the key was out of service.
    A month without a day of the subscription has no segment. Raises NoPriceError when a paid day has no
    price.
    """
    begins, ends = max(month.first, started), month.last_excluded
    if closed_on is not None:
        ends = min(ends, date.fromordinal(closed_on.toordinal() + 1))
    if begins >= ends:
        return ()
    cut: list[Segment] = []
    paid = begins
    if trial_until is not None and trial_until > begins:
        paid = min(trial_until, ends)
        cut.append(Segment(begins, paid, None))
    if paid == ends:
        return _without(cut, gaps)
    changes = changes_in(versions, started, moves, Period(paid, ends))
    lasts = [first for first, _ in changes[1:]] + [ends]
    cut += [Segment(first, last, version) for (first, version), last in zip(changes, lasts, strict=True)]
    return _without(cut, gaps)


def rate(
    key_id: str, site: str | None, month: Period, counted: Sequence[tuple[Segment, Counts]]
) -> tuple[Line, ...]:
    """Return the lines of one key for a month, in the order of its days, the minimum last."""
    lines: list[Line] = []
    for segment, counts in in_one(counted):
        lines += _rate_segment(key_id, site, segment, counts)
    minimum = _true_up(key_id, site, month, counted, lines)
    return tuple(lines) if minimum is None else (*lines, minimum)


def in_one(counted: Iterable[tuple[Segment, Counts]]) -> list[tuple[Segment, Counts]]:
    """Join the segments that days out of service have parted: they have their tiers and their fee once."""
    joined: list[tuple[Segment, Counts]] = []
    for segment, counts in counted:
        if joined and joined[-1][0].version == segment.version:
            before, sums = joined.pop()
            joined.append((replace(before, last_excluded=segment.last_excluded), sums + counts))
        else:
            joined.append((segment, counts))
    return joined


def rate_days(
    key_id: str,
    site: str | None,
    month: Period,
    segments: Sequence[Segment],
    usage: Iterable[tuple[date, Counts]],
) -> tuple[Line, ...]:
    """Rate counts that are told by the day; raises ValueError for a counted day that no segment holds."""
    sums = [Counts() for _ in segments]
    for day, counts in usage:
        for number, segment in enumerate(segments):
            if segment.first <= day < segment.last_excluded:
                sums[number] += counts
                break
        else:
            raise ValueError(f"{key_id} counted calls on {day}, a day that none of its segments holds")
    return rate(key_id, site, month, tuple(zip(segments, sums, strict=True)))


def total_of(lines: Iterable[Line]) -> Decimal:
    """Return what lines ask for together, in cents also where there are none."""
    return sum((line.amount for line in lines), round_cents(ZERO))


def late(
    key_id: str,
    site: str | None,
    month: Period,
    before: Sequence[Line],
    after: Sequence[Line],
    *,
    billed: Decimal | None = None,
) -> Line | None:
    """Return the line that turns a month's lines `before` into what they are `after`, None if the same.

    `billed` is what was asked for `before`, unless that is the sum of its lines.

    Counts that a minimum swallowed change the quantity and not the amount, and are told all the same.
    """
    quantity = billed_quantity(after) - billed_quantity(before)
    if billed is None:
        billed = total_of(before)
    amount = total_of(after) - billed
    if not quantity and not amount:
        return None
    then, now = _counted(before), _counted(after)
    return Line(
        LineKind.LATE,
        key_id,
        site,
        f"counted after the invoice of {month.first:%Y-%m}",
        quantity,
        None,
        amount,
        month.first,
        month.last_excluded,
        None,
        None,
        now.calls - then.calls,
        now.taken - then.taken,
        now.waived - then.waived,
    )


def billed_quantity(lines: Iterable[Line]) -> Decimal:
    """Return the units that lines account for: what the ledger counted as billable, free months included."""
    units = {LineKind.USAGE, LineKind.TRIAL, LineKind.LATE}
    return sum((line.quantity for line in lines if line.kind in units), ZERO)


def _rate_segment(key_id: str, site: str | None, segment: Segment, counts: Counts) -> list[Line]:
    quantity, version = Decimal(counts.billable), segment.version
    shape = Line(
        LineKind.TRIAL,
        key_id,
        site,
        "free month",
        quantity,
        ZERO,
        round_cents(ZERO),
        segment.first,
        segment.last_excluded,
        None if version is None else version.plan,
        None if version is None else version.version,
        counts.calls,
        counts.taken,
        counts.waived,
    )
    if version is None:
        return [shape]
    return [
        replace(
            shape,
            kind=LineKind(charge.kind),
            tier=charge.tier,
            quantity=charge.quantity,
            unit_price=charge.unit_price,
            amount=charge.amount,
        )
        for charge in charges(version.price, quantity)
    ]


def _without(cut: Sequence[Segment], gaps: Sequence[Period]) -> tuple[Segment, ...]:
    """Return what is left of segments outside of gaps."""
    left = list(cut)
    for gap in gaps:
        parts = [
            part
            for each in left
            for part in (
                replace(each, last_excluded=min(each.last_excluded, gap.first)),
                replace(each, first=max(each.first, gap.last_excluded)),
            )
        ]
        left = [part for part in parts if part.days > 0]
    return tuple(left)


def _true_up(
    key_id: str,
    site: str | None,
    month: Period,
    counted: Sequence[tuple[Segment, Counts]],
    lines: Sequence[Line],
) -> Line | None:
    """Return what the minimum adds: its share of the paid days less what those days cost, when positive.

    The version in force last says whether a partial month has a share of the minimum or all of it.
    """
    paid = [(segment, segment.version) for segment, _ in counted if segment.version is not None]
    if not paid:
        return None
    last = paid[-1][1]
    if last.minimum_proration is Proration.NONE:
        due = last.minimum
    else:
        month_days = (month.last_excluded - month.first).days
        # Divided once: shares cut off one by one may add up to less than the half cent that they make.
        due = prorate(sum((version.minimum * segment.days for segment, version in paid), ZERO), 1, month_days)
    missing = round_cents(due) - total_of(lines)
    if missing <= 0:
        return None
    total = sum((counts for segment, counts in counted if segment.version is not None), Counts())
    return Line(
        LineKind.MINIMUM,
        key_id,
        site,
        f"minimum of {round_cents(due):,f}",
        ONE,
        missing,
        missing,
        paid[0][0].first,
        paid[-1][0].last_excluded,
        last.plan,
        last.version,
        total.calls,
        total.taken,
        total.waived,
    )


def _counted(lines: Iterable[Line]) -> Counts:
    """Add up the counts that lines came from, once for each segment and each late line."""
    total, segments = Counts(), set()
    for line in lines:
        if line.kind is not LineKind.LATE:
            if line.kind is LineKind.MINIMUM or line.first in segments:
                continue
            segments.add(line.first)
        total += Counts(line.calls, line.taken, line.waived)
    return total
