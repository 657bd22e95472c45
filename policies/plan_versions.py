"""Versions of a plan's price: which applies to whom on which day (contract OT-11, OT-12).

A subscription is pinned to the newest version in force on the day it starts. It keeps those conditions until
it is moved, with a date, or until a date that a newer version sets for those already connected. A version
that was announced or is in force never changes: a new price is a new version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from zoneinfo import ZoneInfo

from policies.period import Period, day_of
from policies.pricing import Price

NOTICE_DAYS = 30


class Proration(StrEnum):
    """What a partial month does to the minimum: its share by days, or nothing."""

    DAILY = "daily"
    NONE = "none"


class NoPriceError(Exception):
    """No version of the plan is in force for a subscription on a day."""

    def __init__(self, day: date, reason: str) -> None:
        super().__init__(f"no price applies on {day}: {reason}")
        self.day = day


class NoticeError(Exception):
    """A version comes into force too soon after its announcement; `earliest` is the first day accepted."""

    def __init__(
        self, plan: str, version: int, effective_from: date, earliest: date, notice_days: int
    ) -> None:
        super().__init__(
            f"version {version} of {plan} cannot come into force on {effective_from}: new prices are "
            f"announced at least {notice_days} days ahead, so the earliest day is {earliest}"
        )
        self.earliest = earliest


@dataclass(frozen=True, slots=True)
class PlanVersion:
    """A price of a plan, in force for subscriptions that start on `effective_from` or later.

    `minimum` is a month's least payment in `currency` (contract OT-5), 0 for none. On `existing_from`
    subscriptions on older versions come over by themselves; None leaves them their former conditions.
    """

    plan: str
    version: int
    currency: str
    announced_at: datetime
    effective_from: date
    price: Price
    minimum: Decimal
    minimum_proration: Proration = Proration.DAILY
    existing_from: date | None = None

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ValueError("versions are numbered from 1")
        if self.minimum < 0:
            raise ValueError("a minimum cannot be negative")
        if self.existing_from is not None and self.existing_from < self.effective_from:
            raise ValueError("existing_from cannot come before effective_from")


@dataclass(frozen=True, slots=True)
class Move:
    """An explicit move of one subscription to `version`, from the start of day `first`."""

    first: date
    version: int


def newest_in_force(versions: Sequence[PlanVersion], day: date) -> PlanVersion | None:
    """Return the version that a subscription starting on `day` gets, None before the first one."""
    in_force = [version for version in versions if version.effective_from <= day]
    return max(in_force, key=lambda version: version.version, default=None)


def version_on(
    versions: Sequence[PlanVersion], started: date, moves: Sequence[Move], day: date
) -> PlanVersion:
    """Return the version that applies on `day` to a subscription of one plan that started on `started`.

    Raises NoPriceError when no version was in force on the day it started, or a move names no version.
    """
    if day < started:
        raise NoPriceError(day, f"the subscription starts on {started}")
    current = newest_in_force(versions, started)
    if current is None:
        raise NoPriceError(day, f"no version was in force when the subscription started on {started}")
    for move in _moves(versions, moves, started):
        if move.first > day:
            break
        moved = next((version for version in versions if version.version == move.version), None)
        if moved is None:
            raise NoPriceError(day, f"version {move.version}, moved to on {move.first}, does not exist")
        chosen = move in moves
        if chosen or moved.version > current.version:
            current = moved
    return current


def changes_in(
    versions: Sequence[PlanVersion], started: date, moves: Sequence[Move], period: Period
) -> tuple[tuple[date, PlanVersion], ...]:
    """Return the version on the first day of `period` and each later day on which another one takes over.

    Nothing is told of days before the subscription starts. Raises NoPriceError as `version_on` does.
    """
    begins = max(period.first, started)
    if begins >= period.last_excluded:
        return ()
    days = {begins} | {move.first for move in _moves(versions, moves, started) if move.first in period}
    found: list[tuple[date, PlanVersion]] = []
    for day in sorted(day for day in days if day >= begins):
        version = version_on(versions, started, moves, day)
        if not found or found[-1][1] != version:
            found.append((day, version))
    return tuple(found)


def earliest_effective(announced_on: date, notice_days: int = NOTICE_DAYS) -> date:
    """Return the first day on which a price that is announced on `announced_on` can come into force."""
    return announced_on + timedelta(days=notice_days)


def check_notice(version: PlanVersion, zone: ZoneInfo, *, notice_days: int = NOTICE_DAYS) -> None:
    """Check that a version is announced early enough; raises NoticeError that names the earliest day.

    Days are counted, not hours: an announcement late in the evening counts for its whole day.
    """
    announced_on = day_of(version.announced_at.timestamp(), zone)
    earliest = earliest_effective(announced_on, notice_days)
    if version.effective_from < earliest:
        raise NoticeError(version.plan, version.version, version.effective_from, earliest, notice_days)


def check_move(
    versions: Sequence[PlanVersion], started: date, moves: Sequence[Move], move: Move
) -> PlanVersion:
    """Check a move and return the version it leads to; raises ValueError that says what is wrong."""
    target = next((version for version in versions if version.version == move.version), None)
    if target is None:
        raise ValueError(f"there is no version {move.version} of this plan")
    if move.first < target.effective_from:
        raise ValueError(
            f"version {move.version} comes into force on {target.effective_from}, so a move to it cannot "
            f"begin on {move.first}"
        )
    if move.first <= started:
        raise ValueError(f"the subscription started on {started}: a move begins on a later day")
    if any(earlier.first >= move.first for earlier in moves):
        raise ValueError("a move that begins on that day or later is already there")
    if version_on(versions, started, moves, move.first).version >= move.version:
        raise ValueError(f"the subscription is already on version {move.version} or a newer one by then")
    return target


def explain(versions: Sequence[PlanVersion], started: date, moves: Sequence[Move], day: date) -> str:
    """Say in a sentence which version applies on `day` and why; raises NoPriceError."""
    applies = version_on(versions, started, moves, day)
    first = newest_in_force(versions, started)
    newest = newest_in_force(versions, day)
    if first == applies:
        text = f"version {applies.version}, in force when the subscription started on {started}"
    else:
        since = max(
            move.first for move in _moves(versions, moves, started) if move.version == applies.version
        )
        chosen = any(move == Move(since, applies.version) for move in moves)
        why = "the customer moved to it" if chosen else "it took over those already connected"
        text = f"version {applies.version}: {why} on {since}"
    if newest is not None and newest.version > applies.version:
        text += f"; version {newest.version} is for new subscriptions, the former conditions are kept"
    return text


def _moves(versions: Sequence[PlanVersion], moves: Sequence[Move], started: date) -> list[Move]:
    """Return chosen moves and those that versions set, in order; on one day chosen ones come last."""
    set_by_versions = [
        Move(version.existing_from, version.version)
        for version in versions
        if version.existing_from is not None and version.existing_from > started
    ]
    chosen = set(moves)
    both = {*set_by_versions, *chosen}
    return sorted(both, key=lambda move: (move.first, move in chosen, move.version))
