from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.rating import (
    Counts,
    Line,
    LineKind,
    Segment,
    billed_quantity,
    late,
    rate,
    rate_days,
    segments_of,
)
from policies.money import round_cents
from policies.period import Period, month_of
from policies.plan_versions import Move, NoPriceError, PlanVersion, Proration
from policies.pricing import Model, Price
from tests.policies.prices import prices, tier

KEY, SITE = "key_00000000000000aa", "shop.example"
MAY = month_of(date(2026, 5, 1))
V1 = PlanVersion(
    plan="K1",
    version=1,
    currency="USD",
    announced_at=datetime(2025, 11, 1, tzinfo=UTC),
    effective_from=date(2025, 12, 1),
    price=Price(Model.GRADUATED, (tier("1000", "0.01"), tier("10000", "0.008"), tier(None, "0.005"))),
    minimum=Decimal("100.00"),
)
V2 = replace(V1, version=2, effective_from=date(2026, 2, 1), minimum=Decimal("155.00"))


def whole(month: Period = MAY, version: PlanVersion | None = V1) -> Segment:
    return Segment(month.first, month.last_excluded, version)


def rated(counts: Counts, *segments: Segment) -> tuple[Line, ...]:
    return rate(KEY, SITE, MAY, [(segment, counts) for segment in segments or (whole(),)])


def total_of(lines: tuple[Line, ...]) -> Decimal:
    return sum((line.amount for line in lines), Decimal(0))


def test_a_line_tells_how_it_came_about() -> None:
    """Each line has its tier, quantity, price, days, version and the counts of its segment."""
    first, second, third = rated(Counts(9_000, 16_000, 1_000))
    assert first == Line(
        kind=LineKind.USAGE,
        key_id=KEY,
        site=SITE,
        tier="up to 1,000",
        quantity=Decimal(1000),
        unit_price=Decimal("0.01"),
        amount=Decimal("10.00"),
        first=date(2026, 5, 1),
        last_excluded=date(2026, 6, 1),
        plan="K1",
        version=1,
        calls=9_000,
        taken=16_000,
        waived=1_000,
    )
    assert (second.amount, third.amount) == (Decimal("72.00"), Decimal("25.00"))
    assert (second.taken, third.taken) == (16_000, 16_000)


def test_the_minimum_is_one_line_for_what_is_missing() -> None:
    """A minimum of 100 over 10 of usage adds a line of 90, and one that is reached adds none (OT-5)."""
    usage, minimum = rated(Counts(1000, 1000, 0))
    assert (usage.amount, minimum.kind, minimum.amount) == (Decimal(10), LineKind.MINIMUM, Decimal("90.00"))
    assert minimum.tier == "minimum of 100.00"
    assert (minimum.key_id, minimum.site, minimum.plan, minimum.version) == (KEY, SITE, "K1", 1)
    assert (minimum.calls, minimum.taken, minimum.quantity) == (1000, 1000, 1)
    assert [line.kind for line in rated(Counts(14_000, 14_000, 0))] == [LineKind.USAGE] * 3


def test_the_last_cent_of_the_minimum_is_trued_up() -> None:
    """A cent short of the minimum is a line of a cent, and a month that reaches it to the cent has none."""
    cents = replace(V1, price=Price(Model.PER_UNIT, (tier(None, "0.01"),)), minimum=Decimal("10.00"))
    short = rated(Counts(999, 999, 0), whole(version=cents))
    assert [(line.kind, line.amount) for line in short] == [
        (LineKind.USAGE, Decimal("9.99")),
        (LineKind.MINIMUM, Decimal("0.01")),
    ]
    assert len(rated(Counts(1000, 1000, 0), whole(version=cents))) == 1


def test_the_minimum_of_lago() -> None:
    """A subscription of 50 and 3 units of 10 under a minimum of 100 are trued up by 20."""
    price = Price(Model.PER_UNIT, (tier(None, "10", "50"),))
    lines = rated(Counts(3, 3, 0), whole(version=replace(V1, price=price)))
    kinds = {line.kind: line.amount for line in lines}
    assert kinds == {LineKind.USAGE: 30, LineKind.FLAT: 50, LineKind.MINIMUM: 20}


