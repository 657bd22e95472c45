from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.decision import (
    FOREVER,
    Allowed,
    Conditions,
    Contract,
    Denied,
    Reason,
    conditions,
    credential_refusal,
    decide,
    expiry,
)
from policies.methods import Call
from policies.period import midnight
from policies.quota import Window
from policies.record import KeyRecord
from policies.standing import Standing, Step
from tests.policies.samples import (
    BANNED,
    MOSCOW,
    NEW_YORK,
    NO_ADMIN,
    PLANS,
    RESTRICTED,
    SAO_PAULO,
    ZONES,
    contract,
    instants,
    local,
    record,
    records,
    zones,
)

SEARCH = Call("SearchItemsFrame", "search", billable=True)
OFFICIAL = Call("SearchItemsFrame", "official_search", billable=True)
ITEM = Call("GetItemFullInfo", "item", billable=True)
ORDER = Call("GetOrders", "order", billable=False)
ADMIN = Call("AdminLogin", "admin", billable=False)
SUPPORT = Call("CreateTicket", "support", billable=False)
CALLS = (SEARCH, OFFICIAL, ITEM, ORDER, ADMIN, SUPPORT)
NOON = local(MOSCOW, "2026-11-21 12:00")


def held(key: KeyRecord, now: float, terms: Contract | None = None) -> Conditions:
    return conditions(key, terms or contract(), now)


def allowed(key: KeyRecord, now: float, terms: Contract | None = None) -> set[str]:
    """Return the classes of the sample calls that a key may make."""
    found = held(key, now, terms)
    return {call.klass for call in CALLS if isinstance(decide(found, call), Allowed)}


EVERY_CLASS = {call.klass for call in CALLS}


@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_the_ladder_from_an_unpaid_invoice_to_a_ban(zone: ZoneInfo) -> None:
    """Issued on D all goes on through D+7, searches but the official one end at D+8, all else at D+22."""
    key, terms = record(oldest_unpaid_issued_on=date(2026, 10, 5)), contract(zone)
    spared = EVERY_CLASS - {"search", "support"}
    assert allowed(key, local(zone, "2026-10-12 23:59:59"), terms) == EVERY_CLASS
    assert allowed(key, local(zone, "2026-10-13 00:00:00"), terms) == spared
    assert allowed(key, local(zone, "2026-10-26 23:59:59"), terms) == spared
    assert allowed(key, local(zone, "2026-10-27 00:00:00"), terms) == set()


def test_a_plans_lifetime_counts_from_the_local_day() -> None:
    """A key made at one in the morning of 1 November in Moscow, which is October in UTC, ends in December."""
    key = record(plan="sandbox_box", created_at=local(MOSCOW, "2026-11-01 01:00"))
    assert expiry(key, PLANS["sandbox_box"], MOSCOW) == local(MOSCOW, "2026-12-01 00:00")


def test_every_rung_tells_its_standing_and_its_reason() -> None:
    """A restricted key is refused its searches as restricted, and a banned one every call as banned."""
    key = record(oldest_unpaid_issued_on=date(2026, 10, 5))
    restricted = held(key, local(MOSCOW, "2026-10-13 00:00:00"))
    assert (restricted.standing, restricted.refuse_all) == (Standing.RESTRICTED, None)
    assert decide(restricted, SEARCH) == Denied(Reason.RESTRICTED)
    assert decide(restricted, OFFICIAL) == Allowed(150_000, Window.DAY)
    assert decide(restricted, ITEM) == Allowed(150_000, Window.DAY)
    banned = held(key, local(MOSCOW, "2026-10-27 00:00:00"))
    assert (banned.standing, banned.refuse_all) == (Standing.BANNED, Reason.BANNED)
    assert {decide(banned, call) for call in CALLS} == {Denied(Reason.BANNED)}


def test_the_step_falls_on_a_midnight_that_was_skipped() -> None:
    """Where D+8 has no midnight the restriction begins with the day's first second, which is 01:00."""
    key, terms = record(oldest_unpaid_issued_on=date(2018, 10, 27)), contract(SAO_PAULO)
    assert "search" in allowed(key, local(SAO_PAULO, "2018-11-03 23:59:59"), terms)
    assert "search" not in allowed(key, local(SAO_PAULO, "2018-11-04 01:00:00"), terms)
    assert held(key, local(SAO_PAULO, "2018-11-03 23:59:59"), terms).until == local(
        SAO_PAULO, "2018-11-04 01:00:00"
    )


