from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.period import Period, month_of
from policies.plan_versions import (
    Move,
    NoPriceError,
    NoticeError,
    PlanVersion,
    changes_in,
    check_move,
    check_notice,
    earliest_effective,
    explain,
    newest_in_force,
    version_on,
)
from policies.pricing import Model, Price, total
from tests.policies.prices import tier
from tests.policies.samples import CHATHAM, MOSCOW, NEW_YORK, SHANGHAI


def version(number: int, effective_from: date, *, flat: str = "30", zone: ZoneInfo = MOSCOW) -> PlanVersion:
    return PlanVersion(
        plan="K1",
        version=number,
        currency="USD",
        announced_at=datetime(2025, 1, 1, tzinfo=zone),
        effective_from=effective_from,
        price=Price(Model.PER_UNIT, (tier(None, flat=flat),)),
        minimum=Decimal(100),
    )


V1 = version(1, date(2025, 12, 1))
V2 = version(2, date(2026, 1, 15), flat="60")
OLD, NEW = date(2026, 1, 1), date(2026, 1, 20)  # when the two customers of the table start


def price_on(
    versions: list[PlanVersion], started: date, day: date, moves: list[Move] | None = None
) -> Decimal:
    return total(version_on(versions, started, moves or [], day).price, Decimal(0))


def test_existing_customers_keep_the_former_price() -> None:
    """Kill Bill's table: on 1 February the existing customer pays 30, and the new one 60."""
    assert price_on([V1, V2], OLD, date(2026, 2, 1)) == 30
    assert price_on([V1, V2], NEW, date(2026, 2, 1)) == 60


def test_a_date_for_the_existing_brings_them_over() -> None:
    """Kill Bill's table: with a date set for the existing, they pay 30 on 1 February and 60 on 1 March."""
    dated = replace(V2, existing_from=date(2026, 3, 1))
    assert price_on([V1, dated], OLD, date(2026, 2, 1)) == 30
    assert price_on([V1, dated], OLD, date(2026, 3, 1)) == 60


def test_a_customer_that_moves_pays_the_new_price_from_that_day() -> None:
    """An explicit move holds from its first day; the day before is at the former price."""
    moves = [Move(date(2026, 2, 15), 2)]
    assert price_on([V1, V2], OLD, date(2026, 2, 14), moves) == 30
    assert price_on([V1, V2], OLD, date(2026, 2, 15), moves) == 60


def test_a_customer_that_never_moves_keeps_its_price_for_good() -> None:
    """Ten newer versions and ten years later, the pinned version still applies."""
    versions = [V1, V2] + [version(number, date(2026 + number, 1, 1)) for number in range(3, 11)]
    assert version_on(versions, OLD, [], date(2040, 1, 1)) == V1


def test_the_boundary_of_coming_into_force_is_the_day() -> None:
    """A subscription of the day before gets the former version, and one of the day itself the new one."""
    assert newest_in_force([V1, V2], date(2026, 1, 14)) == V1
    assert newest_in_force([V1, V2], date(2026, 1, 15)) == V2
    assert newest_in_force([V1, V2], date(2025, 11, 30)) is None


def test_a_date_for_the_existing_never_brings_anyone_back() -> None:
    """Who moved on to a newer version stays there when an older one takes over those still behind it."""
    v2 = replace(V2, existing_from=date(2026, 6, 1))
    v3 = version(3, date(2026, 2, 1), flat="90")
    versions, moves = [V1, v2, v3], [Move(date(2026, 3, 1), 3)]
    assert version_on(versions, OLD, moves, date(2026, 7, 1)) == v3
    assert version_on(versions, OLD, [], date(2026, 7, 1)) == v2


def test_changes_cut_a_month() -> None:
    """The version of the month's first day comes first, then each day on which another takes over."""
    moves = [Move(date(2026, 2, 15), 2)]
    february = month_of(date(2026, 2, 1))
    assert changes_in([V1, V2], OLD, moves, february) == ((date(2026, 2, 1), V1), (date(2026, 2, 15), V2))
    assert changes_in([V1, V2], OLD, moves, month_of(date(2026, 3, 1))) == ((date(2026, 3, 1), V2),)
    assert changes_in([V1, V2], NEW, [], month_of(NEW)) == ((NEW, V2),)
    assert changes_in([V1, V2], NEW, [], month_of(date(2025, 12, 1))) == ()
    assert changes_in([V1, V2], NEW, [], Period(date(2026, 1, 1), NEW)) == ()
    dated = replace(V2, existing_from=date(2026, 2, 10))
    assert changes_in([V1, dated], OLD, [], february) == (
        (date(2026, 2, 1), V1),
        (date(2026, 2, 10), dated),
    )


def test_on_one_day_the_customers_own_choice_holds() -> None:
    """Who has chosen a version from a day on has it, though a newer one takes over the others that day."""
    v3 = replace(version(3, date(2026, 2, 1), flat="90"), existing_from=date(2026, 3, 1))
    moves = [Move(date(2026, 3, 1), 2)]
    assert version_on([V1, V2, v3], OLD, moves, date(2026, 3, 1)) == V2
    assert version_on([V1, V2, v3], OLD, [], date(2026, 3, 1)) == v3


@given(
    days=st.lists(st.integers(1, 400), unique=True, max_size=4),
    first=st.integers(0, 400),
    length=st.integers(0, 60),
)
def test_changes_tell_what_each_day_would(days: list[int], first: int, length: int) -> None:
    """Every day of a period has the version that the changes up to it tell."""
    versions = [version(number, date(2025, 12, 1)) for number in range(1, 6)]
    versions = [replace(v, effective_from=date(2025, 12, v.version)) for v in versions]
    started = date(2025, 12, 1)
    moves = [Move(started + timedelta(days=d), n) for n, d in enumerate(sorted(days), start=2)]
    begins = started + timedelta(days=first)
    period = Period(begins, begins + timedelta(days=length))
    changes = dict(changes_in(versions, started, moves, period))
    current = None
    for offset in range(length):
        day = begins + timedelta(days=offset)
        current = changes.get(day, current)
        assert current == version_on(versions, started, moves, day)