@pytest.mark.parametrize(
    ("proration", "days", "expected"),
    [(Proration.DAILY, 10, "32.26"), (Proration.DAILY, 31, "100.00"), (Proration.NONE, 10, "100.00")],
)
def test_a_partial_month_has_its_share_of_the_minimum(proration: Proration, days: int, expected: str) -> None:
    """Ten days of May owe 10/31 of the minimum when it is prorated, and all of it when it is not."""
    last = date(2026, 6, 1)
    segment = Segment(last - timedelta(days=days), last, replace(V1, minimum_proration=proration))
    assert total_of(rated(Counts(), segment)) == Decimal(expected)


def test_the_minimums_of_a_month_are_rounded_once() -> None:
    """Shares of three price lists that make half a cent more are rounded up, though none of them is whole."""
    february = month_of(date(2026, 2, 1))
    segments, day = [], february.first
    for minimum, days in (("4.78", 9), ("19.72", 1), ("29.01", 4)):
        until = day + timedelta(days=days)
        segments.append((Segment(day, until, replace(V1, minimum=Decimal(minimum))), Counts()))
        day = until
    *_, line = rate(KEY, SITE, february, segments)
    assert line.amount == Decimal("6.39")  # (4.78 * 9 + 19.72 + 29.01 * 4) / 28 = 6.385


def test_a_month_in_the_trial_has_no_minimum() -> None:
    """A free month is one line of nothing that tells what was used."""
    (line,) = rated(Counts(500, 700, 100), whole(version=None))
    assert (line.kind, line.amount, line.quantity, line.version) == (LineKind.TRIAL, 0, 600, None)
    assert (line.calls, line.taken, line.waived) == (500, 700, 100)
    assert (line.key_id, line.site, line.tier) == (KEY, SITE, "free month")


def test_a_trial_that_ends_inside_the_month_splits_it() -> None:
    """The free days cost nothing and the minimum covers the paid days only."""
    segments = segments_of(
        MAY, started=date(2026, 4, 11), trial_until=date(2026, 5, 11), closed_on=None, versions=[V1]
    )
    assert segments == (
        Segment(date(2026, 5, 1), date(2026, 5, 11), None),
        Segment(date(2026, 5, 11), date(2026, 6, 1), V1),
    )
    usage = [(date(2026, 5, 10), Counts(5, 5, 0)), (date(2026, 5, 11), Counts(7, 7, 0))]
    trial, paid, minimum = rate_days(KEY, SITE, MAY, segments, usage)
    assert (trial.quantity, trial.amount, paid.quantity, paid.amount) == (5, 0, 7, Decimal("0.07"))
    assert paid.amount + minimum.amount == Decimal("67.74")  # 100 x 21/31
    assert (minimum.first, minimum.last_excluded) == (date(2026, 5, 11), date(2026, 6, 1))
    assert (minimum.calls, minimum.taken) == (7, 7)  # of the paid days, as is the minimum
    for ends in (date(2026, 5, 1), date(2026, 4, 20)):
        paid_whole = segments_of(
            MAY, started=date(2026, 4, 11), trial_until=ends, closed_on=None, versions=[V1]
        )
        assert paid_whole == (whole(),)


def test_a_new_version_inside_the_month_splits_it() -> None:
    """Each version prices its own days from its first tier on, and the minimum is the sum of the shares."""
    segments = segments_of(
        MAY,
        started=date(2026, 1, 1),
        trial_until=None,
        closed_on=None,
        versions=[V1, V2],
        moves=[Move(date(2026, 5, 21), 2)],
    )
    assert [(segment.days, segment.version) for segment in segments] == [(20, V1), (11, V2)]
    lines = rate(KEY, SITE, MAY, [(segment, Counts(1000, 1000, 0)) for segment in segments])
    assert [(line.version, line.quantity, line.amount) for line in lines[:2]] == [
        (1, 1000, 10),
        (2, 1000, 10),
    ]
    assert total_of(lines) == Decimal("119.52")  # 100 x 20/31 + 155 x 11/31, rounded once
    assert len(lines) == 3


def test_a_closed_key_is_billed_through_its_last_day() -> None:
    """The day of closing is paid for and the month after has nothing (OT-14)."""
    facts = {"started": date(2026, 1, 1), "trial_until": None, "versions": [V1]}
    (segment,) = segments_of(MAY, closed_on=date(2026, 5, 10), **facts)
    assert (segment.first, segment.last_excluded) == (date(2026, 5, 1), date(2026, 5, 11))
    assert segments_of(month_of(date(2026, 6, 1)), closed_on=date(2026, 5, 10), **facts) == ()
    assert segments_of(MAY, closed_on=date(2026, 4, 30), **facts) == ()
    in_trial = facts | {"trial_until": date(2026, 7, 1)}
    assert segments_of(MAY, closed_on=date(2026, 4, 30), **in_trial) == ()


