from __future__ import annotations

from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given

from policies.period import midnight
from policies.standing import EVERYTHING, Standing, Step, check_ladder, step_at, step_begins
from tests.policies.samples import (
    BANNED,
    CHATHAM,
    MOSCOW,
    NEW_YORK,
    NO_ADMIN,
    RESTRICTED,
    SAO_PAULO,
    SHANGHAI,
    ZONES,
    days,
    instants,
    local,
    zones,
)

LADDER = (RESTRICTED, BANNED)


@pytest.mark.parametrize(
    ("zone", "issued_on", "last_second", "begins"),
    [
        (MOSCOW, date(2026, 10, 5), "2026-10-12 23:59:59", "2026-10-13 00:00:00"),
        (MOSCOW, date(2026, 12, 28), "2027-01-04 23:59:59", "2027-01-05 00:00:00"),
        (MOSCOW, date(2028, 2, 22), "2028-02-29 23:59:59", "2028-03-01 00:00:00"),
        (SHANGHAI, date(2026, 10, 5), "2026-10-12 23:59:59", "2026-10-13 00:00:00"),
        (NEW_YORK, date(2026, 3, 1), "2026-03-08 23:59:59", "2026-03-09 00:00:00"),
        (NEW_YORK, date(2026, 10, 25), "2026-11-01 23:59:59", "2026-11-02 00:00:00"),
        (CHATHAM, date(2026, 3, 29), "2026-04-05 23:59:59", "2026-04-06 00:00:00"),
        (CHATHAM, date(2026, 9, 20), "2026-09-27 23:59:59", "2026-09-28 00:00:00"),
        (SAO_PAULO, date(2018, 10, 27), "2018-11-03 23:59:59", "2018-11-04 01:00:00"),
    ],
)
def test_restriction_begins_with_the_eighth_day(
    zone: ZoneInfo, issued_on: date, last_second: str, begins: str
) -> None:
    """At 23:59:59 of D+7 nothing holds yet, and from 00:00:00 of D+8 on the key is restricted (OT-8)."""
    first = local(zone, begins)
    assert local(zone, last_second) == first - 1
    assert step_at(issued_on, LADDER, zone, first - 1) == (None, first)
    assert step_at(issued_on, LADDER, zone, first) == (RESTRICTED, step_begins(issued_on, BANNED, zone))


@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_the_ban_begins_with_the_22nd_day(zone: ZoneInfo) -> None:
    """At 23:59:59 of D+21 the key is restricted still, and from 00:00:00 of D+22 on banned (OT-10)."""
    issued_on = date(2026, 10, 10)
    assert step_at(issued_on, LADDER, zone, local(zone, "2026-10-31 23:59:59"))[0] is RESTRICTED
    assert step_at(issued_on, LADDER, zone, local(zone, "2026-11-01 00:00:00")) == (BANNED, None)
    assert step_at(issued_on, LADDER, zone, local(zone, "2046-11-01 00:00:00")) == (BANNED, None)


def test_a_middle_step_takes_its_place_when_it_is_configured() -> None:
    """With the step of OT-9 the admin class is refused too from D+15 on, until the ban takes over at D+22."""
    ladder = (RESTRICTED, NO_ADMIN, BANNED)
    check_ladder(ladder)
    issued_on = date(2026, 10, 5)

    def at(text: str) -> Step | None:
        return step_at(issued_on, ladder, MOSCOW, local(MOSCOW, text))[0]

    assert at("2026-10-12 23:59:59") is None
    assert at("2026-10-13 00:00:00") is RESTRICTED
    assert at("2026-10-19 23:59:59") is RESTRICTED
    assert at("2026-10-20 00:00:00") is NO_ADMIN
    assert at("2026-10-26 23:59:59") is NO_ADMIN
    assert at("2026-10-27 00:00:00") is BANNED
    assert not RESTRICTED.refuses(("admin",))
    assert NO_ADMIN.refuses(("admin",))
    assert NO_ADMIN.refuses(("search",))
    assert not NO_ADMIN.refuses(("official_search", "search"))


