"""What clients saw against what was counted and billed: every call once, none twice, none lost. Pure.

    attempted >= counted >= answered, for each key and day

A call ends in one of four ways for its client. What was *answered* is charged, what was *free* (an answer
that the contract does not charge) is counted and waived, what was *refused* was not made, and what is *in
doubt* (no whole answer was seen) may have been charged or not. A call near midnight may belong to either day.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, NamedTuple

Rows = list[tuple[Any, ...]]  # of the ledger, whole and in order


class End(enum.IntEnum):
    """How a call ended for its client."""

    ANSWERED = 1
    FREE = 2
    REFUSED = 3
    IN_DOUBT = 4


class Place(NamedTuple):
    """A key, and the days of a call's beginning and end: two where midnight came in between."""

    key_id: str
    began: date
    ended: date


class Counted(NamedTuple):
    """Units of a key's day; of the waived ones, `not_made` were counted for calls that were not forwarded.

    A call that an open route lets through while its count is under way may be counted again as such. Calls
    of free methods are waived for that reason alone, so they are compared by themselves (`free_calls_of`),
    with all that were given back as `not_made`.
    """

    taken: int
    waived: int
    not_made: int = 0

    @property
    def billable(self) -> int:
        """Return what is charged."""
        return self.taken - self.waived


def free_calls_of(key_id: str) -> str:
    """Return under which name a key's calls of free methods are compared."""
    return f"{key_id} free"


@dataclass(slots=True)
class Seen:
    """What clients saw of calls that cost one unit each.

    `unsettled` counts the FREE and REFUSED calls whose waiver may have died with the process that held it.
    """

    ends: Counter[tuple[Place, End]] = field(default_factory=Counter)
    unsettled: Counter[Place] = field(default_factory=Counter)

    def count(self, key_id: str, day: date, end: End) -> tuple[int, int]:
        """Return how many calls ended so surely on a day, and how many at most."""
        surely = possibly = 0
        for (place, other), calls in self.ends.items():
            if place.key_id == key_id and other is end and day in (place.began, place.ended):
                possibly += calls
                surely += calls if place.began == place.ended else 0
        return surely, possibly

    def total(self, *ends: End) -> int:
        """Return how many calls ended in one of these ways."""
        return sum(calls for (_, end), calls in self.ends.items() if end in ends)


class Finding(NamedTuple):
    """A rule that was broken, by how much, and where."""

    rule: str  # lost, double, rows, roll_up, billed, crossed, sent_twice, unsent
    size: int
    text: str


def check_counts(seen: Seen, counted: Mapping[tuple[str, date], Counted]) -> Iterator[Finding]:
    """Compare what clients saw with the counts by key and day, on each day and over all days of a key."""
    days: dict[str, set[date]] = {}
    for place, _ in seen.ends:
        days.setdefault(place.key_id, set()).update((place.began, place.ended))
    for key_id, day in counted:
        days.setdefault(key_id, set()).add(day)
    for key_id, known in sorted(days.items()):
        nothing = Counted(0, 0)
        for day in sorted(known):
            bounds = {end: seen.count(key_id, day, end) for end in End}
            unsettled = sum(
                calls
                for place, calls in seen.unsettled.items()
                if place.key_id == key_id and day in (place.began, place.ended)
            )
            yield from _compare(f"{key_id} {day}", bounds, unsettled, counted.get((key_id, day), nothing))
        totals = {
            end: sum(
                calls for (place, other), calls in seen.ends.items() if (place.key_id, other) == (key_id, end)
            )
            for end in End
        }
        both = {end: (calls, calls) for end, calls in totals.items()}
        unsettled = sum(calls for place, calls in seen.unsettled.items() if place.key_id == key_id)
        of_key = [each for (other, _), each in counted.items() if other == key_id]
        whole = Counted(*map(sum, zip(*of_key, strict=True))) if of_key else nothing
        if len(known) > 1:
            yield from _compare(f"{key_id} in all", both, unsettled, whole)