@pytest.mark.parametrize(
    ("gaps", "left"),
    [
        ([], [(1, 11), (11, 32)]),
        ([(5, 8)], [(1, 5), (8, 11), (11, 32)]),
        ([(9, 15)], [(1, 9), (15, 32)]),
        ([(1, 11)], [(11, 32)]),
        ([(11, 32)], [(1, 11)]),
        ([(-20, 3), (30, 60)], [(3, 11), (11, 30)]),
        ([(12, 13), (20, 31)], [(1, 11), (11, 12), (13, 20), (31, 32)]),
        ([(-20, 60)], []),
    ],
)
def test_days_out_of_service_are_cut_out(gaps: list[tuple[int, int]], left: list[tuple[int, int]]) -> None:
    """What is left of the free month and of the paid days are segments of their own (OT-14)."""
    segments = segments_of(
        MAY,
        started=date(2026, 4, 11),
        trial_until=date(2026, 5, 11),
        closed_on=None,
        versions=[V1],
        gaps=[Period(may(first), may(last)) for first, last in gaps],
    )
    assert [(each.first, each.last_excluded) for each in segments] == [
        (may(first), may(last)) for first, last in left
    ]
    assert all((each.version is None) == (each.first < may(11)) for each in segments)


def test_a_price_goes_on_behind_days_out_of_service() -> None:
    """Tiers go on where they stood and a flat fee is due once, while the minimum has no share of the days."""
    fee = replace(tier("1000", "0.01"), flat=Decimal(20))
    price = Price(Model.GRADUATED, (fee, tier(None, "0.005")))
    version = replace(V1, price=price, minimum=Decimal(310))
    parts = segments_of(
        MAY,
        started=MAY.first,
        trial_until=None,
        closed_on=None,
        versions=[version],
        gaps=[Period(may(11), may(21))],
    )
    counted = [(parts[0], Counts(600, 600, 0)), (parts[1], Counts(700, 710, 10))]
    lines = rate(KEY, SITE, MAY, counted)
    told = [(line.first, line.last_excluded, line.quantity, line.amount) for line in lines]
    assert told == [
        (may(1), may(32), 1_000, Decimal("10.00")),
        (may(1), may(32), 1, Decimal("20.00")),
        (may(1), may(32), 300, Decimal("1.50")),
        (may(1), may(32), 1, Decimal("178.50")),  # up to 21 days of 31
    ]


def may(number: int) -> date:
    """Return a day of May, counted on beyond its ends."""
    return date(2026, 4, 30) + timedelta(days=number)


def test_a_month_before_the_subscription_has_nothing() -> None:
    """Nothing is billed for a month in which the key did not exist."""
    assert segments_of(MAY, started=date(2026, 6, 1), trial_until=None, closed_on=None, versions=[V1]) == ()


def test_a_trial_longer_than_the_subscription_is_cut() -> None:
    """A key that closes in its free month has no paid day."""
    segments = segments_of(
        MAY,
        started=date(2026, 5, 3),
        trial_until=date(2026, 6, 3),
        closed_on=date(2026, 5, 9),
        versions=[],
    )
    assert segments == (Segment(date(2026, 5, 3), date(2026, 5, 10), None),)


def test_a_paid_day_without_a_price_is_an_error() -> None:
    """A month cannot be billed silently at nothing because its price is missing."""
    with pytest.raises(NoPriceError):
        segments_of(MAY, started=date(2025, 1, 1), trial_until=None, closed_on=None, versions=[V1])


def test_a_count_outside_the_segments_is_an_error() -> None:
    """A counted day that would be billed to nobody is refused and named."""
    with pytest.raises(ValueError, match="2026-05-31"):
        rate_days(
            KEY, SITE, MAY, [Segment(MAY.first, date(2026, 5, 31), V1)], [(date(2026, 5, 31), Counts(1))]
        )


def test_a_paid_month_without_use_says_so() -> None:
    """Calls that were all waived leave a usage line of nothing with their counts, and the minimum."""
    usage, minimum = rated(Counts(4, 4, 4))
    assert (usage.kind, usage.quantity, usage.amount, usage.waived) == (LineKind.USAGE, 0, 0, 4)
    assert minimum.amount == 100


