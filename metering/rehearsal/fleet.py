"""Who takes part in a rehearsal and what they will do. Pure: a seed makes the same fleet every time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from hashlib import blake2b
from zoneinfo import ZoneInfo

from policies.period import Period, add_months, midnight

SECONDS = 80_000  # of a day that is used: even a day of 23 hours has them
METHODS = (("SearchItemsFrame", "search"), ("GetItemFullInfo", "item"))


class Habit(StrEnum):
    """How a customer pays."""

    PROMPT = "pays in time"
    LAST_SECOND = "pays in the last second"
    RESTRICTED = "pays once restricted"
    BANNED = "pays once banned"
    PARTS = "pays in two parts"
    AHEAD = "pays too much"
    REVERSED = "has a payment reversed"
    NEVER = "stops paying"


_SHARES = {
    Habit.PROMPT: 40,
    Habit.LAST_SECOND: 8,
    Habit.RESTRICTED: 14,
    Habit.BANNED: 8,
    Habit.PARTS: 12,
    Habit.AHEAD: 8,
    Habit.REVERSED: 6,
    Habit.NEVER: 4,
}


@dataclass(frozen=True, slots=True)
class Shop:
    """A site with a key of its own; instants are epoch seconds."""

    site: str
    plan: str
    bought_at: float
    closes_at: float | None
    moves_on: date | None  # the first day under the second version of its plan's price
    daily_calls: int


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer; `names_invoices` says that payments name what they are for."""

    number: int
    name: str
    first_request_at: float
    habit: Habit
    names_invoices: bool
    disputes: bool
    shops: tuple[Shop, ...]

    @property
    def domain(self) -> str:
        """The main domain."""
        return f"shop{self.number:05d}.example"


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment that is planned: a share of what is outstanding then, and when the bank takes it back."""

    at: float
    share: Decimal
    reversed_at: float | None = None


def instant(day: date, second: int, zone: ZoneInfo) -> float:
    """Return the epoch second `second` seconds after a day's begin."""
    return midnight(day, zone) + second


def aware(at: float) -> datetime:
    """Return an epoch second as the ledger takes it."""
    return datetime.fromtimestamp(at, UTC)


def fleet(
    count: int, span: Period, plans: Sequence[str], zone: ZoneInfo, seed: int, moving: date | None
) -> list[Customer]:
    """Return `count` customers who come in the first three quarters of `span`, half of them at its begin.

    Some move on the day `moving`, or two weeks later, to the second version of their plan's price.
    """
    return [_customer(number, span, plans, zone, seed, moving) for number in range(1, count + 1)]


def _customer(
    number: int, span: Period, plans: Sequence[str], zone: ZoneInfo, seed: int, moving: date | None
) -> Customer:
    chance = random.Random(f"{seed}/{number}")
    days = (span.last_excluded - span.first).days
    shops = []
    first = chance.randrange(5) if chance.random() < 0.5 else chance.randrange(max(1, days * 3 // 4))
    for index in range(1 if chance.random() < 0.75 else 2):
        offset = min(days - 1, first + index * chance.randrange(60))
        bought = span.first + timedelta(days=offset)
        left = (span.last_excluded - bought).days
        closes = None
        if chance.random() < 0.06 and left > 40:
            closes = bought + timedelta(days=chance.randrange(35, left))
        moves = None
        if moving is not None and chance.random() < 0.3:
            moves = moving + timedelta(days=chance.choice((0, 0, 14)))
        if moves is not None and (
            moves <= bought + timedelta(days=20) or (closes is not None and moves >= closes)
        ):
            moves = None
        shops.append(
            Shop(
                site=f"shop{number:05d}-{index + 1}.example",
                plan=chance.choice(plans),
                bought_at=instant(bought, chance.randrange(1, SECONDS), zone),
                closes_at=None if closes is None else instant(closes, chance.randrange(1, SECONDS), zone),
                moves_on=moves,
                daily_calls=int(chance.lognormvariate(7.8, 1.4)),
            )
        )
    # Within seven days of the first request a purchase brings a free month; a few come later.
    since = chance.choice((1, 3, 6, 6, 8, 20)) * 86_400
    return Customer(
        number=number,
        name=f"customer {number:05d}",
        first_request_at=shops[0].bought_at - since,
        habit=chance.choices(list(_SHARES), list(_SHARES.values()))[0],
        names_invoices=chance.random() < 0.5,
        disputes=chance.random() < 0.1,
        shops=tuple(shops),
    )


def calls_of(customer: Customer, shop: Shop, day: date, seed: int) -> dict[tuple[str, str], list[int]]:
    """Return what a shop makes counted on a day: calls, units taken, units waived, by method and class."""
    # A generator for each of so many days would take longer than all else that is made up.
    chance = blake2b(f"{seed}/{shop.site}/{day.toordinal()}".encode(), digest_size=8).digest()
    calls = shop.daily_calls * (400 + int.from_bytes(chance[:4], "big") % 1201) // 1000
    if not calls:
        return {}
    searches = calls if customer.number % 3 else calls * 2 // 3
    found: dict[tuple[str, str], list[int]] = {}
    for method, made, share in zip(METHODS, (searches, calls - searches), chance[4:6], strict=True):
        if made:
            units = made if method is METHODS[0] else made * 5  # item methods are weighted
            found[method] = [made, units, units * (share % 4) // 100]
    return found


def payments_for(customer: Customer, issued_on: date, zone: ZoneInfo, seed: int) -> list[Payment]:
    """Return how a customer pays an invoice, none for one who does not."""
    chance = random.Random(f"{seed}/{customer.number}/pays/{issued_on}")

    def on(days: int) -> float:
        return instant(issued_on + timedelta(days=days), chance.randrange(SECONDS), zone)

    one, half = Decimal(1), Decimal("0.5")
    last_second = midnight(issued_on + timedelta(days=8), zone) - 1
    match customer.habit:
        case Habit.PROMPT:
            return [Payment(on(chance.randrange(1, 7)), one)]
        case Habit.LAST_SECOND:
            return [Payment(last_second, one)]
        case Habit.RESTRICTED:
            return [Payment(on(chance.randrange(8, 21)), one)]
        case Habit.BANNED:
            return [Payment(on(chance.randrange(22, 50)), one)]
        case Habit.PARTS:
            return [Payment(on(chance.randrange(1, 7)), half), Payment(on(chance.randrange(7, 14)), one)]
        case Habit.AHEAD:
            return [Payment(on(chance.randrange(1, 7)), Decimal("1.3"))]
        case Habit.REVERSED:
            return [
                Payment(on(2), one, on(chance.randrange(9, 12))),
                Payment(on(chance.randrange(13, 26)), one),
            ]
        case Habit.NEVER:
            return []


def disputed_month(customer: Customer, month: date, seed: int) -> bool:
    """Say whether a customer disputes the invoice of a month."""
    return customer.disputes and random.Random(f"{seed}/{customer.number}/disputes/{month}").random() < 0.4


def late_share(customer: Customer, month: date, seed: int) -> Decimal:
    """Return by which share the last day's counts of a month grow after its invoice, mostly by none."""
    chance = random.Random(f"{seed}/{customer.number}/late/{month}")
    return Decimal(chance.randrange(1, 30)) / 100 if chance.random() < 0.03 else Decimal(0)


def issue_day(month: date, latest: int, seed: int) -> date:
    """Return the day on which the invoices of a month are issued, in the month after it."""
    following = add_months(month.replace(day=1), 1)
    return following + timedelta(days=random.Random(f"{seed}/issue/{month}").randrange(latest))