def _compare(
    where: str, bounds: Mapping[End, tuple[int, int]], unsettled: int, counted: Counted
) -> Iterator[Finding]:
    surely = {end: low for end, (low, _) in bounds.items()}
    possibly = {end: high for end, (_, high) in bounds.items()}
    if (missing := surely[End.ANSWERED] - counted.billable) > 0:
        yield Finding(
            "lost", missing, f"{where}: {surely[End.ANSWERED]} answered, {counted.billable} charged"
        )
    whole = surely[End.ANSWERED] + surely[End.FREE]
    if (missing := whole - counted.taken) > 0:
        yield Finding("lost", missing, f"{where}: {whole} answered in all, {counted.taken} counted")
    most = possibly[End.ANSWERED] + possibly[End.IN_DOUBT]
    if (extra := counted.billable - most - unsettled) > 0:
        yield Finding("double", extra, f"{where}: {counted.billable} charged, of {most} that may have been")
    attempted = sum(possibly.values())
    if (extra := counted.taken - counted.not_made - attempted) > 0:
        yield Finding("double", extra, f"{where}: {counted} for {attempted} attempted")


def charged_beyond_answers(seen: Seen, counted: Mapping[tuple[str, date], Counted]) -> int:
    """Return how many units are charged beyond what was answered or is in doubt, over all keys.

    With no findings, these are the waivers that died with their process.
    """
    extra = 0
    for key_id in {key_id for key_id, _ in counted}:
        charged = sum(each.billable for (other, _), each in counted.items() if other == key_id)
        most = sum(
            calls
            for (place, end), calls in seen.ends.items()
            if place.key_id == key_id and end in (End.ANSWERED, End.IN_DOUBT)
        )
        extra += max(0, charged - most)
    return extra


def check_ledger(rows: Rows, again: Rows, keys: int) -> Iterator[Finding]:
    """Check that a ledger's rows are unique by their first `keys` columns, and that `again` is the same."""
    seen: Counter[tuple[Any, ...]] = Counter(row[:keys] for row in rows)
    if doubled := [key for key, times in seen.items() if times > 1]:
        yield Finding("rows", len(doubled), f"rows that stand more than once: {doubled[:3]}")
    if rows != again:
        changed = set(map(repr, rows)) ^ set(map(repr, again))
        yield Finding("roll_up", max(1, len(changed)), f"a second roll-up changed {sorted(changed)[:4]}")


def check_bill(counted: Mapping[tuple[str, date], Counted], billed: Mapping[str, int]) -> Iterator[Finding]:
    """Check that each key is billed what the ledger charges it, in units."""
    charged: Counter[str] = Counter()
    for (key_id, _), each in counted.items():
        charged[key_id] += each.billable
    for key_id in sorted(charged.keys() | billed.keys()):
        if charged[key_id] != billed.get(key_id, 0):
            text = f"{key_id}: the ledger charges {charged[key_id]}, the bill {billed.get(key_id, 0)}"
            yield Finding("billed", abs(charged[key_id] - billed.get(key_id, 0)), text)


def check_calls(ends: bytes | bytearray, reached: bytes | bytearray) -> Iterator[Finding]:
    """Check by call number how it ended (0 for not attempted) against how often it reached the origin."""
    twice = [number for number, times in enumerate(reached) if times > 1]
    if twice:
        yield Finding("sent_twice", len(twice), f"calls that reached the origin more than once: {twice[:5]}")
    whole = (End.ANSWERED, End.FREE)
    unsent = [
        number
        for number, end in enumerate(ends)
        if end in whole and not (number < len(reached) and reached[number])
    ]
    if unsent:
        yield Finding("unsent", len(unsent), f"answered without having reached the origin: {unsent[:5]}")


def check_crossed(crossed: Iterable[tuple[int, str]]) -> Iterator[Finding]:
    """Report the calls whose answer was another's: call number, and what came instead."""
    found = list(crossed)
    if found:
        yield Finding("crossed", len(found), f"answers that belong to other calls: {found[:3]}")