def test_the_middle_step_works_when_it_is_configured() -> None:
    """With the step of OT-9 admin methods end at D+15 beside the searches; items and orders go on."""
    key, terms = (
        record(oldest_unpaid_issued_on=date(2026, 10, 5)),
        contract(MOSCOW, RESTRICTED, NO_ADMIN, BANNED),
    )
    assert "admin" in allowed(key, local(MOSCOW, "2026-10-19 23:59:59"), terms)
    assert allowed(key, local(MOSCOW, "2026-10-20 00:00:00"), terms) == {"official_search", "item", "order"}
    assert allowed(key, local(MOSCOW, "2026-10-27 00:00:00"), terms) == set()


def test_paying_lifts_everything_at_once() -> None:
    """A key whose unpaid date is cleared is active at the very same instant at which it was banned."""
    now = local(MOSCOW, "2026-12-01 00:00:00")
    owing = record(oldest_unpaid_issued_on=date(2026, 10, 5))
    assert allowed(owing, now) == set()
    assert allowed(replace(owing, oldest_unpaid_issued_on=None), now) == EVERY_CLASS
    assert allowed(replace(owing, oldest_unpaid_issued_on=date(2026, 11, 23)), now) == EVERY_CLASS - {
        "search",
        "support",
    }


def test_steps_that_are_no_ladder_are_refused_with_the_contract() -> None:
    """A contract cannot be made of steps of which a later one lifts an earlier one."""
    with pytest.raises(ValueError, match="allows 'search'"):
        contract(MOSCOW, RESTRICTED, Step(14, Standing.RESTRICTED, frozenset({"admin"})))


WITHDRAWN: dict[Reason, dict[str, Any]] = {
    Reason.CLOSED: {"closed_at": NOON},
    Reason.REVOKED_KEY: {"revoked_at": NOON},
    Reason.EXPIRED_KEY: {"expires_at": NOON},
    Reason.SUSPENDED: {"suspended": True},
    Reason.BANNED: {"oldest_unpaid_issued_on": date(2026, 10, 5)},
}
STANDINGS = {
    Reason.CLOSED: Standing.CLOSED,
    Reason.REVOKED_KEY: Standing.CLOSED,
    Reason.EXPIRED_KEY: Standing.CLOSED,
    Reason.SUSPENDED: Standing.SUSPENDED,
    Reason.BANNED: Standing.BANNED,
}


@pytest.mark.parametrize("first", range(len(WITHDRAWN)))
def test_the_gravest_fact_is_the_reason(first: int) -> None:
    """Closed outranks revoked, then expired, suspended and banned, whatever else holds as well."""
    reasons = list(WITHDRAWN)[first:]
    facts = {name: value for reason in reasons for name, value in WITHDRAWN[reason].items()}
    found = held(record(**facts), NOON)
    assert (found.refuse_all, found.standing) == (reasons[0], STANDINGS[reasons[0]])
    assert {decide(found, call) for call in CALLS} == {Denied(reasons[0])}


@pytest.mark.parametrize(
    ("fact", "reason"),
    [("closed_at", Reason.CLOSED), ("revoked_at", Reason.REVOKED_KEY), ("expires_at", Reason.EXPIRED_KEY)],
)
def test_an_end_holds_from_its_instant_on(fact: str, reason: Reason) -> None:
    """A key works until the instant at which it is closed, revoked or expired, and not at it."""
    key = record(**{fact: NOON})
    before = held(key, NOON - 0.001)
    assert (before.standing, before.refuse_all, before.until) == (Standing.ACTIVE, None, NOON)
    assert held(key, NOON).refuse_all is reason
    assert held(key, NOON).until == FOREVER


def test_a_suspended_key_keeps_its_step_to_come_back_to() -> None:
    """Suspension outranks a restriction without forgetting it."""
    key = record(oldest_unpaid_issued_on=date(2026, 11, 10), suspended=True)
    assert held(key, NOON).refuse_all is Reason.SUSPENDED
    assert decide(held(replace(key, suspended=False), NOON), SEARCH) == Denied(Reason.RESTRICTED)


def test_a_plan_that_is_gone_suspends_its_keys() -> None:
    """A key whose plan the configuration no longer knows may call nothing, and has no limit to spend."""
    found = held(record(plan="gone"), NOON)
    assert (found.standing, found.refuse_all, found.limit) == (Standing.SUSPENDED, Reason.SUSPENDED, 0)


def test_methods_outside_the_plan_are_refused_after_the_ladder() -> None:
    """A sandbox refuses what its plan does not name, and a restriction is told before that (OT-3)."""
    sandbox = record(plan="sandbox")
    assert decide(held(sandbox, NOON), SEARCH) == Allowed(5_000, Window.DAY)
    assert decide(held(sandbox, NOON), ITEM) == Denied(Reason.METHOD_NOT_IN_PLAN)
    owing = replace(sandbox, oldest_unpaid_issued_on=date(2026, 11, 10))
    assert decide(held(owing, NOON), SEARCH) == Denied(Reason.RESTRICTED)