def test_without_an_unpaid_invoice_no_step_is_in_force_or_near() -> None:
    """A key that owes nothing stands on no step, and no step lies ahead of it."""
    assert step_at(None, LADDER, MOSCOW, local(MOSCOW, "2026-10-13 00:00:00")) == (None, None)


def test_without_steps_an_unpaid_invoice_has_no_effect() -> None:
    """A seller that configures no ladder restricts nobody."""
    assert step_at(date(2026, 10, 5), (), MOSCOW, local(MOSCOW, "2027-10-13 00:00:00")) == (None, None)


def test_a_step_refuses_its_classes_but_never_the_exempt_ones() -> None:
    """Restriction refuses searches and support, spares official search, and lets items and orders go on."""
    assert RESTRICTED.refuses(("search",))
    assert RESTRICTED.refuses(("support",))
    assert not RESTRICTED.refuses(("official_search", "search"))
    assert not RESTRICTED.refuses(("item",))
    assert not RESTRICTED.refuses(("order",))


def test_a_ban_refuses_every_class() -> None:
    """A step that denies everything refuses known and unknown classes, official search with them."""
    for classes in (("search",), ("official_search", "search"), ("item",), ("never heard of",)):
        assert BANNED.refuses(classes)


def test_everything_can_be_denied_with_an_exception() -> None:
    """A step may deny all classes but some, and still spares those."""
    step = Step(10, Standing.RESTRICTED, frozenset({EVERYTHING}), frozenset({"item"}))
    assert step.refuses(("search",))
    assert not step.refuses(("item",))


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ((BANNED, RESTRICTED), "the step after 7 days follows one after 21"),
        ((RESTRICTED, RESTRICTED), "the step after 7 days follows one after 7"),
        (
            (RESTRICTED, Step(14, Standing.RESTRICTED, frozenset({"admin"}))),
            "the step after 14 days allows 'search', which the step after 7 days denies",
        ),
        (
            (
                Step(7, Standing.RESTRICTED, frozenset({"search"})),
                Step(14, Standing.RESTRICTED, frozenset({"search"}), frozenset({"official_search"})),
            ),
            "the step after 14 days allows 'official_search', which the step after 7 days denies",
        ),
        (
            (
                Step(7, Standing.RESTRICTED, frozenset({EVERYTHING})),
                Step(14, Standing.RESTRICTED, frozenset({"search"})),
            ),
            "the step after 14 days allows",
        ),
        (
            (Step(21, Standing.BANNED, frozenset({"search"})),),
            "the step after 21 days bans the key, so it denies everything",
        ),
        (
            (Step(21, Standing.BANNED, frozenset({EVERYTHING}), frozenset({"item"})),),
            "the step after 21 days bans the key, so it denies everything",
        ),
    ],
)
def test_what_is_no_ladder_is_refused(steps: tuple[Step, ...], told: str) -> None:
    """Steps out of order, a step that lifts what an earlier one denies and a ban with gaps are all named."""
    with pytest.raises(ValueError, match=told):
        check_ladder(steps)


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (RESTRICTED,),
        (RESTRICTED, BANNED),
        (RESTRICTED, NO_ADMIN, BANNED),
        (RESTRICTED, Step(14, Standing.RESTRICTED, frozenset({EVERYTHING}), frozenset({"item"}))),
    ],
)
def test_a_ladder_that_only_tightens_is_accepted(steps: tuple[Step, ...]) -> None:
    """Steps that each refuse at least what the one before does stand, whatever they spare besides."""
    check_ladder(steps)


@given(days, zones, instants)
def test_steps_take_over_one_after_another_at_local_midnights(
    issued_on: date, zone: ZoneInfo, now: float
) -> None:
    """The step in force is the last one that has begun, and the instant told is when the next one begins."""
    ladder = (RESTRICTED, NO_ADMIN, BANNED)
    begun = [
        step for step in ladder if midnight(issued_on + timedelta(days=step.after_days + 1), zone) <= now
    ]
    coming = [begins for step in ladder if (begins := step_begins(issued_on, step, zone)) > now]
    assert step_at(issued_on, ladder, zone, now) == (begun[-1] if begun else None, min(coming, default=None))
