"""Zones, instants, records and contracts that the tests of the contract share."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from policies.decision import Contract
from policies.period import day_of
from policies.plans import Plan
from policies.quota import Window
from policies.record import KeyRecord
from policies.standing import EVERYTHING, Standing, Step
from policies.trial import TrialTerms

MOSCOW = ZoneInfo("Europe/Moscow")
NEW_YORK = ZoneInfo("America/New_York")
SHANGHAI = ZoneInfo("Asia/Shanghai")
CHATHAM = ZoneInfo("Pacific/Chatham")  # offsets of 12:45 and 13:45
SAO_PAULO = ZoneInfo("America/Sao_Paulo")  # until 2018 clocks went forward at midnight itself
ST_JOHNS = ZoneInfo("America/St_Johns")  # until 2011 clocks went back at 00:01, across midnight
HAVANA = ZoneInfo("America/Havana")  # clocks go back from 01:00 to 00:00: midnight comes twice
APIA = ZoneInfo("Pacific/Apia")  # 30 December 2011 did not exist
TORONTO = ZoneInfo("America/Toronto")  # in 1919 clocks went forward from 23:30 to 00:30
ZONES = (MOSCOW, NEW_YORK, SHANGHAI, CHATHAM, SAO_PAULO, ST_JOHNS, HAVANA, APIA, TORONTO)

RESTRICTED = Step(7, Standing.RESTRICTED, frozenset({"search", "support"}), frozenset({"official_search"}))
NO_ADMIN = Step(
    14, Standing.RESTRICTED, frozenset({"search", "support", "admin"}), frozenset({"official_search"})
)
BANNED = Step(21, Standing.BANNED, frozenset({EVERYTHING}))

PLANS = {
    plan.name: plan
    for plan in (
        Plan("K1", 150_000),
        Plan("K2", 50_000),
        Plan("K3", 10_000, Window.ROLLING_24H),
        Plan("open", None),
        Plan("sandbox", 5_000, sandbox=True, methods=frozenset({"SearchItemsFrame"})),
        Plan("sandbox_box", 1_000, sandbox=True, lifetime_months=1),
    )
}


def local(zone: ZoneInfo, text: str, fold: int = 0) -> float:
    """Return the epoch second of a local time written as `2026-10-05 23:59:59`."""
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def contract(zone: ZoneInfo = MOSCOW, *steps: Step) -> Contract:
    """Return a contract with the plans above and the ladder of OT-8 and OT-10, or the steps given."""
    return Contract(zone=zone, plans=PLANS, steps=steps or (RESTRICTED, BANNED), trial=TrialTerms())


def record(**facts: Any) -> KeyRecord:
    """Return an ordinary paid K1 key, changed by `facts`."""
    plain: dict[str, Any] = {
        "key_id": "key_00112233445566aa",
        "account_id": "acc_0011223344556677",
        "plan": "K1",
        "revision": 1,
        "created_at": local(MOSCOW, "2026-01-01 12:00"),
        "credentials": {"ab" * 32: None},
    }
    return KeyRecord(**(plain | facts))


# All instants of the properties lie in these three years, so that their dates meet one another often.
FIRST_INSTANT, LAST_INSTANT = int(local(MOSCOW, "2017-06-01 00:00")), int(local(MOSCOW, "2020-06-01 00:00"))
instants = st.integers(FIRST_INSTANT, LAST_INSTANT).map(float) | st.floats(FIRST_INSTANT, LAST_INSTANT)
days = st.dates(date(2017, 6, 1), date(2020, 6, 1))
zones = st.sampled_from(ZONES)


@st.composite
def records(draw: st.DrawFn) -> KeyRecord:
    """Draw any record, its dates close enough together to fall into one another's spans."""
    base = draw(instants)
    near = st.integers(-40 * 86_400, 40 * 86_400).map(lambda distance: base + distance) | st.just(base)
    maybe = st.none() | near
    first_request_at = draw(maybe)
    purchased_at = draw(maybe | st.sampled_from([base, base + 7 * 86_400]))
    unpaid = day_of(base, MOSCOW) + timedelta(days=draw(st.integers(-30, 30)))
    return KeyRecord(
        key_id="key_" + draw(st.text("0123456789abcdef", min_size=16, max_size=16)),
        account_id="acc_" + draw(st.text("0123456789abcdef", min_size=16, max_size=16)),
        plan=draw(st.sampled_from([*PLANS, "gone"])),
        revision=draw(st.integers(0, 2**53)),
        created_at=draw(near),
        credentials=draw(
            st.dictionaries(st.text("0123456789abcdef", min_size=64, max_size=64), maybe, max_size=2)
        ),
        purchased_at=purchased_at,
        first_request_at=first_request_at,
        daily_limit=draw(st.none() | st.integers(0, 2**53)),
        unlimited=draw(st.booleans()),
        window=draw(st.none() | st.sampled_from(Window)),
        expires_at=draw(maybe),
        revoked_at=draw(st.none() | maybe),
        suspended=draw(st.sampled_from([False, False, False, True])),
        closed_at=draw(st.none() | maybe),
        oldest_unpaid_issued_on=draw(st.none() | st.just(unpaid)),
        default_provider=draw(st.none() | st.text(max_size=12)),
        default_search_method=draw(st.none() | st.text(max_size=12)),
        signing_secret=draw(st.none() | st.text(max_size=40)),
        allow_networks=draw(st.sampled_from([(), ("203.0.113.0/24",), ("10.0.0.0/8", "2001:db8::/32")])),
        allow_domains=draw(st.sampled_from([(), ("shop.example",), ("one.example", "two.example")])),
    )