@pytest.mark.parametrize(
    ("facts", "limit"),
    [
        ({}, 150_000),
        ({"plan": "K2"}, 50_000),
        ({"plan": "open"}, None),
        ({"daily_limit": 7}, 7),
        ({"daily_limit": 0}, 0),
        ({"plan": "open", "daily_limit": 7}, 7),
        ({"unlimited": True}, None),
        ({"unlimited": True, "daily_limit": 7}, None),
        ({"purchased_at": NOON - 60}, 100_000),
        ({"purchased_at": NOON - 60, "plan": "K2"}, 100_000),
        ({"purchased_at": NOON - 60, "plan": "open"}, 100_000),
        ({"purchased_at": NOON - 60, "daily_limit": 7}, 7),
        ({"purchased_at": NOON - 60, "unlimited": True}, None),
        ({"purchased_at": NOON - 60, "plan": "sandbox"}, 5_000),
        ({"purchased_at": NOON - 60, "first_request_at": NOON - 60 - 7 * 86_400}, 100_000),
        ({"purchased_at": NOON - 60, "first_request_at": NOON - 61 - 7 * 86_400}, 150_000),
        ({"purchased_at": NOON + 60}, 150_000),
    ],
)
def test_a_limit_comes_from_the_key_then_the_trial_then_the_plan(
    facts: dict[str, Any], limit: int | None
) -> None:
    """What an operator set on the key outranks the free month's 100,000, which outranks the plan's (OT-2)."""
    assert held(record(**facts), NOON).limit == limit


@pytest.mark.parametrize("zone", [MOSCOW, NEW_YORK], ids=str)
def test_the_trial_limit_ends_at_the_midnight_that_ends_the_trial(zone: ZoneInfo) -> None:
    """A key bought on 31 January has 100,000 until the last second of 27 February, and its plan's limit
    after.
    """
    key, terms = record(purchased_at=local(zone, "2026-01-31 18:00:00")), contract(zone)
    ends = local(zone, "2026-02-28 00:00:00")
    for now in (local(zone, "2026-01-31 18:00:00"), ends - 1):
        found = held(key, now, terms)
        assert (found.in_trial, found.limit, found.until) == (True, 100_000, ends)
    after = held(key, ends, terms)
    assert (after.in_trial, after.limit, after.until) == (False, 150_000, FOREVER)


def test_a_trial_that_lies_ahead_ends_the_conditions_when_it_begins() -> None:
    """Before a purchase that is dated ahead the plan's limit holds, until that instant."""
    found = held(record(purchased_at=NOON + 60), NOON)
    assert (found.in_trial, found.until) == (False, NOON + 60)


def test_a_trial_does_not_shield_from_the_ladder() -> None:
    """A key in its free month that owes an older invoice is restricted like any other."""
    key = record(purchased_at=NOON - 60, oldest_unpaid_issued_on=date(2026, 11, 10))
    assert decide(held(key, NOON), SEARCH) == Denied(Reason.RESTRICTED)
    assert decide(held(key, NOON), ITEM) == Allowed(100_000, Window.DAY)


@pytest.mark.parametrize(
    ("facts", "window"),
    [
        ({}, Window.DAY),
        ({"plan": "K3"}, Window.ROLLING_24H),
        ({"plan": "K3", "window": Window.DAY}, Window.DAY),
        ({"window": Window.ROLLING_24H}, Window.ROLLING_24H),
        ({"plan": "gone"}, Window.DAY),
    ],
)
def test_the_window_comes_from_the_key_and_then_the_plan(facts: dict[str, Any], window: Window) -> None:
    """A window set on the key outranks the plan's, which is the calendar day by default (OT-1)."""
    assert held(record(**facts), NOON).window is window


def test_a_sandbox_box_ends_after_a_month() -> None:
    """A plan that lasts a month ends its keys at midnight of the same day next month, clamped to its end
    (OT-3).
    """
    key = record(plan="sandbox_box", created_at=local(MOSCOW, "2028-01-31 15:00:00"))
    ends = local(MOSCOW, "2028-02-29 00:00:00")
    assert held(key, ends - 1).refuse_all is None
    assert held(key, ends - 1).until == ends
    assert held(key, ends).refuse_all is Reason.EXPIRED_KEY