def test_no_price_is_an_error_with_its_day() -> None:
    """A subscription that started before any version was in force has no price, and that is said."""
    with pytest.raises(
        NoPriceError,
        match=r"^no price applies on 2026-01-01: no version was in force when the subscription started on "
        r"2025-11-30$",
    ) as refused:
        version_on([V1, V2], date(2025, 11, 30), [], date(2026, 1, 1))
    assert refused.value.day == date(2026, 1, 1)
    with pytest.raises(
        NoPriceError, match="on 2026-02-01: version 9, moved to on 2026-01-31, does not exist"
    ):
        version_on([V1, V2], OLD, [Move(date(2026, 1, 31), 9)], date(2026, 2, 1))
    with pytest.raises(NoPriceError, match="on 2026-01-01: the subscription starts on 2026-01-20"):
        version_on([V1, V2], NEW, [], OLD)


@pytest.mark.parametrize("zone", [MOSCOW, NEW_YORK, SHANGHAI, CHATHAM], ids=str)
@pytest.mark.parametrize("clock", [(0, 0, 0), (23, 59, 59)])
def test_29_days_are_refused_and_30_are_not(zone: ZoneInfo, clock: tuple[int, int, int]) -> None:
    """Notice is counted in whole days of the billing timezone, from the first second to the last (OT-12)."""
    announced = datetime(2026, 3, 1, *clock, tzinfo=zone)
    late = replace(V2, announced_at=announced, effective_from=date(2026, 3, 30))
    with pytest.raises(NoticeError, match="earliest day is 2026-03-31") as refused:
        check_notice(late, zone)
    assert refused.value.earliest == date(2026, 3, 31) == earliest_effective(date(2026, 3, 1))
    check_notice(replace(late, effective_from=refused.value.earliest), zone)


def test_notice_is_as_long_as_the_settings_say() -> None:
    """With 45 days of notice the 44th is refused, in words that name version, plan, day and notice."""
    announced = replace(
        V2, announced_at=datetime(2026, 3, 1, tzinfo=MOSCOW), effective_from=date(2026, 4, 14)
    )
    with pytest.raises(NoticeError) as refused:
        check_notice(announced, MOSCOW, notice_days=45)
    assert str(refused.value) == (
        "version 2 of K1 cannot come into force on 2026-04-14: new prices are announced at least 45 days "
        "ahead, so the earliest day is 2026-04-15"
    )
    check_notice(replace(announced, effective_from=date(2026, 4, 15)), MOSCOW, notice_days=45)


@pytest.mark.parametrize(
    ("move", "said"),
    [
        (Move(date(2026, 2, 1), 9), "no version 9"),
        (Move(date(2026, 1, 14), 2), "comes into force on 2026-01-15"),
        (Move(date(2026, 2, 1), 1), "already on version 1"),
        (Move(date(2025, 12, 31), 1), "started on 2026-01-01"),
        (Move(OLD, 1), "started on 2026-01-01"),
    ],
)
def test_a_move_that_cannot_be_is_refused(move: Move, said: str) -> None:
    """A move leads to a newer version that is in force by then, and starts after the subscription did."""
    with pytest.raises(ValueError, match=said):
        check_move([V1, V2], OLD, [], move)


def test_a_move_that_can_be_names_its_version() -> None:
    """The first day that a version is in force is the first on which a customer can move to it."""
    assert check_move([V1, V2], OLD, [], Move(date(2026, 1, 15), 2)) == V2
    with pytest.raises(ValueError, match=r"^a move that begins on that day or later is already there$"):
        check_move([V1, V2], OLD, [Move(date(2026, 1, 15), 2)], Move(date(2026, 1, 15), 2))


def test_the_price_of_a_day_is_explained() -> None:
    """The sentence says which version applies, since when, and whose choice it was."""
    assert explain([V1, V2], OLD, [], date(2026, 2, 1)) == (
        "version 1, in force when the subscription started on 2026-01-01; "
        "version 2 is for new subscriptions, the former conditions are kept"
    )
    moved = explain([V1, V2], OLD, [Move(date(2026, 2, 1), 2)], date(2026, 2, 1))
    assert moved == "version 2: the customer moved to it on 2026-02-01"
    taken = explain([V1, replace(V2, existing_from=date(2026, 3, 1))], OLD, [], date(2026, 3, 1))
    assert taken == "version 2: it took over those already connected on 2026-03-01"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"version": 0}, "^versions are numbered from 1$"),
        ({"minimum": Decimal("-0.01")}, "^a minimum cannot be negative$"),
        ({"existing_from": date(2026, 1, 14)}, "^existing_from cannot come before effective_from$"),
    ],
)
def test_a_version_that_cannot_be_is_refused(fields: dict[str, object], said: str) -> None:
    """A version that contradicts itself is refused with what is wrong."""
    with pytest.raises(ValueError, match=said):
        replace(V2, **fields)


@pytest.mark.parametrize(
    "fields", [{"minimum": Decimal(0)}, {"minimum": Decimal("0.01")}, {"existing_from": date(2026, 1, 15)}]
)
def test_a_version_may_be_at_the_bounds(fields: dict[str, object]) -> None:
    """There may be no minimum or a small one, and a version may take over everybody on its first day."""
    assert replace(V2, **fields).version == 2