def test_late_counts_are_the_difference_of_two_reckonings() -> None:
    """What came after the invoice is billed at the month's own tiers, less what a minimum had covered."""
    before = rated(Counts(900, 900, 0))
    swallowed = late(KEY, SITE, MAY, before, rated(Counts(1000, 1000, 0)))
    assert swallowed is not None
    assert (swallowed.quantity, swallowed.amount, swallowed.calls) == (100, 0, 100)
    line = late(KEY, SITE, MAY, before, rated(Counts(15_000, 15_100, 100)))
    assert line is not None
    assert (line.kind, line.quantity, line.amount, line.unit_price) == (LineKind.LATE, 14_100, 7, None)
    assert (line.calls, line.taken, line.waived) == (14_100, 14_200, 100)
    assert (line.first, line.last_excluded) == (MAY.first, MAY.last_excluded)
    assert (line.key_id, line.site, line.tier) == (KEY, SITE, "counted after the invoice of 2026-05")
    fewer = late(KEY, SITE, MAY, rated(Counts(1000, 1000, 30)), rated(Counts(1000, 1000, 100)))
    assert fewer is not None
    assert (fewer.quantity, fewer.waived) == (-70, 70)
    again = late(KEY, SITE, MAY, (*before, line), rated(Counts(15_001, 15_101, 100)))
    assert again is not None
    assert (again.quantity, again.calls, again.taken) == (1, 1, 1)
    assert late(KEY, SITE, MAY, before, before) is None


@st.composite
def days_of_use(draw: st.DrawFn) -> list[tuple[date, Counts]]:
    counts = st.integers(0, 500).flatmap(
        lambda taken: st.builds(Counts, st.just(taken), st.just(taken), st.integers(0, taken))
    )
    offsets = st.integers(0, 30).map(lambda offset: MAY.first + timedelta(days=offset))
    return draw(st.lists(st.tuples(offsets, counts), max_size=12))


@pytest.mark.parametrize("model", list(Model))
@given(data=st.data(), usage=days_of_use())
def test_lines_account_for_every_unit_and_every_cent(
    model: Model, data: st.DataObject, usage: list[tuple[date, Counts]]
) -> None:
    """Whatever cuts the month, its lines hold all billable units and amounts that are their products."""
    second = replace(
        V2, price=data.draw(prices(model)), minimum=data.draw(st.sampled_from([Decimal(0), Decimal(15)]))
    )
    offset = st.integers(0, 31).map(lambda days: MAY.first + timedelta(days=days))
    segments = segments_of(
        MAY,
        started=date(2026, 1, 15),
        trial_until=data.draw(st.none() | offset),
        closed_on=None,
        versions=[replace(V1, price=data.draw(prices(model))), second],
        moves=[Move(data.draw(offset), 2)],
    )
    assert all(before.last_excluded == after.first for before, after in pairwise(segments))
    assert (segments[0].first, segments[-1].last_excluded) == (MAY.first, MAY.last_excluded)
    lines = rate_days(KEY, SITE, MAY, segments, usage)
    assert billed_quantity(lines) == sum(counts.billable for _, counts in usage)
    for line in lines:
        assert line.unit_price is not None
        assert line.amount == round_cents(line.quantity * line.unit_price) >= 0
    assert [line.kind for line in lines].count(LineKind.MINIMUM) <= 1


@given(usage=days_of_use())
def test_merging_days_changes_nothing(usage: list[tuple[date, Counts]]) -> None:
    """A month rates the same from its days, in any order, as from their sum."""
    segments = (whole(),)
    merged = sum((counts for _, counts in usage), Counts())
    in_days = rate_days(KEY, SITE, MAY, segments, usage)
    assert in_days == rate_days(KEY, SITE, MAY, segments, list(reversed(usage)))
    assert in_days == rate(KEY, SITE, MAY, [(whole(), merged)])


@given(first=st.integers(0, 10**6), second=st.integers(0, 10**6), cut=st.integers(1, 30))
def test_merging_adjacent_periods_without_a_per_period_part(first: int, second: int, cut: int) -> None:
    """A price in cents for each unit, with no minimum, costs the same in two parts of a month as in one."""
    plain = replace(V1, price=Price(Model.PER_UNIT, (tier(None, "0.03"),)), minimum=Decimal(0))
    middle = MAY.first + timedelta(days=cut)
    parts = [
        (Segment(MAY.first, middle, plain), Counts(first, first, 0)),
        (Segment(middle, MAY.last_excluded, plain), Counts(second, second, 0)),
    ]
    both = Counts(first + second, first + second, 0)
    assert total_of(rate(KEY, SITE, MAY, parts)) == total_of(
        rate(KEY, SITE, MAY, [(whole(version=plain), both)])
    )