def test_the_earlier_of_two_ends_counts() -> None:
    """A key ends at its own date or at its plan's, whichever comes first, and never without either."""
    box, created = PLANS["sandbox_box"], local(MOSCOW, "2026-10-05 15:00:00")
    plan_ends = midnight(date(2026, 11, 5), MOSCOW)
    assert expiry(record(created_at=created), box, MOSCOW) == plan_ends
    assert expiry(record(created_at=created, expires_at=plan_ends - 5), box, MOSCOW) == plan_ends - 5
    assert expiry(record(created_at=created, expires_at=plan_ends + 5), box, MOSCOW) == plan_ends
    assert expiry(record(expires_at=5.0), PLANS["K1"], MOSCOW) == 5.0
    assert expiry(record(expires_at=5.0), None, MOSCOW) == 5.0
    assert expiry(record(), PLANS["K1"], MOSCOW) is None


def test_a_rotated_key_is_accepted_until_its_overlap_ends() -> None:
    """Of two texts of a key the old one is refused from its end on, and an unknown text at any time."""
    old, new = "aa" * 32, "bb" * 32
    key = record(credentials={old: NOON, new: None})
    assert credential_refusal(key, old, NOON - 0.001) is None
    assert credential_refusal(key, old, NOON) is Reason.EXPIRED_KEY
    assert credential_refusal(key, new, NOON + 10**9) is None
    assert credential_refusal(key, "cc" * 32, NOON) is Reason.REVOKED_KEY


ladders = st.sampled_from([(RESTRICTED, BANNED), (RESTRICTED, NO_ADMIN, BANNED), (BANNED,)])


@settings(max_examples=300)
@given(records(), zones, ladders, instants, st.data())
def test_conditions_hold_until_the_instant_they_tell(
    key: KeyRecord, zone: ZoneInfo, ladder: tuple[Step, ...], now: float, data: st.DataObject
) -> None:
    """Whatever the record, its conditions are the same at every instant before `until`."""
    terms = contract(zone, *ladder)
    found = conditions(key, terms, now)
    assert found.until > now
    last = min(found.until, now + 400 * 86_400)
    later = data.draw(st.floats(now, last, exclude_max=True))
    assert conditions(key, terms, later) == found
    if found.until < FOREVER:
        just_before = max(now, found.until - 0.001)
        assert conditions(key, terms, just_before) == found


@settings(max_examples=300)
@given(records(), zones, ladders, instants)
def test_until_is_a_date_of_the_record(
    key: KeyRecord, zone: ZoneInfo, ladder: tuple[Step, ...], now: float
) -> None:
    """Walking from one `until` to the next ends, and passes every instant at which the conditions differ."""
    terms = contract(zone, *ladder)
    walk = [conditions(key, terms, now)]
    while walk[-1].until < FOREVER:
        walk.append(conditions(key, terms, walk[-1].until))
        assert len(walk) <= 9  # three steps, two ends of a trial, expiry, revocation, closing, and the start
    moment = now
    for _ in range(60):
        current = next(span for span in walk if moment < span.until)
        assert replace(conditions(key, terms, moment), until=0) == replace(current, until=0)
        moment += 86_400 * 1.7


@given(records(), zones, instants)
def test_nothing_is_allowed_while_a_reason_stands_against_everything(
    key: KeyRecord, zone: ZoneInfo, now: float
) -> None:
    """A key that is neither active nor restricted may make no call, and one that is may make some."""
    found = conditions(key, contract(zone), now)
    verdicts = [decide(found, call) for call in CALLS]
    withdrawn = found.standing not in (Standing.ACTIVE, Standing.RESTRICTED)
    assert (found.refuse_all is not None) == withdrawn
    if withdrawn:
        assert set(verdicts) == {Denied(found.refuse_all)} if found.refuse_all else False
    else:
        limits = {(verdict.limit, verdict.window) for verdict in verdicts if isinstance(verdict, Allowed)}
        assert limits <= {(found.limit, found.window)}
        assert isinstance(decide(found, OFFICIAL), Allowed)


@given(records(), zones, instants)
def test_the_longer_an_invoice_is_unpaid_the_less_is_allowed(
    key: KeyRecord, zone: ZoneInfo, now: float
) -> None:
    """Moving only the date of the unpaid invoice back never allows a call that was refused."""
    terms, issued_on = contract(zone), date(2018, 10, 27)
    later = conditions(replace(key, oldest_unpaid_issued_on=issued_on), terms, now)
    for earlier_day in (date(2018, 10, 26), date(2018, 10, 12), date(2017, 1, 1)):
        earlier = conditions(replace(key, oldest_unpaid_issued_on=earlier_day), terms, now)
        for call in CALLS:
            assert isinstance(decide(later, call), Allowed) or isinstance(decide(earlier, call), Denied)
